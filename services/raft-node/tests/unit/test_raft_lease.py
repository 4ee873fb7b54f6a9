"""Leader leases: when a leader may serve a read without asking, and what keeps every other node from leading then.

A clock counts in ticks; where a test says nothing else, a lease lasts nine of them and voters keep their votes for
fifteen.
"""

from __future__ import annotations

import pytest

from raft_node.errors import SettingsError
from raft_node.raft.config import RaftConfig
from raft_node.raft.lease import Lease
from raft_node.raft.messages import (
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadIndexRequest,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.types import Configuration, Role
from raft_testing.lockstep import Lockstep, Peer, commands, leading, log_of, members, vote

A, B, C, D, E = members(5)
LEASES = RaftConfig(lease_ticks=9)
THREE = Configuration((A, B, C))


def steady(config: RaftConfig = LEASES, count: int = 3) -> tuple[Lockstep, Peer]:
    """A shard whose leader a has committed its first entry everywhere."""
    shard = Lockstep(count, config=config)
    peer = shard.elect("a")
    shard.tick(6)
    shard.delivered.clear()
    return shard, peer


def contexts(peer: Peer) -> list[int]:
    return [state.context for state in peer.read_states]


def leased(peer: Peer, context: int, clock: float) -> bool:
    """Whether a read is confirmed without a message to anybody; those of a round that it begins are lost."""
    peer.node.read_index(context, clock)
    sent = peer.pump()
    return context in contexts(peer) and not sent


class TestSettings:
    def test_there_are_no_leases_by_default(self) -> None:
        shard, peer = steady(RaftConfig())
        for context in (1, 2):
            assert not leased(peer, context, 0.0)
            shard.tick()
        assert RaftConfig().lease_ticks == 0

    @pytest.mark.parametrize("ticks", [-1, 15, 16])
    def test_a_lease_is_shorter_than_what_voters_promise(self, ticks: int) -> None:
        with pytest.raises(SettingsError, match="lease"):
            RaftConfig(lease_ticks=ticks)

    def test_without_a_clock_every_read_takes_a_round(self) -> None:
        shard, peer = steady()
        peer.node.read_index(1, 0.0)
        shard.deliver()
        assert leased(peer, 2, 0.0)
        peer.node.read_index(3)
        assert [m for m in peer.pump() if isinstance(m, Heartbeat)]


class TestLease:
    def test_one_round_serves_all_reads_while_the_lease_lasts(self) -> None:
        shard, peer = steady()
        peer.node.read_index(0, 100.0)
        shard.deliver()
        shard.delivered.clear()
        for context in range(1, 50):
            assert leased(peer, context, 100.0 + 8.99 * context / 49)
        assert not shard.delivered and len(peer.read_states) == 50
        assert not leased(peer, 50, 109.0)

    def test_it_is_told_whether_one_holds(self) -> None:
        shard, peer = steady()
        assert not peer.node.holds_lease(100.0)
        peer.node.read_index(0, 100.0)
        shard.deliver()
        assert peer.node.holds_lease(108.9)
        assert not peer.node.holds_lease(109.0)
        assert not shard.peers["b"].node.holds_lease(100.0), "followers have none"
        assert not steady(RaftConfig())[1].node.holds_lease(100.0)

    def test_a_leased_read_has_the_newest_commit_index(self) -> None:
        shard, peer = steady()
        peer.node.read_index(0, 0.0)
        shard.deliver()
        peer.node.propose(commands(3), 0)
        shard.deliver()
        assert leased(peer, 1, 5.0)
        assert peer.read_states[-1].read_index == peer.node.commit_index == 4

    def test_it_counts_from_when_the_heartbeats_left_not_from_when_they_were_answered(self) -> None:
        _, peer = steady()
        peer.node.read_index(1, 0.0)
        (token,) = {m.read_token for m in peer.pump() if isinstance(m, Heartbeat)}
        # The answers take eight ticks, and another read asks for its own round meanwhile.
        peer.node.read_index(2, 7.9)
        peer.step(HeartbeatResponse(B, A, 1, token, 1, True))
        assert contexts(peer) == [1]
        assert leased(peer, 3, 8.9)
        assert not leased(peer, 4, 9.0)

    def test_a_repeated_heartbeat_does_not_make_it_longer(self) -> None:
        shard, peer = steady()
        shard.passes = lambda m: not isinstance(m, Heartbeat)
        peer.node.read_index(1, 0.0)
        shard.deliver()
        shard.heal()
        shard.tick(8)
        assert contexts(peer) == [1]
        assert not leased(peer, 2, 9.5)

    def test_promises_of_too_few_are_none(self) -> None:
        peer = steady(count=5)[1]
        peer.node.read_index(1, 0.0)
        (token,) = {m.read_token for m in peer.pump() if isinstance(m, Heartbeat)}
        peer.step(HeartbeatResponse(B, A, 1, token, 1, True), HeartbeatResponse(C, A, 1, token, 1, False))
        assert contexts(peer) == [1]
        assert not leased(peer, 2, 1.0)

    def test_voters_without_leases_promise_nothing(self) -> None:
        plain = Peer(A, THREE)
        (answer,) = plain.step(Heartbeat(B, A, 1, 0, 1))
        assert isinstance(answer, HeartbeatResponse) and not answer.keeps_vote
        (answer,) = Peer(A, THREE, config=LEASES).step(Heartbeat(B, A, 1, 0, 1))
        assert isinstance(answer, HeartbeatResponse) and answer.keeps_vote

    def test_a_round_for_others_alone_renews_nothing(self) -> None:
        shard, peer = steady()
        peer.node.read_index(1, 0.0)
        shard.deliver()
        shard.tick(5)
        peer.node.step(ReadIndexRequest(B, A, 1, 7))
        shard.deliver()
        assert not leased(peer, 2, 9.0), "that round had no reading of the clock"

    def test_a_change_of_the_members_ends_it_until_the_next_round(self) -> None:
        shard, peer = steady()
        peer.node.read_index(1, 0.0)
        shard.deliver()
        peer.node.read_index(2, 20.0)
        (token,) = {m.read_token for m in peer.pump() if isinstance(m, Heartbeat)}
        peer.node.propose_configuration(Configuration((A, B, C), (D,)), 0)
        peer.step(HeartbeatResponse(B, A, 1, token, 1, True))
        assert contexts(peer) == [1, 2]
        assert not leased(peer, 3, 21.0), "the round under way began before the change"
        peer.node.read_index(4, 22.0)
        shard.tick(5)
        assert leased(peer, 5, 27.0)

    def test_the_next_leadership_begins_without_one(self) -> None:
        shard, peer = steady()
        peer.node.read_index(1, 0.0)
        shard.deliver()
        peer.node.resign("test")
        shard.elect("a")
        assert not leased(peer, 2, 1.0)

    def test_a_single_voter_holds_one_by_itself(self) -> None:
        peer = steady(count=1)[1]
        assert leased(peer, 1, 0.0) and leased(peer, 2, 1.0)


class TestClocks:
    def test_a_paused_leader_finds_its_lease_expired(self) -> None:
        shard, peer = steady()
        peer.node.read_index(1, 0.0)
        shard.deliver()
        # It stands still: others elect a leader and write, and its own ticks do not go on.
        for _ in range(60):
            for name in ("b", "c"):
                shard[name].node.tick()
            for name in ("b", "c"):
                for message in shard[name].pump():
                    if message.receiver != A:
                        shard[message.receiver.name].node.step(message)
        (new,) = set(shard.leaders()) - {"a"}
        shard[new].node.propose(commands(1), 0)
        assert peer.plays(Role.LEADER)
        assert not leased(peer, 2, 60.0)
        shard.tick(5)
        assert contexts(peer) == [1] and peer.reads_dropped == [2]

    def test_a_clock_that_stands_still_is_overruled_by_the_ticks(self) -> None:
        shard, peer = steady()
        peer.node.read_index(1, 0.0)
        shard.deliver()
        shard.tick(8)
        assert leased(peer, 2, 0.0)
        shard.tick()
        assert not leased(peer, 3, 0.0)

    def test_a_clock_that_jumps_ahead_ends_it(self) -> None:
        shard, peer = steady()
        peer.node.read_index(1, 0.0)
        shard.deliver()
        assert not leased(peer, 2, 1000.0)

    def test_a_clock_that_goes_back_ends_it(self) -> None:
        shard, peer = steady()
        peer.node.read_index(1, 50.0)
        shard.deliver()
        assert leased(peer, 2, 55.0)
        assert not leased(peer, 3, 54.9)
        shard.tick(5)
        assert leased(peer, 4, 59.9), "a round that began after the jump renews it"

    def test_a_clock_that_goes_back_during_a_round_voids_that_round(self) -> None:
        lease = Lease(9)
        began = lease.read(50.0, 0)
        lease.read(10.0, 1)
        lease.renew(began)
        assert not lease.holds(lease.read(50.0, 2))
        lease.renew(lease.read(51.0, 3))
        assert lease.holds(lease.read(52.0, 4))

    def test_a_reading_from_before_a_jump_is_not_judged_after_it(self) -> None:
        lease = Lease(9)
        before = lease.read(50.0, 0)
        lease.renew(lease.read(45.0, 0))
        assert not lease.holds(before)

    @pytest.mark.parametrize("ahead", [0.0, 3.0, 5.9])
    def test_a_strobing_clock_only_makes_it_shorter(self, ahead: float) -> None:
        """The clock jumps to and fro at every look; whatever it shows, nothing is served after nine true ticks."""
        shard, peer = steady()
        served = []
        peer.node.read_index(0, 100.0)
        shard.deliver()
        for tick in range(1, 16):
            peer.node.tick()
            peer.pump()
            clock = 100.0 + tick + (ahead if tick % 2 else -ahead)
            if leased(peer, tick, clock):
                served.append(tick)
        assert all(tick < 9 for tick in served)
        assert served == ([1] if ahead else [1, 2, 3, 4, 5, 6, 7, 8])


class TestTransfer:
    def test_a_lease_is_given_up_before_the_target_is_asked_to_campaign(self) -> None:
        shard, peer = steady()
        peer.node.read_index(1, 0.0)
        shard.deliver()
        peer.node.transfer_leadership(B)
        assert [m for m in peer.pump() if isinstance(m, TimeoutNow)]
        assert leading(peer).lease.surrendered and not leased(peer, 2, 1.0)

    def test_a_late_timeout_now_of_a_transfer_that_was_given_up_finds_no_lease(self) -> None:
        shard, peer = steady()
        held: list[Message] = []

        def hold(message: Message) -> bool:
            if isinstance(message, TimeoutNow):
                held.append(message)
            return not isinstance(message, TimeoutNow)

        shard.passes = hold
        peer.node.transfer_leadership(B)
        shard.tick(31)
        assert held and leading(peer).transfer is None
        peer.node.read_index(1, 100.0)
        shard.deliver()
        assert contexts(peer) == [1]
        shard.cut("a")
        shard["b"].node.step(held[0])
        shard.deliver()
        assert shard["b"].plays(Role.LEADER) and shard["b"].node.commit_index > peer.node.commit_index
        assert not leased(peer, 2, 101.0)

    def test_a_transfer_that_never_asked_anybody_leaves_the_lease(self) -> None:
        shard, peer = steady()
        shard.passes = lambda m: m.receiver != B
        peer.node.propose(commands(1), 0)
        shard.deliver()
        peer.node.transfer_leadership(B)
        shard.tick(31)
        assert leading(peer).transfer is None
        shard.heal()
        peer.node.read_index(1, 100.0)
        shard.deliver()
        assert leased(peer, 2, 101.0)


class TestVoters:
    def voter(self, *terms: int, config: RaftConfig = LEASES) -> Peer:
        """Member a of three, which hears its leader b."""
        peer = Peer(A, THREE, config=config, log=log_of(*(terms or (1,))))
        peer.node.tick(20)
        peer.pump()
        peer.step(Heartbeat(B, A, 1, 0, 0))
        return peer

    @pytest.mark.parametrize("pre_vote", [True, False])
    def test_a_restarted_voter_keeps_what_it_promised(self, pre_vote: bool) -> None:
        peer = self.voter()
        peer.restart()
        peer.node.tick(14)
        assert peer.step(vote(C, 2, 9, 1, pre_vote)) == [] and peer.node.term == 1
        peer.node.tick(1)
        peer.pump()
        answers = [m for m in peer.step(vote(C, 9, 9, 8, pre_vote)) if isinstance(m, RequestVoteResponse)]
        assert [answer.granted for answer in answers] == [True]

    def test_a_voter_that_saw_a_newer_term_keeps_what_it_promised(self) -> None:
        peer = self.voter()
        # An answer to an old question of its own; the leader of the older term may still hold a lease.
        peer.step(RequestVoteResponse(C, A, 5, False, False))
        assert (peer.node.term, peer.node.leader) == (5, None)
        assert peer.step(vote(C, 6, 9, 5)) == []
        plain = self.voter(config=RaftConfig())
        plain.step(RequestVoteResponse(C, A, 5, False, False))
        assert plain.step(vote(C, 6, 9, 5)) != [], "without leases there is nothing to keep"

    def test_the_leaders_own_wish_is_followed_all_the_same(self) -> None:
        peer = self.voter()
        (answer,) = peer.step(vote(C, 2, 1, 1, transfer=True))
        assert isinstance(answer, RequestVoteResponse) and answer.granted
        peer = self.voter()
        peer.restart()
        sent = peer.step(TimeoutNow(B, A, 1))
        assert [m.transfer for m in sent if isinstance(m, RequestVote)] == [True, True]

    def test_nobody_else_leads_while_a_lease_may_hold_although_its_voters_restart(self) -> None:
        shard = Lockstep(3, config=LEASES)
        peer = shard.elect("a")
        shard.tick(6)
        shard.passes = lambda m: "c" not in (m.sender.name, m.receiver.name)
        shard.tick(40)
        assert shard["c"].plays(Role.PRE_CANDIDATE)
        peer.node.read_index(1, 0.0)
        shard.deliver()
        # b forgets that it answered; a is not heard by anybody any more, and c campaigns with all its might.
        shard["b"].restart()
        shard.cut("a")
        for tick in range(1, 60):
            for name in ("b", "c"):
                shard[name].node.tick()
            shard.deliver()
            if tick <= 9:
                assert shard.leaders() == ["a"], f"{shard.leaders()} after {tick} ticks"
        assert len(shard.leaders()) == 2, "the old one has not noticed; its lease is long over"
        assert not leased(peer, 2, 59.0)


class TestAcknowledgements:
    def test_acknowledged_entries_are_no_promise(self) -> None:
        _, peer = steady()
        peer.node.propose(commands(1), 0)
        peer.pump()
        peer.step(AppendEntriesResponse(B, A, 1, True, 2, 0, 0, 0))
        assert not leased(peer, 1, 0.0)
