"""Membership changes (the thesis, 4; D. Ongaro's correction of 2015): which are let through, and what they do."""

from __future__ import annotations

import pytest

from raft_node.entry import Entry, EntryKind, encode
from raft_node.errors import ConfigurationRefusedError, NotLeaderError, OverloadedError
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.leader import Leader
from raft_node.raft.membership import check_change, with_learner, with_voter, without
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.types import Configuration, HardState, NodeId, Role
from raft_testing.lockstep import Lockstep, Peer, commands, log_of, members

A, B, C, D, E = members(5)
THREE = Configuration((A, B, C))
FIVE = Configuration((A, B, C, D, E))


def steady(count: int = 3) -> tuple[Lockstep, Peer]:
    """A shard whose leader a has committed its first entry everywhere."""
    shard = Lockstep(count)
    peer = shard.elect("a")
    shard.tick(6)
    return shard, peer


def with_d(shard: Lockstep, peer: Peer, *, voter: bool = False) -> Peer:
    """Has d join as a learner, or go on to be a voter."""
    joined = shard.join(D)
    shard.change(peer, with_learner(peer.node.configuration, D))
    if voter:
        shard.change(peer, with_voter(peer.node.configuration, D))
    return joined


def leading(peer: Peer) -> Leader:
    assert peer.node.leadership is not None
    return peer.node.leadership


def change_entry(index: int, term: int, configuration: Configuration) -> Entry:
    return encode(index, term, EntryKind.CONFIGURATION, index, encode_configuration(configuration))


class TestWhichChange:
    @pytest.mark.parametrize(
        "wanted",
        [
            Configuration((A, B, C), (D, E)),
            Configuration((A, B, C, D)),
            Configuration((A, B, C)),
            Configuration((A, B), (D,)),
            Configuration((B, C), (D,)),
        ],
    )
    def test_one_member_may_differ(self, wanted: Configuration) -> None:
        current = Configuration((A, B, C), (D,))
        assert check_change(current, wanted) == (D if D in wanted.voters else None)

    @pytest.mark.parametrize(
        "wanted",
        [
            Configuration((A, B, C), (D,)),
            Configuration((C, B, A), (D,)),
            Configuration((A, B, C, E), (D,)),
            Configuration((A, B), (C, D)),
            Configuration((A, B)),
            Configuration((A,), (D,)),
            Configuration((A, B, D)),
            Configuration((A, B, E), (D,)),
            Configuration((A, B, C), (E,)),
            Configuration((A, B, NodeId("c", 7)), (D,)),
            Configuration((A, B, C), (D, NodeId("c", 7))),
            Configuration((A, B, C), (D, NodeId("", 7))),
            Configuration((A, B, C, E)),
        ],
    )
    def test_nothing_else_is_one_step(self, wanted: Configuration) -> None:
        with pytest.raises(ConfigurationRefusedError):
            check_change(Configuration((A, B, C), (D,)), wanted)

    def test_the_last_voter_stays(self) -> None:
        with pytest.raises(ConfigurationRefusedError):
            check_change(Configuration((A,), (D,)), Configuration((), (D,)))

    def test_a_follower_refuses(self) -> None:
        shard, _ = steady()
        with pytest.raises(NotLeaderError):
            shard["b"].node.propose_configuration(with_learner(THREE, D), 0)

    def test_nothing_changes_before_an_entry_of_the_own_term_is_committed(self) -> None:
        shard = Lockstep(3)
        shard.passes = lambda m: not isinstance(m, AppendEntriesResponse)
        peer = shard.elect("a")
        with pytest.raises(ConfigurationRefusedError, match="the leader is new"):
            peer.node.propose_configuration(with_learner(THREE, D), 0)
        shard.heal()
        shard.tick(20)
        peer.node.propose_configuration(with_learner(THREE, D), 0)

    def test_one_change_at_a_time(self) -> None:
        shard, peer = steady()
        shard.cut("a")
        peer.node.propose_configuration(with_learner(THREE, D), 0)
        shard.deliver()
        with pytest.raises(ConfigurationRefusedError, match="index 2 is not committed"):
            peer.node.propose_configuration(with_learner(with_learner(THREE, D), E), 0)
        assert peer.node.last_index == 2

    def test_a_learner_that_has_not_caught_up_is_not_made_a_voter(self) -> None:
        shard, peer = steady()
        shard.change(peer, with_learner(THREE, D))
        with pytest.raises(ConfigurationRefusedError, match="d has not caught up"):
            peer.node.propose_configuration(Configuration((A, B, C, D)), 0)

    def test_no_change_during_a_transfer(self) -> None:
        _, peer = steady()
        peer.node.transfer_leadership(B)
        with pytest.raises(OverloadedError):
            peer.node.propose_configuration(with_learner(THREE, D), 0)

    def test_the_entry_has_log_time_and_comes_out_like_any_other(self) -> None:
        shard, peer = steady()
        peer.node.propose(commands(1), 90)
        assert peer.node.propose_configuration(with_learner(THREE, D), 50) == (3, 1)
        shard.deliver()
        assert peer.committed[-1] == encode(
            3, 1, EntryKind.CONFIGURATION, 90, encode_configuration(with_learner(THREE, D))
        )


