"""A whole simulated shard: nodes, network, disks, one clock, one source of randomness, one trace.

It offers the faults as plain operations (crash, restart, cut, pause ...); which of them happen when is decided by
``raft_node.testing.faults``, and who talks to the shard by ``raft_node.testing.clients``.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from hashlib import blake2b

from raft_node.entry import Entry, EntryKind, encode
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.messages import Message
from raft_node.raft.node import RaftNode
from raft_node.raft.types import Configuration, HardState, NodeId, Role
from raft_node.testing.checkers import Checkers
from raft_node.testing.clock import Clock
from raft_node.testing.disk import MemoryLog, WalLog
from raft_node.testing.network import Network
from raft_node.testing.node import EPOCH_US, Environment, SimulatedNode

TRACE_TAIL = 400


class Trace:
    """What happened, in order: a hash over all of it and the last lines.

    Attributes:
        everything: Set it to a list to keep all lines.
    """

    def __init__(self, clock: Clock) -> None:
        self.tail: deque[str] = deque(maxlen=TRACE_TAIL)
        self.everything: list[str] | None = None
        self.lines = 0
        self._clock = clock
        self._hash = blake2b(digest_size=8)

    def add(self, what: str) -> None:
        """Adds one line."""
        line = f"{self._clock.now_us:>10} {what}"
        self.lines += 1
        self._hash.update(line.encode())
        self.tail.append(line)
        if self.everything is not None:
            self.everything.append(line)

    def digest(self) -> str:
        """The hash of all lines so far."""
        return self._hash.hexdigest()


class Cluster:
    """One shard whose nodes run in virtual time.

    Args:
        seed: Decides everything that is random.
        size: How many nodes.
        config: Settings of every core.
        core: The core's class; tests give one with a planted bug.
        log: What the nodes keep their logs in.
    """

    def __init__(
        self,
        seed: int | str,
        size: int,
        config: RaftConfig,
        core: type[RaftNode] = RaftNode,
        log: type[MemoryLog] | type[WalLog] = MemoryLog,
    ) -> None:
        self.clock = Clock()
        self.chance = random.Random(seed)  # noqa: S311
        self.counters: Counter[str] = Counter()
        self.trace = Trace(self.clock)
        self.network = Network(self.clock, self.chance, self.counters, self._deliver, self._unreachable)
        identities = [NodeId(f"n{number}", 1000 + number) for number in range(1, size + 1)]
        configuration = Configuration(tuple(identities))
        initial = [first_entry(configuration)]
        logs = {identity.name: log(HardState(1, None, 1), initial) for identity in identities}
        self.checkers = Checkers(logs, initial)
        environment = Environment(
            self.clock, self.chance, self.counters, self.checkers, self.network.send, self.trace.add, core, config
        )
        self.nodes = {
            identity.name: SimulatedNode(environment, identity, logs[identity.name], configuration)
            for identity in identities
        }

    def start(self) -> None:
        """Starts every node that is down."""
        for node in self.nodes.values():
            if node.raft is None:
                node.start()

    def heal(self) -> None:
        """Ends every fault and starts what is down."""
        self.trace.add("heal")
        self.network.heal()
        for node in self.nodes.values():
            node.fsync_max_us, node.apply_max_us = 2_000, 0
            if node.raft is None:
                node.start()
            elif node.paused:
                node.resume(node.life)

    @property
    def leader(self) -> SimulatedNode | None:
        """The leader of the highest term among those that believe to be one."""
        leaders = [node for node in self.nodes.values() if node.raft is not None and node.raft.role is Role.LEADER]
        return max(leaders, key=lambda node: node.raft.term if node.raft is not None else 0, default=None)

    @property
    def converged(self) -> bool:
        """Whether all nodes run and have applied the same entries, up to the end of the leader's log."""
        leader = self.leader
        if leader is None or leader.raft is None:
            return False
        last = leader.raft.last_index
        return all(
            node.raft is not None and node.machine.applied_index == last and node.log.last_index == last
            for node in self.nodes.values()
        )

    def _deliver(self, name: str, message: Message) -> None:
        node = self.nodes[name]
        if node.raft is None:
            if self.network.notice_permille and self.chance.random() * 1000 < self.network.notice_permille:
                self._unreachable(message.sender.name, name)
            return
        node.deliver(message)

    def _unreachable(self, name: str, peer: str) -> None:
        self.nodes[name].peer_unreachable(self.nodes[peer].identity)


def first_entry(configuration: Configuration) -> Entry:
    """The entry that every log begins with."""
    return encode(1, 1, EntryKind.CONFIGURATION, EPOCH_US, encode_configuration(configuration))
