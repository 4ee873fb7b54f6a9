"""Leadership transfer (the thesis, 3.10)."""

from __future__ import annotations

import pytest

from raft_node.errors import NotLeaderError, OverloadedError, TransferRefusedError
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.types import Configuration, HardState, NodeId, Role
from raft_testing.lockstep import Lockstep, Peer, commands, log_of, members

A, B, C, D, E = members(5)
THREE = Configuration((A, B, C))


def steady(count: int = 3) -> tuple[Lockstep, Peer]:
    """A shard whose leader a has committed its first entry everywhere."""
    shard = Lockstep(count)
    peer = shard.elect("a")
    shard.tick(6)
    return shard, peer


def follower(*terms: int) -> Peer:
    """Member a, which has just heard its leader b."""
    peer = Peer(A, THREE, log=log_of(*terms))
    peer.step(Heartbeat(B, A, max(terms), 0, 0))
    return peer


def asked(messages: list[Message]) -> list[TimeoutNow]:
    return [message for message in messages if isinstance(message, TimeoutNow)]


def test_the_target_leads_without_anybody_waiting_for_a_timeout() -> None:
    shard, peer = steady(5)
    peer.node.propose(commands(3), 0)
    peer.node.transfer_leadership(D)
    shard.deliver()
    assert shard.leaders() == ["d"] and {p.node.term for p in shard.peers.values()} == {2}
    assert "transfer_started" in peer.event_names() and "transfer_aborted" not in peer.event_names()
    shard["d"].node.propose(commands(1), 0)
    shard.tick(6)
    assert {p.node.commit_index for p in shard.peers.values()} == {6}


def test_without_a_target_the_most_caught_up_voter_takes_over() -> None:
    shard, peer = steady(5)
    shard.passes = lambda m: not (isinstance(m, AppendEntries) and m.receiver in (B, D, E))
    peer.node.propose(commands(3), 0)
    shard.tick(11)
    shard.heal()
    peer.node.transfer_leadership()
    shard.deliver()
    assert shard.leaders() == ["c"]


def test_a_voter_that_was_not_heard_lately_comes_last() -> None:
    shard, peer = steady()
    shard.passes = lambda m: not (isinstance(m, AppendEntries) and m.receiver == B)
    peer.node.propose(commands(1), 0)
    shard.deliver()
    # c holds more than b, but is not heard any more.
    shard.passes = lambda m: C not in (m.sender, m.receiver) and not isinstance(m, AppendEntries)
    shard.tick(16)
    shard.heal()
    peer.node.transfer_leadership()
    shard.tick(15)
    assert shard.leaders() == ["b"]


def test_a_target_that_lags_catches_up_first() -> None:
    shard, peer = steady()
    shard.cut("b")
    peer.node.propose(commands(3), 0)
    shard.deliver()
    shard.heal()
    peer.node.transfer_leadership(B)
    assert asked(peer.pump()) == []
    peer.step(HeartbeatResponse(B, A, 1, 0, 1))
    assert asked(peer.step(AppendEntriesResponse(B, A, 1, True, 3, 0, 0, 0))) == []
    assert asked(peer.step(AppendEntriesResponse(B, A, 1, True, 4, 0, 0, 0))) == [TimeoutNow(A, B, 1)]


@pytest.mark.parametrize("target", [A, NodeId("z", 1), NodeId("b", 7), E])
def test_only_another_voter_may_take_over(target: NodeId) -> None:
    peer = Peer(A, Configuration((A, B, C), (E,)))
    with pytest.raises(NotLeaderError):
        peer.node.transfer_leadership(B)
    peer.tick_to_deadline()
    peer.step(RequestVoteResponse(B, A, 1, True, True), RequestVoteResponse(B, A, 1, True, False))
    peer.step(RequestVoteResponse(B, A, 1, True, False))
    assert peer.plays(Role.LEADER)
    with pytest.raises(TransferRefusedError):
        peer.node.transfer_leadership(target)
    assert peer.node.propose(commands(1), 0) == (2, 1)


def test_a_lone_voter_has_nobody_to_hand_over_to() -> None:
    peer = Lockstep(1).elect("a")
    with pytest.raises(TransferRefusedError):
        peer.node.transfer_leadership()


def test_no_proposals_are_taken_meanwhile() -> None:
    _, peer = steady()
    peer.node.transfer_leadership(B)
    with pytest.raises(OverloadedError, match="handed over to b"):
        peer.node.propose(commands(1), 0)
    assert peer.node.last_index == 1


def test_a_lost_request_to_campaign_is_repeated() -> None:
    shard, peer = steady()
    shard.passes = lambda m: not isinstance(m, TimeoutNow)
    peer.node.transfer_leadership(B)
    shard.deliver()
    assert asked(peer.pump()) == []
    shard.heal()
    shard.tick(5)
    assert shard.leaders() == ["b"]


def test_when_every_request_is_lost_the_transfer_ends_and_proposals_go_on() -> None:
    shard, peer = steady()
    shard.passes = lambda m: not isinstance(m, TimeoutNow)
    peer.node.transfer_leadership(B)
    shard.tick(29)
    with pytest.raises(OverloadedError):
        peer.node.propose(commands(1), 0)
    shard.tick()
    assert "transfer_aborted" in peer.event_names() and shard.leaders() == ["a"]
    peer.node.propose(commands(1), 0)
    shard.tick(6)
    assert shard["b"].node.commit_index == 2