class TestInForceOnceAppended:
    def test_at_the_leader_and_wherever_the_entry_comes(self) -> None:
        shard, peer = steady()
        shard.passes = lambda m: m.receiver != C and not isinstance(m, AppendEntriesResponse)
        peer.node.propose_configuration(with_learner(THREE, D), 0)
        assert peer.node.configuration == with_learner(THREE, D) and peer.node.configuration_index == 2
        shard.deliver()
        assert shard["b"].node.configuration == with_learner(THREE, D) and shard["b"].node.commit_index == 1
        assert shard["c"].node.configuration == THREE and shard["c"].node.configuration_index == 0
        assert peer.node.applied_configuration == THREE
        assert "configuration_adopted" in shard["b"].event_names()
        assert "configuration_committed" not in shard["b"].event_names()
        shard.heal()
        shard.tick(20)
        assert {x.node.applied_configuration for x in shard.peers.values()} == {with_learner(THREE, D)}
        assert all("configuration_committed" in x.event_names() for x in shard.peers.values())

    def test_a_new_voter_counts_for_its_own_change(self) -> None:
        shard, peer = steady()
        with_d(shard, peer)
        shard.passes = lambda m: m.sender in (A, B) and m.receiver in (A, B)
        peer.node.propose_configuration(Configuration((A, B, C, D)), 0)
        shard.deliver()
        assert peer.node.commit_index == 2, "two of three, but of four there are three needed"
        shard.passes = lambda m: C not in (m.sender, m.receiver)
        shard.tick(20)
        assert peer.node.commit_index == 3

    def test_a_removed_voter_does_not_count_for_its_removal(self) -> None:
        shard, peer = steady(4)
        shard.passes = lambda m: C not in (m.sender, m.receiver) and B not in (m.sender, m.receiver)
        peer.node.propose_configuration(Configuration((A, B, C)), 0)
        shard.tick(6)
        assert peer.node.commit_index == 1 and shard["d"].node.last_index == 2

    def test_an_uncommitted_change_is_undone_when_its_entry_is_cut_off(self) -> None:
        shard, peer = steady()
        with_d(shard, peer)
        shard.cut("a", "d")
        peer.node.propose_configuration(Configuration((A, B, C, D)), 0)
        shard.deliver()
        assert shard["d"].plays(Role.FOLLOWER) and shard["d"].node.configuration.voters == (A, B, C, D)
        shard.elect("b")
        shard.heal()
        shard.tick(40)
        for each in shard.peers.values():
            assert each.node.configuration == Configuration((A, B, C), (D,))
            assert each.node.configuration_index == 2
        assert shard["d"].plays(Role.LEARNER)
        shard["b"].node.propose(commands(1), 0)
        shard.tick(10)
        assert shard["a"].node.last_index == shard["b"].node.commit_index

    def test_another_change_at_the_same_place_takes_the_place(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        peer.step(AppendEntries(B, A, 1, 1, 1, 1, [change_entry(2, 1, with_learner(THREE, D))]))
        assert peer.node.configuration.learners == (D,)
        peer.step(AppendEntries(C, A, 2, 1, 1, 1, [change_entry(2, 2, with_learner(THREE, E))]))
        assert peer.node.configuration.learners == (E,)
        peer.step(AppendEntries(B, A, 3, 1, 1, 1, log_of(1, 3)[1:]))
        assert peer.node.configuration == THREE and peer.node.configuration_index == 0

    def test_only_what_was_cut_off_is_undone(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        first, second = with_learner(THREE, D), with_learner(with_learner(THREE, D), E)
        peer.step(AppendEntries(B, A, 1, 1, 1, 1, [change_entry(2, 1, first), change_entry(3, 1, second)]))
        assert peer.node.configuration == second
        peer.step(AppendEntries(C, A, 2, 2, 1, 1, [encode(3, 2, EntryKind.NOOP, 3)]))
        assert peer.node.configuration == first and peer.node.configuration_index == 2

    def test_a_repeated_append_brings_no_configuration_back(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        entries = [change_entry(2, 1, with_learner(THREE, D)), change_entry(3, 1, THREE)]
        peer.step(AppendEntries(B, A, 1, 1, 1, 3, entries))
        peer.step(AppendEntries(B, A, 1, 1, 1, 3, entries[:1]), AppendEntries(B, A, 1, 1, 1, 3, entries))
        assert peer.node.configuration == THREE and peer.event_names().count("configuration_adopted") == 1

    def test_an_append_that_overlaps_brings_only_what_is_new(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        entries = [change_entry(2, 1, with_learner(THREE, D)), encode(3, 1, EntryKind.NOOP, 3)]
        peer.step(AppendEntries(B, A, 1, 1, 1, 1, entries[:1]), AppendEntries(B, A, 1, 1, 1, 1, entries))
        assert peer.event_names().count("configuration_adopted") == 1
        peer.step(AppendEntries(C, A, 2, 1, 1, 1, [encode(2, 2, EntryKind.NOOP, 2)]))
        assert peer.node.configuration == THREE

    def test_an_entry_that_is_no_configuration_is_not_taken(self) -> None:
        peer = Peer(A, THREE, log=log_of(1))
        assert peer.step(AppendEntries(B, A, 1, 1, 1, 1, [encode(2, 1, EntryKind.CONFIGURATION, 2, b"\x09")])) == []
        assert peer.node.last_index == 1 and peer.event_names() == ["malformed_message"]

    @pytest.mark.parametrize("applied_index", [0, 2, 3])
    def test_a_restart_finds_what_lies_behind_the_applied_index(self, applied_index: int) -> None:
        latest = with_learner(with_learner(THREE, D), E)
        entries = [*log_of(1), change_entry(2, 1, with_learner(THREE, D)), change_entry(3, 1, latest)]
        entries += [encode(i, 1, EntryKind.COMMAND, i, bytes(400_000)) for i in range(4, 10)]
        peer = Peer(A, {0: THREE, 2: with_learner(THREE, D), 3: latest}[applied_index], log=entries)
        peer.hard_state = HardState(1, None, 2)
        peer.restart(applied_index)
        assert peer.node.configuration == latest
        assert peer.node.configuration_index == (3 if applied_index < 3 else 0)
        peer.step(AppendEntries(B, A, 2, 2, 1, 2, [encode(3, 2, EntryKind.NOOP, 3)]) if applied_index < 3 else HB)
        assert peer.node.configuration == (with_learner(THREE, D) if applied_index < 3 else latest)

    def test_a_restart_reads_of_the_log_only_changes_and_the_last_entry(self) -> None:
        entries = [*log_of(1), change_entry(2, 1, with_learner(THREE, D))]
        entries += [encode(i, 1, EntryKind.COMMAND, i, bytes(400_000)) for i in range(3, 10)]
        peer = Peer(A, THREE, log=entries)
        before = peer.log.reads
        peer.restart()
        assert peer.node.configuration == with_learner(THREE, D)
        assert peer.log.reads - before == 2

    def test_a_change_that_was_not_committed_is_found_again_and_can_still_be_undone(self) -> None:
        shard, peer = steady()
        shard.cut("a")
        peer.node.propose_configuration(with_learner(THREE, D), 0)
        shard.deliver()
        peer.restart()
        assert peer.node.configuration.learners == (D,)
        shard.elect("b")
        shard.heal()
        shard.tick(40)
        assert peer.node.configuration == THREE


HB = Heartbeat(B, A, 1, 0, 0)


class TestLearners:
    def test_a_learner_gets_everything_and_counts_for_nothing(self) -> None:
        shard, peer = steady()
        learner = with_d(shard, peer)
        assert learner.plays(Role.LEARNER) and learner.log.stored == peer.log.stored
        assert learner.node.commit_index == 2 and learner.node.configuration == peer.node.configuration
        shard.passes = lambda m: not {B, C} & {m.sender, m.receiver}
        peer.node.propose(commands(1), 0)
        peer.node.read_index(1)
        shard.tick(10)
        assert learner.node.last_index == 3 and peer.node.commit_index == 2 and peer.read_states == []
        shard.tick(25)
        assert not peer.plays(Role.LEADER)

    def test_a_learner_does_not_campaign_until_it_is_a_voter(self) -> None:
        shard, peer = steady()
        learner = with_d(shard, peer)
        shard.cut("d")
        for _ in range(5):
            learner.tick_to_deadline()
        assert learner.plays(Role.LEARNER)
        shard.heal()
        shard.tick(20)
        shard.change(peer, with_voter(peer.node.configuration, D))
        assert learner.plays(Role.FOLLOWER)
        shard.cut("d")
        learner.tick_to_deadline()
        assert learner.plays(Role.PRE_CANDIDATE)

    def test_catching_up_is_measured_in_rounds(self) -> None:
        shard, peer = steady()
        for _ in range(20):
            peer.node.propose(commands(10, size=100), 0)
            shard.deliver()
        shard.passes = lambda m: D not in (m.sender, m.receiver)
        shard.join(D)
        shard.change(peer, with_learner(THREE, D))
        assert not leading(peer).caught_up(D)
        shard.tick(20)
        shard.heal()
        shard.tick(1)
        shard.tick(10)
        assert leading(peer).caught_up(D)
        shard.passes = lambda m: D not in (m.sender, m.receiver)
        shard.tick(10)
        assert leading(peer).caught_up(D), "for a moment that says nothing"
        shard.tick(10)
        assert not leading(peer).caught_up(D), "it is not heard any more"

    def test_a_learner_that_falls_back_has_not_caught_up(self) -> None:
        shard, peer = steady()
        with_d(shard, peer)
        assert leading(peer).caught_up(D)
        shard.passes = lambda m: not (isinstance(m, AppendEntries) and m.receiver == D)
        for _ in range(20):
            peer.node.propose(commands(1), 0)
            shard.tick()
        assert not leading(peer).caught_up(D)

    def test_a_first_round_that_took_long_is_not_enough(self) -> None:
        shard, peer = steady()
        shard.change(peer, with_learner(THREE, D))
        shard.tick(20)
        peer.step(AppendEntriesResponse(D, A, 1, True, 2, 0, 0, 0))
        assert not leading(peer).caught_up(D)
        peer.node.tick()
        assert leading(peer).caught_up(D)

    def test_members_and_strangers_are_no_learners(self) -> None:
        _, peer = steady()
        assert not leading(peer).caught_up(B) and not leading(peer).caught_up(NodeId("z", 1))


class TestRemoval:
    def test_a_removed_node_is_told_and_stops_campaigning(self) -> None:
        shard, peer = steady()
        shard.change(peer, Configuration((A, B)))
        shard.tick(10)
        gone = shard["c"]
        assert gone.node.configuration == Configuration((A, B)) and gone.plays(Role.LEARNER)
        assert gone.node.commit_index == 2 and "removed" in gone.event_names()
        assert leading(peer).progress.keys() == {B} and peer.node.peers == {B}
        for _ in range(5):
            gone.tick_to_deadline()
        assert gone.pump() == [] and gone.plays(Role.LEARNER)
        gone.restart()
        assert gone.plays(Role.LEARNER)

    def test_a_lost_word_of_the_commit_is_said_again(self) -> None:
        shard, peer = steady()
        shard.passes = lambda m: not (isinstance(m, Heartbeat) and m.receiver == C)
        shard.change(peer, Configuration((A, B)))
        assert shard["c"].plays(Role.FOLLOWER) and "removed" not in shard["c"].event_names()
        shard.heal()
        shard.tick(10)
        assert shard["c"].plays(Role.LEARNER) and "removed" in shard["c"].event_names()

    def test_a_leader_whose_own_removal_only_it_has_must_still_lead_to_commit_it(self) -> None:
        shard = Lockstep(2)
        peer = shard.elect("a")
        shard.tick(6)
        shard.cut("a")
        peer.node.propose_configuration(Configuration((B,)), 0)
        shard.deliver()
        peer.restart()
        shard.heal()
        shard.tick(100)
        # b alone could not be elected: its log is shorter, and by its configuration it needs a's vote.
        assert shard.leaders() == ["b"] and shard["b"].node.configuration == Configuration((B,))
        assert peer.plays(Role.LEARNER) and "removed" in peer.event_names()

    def test_a_removed_node_is_still_told_by_the_next_leader(self) -> None:
        shard, peer = steady(4)
        shard.passes = lambda m: D not in (m.sender, m.receiver) and not isinstance(m, AppendEntriesResponse)
        peer.node.propose_configuration(THREE, 0)
        shard.deliver()
        assert peer.node.commit_index == 1
        shard.passes = lambda m: D not in (m.sender, m.receiver)
        shard.elect("b")
        shard.heal()
        shard.tick(40)
        assert shard["d"].node.configuration == THREE and shard["d"].plays(Role.LEARNER)

    def test_a_removed_node_that_cannot_be_told_is_let_go(self) -> None:
        shard, peer = steady(4)
        shard.cut("d")
        shard.change(peer, THREE)
        assert D in peer.node.peers
        shard.tick(300)
        assert leading(peer).progress.keys() == {B, C} and peer.plays(Role.LEADER)

    def test_a_removed_node_that_was_not_told_disturbs_nobody(self) -> None:
        shard, peer = steady(4)
        shard.cut("d")
        shard.change(peer, THREE)
        shard.tick(320)
        shard.heal()
        for _ in range(30):
            shard["d"].tick_to_deadline()
            shard.tick(5)
        assert shard.leaders() == ["a"] and {shard[x].node.term for x in "abc"} == {1}
        # Not even when the leader is lost: nobody whose log has the removal grants it anything.
        shard.passes = lambda m: A not in (m.sender, m.receiver)
        for _ in range(30):
            shard["d"].tick_to_deadline()
            shard.tick(5)
        assert shard.leaders() in (["a", "b"], ["a", "c"], ["b"], ["c"])
        assert not shard["d"].plays(Role.LEADER) and shard["d"].node.term <= shard["b"].node.term

    def test_a_removed_nodes_newer_term_deposes_nobody(self) -> None:
        shard, peer = steady(4)
        shard.cut("d")
        shard.change(peer, THREE)
        peer.step(HeartbeatResponse(D, A, 9, 0, 1), AppendEntriesResponse(D, A, 9, False, 0, 0, 0, 0))
        peer.step(RequestVoteResponse(D, A, 9, False, False))
        assert peer.plays(Role.LEADER) and peer.node.term == 1

    def test_a_leader_that_removes_itself_leads_until_that_is_committed(self) -> None:
        shard, peer = steady()
        shard.passes = lambda m: not isinstance(m, AppendEntriesResponse)
        peer.node.propose_configuration(Configuration((B, C)), 0)
        peer.node.propose(commands(1), 0)
        shard.deliver()
        assert peer.plays(Role.LEADER) and peer.node.commit_index == 1
        peer.step(AppendEntriesResponse(B, A, 1, True, 3, 0, 0, 0))
        assert peer.plays(Role.LEADER) and peer.node.commit_index == 1, "it does not count itself"
        sent = peer.step(AppendEntriesResponse(C, A, 1, True, 3, 0, 0, 0))
        assert peer.node.commit_index == 3 and peer.plays(Role.LEARNER) and "removed" in peer.event_names()
        assert [m for m in sent if isinstance(m, TimeoutNow)] in ([TimeoutNow(A, B, 1)], [TimeoutNow(A, C, 1)])

    def test_somebody_follows_a_leader_that_removed_itself_without_a_pause(self) -> None:
        shard, peer = steady()
        peer.node.propose_configuration(Configuration((B, C)), 0)
        shard.deliver()
        assert shard.leaders() in (["b"], ["c"])
        shard.tick(40)
        assert shard["b"].node.commit_index == shard["c"].node.commit_index == 3

    def test_a_leader_outside_the_configuration_does_not_count_itself_for_reads_or_its_quorum(self) -> None:
        shard, peer = steady()
        shard.passes = lambda m: not isinstance(m, AppendEntriesResponse) and m.sender != C
        peer.node.propose_configuration(Configuration((B, C)), 0)
        peer.node.read_index(1)
        shard.tick(20)
        assert peer.read_states == [] and peer.plays(Role.LEADER)
        shard.tick(15)
        assert not peer.plays(Role.LEADER)

    def test_a_transfer_to_a_removed_voter_is_not_possible(self) -> None:
        shard, peer = steady()
        shard.change(peer, Configuration((A, B)))
        shard.passes = lambda m: True
        peer.node.transfer_leadership()
        shard.deliver()
        assert shard.leaders() == ["b"]


class TestScenarios:
    def test_scenario_28_two_leaders_cannot_both_change_the_members(self) -> None:
        """The example of the message of 2015: four members, a leader each side, neither knows of the other's change."""
        shard = Lockstep(4)
        first = shard.elect("a")
        shard.tick(6)
        # The first leader adds a learner, and nobody hears of it; then it is deposed.
        shard.cut("a")
        first.node.propose_configuration(with_learner(first.node.configuration, E), 0)
        shard.deliver()
        second = shard.elect("b")
        # The second one removes a member, which two of the three left commit.
        second.node.propose_configuration(Configuration((B, C, D)), 0)
        shard.deliver()
        assert second.node.commit_index == 3
        # The first one comes back to lead: its own change must not be what it counts by.
        shard.cut("c", "d")
        shard.heal()
        shard.tick(60)
        assert first.node.configuration == Configuration((B, C, D))
        assert {x.node.configuration for x in shard.peers.values()} == {Configuration((B, C, D))}

    def test_scenario_31_a_new_node_holds_nobody_up(self) -> None:
        shard, peer = steady()
        peer.node.propose_configuration(with_learner(THREE, D), 0)
        shard.deliver()
        shard.cut("c")
        peer.node.propose(commands(1), 0)
        shard.tick(10)
        assert peer.node.commit_index == 3

    def test_a_member_is_replaced_by_its_new_incarnation(self) -> None:
        shard, peer = steady()
        again = NodeId("c", 500)
        shard.change(peer, Configuration((A, B)))
        joined = shard.join(again)
        shard.change(peer, Configuration((A, B), (again,)))
        shard.change(peer, Configuration((A, B, again)))
        peer.node.transfer_leadership(again)
        shard.deliver()
        assert shard.leaders() == ["c"] and joined.id == again
        shard.tick(10)
        assert {x.node.commit_index for x in shard.peers.values()} == {5}

    def test_five_members_grow_out_of_one_and_shrink_again(self) -> None:
        shard = Lockstep(1)
        peer = shard.elect("a")
        for node in (B, C, D, E):
            shard.join(node)
            shard.change(peer, with_learner(peer.node.configuration, node))
            shard.change(peer, with_voter(peer.node.configuration, node))
        assert peer.node.configuration == FIVE and {x.node.configuration for x in shard.peers.values()} == {FIVE}
        for node in (E, D, C, B):
            shard.change(peer, without(peer.node.configuration, node))
        assert peer.node.configuration == Configuration((A,)) and shard.leaders() == ["a"]
        assert all(shard[x].plays(Role.LEARNER) for x in "bcde")
        peer.node.propose(commands(1), 0)
        shard.deliver()
        assert peer.node.commit_index == peer.node.last_index
