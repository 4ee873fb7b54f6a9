"""Voters that trail: a quorum is asked first, the others get the same a little later, and nobody waits for that."""

from __future__ import annotations

import pytest

from raft_node.errors import SettingsError
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse, Heartbeat, HeartbeatResponse, Message
from raft_node.raft.thrift import RENEWAL_TICKS, Thrift
from raft_node.raft.types import NodeId
from raft_testing.lockstep import Lockstep, Peer, commands, leading, members

A, B, C, D, E = members(5)
CONFIG = RaftConfig(trail_ticks=2)
OTHERS = (B, C, D, E)


def elected(count: int = 5, config: RaftConfig = CONFIG) -> tuple[Lockstep, Peer]:
    """A shard with leader ``a``: two of five trail, and were sent something in this very tick."""
    shard = Lockstep(count, config=config)
    peer = shard.elect("a")
    shard.tick(8)
    peer.node.propose(commands(1, 10), 0)
    shard.deliver()
    while any(each.next_index <= peer.node.last_index for each in leading(peer).progress.values()):
        shard.tick()
    return shard, peer


def first(peer: Peer) -> frozenset[NodeId]:
    return leading(peer)._thrift.first


def receivers(messages: list[Message], kind: type[Message] = AppendEntries) -> set[NodeId]:
    return {message.receiver for message in messages if isinstance(message, kind)}


def propose(peer: Peer) -> list[Message]:
    """Proposes an entry; returns what the leader sends at once."""
    peer.node.propose(commands(1, 10), 0)
    return peer.pump()


def hand(shard: Lockstep, messages: list[Message]) -> None:
    for message in messages:
        shard[message.receiver.name].node.step(message)
    shard.deliver()


def test_an_entry_goes_to_a_quorum_at_once_and_to_the_others_a_little_later() -> None:
    shard, peer = elected()
    assert len(first(peer)) == 2
    sent = propose(peer)
    assert receivers(sent) == first(peer)
    hand(shard, sent)
    index = peer.node.last_index
    assert peer.node.commit_index == index
    behind = [node.name for node in OTHERS if node not in first(peer)]
    assert [shard[name].node.last_index for name in behind] == [index - 1, index - 1]
    shard.tick(CONFIG.trail_ticks + 1)
    assert [shard[name].node.commit_index for name in behind] == [index, index], "with the commit index, in one message"


def test_entries_for_the_others_are_gathered() -> None:
    shard, peer = elected()
    shard.delivered.clear()
    for _ in range(8):
        hand(shard, propose(peer))
    # Eight for each of those that are asked first, and what was due before for the others.
    assert 16 <= shard.delivered["AppendEntriesResponse"] <= 18
    shard.tick(CONFIG.trail_ticks)
    assert {one.node.last_index for one in shard.peers.values()} == {peer.node.last_index}


def test_everybody_is_asked_at_once_where_nobody_may_trail() -> None:
    _, peer = elected(config=RaftConfig())
    assert receivers(propose(peer)) == set(OTHERS)
    assert first(peer) == frozenset()


def test_a_dead_voter_among_the_first_holds_a_commit_up_for_as_long_as_others_trail() -> None:
    shard, peer = elected()
    dead = min(first(peer))
    shard.passes = lambda message: dead not in (message.sender, message.receiver)
    peer.node.propose(commands(1, 10), 0)
    shard.tick(CONFIG.trail_ticks + 1)
    assert peer.node.commit_index == peer.node.last_index
    shard.tick(CONFIG.trail_ticks + 2)
    hand(shard, propose(peer))
    assert dead not in first(peer), "it was late, so others are asked first now"
    assert peer.node.commit_index == peer.node.last_index, "without any tick"


def test_a_voter_that_cannot_be_reached_is_replaced_at_once() -> None:
    _, peer = elected()
    gone = min(first(peer))
    peer.node.peer_unreachable(gone)
    assert receivers(propose(peer)) == set(OTHERS) - {gone}


def test_a_leader_whose_own_disk_is_slow_asks_a_quorum_of_others() -> None:
    shard, peer = elected()
    peer.node.peer_unreachable(min(first(peer)))
    peer.pump()
    assert not first(peer)
    peer.node.propose(commands(1, 10), 0)
    sent = peer.pump(persist=False)
    for message in sent:
        for answer in shard[message.receiver.name].step(message):
            peer.node.step(answer)
    peer.pump(persist=False)
    assert peer.node.commit_index == peer.node.last_index
    assert len(first(peer)) == 3


