"""Leases and forwarded reads under chance: whatever clocks, links and processes do, no read is older than it may be.

True time goes on in small steps. Every node counts its own ticks at its own rate, and the clock that its leases are
judged by may jump. A read that any node confirms must include everything that was committed anywhere when it was asked.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from raft_node.errors import NotLeaderError, TransferRefusedError
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import Message
from raft_node.raft.types import Configuration, Role
from raft_testing.lockstep import Peer, commands, members

SEEDS = range(8)
STEPS = 6000
STEP = 0.5
LEASES = RaftConfig(lease_ticks=9)
RATES = (0.9, 1.3)
"""A lease of nine ticks on the slowest clock is over before fourteen have passed on the fastest."""


class Host:
    """A process with clocks of its own.

    Attributes:
        rate: How fast its clocks run.
        strobe: How far its lease clock jumps to and fro.
    """

    def __init__(self, peer: Peer, chance: random.Random) -> None:
        self.peer = peer
        self.rate = chance.uniform(*RATES)
        self.strobe = chance.choice((0.0, 0.0, 4.0))
        self.awake_at = 0.0
        self.ticked_until = 0.0
        self.inbox: list[Message] = []
        self.asked: dict[int, int] = {}

    def clock(self, now: float, chance: random.Random) -> float:
        return now * self.rate + chance.uniform(-self.strobe, self.strobe)

    def count(self, now: float) -> None:
        """Counts the ticks that have passed; a process that stood still counts one, as the driver has it."""
        ticks = int((now - self.ticked_until) * self.rate)
        if ticks:
            self.ticked_until += ticks / self.rate
            self.peer.node.tick(min(ticks, self.peer.node.ticks_to_deadline()))


class World:
    """Three nodes, their links, and what is committed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        ids = members(3)
        self.hosts = {
            node.name: Host(Peer(node, Configuration(ids), config=LEASES, seed=seed * 10 + place), self.chance)
            for place, node in enumerate(ids)
        }
        self.now = 0.0
        self.flying: list[tuple[float, int, Message]] = []
        self.sent = 0
        self.cut: set[str] = set()
        self.committed = 0
        self.context = 0
        self.ambush_at = 0.0
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        for _ in range(STEPS):
            self.now += STEP
            self.fault()
            arrived = sorted(item for item in self.flying if item[0] <= self.now)
            self.flying = [item for item in self.flying if item[0] > self.now]
            for _, _, message in arrived:
                self.hosts[message.receiver.name].inbox.append(message)
            for host in self.hosts.values():
                if host.awake_at <= self.now:
                    self.turn(host)

    def turn(self, host: Host) -> None:
        node = host.peer.node
        # Clients are not ordered with peers: their requests may come first after a pause.
        if self.chance.random() < 0.5:
            self.ask(host)
        if host.inbox:
            for message in host.inbox:
                node.step(message)
            host.inbox.clear()
        host.count(self.now)
        self.ask(host)
        self.pump(host)

    def ask(self, host: Host) -> None:
        node = host.peer.node
        roll = self.chance.random()
        if roll < 0.3:
            self.context += 1
            try:
                node.read_index(self.context, host.clock(self.now, self.chance))
            except NotLeaderError:
                return
            host.asked[self.context] = self.committed
        elif roll < 0.5 and node.role is Role.LEADER and node.leadership and not node.leadership.transfer:
            node.propose(commands(1), 0)

    def pump(self, host: Host) -> None:
        peer = host.peer
        for message in peer.pump():
            apart = (message.sender.name in self.cut) != (message.receiver.name in self.cut)
            late = 60.0 if self.chance.random() < 0.02 else 0.4
            if not apart and self.chance.random() < 0.97:
                self.sent += 1
                self.flying.append((self.now + self.chance.uniform(0.1, late), self.sent, message))
        self.committed = max(self.committed, peer.node.commit_index)
        for context in peer.reads_dropped:
            host.asked.pop(context)
        for state in peer.read_states:
            floor = host.asked.pop(state.context)
            assert state.read_index >= floor, (
                f"{peer.id.name} serves a read at {state.read_index} after {floor} was committed, at {self.now}"
            )
            leads = peer.node.role is Role.LEADER
            self.counts["by a leader" if leads else "by a follower"] += 1
        leadership = peer.node.leadership
        if leadership is not None and peer.read_states and leadership.reads.current is None:
            self.counts["with a lease"] += 1
        peer.reads_dropped.clear()
        peer.read_states.clear()

    def fault(self) -> None:
        host = self.chance.choice(list(self.hosts.values()))
        leaders = [other for other in self.hosts.values() if other.peer.node.role is Role.LEADER]
        if leaders and self.chance.random() < 0.5:
            host = self.chance.choice(leaders)
        roll = self.chance.random()
        if self.ambush_at:
            self.ambush(leaders)
        elif roll < 0.003 and host not in leaders:
            # One that hears nobody will campaign with all its might as soon as it is let.
            self.cut = {host.peer.id.name}
            self.ambush_at = self.now + self.chance.uniform(30.0, 50.0)
        elif roll < 0.005:
            host.awake_at = self.now + self.chance.uniform(5.0, 80.0)
            self.counts["pause"] += 1
        elif roll < 0.025:
            self.cut = {host.peer.id.name}
            self.counts["cut"] += 1
        elif roll < 0.04:
            self.cut = set()
        elif roll < 0.06 and host not in leaders:
            host.peer.restart()
            host.inbox.clear()
            host.asked.clear()
            host.ticked_until = self.now
            self.counts["restart"] += 1
        elif roll < 0.07 and host.peer.node.role is Role.LEADER:
            try:
                host.peer.node.transfer_leadership()
            except TransferRefusedError:
                return
            self.counts["transfer"] += 1

    def ambush(self, leaders: list[Host]) -> None:
        """Cuts the leader off from the one that campaigns and one that has just restarted, or seen a newer term."""
        if self.now < self.ambush_at or not leaders:
            return
        self.ambush_at = 0.0
        leader = self.chance.choice(leaders)
        for host in self.hosts.values():
            if host is not leader and host.peer.id.name not in self.cut:
                host.peer.restart()
                host.inbox.clear()
                host.asked.clear()
                host.ticked_until = self.now
        self.cut = {leader.peer.id.name}
        self.counts["ambush"] += 1


@pytest.mark.parametrize("seed", SEEDS)
def test_no_read_is_older_than_what_was_committed_when_it_was_asked(seed: int) -> None:
    world = World(seed)
    world.run()
    for name in ("pause", "cut", "restart", "transfer", "ambush", "by a leader", "by a follower", "with a lease"):
        assert world.counts[name] > 0, f"nothing came of {name} with seed {seed}"
