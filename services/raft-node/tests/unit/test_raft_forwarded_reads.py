"""Linearizable reads of members that follow: one request for all of them, and a token that stands for it alone."""

from __future__ import annotations

import pytest

from raft_node.errors import NotLeaderError, OverloadedError
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.types import Configuration, NodeId, Role
from raft_testing.lockstep import Lockstep, Peer, commands, follower, leader_of, leading, log_of, members

A, B, C, D, E = members(5)
STRANGER = NodeId("z", 9)


def following(*terms: int, config: RaftConfig | None = None) -> Peer:
    """Member a, which has just heard its leader b, with a log of these terms."""
    log = log_of(*(terms or (1, 1, 1)))
    peer = Peer(A, Configuration((A, B, C)), config=config, log=log)
    peer.step(Heartbeat(B, A, log[-1].term, 0, 0))
    return peer


def asked(messages: list[Message]) -> list[ReadIndexRequest]:
    return [message for message in messages if isinstance(message, ReadIndexRequest)]


def ask(peer: Peer, *contexts: int) -> ReadIndexRequest:
    """Has a follower read; gives the one request that comes of it."""
    for context in contexts:
        peer.node.read_index(context)
    (request,) = asked(peer.pump())
    return request


def confirmed(peer: Peer) -> list[tuple[int, int]]:
    return [(state.context, state.read_index) for state in peer.read_states]


