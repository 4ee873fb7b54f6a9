"""A whole simulated shard: nodes, network, disks, one clock, one source of randomness, one trace.

It offers the faults as plain operations (crash, restart, cut, pause, lose a disk ...). When which fault happens is
decided by ``raft_testing.faults``; ``raft_testing.members`` changes the members, and
``raft_testing.clients`` sends requests.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from hashlib import blake2b

from raft_node.entry import Entry, EntryKind, encode
from raft_node.raft.config import RaftConfig
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.membership import members_of
from raft_node.raft.node import RaftNode
from raft_node.raft.types import Configuration, HardState, NodeId, Role
from raft_testing.checkers import Checkers
from raft_testing.clock import Clock
from raft_testing.disk import MemoryLog, WalLog
from raft_testing.environment import EPOCH_US, Environment, Habits
from raft_testing.machine import MemoryStore, StateStore
from raft_testing.network import AnyMessage, Network
from raft_testing.node import SimulatedNode

TRACE_TAIL = 400


class Trace:
    """The events of a run in order: a hash over all lines, and the last ones.

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
        seed: The seed of all random choices.
        size: How many members the shard has.
        config: Settings of every core.
        core: The core's class; tests give one with a planted bug.
        log: The class of the nodes' logs.
        store: The class of the nodes' states.
        spares: How many more nodes run with empty disks, to become members later.
        habits: The nodes' own activities, such as flushes.
    """

    def __init__(
        self,
        seed: int | str,
        size: int,
        config: RaftConfig,
        core: type[RaftNode] = RaftNode,
        log: type[MemoryLog] | type[WalLog] = MemoryLog,
        store: Callable[[Configuration], StateStore] = MemoryStore,
        spares: int = 0,
        habits: Habits | None = None,
    ) -> None:
        self.clock = Clock()
        self.chance = random.Random(seed)  # noqa: S311
        self.counters: Counter[str] = Counter()
        self.trace = Trace(self.clock)
        self.network = Network(self.clock, self.chance, self.counters, self._deliver, self._unreachable)
        identities = [NodeId(f"n{number}", 1000 + number) for number in range(1, size + spares + 1)]
        self.first_configuration = Configuration(tuple(identities[:size]))
        initial = [first_entry(self.first_configuration)]
        self._log, self._store = log, store
        logs = {identity.name: log(HardState(1, None, 1), initial) for identity in identities[:size]}
        logs |= {identity.name: log(HardState(), ()) for identity in identities[size:]}
        self.checkers = Checkers(logs, initial, {identity.name: identity for identity in identities})
        environment = Environment(
            self.clock,
            self.chance,
            self.counters,
            self.checkers,
            self.network.send,
            self.trace.add,
            core,
            config,
            habits or Habits(),
        )
        self.nodes = {
            identity.name: SimulatedNode(environment, identity, logs[identity.name], store(self.first_configuration))
            for identity in identities
        }

    def start(self) -> None:
        """Starts every node that is down."""
        for node in self.nodes.values():
            if node.raft is None:
                node.start()

    def heal(self) -> None:
        """Ends every fault and starts all nodes that are down."""
        self.trace.add("heal")
        self.network.heal()
        for node in self.nodes.values():
            node.fsync_max_us, node.apply_max_us, node.spoils = 2_000, 0, False
            if node.raft is None:
                node.start()
            elif node.paused:
                node.resume(node.life)

    def lose_disk(self, node: SimulatedNode) -> None:
        """Gives a node that is down an empty disk, and so another incarnation."""
        identity = NodeId(node.name, node.identity.incarnation + 100)
        log = self._log(HardState(), ())
        node.wipe(identity, log, self._store(self.first_configuration))
        self.checkers.wiped(node.name, log, identity)

    def alive(self, configuration: Configuration) -> list[NodeId]:
        """The voters of a configuration that have not lost their disks."""
        return [voter for voter in configuration.voters if self.nodes[voter.name].identity == voter]

    @property
    def leader(self) -> SimulatedNode | None:
        """The node with the highest term among those that believe that they lead; None if there is none."""
        leaders = [node for node in self.nodes.values() if node.raft is not None and node.raft.role is Role.LEADER]
        return max(leaders, key=lambda node: node.raft.term if node.raft is not None else 0, default=None)

    @property
    def converged(self) -> bool:
        """Whether all members run and have applied the same entries, up to the end of the leader's log."""
        leader = self.leader
        if leader is None or leader.raft is None:
            return False
        last = leader.raft.last_index
        return all(
            node.raft is not None and node.store.head.applied_index == last and node.log.last_index == last
            for node in self.members
        )

    @property
    def members(self) -> list[SimulatedNode]:
        """The nodes of the leader's configuration; a node with a lost disk is no member until it is added again."""
        leader = self.leader
        if leader is None or leader.raft is None:
            return []
        members = members_of(leader.raft.configuration)
        return [node for node in self.nodes.values() if node.identity in members]

    def _deliver(self, name: str, message: AnyMessage) -> None:
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
