"""Followers at which somebody waits for what is committed next: they are told at once, and nobody else pays for it."""

from __future__ import annotations

from collections import Counter

import pytest

from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse, Heartbeat, HeartbeatResponse, Message
from raft_node.raft.pace import CALM_PROPOSALS, Pace
from raft_testing.lockstep import Lockstep, Peer, commands, leading, members

A, B, C, D, E = members(5)
TRAILING = RaftConfig(trail_ticks=2)


def steady(*watched: str, config: RaftConfig | None = None) -> tuple[Lockstep, Peer]:
    """A shard of five whose leader a has committed its first entry everywhere, and knows who is watched."""
    shard = Lockstep(5, config=config)
    peer = shard.elect("a")
    for name in watched:
        shard[name].node.be_watched(True)
    shard.tick(2 * peer.config.heartbeat_ticks)
    shard.delivered.clear()
    return shard, peer


def commit_indexes(shard: Lockstep) -> dict[str, int]:
    return {name: peer.node.commit_index for name, peer in shard.peers.items()}


def put(shard: Lockstep, peer: Peer, times: int = 1) -> None:
    for _ in range(times):
        peer.node.propose(commands(1), 0)
        shard.deliver()


def notices(messages: list[Message]) -> list[tuple[str, int]]:
    return [(m.receiver.name, m.commit_index) for m in messages if isinstance(m, Heartbeat) and not m.answer]


def acknowledge(peer: Peer, index: int, *nodes: str) -> list[Message]:
    ids = [node for node in (B, C, D, E) if node.name in nodes]
    return peer.step(*[AppendEntriesResponse(node, A, 1, True, index, 0, 0, 0, node is B) for node in ids])


def test_a_put_on_an_idle_shard_is_told_at_once_to_who_is_watched_and_to_nobody_else() -> None:
    shard, peer = steady("b")
    put(shard, peer)
    assert commit_indexes(shard) == {"a": 2, "b": 2, "c": 1, "d": 1, "e": 1}
    assert shard.delivered == Counter(AppendEntries=4, AppendEntriesResponse=4, Heartbeat=1)


def test_nobody_is_told_at_once_where_nobody_watches() -> None:
    shard, peer = steady()
    put(shard, peer)
    assert shard.delivered == Counter(AppendEntries=4, AppendEntriesResponse=4)


def test_a_client_that_waits_for_each_event_sees_it_without_any_tick() -> None:
    shard, peer = steady("b")
    for _ in range(20):
        put(shard, peer, CALM_PROPOSALS)
        assert shard["b"].node.commit_index == peer.node.commit_index
        shard.tick()
    assert shard["c"].node.commit_index < peer.node.commit_index, "to the others it is a stream"


def test_under_load_a_watch_costs_no_message() -> None:
    counts = []
    for watched in ((), ("b", "c", "d", "e")):
        shard, peer = steady(*watched)
        put(shard, peer, CALM_PROPOSALS + 1)
        shard.delivered.clear()
        for _ in range(20):
            put(shard, peer, CALM_PROPOSALS + 1)
            shard.tick()
        counts.append(shard.delivered)
    without, beside = counts
    assert without == beside
    assert beside["AppendEntries"] == 20 * 4 * (CALM_PROPOSALS + 1)


def test_when_a_load_ends_who_is_watched_is_told_within_two_ticks() -> None:
    shard, peer = steady("b")
    put(shard, peer, 2 * CALM_PROPOSALS)
    assert shard["b"].node.commit_index < peer.node.commit_index and peer.node.ticks_to_deadline() == 1
    shard.tick(2)
    assert shard["b"].node.commit_index == peer.node.commit_index
    assert shard["c"].node.commit_index < peer.node.commit_index
    assert peer.node.ticks_to_deadline() > 1


def test_a_notice_waits_for_the_answer_that_shows_that_its_receiver_has_the_entries() -> None:
    """Otherwise it could commit what an earlier leader left in the receiver's log."""
    _, peer = steady("b")
    peer.node.propose(commands(1), 0)
    peer.pump()
    assert notices(acknowledge(peer, 2, "c", "d")) == []
    assert peer.node.commit_index == 2
    assert notices(acknowledge(peer, 2, "b")) == [("b", 2)]
    assert notices(peer.pump()) == []


def test_the_next_entries_carry_the_index_and_no_notice_goes_with_them() -> None:
    _, peer = steady("b")
    peer.node.propose(commands(1), 0)
    peer.pump()
    peer.node.propose(commands(1), 0)
    sent = acknowledge(peer, 2, "b", "c")
    assert [m.commit_index for m in sent if isinstance(m, AppendEntries) and m.receiver == B] == [2]
    assert notices(sent) == []


def test_a_voter_that_trails_does_not_while_it_is_watched_and_little_is_proposed() -> None:
    shard, peer = steady(config=TRAILING)
    put(shard, peer)
    first = leading(peer)._thrift.first
    late = next(node.name for node in (B, C, D, E) if node not in first)
    shard[late].node.be_watched(True)
    shard.tick(2 * peer.config.heartbeat_ticks)
    for _ in range(3):
        put(shard, peer)
        assert shard[late].node.commit_index == peer.node.commit_index, "without any tick"
        shard.tick()
    put(shard, peer, 2 * CALM_PROPOSALS)
    assert shard[late].node.last_index < peer.node.last_index, "under load it trails"
    shard.tick(TRAILING.trail_ticks + 2)
    assert shard[late].node.commit_index == peer.node.commit_index


def test_answers_to_entries_and_to_heartbeats_tell_whether_somebody_watches() -> None:
    shard, peer = steady()
    shard["b"].node.be_watched(True)
    (answer,) = shard["b"].step(Heartbeat(A, B, 1, 1, 0))
    assert isinstance(answer, HeartbeatResponse) and answer.watched
    (answer,) = shard["b"].step(AppendEntries(A, B, 1, 1, 1, 1, ()))
    assert isinstance(answer, AppendEntriesResponse) and answer.watched
    # In a stream of entries no heartbeats are sent.
    put(shard, peer)
    assert leading(peer).progress[B].watched
    shard["b"].node.be_watched(False)
    put(shard, peer)
    assert not leading(peer).progress[B].watched
    shard.delivered.clear()
    put(shard, peer)
    assert "Heartbeat" not in shard.delivered


def test_a_new_leader_knows_it_from_the_first_answer() -> None:
    shard, peer = steady("c")
    peer.node.transfer_leadership(B)
    shard.deliver()
    assert shard.leaders() == ["b"]
    put(shard, shard["b"])
    assert shard["c"].node.commit_index == shard["b"].node.commit_index


def test_a_read_that_waits_at_a_follower_has_the_commit_index_told_at_once() -> None:
    shard, peer = steady()
    for _ in range(3):
        put(shard, peer)
        shard.tick()
    shard["c"].node.read_index(7)
    shard.deliver()
    assert shard["c"].node.commit_index == peer.node.commit_index, "without any tick, in a stream of proposals"


@pytest.mark.parametrize(
    ("ticks", "calm"),
    [([0, 0], True), ([0, 0, 0], False), ([0, 0, 0, 1], False), ([0, 0, 0, 1, 2], True), ([0, 1, 1], True)],
)
def test_it_is_calm_while_few_proposals_come_in_this_tick_and_the_one_before(ticks: list[int], calm: bool) -> None:
    pace = Pace(5, 0)
    for tick in ticks:
        pace.proposed(tick)
    assert pace.calm(ticks[-1]) is calm
    assert pace.calm(ticks[-1] + 2)