class TestFollower:
    def test_reads_that_wait_share_one_request_and_one_is_under_way(self) -> None:
        peer = following()
        first = ask(peer, 1, 2, 3)
        assert (first.receiver, first.term) == (B, 1)
        peer.node.read_index(4)
        peer.node.read_index(5)
        assert asked(peer.pump()) == []
        (second,) = asked(peer.step(ReadIndexResponse(B, A, 1, first.token, 2)))
        assert confirmed(peer) == [(1, 2), (2, 2), (3, 2)] and second.token != first.token
        assert asked(peer.step(ReadIndexResponse(B, A, 1, second.token, 3))) == []
        assert confirmed(peer)[3:] == [(4, 3), (5, 3)]

    def test_a_late_or_repeated_answer_confirms_nothing(self) -> None:
        peer = following()
        old = ask(peer, 1).token
        peer.step(ReadIndexResponse(B, A, 1, old, 2))
        peer.step(ReadIndexResponse(B, A, 1, old, 2))
        new = ask(peer, 2).token
        peer.step(ReadIndexResponse(B, A, 1, old, 2), ReadIndexResponse(B, A, 1, new + 1, 2))
        assert confirmed(peer) == [(1, 2)]

    def test_an_answer_for_an_earlier_life_confirms_nothing(self) -> None:
        tokens = set()
        peer = following()
        for _ in range(20):
            tokens.add(ask(peer, 1).token)
            peer.restart()
            peer.step(Heartbeat(B, A, 1, 0, 0))
        assert len(tokens) == 20
        ask(peer, 1)
        peer.step(*[ReadIndexResponse(B, A, 1, token, 2) for token in tokens])
        assert confirmed(peer) == []

    def test_only_the_leader_of_the_present_term_is_believed(self) -> None:
        peer = following(1, 2, 3)
        token = ask(peer, 1).token
        peer.step(ReadIndexResponse(C, A, 3, token, 2), ReadIndexResponse(B, A, 2, token, 2))
        assert confirmed(peer) == []
        peer.step(ReadIndexResponse(B, A, 3, token, 2))
        assert confirmed(peer) == [(1, 2)]

    def test_an_answer_of_a_newer_term_ends_the_present_one(self) -> None:
        peer = following()
        token = ask(peer, 1).token
        peer.step(ReadIndexResponse(B, A, 4, token, 2))
        assert confirmed(peer) == [] and (peer.node.term, peer.node.leader) == (4, None)

    def test_a_lost_request_is_repeated_with_its_token(self) -> None:
        peer = following()
        first = ask(peer, 1)
        peer.node.read_index(2)
        waited = peer.node.ticks_to_deadline()
        assert waited == peer.config.heartbeat_ticks
        peer.node.tick(waited)
        assert asked(peer.pump()) == [first]
        peer.step(ReadIndexResponse(B, A, 1, first.token, 2))
        assert confirmed(peer) == [(1, 2)], "what came after the first request is not for its answer to confirm"

    def test_a_new_leader_is_asked_anew(self) -> None:
        peer = following()
        old = ask(peer, 1)
        (new,) = asked(peer.step(Heartbeat(C, A, 2, 0, 0)))
        assert (new.receiver, new.term) == (C, 2) and new.token != old.token
        peer.step(ReadIndexResponse(B, A, 1, old.token, 2), ReadIndexResponse(C, A, 2, old.token, 2))
        assert confirmed(peer) == []
        peer.node.read_index(2)
        peer.step(ReadIndexResponse(C, A, 2, new.token, 3))
        assert confirmed(peer) == [(1, 3)]

    def test_without_a_leader_a_read_waits_and_is_given_up(self) -> None:
        peer = following()
        ask(peer, 1)
        peer.step(RequestVoteResponse(C, A, 7, False, False))
        assert peer.node.leader is None
        with pytest.raises(NotLeaderError):
            peer.node.read_index(2)
        waited = 0
        for _ in range(100):
            if peer.reads_dropped:
                break
            ticks = peer.node.ticks_to_deadline()
            waited += ticks
            peer.node.tick(ticks)
            assert asked(peer.pump()) == []
        assert peer.reads_dropped == [1] and waited == 2 * peer.config.election_timeout_ticks_max

    def test_a_leader_that_never_answers_does_not_hold_reads_for_ever(self) -> None:
        peer = following()
        ask(peer, 1)
        sent: list[Message] = []
        for tick in range(2 * peer.config.election_timeout_ticks_max):
            if tick == peer.config.election_timeout_ticks_max:
                peer.node.read_index(2)
            peer.node.tick()
            sent = peer.step(Heartbeat(B, A, 1, 0, 0))
        assert peer.reads_dropped == [1]
        (request,) = asked(sent)
        peer.step(ReadIndexResponse(B, A, 1, request.token, 2))
        assert confirmed(peer) == [(2, 2)]

    def test_reads_are_refused_while_too_many_wait(self) -> None:
        peer = following(config=RaftConfig(reads_waiting_max=3))
        ask(peer, 1, 2)
        peer.node.read_index(3)
        with pytest.raises(OverloadedError):
            peer.node.read_index(4)

    def test_a_node_that_is_elected_confirms_its_reads_itself(self) -> None:
        shard = Lockstep(3)
        shard.elect("b")
        peer = shard["a"]
        shard.passes = lambda message: not isinstance(message, ReadIndexRequest)
        peer.node.read_index(1)
        shard.deliver()
        shard["b"].node.transfer_leadership(A)
        shard.deliver()
        assert peer.plays(Role.LEADER)
        assert confirmed(peer) == [(1, peer.node.commit_index)] and peer.reads_dropped == []

    def test_a_leader_that_is_no_member_here_is_not_asked(self) -> None:
        # It leads by a configuration that this node has still to learn of, and has no address here.
        peer = Peer(A, Configuration((A, C)), log=log_of(1, 1, 1))
        peer.step(AppendEntries(B, A, 1, 3, 1, 0, []))
        assert peer.node.leader == B
        peer.node.read_index(1)
        assert asked(peer.pump()) == []
        assert asked(peer.step(Heartbeat(C, A, 2, 0, 0))) != []