def test_a_target_that_died_is_given_up_within_an_election_timeout() -> None:
    shard, peer = steady(5)
    shard.cut("b")
    peer.node.propose(commands(1), 0)
    # Not at a moment when a heartbeat is due as well.
    shard.tick(2)
    peer.node.transfer_leadership(B)
    ticks = 0
    while peer.node.leadership is not None and peer.node.leadership.transfer is not None:
        step = peer.node.ticks_to_deadline()
        shard.tick(step)
        ticks += step
    assert ticks == 30 and shard.leaders() == ["a"]


def test_a_target_that_campaigns_in_vain_leaves_a_leader_behind() -> None:
    shard, peer = steady()
    shard.passes = lambda m: not (isinstance(m, RequestVote) and m.sender == B)
    peer.node.transfer_leadership(B)
    shard.deliver()
    assert shard["b"].plays(Role.CANDIDATE)
    shard.heal()
    shard.tick(100)
    assert len(shard.leaders()) == 1


def test_a_second_request_for_the_same_target_changes_nothing() -> None:
    shard, peer = steady()
    shard.passes = lambda m: not isinstance(m, TimeoutNow)
    peer.node.transfer_leadership(B)
    shard.tick(20)
    peer.node.transfer_leadership(B)
    peer.node.transfer_leadership()
    shard.tick(10)
    assert peer.event_names().count("transfer_started") == 1
    assert "transfer_aborted" in peer.event_names()


def test_a_second_request_for_another_target_takes_the_place_of_the_first() -> None:
    shard, peer = steady()
    shard.cut("b")
    peer.node.transfer_leadership(B)
    shard.tick(10)
    peer.node.transfer_leadership(C)
    shard.deliver()
    assert shard.leaders() == ["c"]
    aborted = [event.fields["reason"] for event in peer.events if event.name == "transfer_aborted"]
    assert aborted == ["replaced"]


def test_a_leader_wakes_up_to_ask_again_and_to_give_up() -> None:
    _, peer = steady()
    peer.node.transfer_leadership(B)
    assert len(asked(peer.pump())) == 1
    wakes, now = [], 0
    for _ in range(40):
        # The other two are heard in between, so that heartbeats fall due at other times.
        step = min(peer.node.ticks_to_deadline(), 2)
        now += step
        peer.node.tick(step)
        if asked(peer.step(HeartbeatResponse(C, A, 1, 0, 1))):
            wakes.append(now)
            left = peer.node.ticks_to_deadline()
            assert left <= 5
        if "transfer_aborted" in peer.event_names():
            break
    assert now == 30 and wakes == [5, 10, 15, 20, 25]


def test_a_target_campaigns_at_once_without_asking_first_and_says_so() -> None:
    peer = follower(1)
    sent = peer.step(TimeoutNow(B, A, 1))
    assert peer.plays(Role.CANDIDATE) and peer.hard_state == HardState(2, A, 0)
    assert sent == [RequestVote(A, x, 2, 1, 1, False, True) for x in (B, C)]


def test_only_the_campaign_that_the_leader_asked_for_says_so() -> None:
    peer = follower(1)
    peer.step(TimeoutNow(B, A, 1))
    peer.tick_to_deadline()
    sent = peer.step(*[RequestVoteResponse(x, A, 3, True, True) for x in (B, C)])
    assert [m.transfer for m in sent if isinstance(m, RequestVote)] == [False] * 4


def test_a_request_to_campaign_of_an_older_term_is_ignored() -> None:
    peer = follower(1, 3)
    assert peer.step(TimeoutNow(B, A, 2)) == []
    assert peer.plays(Role.FOLLOWER) and peer.node.term == 3


def test_a_request_to_campaign_by_another_than_the_leader_is_ignored() -> None:
    peer = follower(1)
    assert peer.step(TimeoutNow(C, A, 1)) == []
    assert peer.plays(Role.FOLLOWER) and peer.node.term == 1


def test_a_learner_does_not_campaign_when_asked() -> None:
    peer = Peer(E, Configuration((A, B, C), (E,)))
    peer.step(Heartbeat(A, E, 1, 0, 0))
    assert peer.step(TimeoutNow(A, E, 1)) == []
    assert peer.plays(Role.LEARNER) and peer.node.term == 1


@pytest.mark.parametrize("transfer", [True, False])
def test_a_leader_gives_way_only_to_the_campaign_that_it_asked_for(transfer: bool) -> None:
    _, peer = steady()
    sent = peer.step(RequestVote(B, A, 2, 1, 1, False, transfer))
    assert peer.plays(Role.FOLLOWER) is transfer
    assert (RequestVoteResponse(A, B, 2, True, False) in sent) is transfer


def test_reads_go_on_during_a_transfer_and_are_dropped_with_the_leadership() -> None:
    shard, peer = steady()
    shard.passes = lambda m: not isinstance(m, TimeoutNow)
    peer.node.transfer_leadership(B)
    peer.node.read_index(1)
    shard.deliver()
    assert [s.context for s in peer.read_states] == [1]
    shard.passes = lambda m: not isinstance(m, HeartbeatResponse)
    peer.node.read_index(2)
    shard.tick(5)
    assert shard.leaders() == ["b"] and peer.reads_dropped == [2]


def test_a_request_to_campaign_that_no_correct_node_sends() -> None:
    peer = follower(1)
    assert peer.step(TimeoutNow(B, A, 0)) == []
    assert peer.event_names()[-1] == "malformed_message"
