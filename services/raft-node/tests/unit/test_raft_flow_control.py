"""What a dead, a slow and a deaf follower cost their leader: bounded memory, whatever is proposed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import AppendEntries, Heartbeat, Message
from raft_node.raft.progress import Progress
from raft_node.raft.types import NodeId
from raft_testing.lockstep import Lockstep, Peer, commands, leading, members

A, B, C = members(3)
MIB = 1 << 20
PROPOSED = 100 * MIB
WINDOWS = RaftConfig(inflight_appends_max=8, inflight_bytes_max=4 * MIB, append_bytes_max=MIB, cache_bytes_max=4 * MIB)


def entry_bytes(messages: Sequence[Message]) -> int:
    return sum(len(entry.data) for m in messages if isinstance(m, AppendEntries) for entry in m.entries)


def progress(peer: Peer, node: NodeId) -> Progress:
    return leading(peer).progress[node]


class Transport:
    """The leader's way to one follower: what was handed to it and has not arrived lies in its memory."""

    def __init__(self, shard: Lockstep, peer: Peer, slow: NodeId, arrives: Callable[[int], bool]) -> None:
        self.shard, self.peer, self.slow, self.arrives = shard, peer, slow, arrives
        self.queue: list[Message] = []
        self.handed_bytes = 0
        self.queued_bytes_max = 0
        self.inflight_bytes_max = 0
        self.cached_bytes_max = 0

    def round(self, number: int) -> None:
        """One tick of everybody; the queue moves on when it is let."""
        for other in self.shard.peers.values():
            other.node.tick()
        busy = True
        while busy:
            busy = False
            for other in self.shard.peers.values():
                for message in other.pump():
                    busy = True
                    if message.receiver == self.slow:
                        self.queue.append(message)
                        self.handed_bytes += entry_bytes([message])
                    else:
                        self.shard[message.receiver.name].node.step(message)
            self.measure()
        if self.queue and self.arrives(number):
            self.shard[self.slow.name].node.step(self.queue.pop(0))

    def measure(self) -> None:
        self.queued_bytes_max = max(self.queued_bytes_max, entry_bytes(self.queue))
        self.inflight_bytes_max = max(self.inflight_bytes_max, progress(self.peer, self.slow).inflight_bytes)
        log = self.peer.node.log
        self.cached_bytes_max = max(self.cached_bytes_max, sum(len(entry.data) for entry in log._entries))


def load(arrives: Callable[[int], bool]) -> Transport:
    """Proposes a hundred MiB in entries of 64 KiB while c is slow, and commits them with b."""
    shard = Lockstep(3, config=WINDOWS)
    peer = shard.elect("a")
    shard.tick(6)
    transport = Transport(shard, peer, C, arrives)
    for number in range(PROPOSED // MIB):
        peer.node.propose(commands(16, 1 << 16), 0)
        transport.round(number)
    assert peer.node.commit_index == 1 + 16 * PROPOSED // MIB, "the others went on without it"
    return transport


def test_a_dead_follower_costs_its_window_once() -> None:
    transport = load(lambda number: False)
    assert transport.handed_bytes <= WINDOWS.inflight_bytes_max + WINDOWS.append_bytes_max + (1 << 17)
    assert transport.inflight_bytes_max <= WINDOWS.inflight_bytes_max + WINDOWS.append_bytes_max + (1 << 17)
    # Twice the cache, and what one turn brought.
    assert transport.cached_bytes_max <= 2 * WINDOWS.cache_bytes_max + 2 * MIB
    assert progress(transport.peer, C).state == "probe"


def test_a_slow_follower_costs_no_more_than_its_window() -> None:
    transport = load(lambda number: number % 3 == 0)
    bound = WINDOWS.inflight_bytes_max + WINDOWS.append_bytes_max + (1 << 17)
    assert transport.inflight_bytes_max <= bound
    assert transport.queued_bytes_max <= 2 * bound, "what was given up as lost may lie in the queue still"
    assert transport.cached_bytes_max <= 2 * WINDOWS.cache_bytes_max + 2 * MIB
    assert transport.shard["c"].node.last_index > 1


def test_a_follower_that_answers_heartbeats_but_takes_no_entries_costs_its_window_once() -> None:
    shard = Lockstep(3, config=WINDOWS)
    peer = shard.elect("a")
    shard.tick(6)
    handed = 0

    def passes(message: Message) -> bool:
        nonlocal handed
        if message.receiver == C and isinstance(message, AppendEntries):
            handed += entry_bytes([message])
            return False
        return True

    shard.passes = passes
    for _ in range(PROPOSED // MIB):
        peer.node.propose(commands(16, 1 << 16), 0)
        shard.tick()
    assert handed <= WINDOWS.inflight_bytes_max + WINDOWS.append_bytes_max + (1 << 17)
    shard.heal()
    shard.tick(200)
    assert shard["c"].node.last_index == peer.node.last_index


@pytest.mark.parametrize("appends", [1, 3])
def test_the_window_is_shut_by_count_and_by_bytes(appends: int) -> None:
    config = RaftConfig(inflight_appends_max=appends, inflight_bytes_max=250, append_bytes_max=100)
    shard = Lockstep(3, config=config)
    peer = shard.elect("a")
    shard.tick(6)
    shard.passes = lambda m: not (isinstance(m, AppendEntries) and m.receiver == C)
    peer.node.propose(commands(20, 10), 0)
    shard.deliver()
    flight = progress(peer, C)
    assert flight.state == "replicate"
    assert len(flight.inflights) == appends and flight.inflight_bytes < 250 + 200
    assert len(progress(peer, B).inflights) == 0
    for entry in (20, 200):
        tight = RaftConfig(inflight_appends_max=64, inflight_bytes_max=250, append_bytes_max=100)
        shard = Lockstep(3, config=tight)
        peer = shard.elect("a")
        shard.tick(6)
        shard.passes = lambda m: not (isinstance(m, AppendEntries) and m.receiver == C)
        peer.node.propose(commands(50, entry), 0)
        shard.deliver()
        flight = progress(peer, C)
        last = flight.inflights[-1].size
        assert 250 <= flight.inflight_bytes < 250 + last, "the last one may pass the bound, and none after it"


def test_the_state_of_each_peer_is_plain_to_see() -> None:
    shard = Lockstep(3)
    peer = shard.elect("a")
    states = {node.name: flight.state for node, flight in leading(peer).progress.items()}
    assert states == {"b": "replicate", "c": "replicate"}
    shard.cut("c")
    shard.tick(31)
    assert progress(peer, C).state == "probe"
    peer.node.propose(commands(3), 0)
    shard.deliver()
    peer.log.compact(3)
    shard["c"].log.stored.clear()
    shard["c"].restart()
    shard.heal()
    shard.tick(40)
    assert progress(peer, C).state == "snapshot"
    assert str(progress(peer, B).state) == "replicate"


def test_a_peer_that_needs_a_snapshot_is_sent_heartbeats_alone() -> None:
    shard = Lockstep(3, config=WINDOWS)
    peer = shard.elect("a")
    shard.tick(6)
    shard.cut("c")
    peer.node.propose(commands(8), 0)
    shard.tick(2)
    peer.log.compact(8)
    shard.heal()
    kinds = set()

    def passes(message: Message) -> bool:
        if message.sender == A and message.receiver == C:
            kinds.add(type(message))
        return True

    shard.tick(40)
    shard.passes = passes
    for _ in range(20):
        peer.node.propose(commands(16, 1 << 16), 0)
        shard.tick()
    assert kinds == {Heartbeat} and progress(peer, C).inflight_bytes == 0
    assert peer.snapshots_wanted == [C]