class TestLeader:
    def test_one_round_answers_its_own_reads_and_those_of_others(self) -> None:
        peer = leader_of(follower())
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 1, 0, 0, 0) for x in (B, C)])
        peer.node.read_index(1)
        peer.node.step(ReadIndexRequest(D, A, 1, 70))
        peer.node.step(ReadIndexRequest(E, A, 1, 80))
        sent = peer.pump()
        assert {m.read_token for m in sent if isinstance(m, Heartbeat)} == {1}
        peer.step(HeartbeatResponse(B, A, 1, 1, 1))
        answers = peer.step(HeartbeatResponse(C, A, 1, 1, 1))
        assert answers == [ReadIndexResponse(A, D, 1, 70, 1), ReadIndexResponse(A, E, 1, 80, 1)]
        assert confirmed(peer) == [(1, 1)]

    def test_a_request_that_comes_during_a_round_waits_for_the_next(self) -> None:
        peer = leader_of(follower())
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 1, 0, 0, 0) for x in (B, C)])
        peer.step(ReadIndexRequest(D, A, 1, 70))
        peer.step(ReadIndexRequest(D, A, 1, 71))
        first = peer.step(HeartbeatResponse(B, A, 1, 1, 1), HeartbeatResponse(C, A, 1, 1, 1))
        assert [m for m in first if isinstance(m, ReadIndexResponse)] == [ReadIndexResponse(A, D, 1, 70, 1)]
        second = peer.step(HeartbeatResponse(B, A, 1, 2, 1), HeartbeatResponse(C, A, 1, 2, 1))
        assert second == [ReadIndexResponse(A, D, 1, 71, 1)]

    def test_of_each_member_one_request_waits(self) -> None:
        peer = leader_of(follower())
        for token in range(1, 1000):
            peer.node.step(ReadIndexRequest(D, A, 1, token))
        peer.step(*[AppendEntriesResponse(x, A, 1, True, 1, 0, 0, 0) for x in (B, C)])
        answers = peer.step(HeartbeatResponse(B, A, 1, 1, 1), HeartbeatResponse(C, A, 1, 1, 1))
        assert answers == [ReadIndexResponse(A, D, 1, 999, 1)]

    def test_a_new_leader_answers_once_an_entry_of_its_term_is_committed(self) -> None:
        shard = Lockstep(3, logs=[log_of(1, 1)] * 3, term=1)
        shard.passes = lambda m: not isinstance(m, AppendEntriesResponse)
        shard.elect("a")
        shard["b"].node.read_index(1)
        shard.tick(3)
        assert shard["b"].read_states == []
        shard.heal()
        shard.tick(10)
        assert confirmed(shard["b"]) == [(1, 3)]

    def test_requests_of_another_term_of_strangers_and_to_a_follower_are_not_answered(self) -> None:
        peer = leader_of(follower(1))
        peer.step(*[AppendEntriesResponse(x, A, 2, True, 2, 0, 0, 0) for x in (B, C)])
        assert peer.node.term == 2
        for request in (
            ReadIndexRequest(B, A, 1, 7),
            ReadIndexRequest(B, A, 3, 7),
            ReadIndexRequest(STRANGER, A, 2, 7),
        ):
            assert peer.step(request) == []
        assert peer.node.term == 2 and peer.plays(Role.LEADER)
        other = following()
        assert other.step(ReadIndexRequest(C, A, 1, 7)) == []

    @pytest.mark.parametrize("token", [0, -1, 1 << 63])
    def test_malformed_tokens_change_nothing(self, token: int) -> None:
        peer = leader_of(follower())
        peer.events.clear()
        peer.step(ReadIndexRequest(B, A, 1, token), ReadIndexResponse(B, A, 1, token, 1))
        assert peer.node.ignored_messages == 2 and peer.event_names() == ["malformed_message"] * 2

    def test_a_malformed_index_changes_nothing(self) -> None:
        peer = following()
        token = ask(peer, 1).token
        for term, index in ((1, 0), (1, 1 << 63), (0, 2)):
            peer.step(ReadIndexResponse(B, A, term, token, index))
        peer.step(ReadIndexRequest(B, A, 0, 5))
        assert confirmed(peer) == [] and peer.node.ignored_messages == 4

    def test_a_lost_leadership_answers_nobody(self) -> None:
        shard = Lockstep(3)
        peer = shard.elect("a")
        shard.tick(6)
        shard.passes = lambda m: not isinstance(m, HeartbeatResponse)
        shard["b"].node.read_index(1)
        shard.deliver()
        assert leading(peer).reads.current is not None
        peer.node.resign("test")
        shard.heal()
        shard.tick(3)
        assert shard["b"].read_states == []
        shard.tick(60)
        assert len(confirmed(shard["b"])) == 1, "the next leader was asked"