def test_a_read_round_asks_a_quorum_first_and_everybody_when_that_is_late() -> None:
    shard, peer = elected()
    peer.node.read_index(1)
    sent = peer.pump()
    assert receivers(sent, Heartbeat) == first(peer)
    asked = set(first(peer))
    for _ in range(leading(peer)._thrift.patience_ticks):
        peer.node.tick()
        sent = peer.pump()
    assert receivers(sent, Heartbeat) >= set(OTHERS) - asked
    hand(shard, [message for message in sent if message.receiver not in asked])
    assert [state.context for state in peer.read_states] == [1]


def test_a_read_that_a_trailing_voter_forwards_brings_it_what_it_waits_for() -> None:
    shard, peer = elected()
    late = next(node for node in OTHERS if node not in first(peer))
    hand(shard, propose(peer))
    index = peer.node.commit_index
    reader = shard[late.name]
    assert reader.node.last_index < index
    reader.node.read_index(7)
    shard.deliver()
    assert [(state.context, state.read_index) for state in reader.read_states] == [(7, index)]
    assert reader.node.last_index == index, "without any tick"
    shard.tick()
    assert reader.node.commit_index == index


def test_who_is_to_lead_next_does_not_trail() -> None:
    _, peer = elected()
    late = next(node for node in OTHERS if node not in first(peer))
    propose(peer)
    peer.node.transfer_leadership(late)
    assert late in receivers(peer.pump())


def test_who_lags_or_learns_does_not_trail() -> None:
    _, peer = elected()
    late = next(node for node in OTHERS if node not in first(peer))
    leading(peer).progress[late].lost()
    assert late in receivers(propose(peer))


def test_the_fastest_are_looked_for_anew_now_and_then() -> None:
    thrift = Thrift(1)
    thrift.answered([B], 1, 2, 5)
    thrift.answered([B, C], 1, 2, 6)
    assert thrift.first == {B} and thrift.trails(C) and not thrift.trails(B)
    assert not thrift.late(5 + RENEWAL_TICKS - 1)
    assert thrift.late(5 + RENEWAL_TICKS)
    thrift.forget()
    assert not thrift.trails(C)
    thrift.answered([C], 1, 2, 200)
    assert thrift.first == {C}


def test_others_are_asked_first_when_a_quorum_had_to_be_made_without_the_first_ones() -> None:
    thrift = Thrift(1)
    thrift.answered([B, C], 2, 4, 0)
    thrift.answered([C, D], 2, 4, 1)
    assert thrift.first == {C, D}
    thrift.answered([C, D, E], 3, 4, 2)
    assert thrift.first == {C, D, E}, "the leader's own disk was slower"


def test_nobody_trails_where_all_others_are_needed() -> None:
    _, peer = elected(2)
    assert first(peer) == frozenset()


def test_a_quorum_is_late_when_something_waited_for_it_all_the_time() -> None:
    thrift = Thrift(1)
    thrift.answered([B], 1, 2, 0)
    thrift.waits(True, 1)
    assert thrift.deadline(50) == 3
    thrift.answered([B], 1, 2, 2)
    assert thrift.deadline(50) == 50, "nothing waits"
    thrift.waits(True, 2)
    assert not thrift.late(3)
    assert thrift.late(4)
    thrift.waits(False, 4)
    assert not thrift.late(9)


@pytest.mark.parametrize("ticks", [-1, 5])
def test_nobody_trails_as_long_as_a_heartbeat_interval(ticks: int) -> None:
    with pytest.raises(SettingsError, match="trail"):
        RaftConfig(trail_ticks=ticks)


def test_answers_of_trailing_voters_count() -> None:
    """A late answer is an answer: the commit index may rest on it."""
    shard, peer = elected()
    asked = first(peer)
    shard.passes = lambda message: (
        not (isinstance(message, AppendEntriesResponse | HeartbeatResponse) and message.sender in asked)
    )
    peer.node.propose(commands(1, 10), 0)
    shard.tick(CONFIG.trail_ticks + 1)
    assert peer.node.commit_index == peer.node.last_index