class TestShard:
    def test_a_follower_reads_what_was_acknowledged_before(self) -> None:
        shard = Lockstep(5)
        peer = shard.elect("a")
        shard.tick(6)
        # c lags behind: nothing that is replicated reaches it, but it can ask.
        shard.passes = lambda m: m.receiver.name != "c" or isinstance(m, ReadIndexResponse)
        peer.node.propose(commands(3), 0)
        shard.deliver()
        assert peer.node.commit_index == 4
        shard["c"].node.read_index(1)
        shard.deliver()
        assert confirmed(shard["c"]) == [(1, 4)] and shard["c"].node.applied_index == 1, "it has to wait for these"
        shard.heal()
        shard.tick(20)
        assert shard["c"].node.applied_index == 4

    def test_a_deposed_leader_confirms_no_read_of_a_follower(self) -> None:
        shard = Lockstep(5)
        shard.elect("a")
        shard.tick(6)
        shard.cut("a", "b")
        shard["b"].node.read_index(1)
        shard.deliver()
        for _ in range(60):
            for name in ("c", "d", "e"):
                shard[name].node.tick()
            shard.deliver()
        (new,) = set(shard.leaders()) - {"a"}
        shard[new].node.propose(commands(1), 0)
        shard.deliver()
        assert shard["a"].plays(Role.LEADER) and confirmed(shard["b"]) == []
        shard.heal()
        shard.tick(10)
        assert confirmed(shard["b"]) == [(1, shard[new].node.commit_index)]

    def test_during_a_transfer_reads_are_confirmed_by_one_leader_or_the_next(self) -> None:
        shard = Lockstep(3)
        peer = shard.elect("a")
        shard.tick(6)
        held: list[Message] = []

        def hold(message: Message) -> bool:
            if isinstance(message, TimeoutNow):
                held.append(message)
            return not isinstance(message, TimeoutNow)

        shard.passes = hold
        peer.node.transfer_leadership(B)
        shard["c"].node.read_index(1)
        shard.deliver()
        assert confirmed(shard["c"]) == [(1, 1)]
        # The old leader is on its way out; whatever it answers now is of its own term and was confirmed in it.
        shard.passes = lambda m: not isinstance(m, HeartbeatResponse)
        shard["c"].node.read_index(2)
        shard.deliver()
        shard["b"].node.step(held[0])
        shard.deliver()
        shard["b"].node.propose(commands(1), 0)
        shard.deliver()
        shard.heal()
        shard.tick(10)
        assert shard.leaders() == ["b"]
        (_, (context, index)) = confirmed(shard["c"])
        assert context == 2 and index >= 2

    def test_a_learner_may_read_too(self) -> None:
        shard = Lockstep(3)
        peer = shard.elect("a")
        shard.tick(6)
        shard.join(D, Configuration((A, B, C)))
        shard.change(peer, Configuration((A, B, C), (D,)))
        shard.tick(20)
        assert shard["d"].plays(Role.LEARNER)
        shard["d"].node.read_index(1)
        left = shard["d"].node.ticks_to_deadline()
        shard.deliver()
        assert confirmed(shard["d"]) == [(1, peer.node.commit_index)]
        assert left <= shard["d"].node.ticks_to_deadline()

    def test_all_of_it_costs_two_messages_beside_the_round(self) -> None:
        shard = Lockstep(5)
        shard.elect("a")
        shard.tick(6)
        shard.delivered.clear()
        for context in range(100):
            shard["c"].node.read_index(context)
        shard.deliver()
        assert len(shard["c"].read_states) == 100
        assert shard.delivered == {
            "ReadIndexRequest": 1,
            "Heartbeat": 4,
            "HeartbeatResponse": 4,
            "ReadIndexResponse": 1,
        }


def test_a_leader_whose_round_was_lost_wakes_up_to_ask_again() -> None:
    shard = Lockstep(3)
    peer = shard.elect("a")
    shard.tick(6)
    peer.node.read_index(1)
    peer.pump()
    for _ in range(peer.config.heartbeat_ticks - 1):
        peer.node.tick()
        peer.node.propose(commands(1), 0)
        peer.pump()
    assert peer.node.ticks_to_deadline() == 1
    peer.node.tick()
    assert len([m for m in peer.pump() if isinstance(m, Heartbeat) and m.read_token]) == 2


def test_who_is_heard_is_known_to_leaders_alone() -> None:
    shard = Lockstep(3)
    peer = shard.elect("a")
    shard.cut("c")
    shard.tick(20)
    assert peer.node.hears(A) and peer.node.hears(B) and peer.node.hears(C)
    shard.tick(15)
    assert peer.node.hears(B) and not peer.node.hears(C) and not peer.node.hears(STRANGER)
    assert shard["b"].node.hears(B) and not shard["b"].node.hears(A)
