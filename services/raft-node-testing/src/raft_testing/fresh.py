"""Runs one seed of a shard whose followers serve reads: clients with sessions and with bounds, under faults.

``raft_testing.simulation`` runs it in every n-th seed, as it does ``raft_testing.operations``. A node decides by the
product's own code which reads it can serve (``raft_node.runtime.reads``, proofs of freshness); the core, the network
and the disks are simulated. The clients check that

1. a session sees everything that it has written and read, at every node, and never goes back;
2. a bounded read sees every write that was acknowledged to any client longer ago than its bound;
3. once the shard is healed, every member can prove that it is fresh: a node must not refuse for ever.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from raft_node.entry import EntryKind
from raft_node.errors import DougError
from raft_node.kv.partitions import encode_create_shard
from raft_node.raft.config import RaftConfig
from raft_node.raft.ready import Ready
from raft_node.raft.types import Proposal, ReadState, Role
from raft_node.runtime.reads.freshness import Freshness
from raft_node.runtime.reads.rounds import PendingReads
from raft_testing.checkers import InvariantViolationError
from raft_testing.cluster import Cluster
from raft_testing.disk import MemoryLog
from raft_testing.environment import EPOCH_US, Habits
from raft_testing.faults import FaultInjector, draw_kinds
from raft_testing.node import SimulatedNode
from raft_testing.replica_store import Judge, ReplicaStore, Told

STEPS = 1_000
FAULTS = 4
CLIENTS = 4
BOUNDS_US = (10_000, 30_000, 100_000, 500_000)
SAFETY_LIMIT_US = 120_000_000
LIVENESS_LIMIT_US = 10_000_000
_PAUSE_US = 8_000
_TIMEOUT_US = 300_000
_GIVE_UP_S = 1.0
_NO_KEY = "proof"

EFFECTS = tuple(f"fresh_{name}" for name in ("written", "session", "session_later", "bounded", "bounded_later"))
"""The counters that must not stay at zero over many seeds."""


class Replica:
    """The product's proofs over one life of a simulated node."""

    def __init__(self, node: SimulatedNode, now_s: Callable[[], float]) -> None:
        self._node, self._now_s = node, now_s
        metrics: Any = SimpleNamespace(read_index_failed=_Ignored, read_index_confirmed=_Ignored)
        metrics.read_index_duration = _Ignored
        core: Any = self
        self._rounds = PendingReads(core, metrics, now_s, None, now_s)
        self.freshness = Freshness(self, lambda: self._rounds.proven_s, now_s)

    # The core's methods that the rounds call.

    @property
    def role(self) -> Role:
        """The node's role."""
        assert self._node.raft is not None
        return self._node.raft.role

    def read_index(self, context: int) -> None:
        """Has the core confirm a round; the answer comes once its index is applied."""

        def outcome(status: str, value: str | None = None, leader: str = "") -> None:
            confirmed = [ReadState(context, self.applied_index)] if status == "ok" else []
            dropped = [] if status == "ok" else [context]
            self._rounds.take(Ready((), None, (), confirmed, dropped, ()), keep=False)
            self._rounds.serve(self.applied_index)

        self._node.get(_NO_KEY, outcome)

    # The driver's methods that freshness calls.

    @property
    def applied_index(self) -> int:
        """The last entry that the node has applied."""
        return self._node.store.head.applied_index

    def expire(self) -> None:
        """Gives up rounds that were asked for long ago, as the driver does: their messages may be lost."""
        self._rounds.expire(self._now_s() - _GIVE_UP_S)

    def read(self, callback: Callable[[bool], None], *, forward: bool = False) -> None:
        """Asks for a round."""
        self._rounds.add(callback, forward=forward)
        self._rounds.ask()


class _Ignored:
    """A metric that nobody reads."""

    @staticmethod
    def inc() -> None:
        """Counts nothing."""

    @staticmethod
    def observe(seconds: float) -> None:
        """Counts nothing."""


class Acknowledged:
    """The times at which writes were acknowledged, to any client."""

    def __init__(self) -> None:
        self._times_us: list[int] = []
        self._newest: list[int] = []

    def add(self, now_us: int, index: int) -> None:
        """Notes that the write at ``index`` was acknowledged now."""
        self._times_us.append(now_us)
        self._newest.append(max(index, self._newest[-1] if self._newest else 0))

    def before(self, time_us: int) -> int:
        """The newest entry that was acknowledged by a time; 0 for none."""
        place = bisect_right(self._times_us, time_us)
        return self._newest[place - 1] if place else 0


class FreshClient:
    """A client that writes a key of its own, and reads it in its session; and reads within bounds what all write."""

    def __init__(self, run: FreshRun, number: int) -> None:
        self._run = run
        self._key = f"own{number}"
        self._known = 0
        self._revision = 0
        self._busy_until_us = 0
        run.clock.call_later(int(run.chance.random() * _PAUSE_US), self._step)

    def _step(self) -> None:
        run = self._run
        if not run.active:
            return
        run.steps += 1
        if run.clock.now_us >= self._busy_until_us:
            draw = run.chance.random()
            node = run.cluster.nodes[run.chance.choice(list(run.cluster.nodes))]
            if draw < 0.2:
                self._write()
            elif draw < 0.6:
                self._session_read(node)
            else:
                run.bounded_read(node, run.chance.choice(BOUNDS_US))
        run.clock.call_later(int(run.chance.random() * _PAUSE_US) + 1, self._step)

    def _write(self) -> None:
        run, leader = self._run, self._run.cluster.leader
        if leader is None:
            return
        self._busy_until_us = run.clock.now_us + _TIMEOUT_US
        command = commands.encode(Opcode.PUT, self._key.encode(), value=b"%d" % run.steps)

        def outcome(status: str, value: str | None = None, leader: str = "") -> None:
            self._busy_until_us = 0
            if status != "ok" or value is None:
                return
            told = Told.decode(value)
            if told.result.status == Status.OK:
                self._known, self._revision = max(self._known, told.at), max(self._revision, told.result.revision)
                run.acknowledged.add(run.clock.now_us, told.at)
                run.counters["fresh_written"] += 1

        leader.submit([(Proposal(EntryKind.COMMAND, command, commands.checksum(command)), outcome)])

    def _session_read(self, node: SimulatedNode) -> None:
        run = self._run
        replica = run.replica(node)
        if replica is None:
            return
        if not replica.freshness.serves(self._known, 0.0):
            run.counters["fresh_session_later"] += 1
            return
        assert isinstance(node.store, ReplicaStore)
        told = Told.decode(node.store.get(self._key))
        if told.result.revision < self._revision:
            raise InvariantViolationError(
                "session", f"{node.name} shows {self._key} at {told.result.revision}, and {self._revision} was seen"
            )
        run.counters["fresh_session"] += 1
        self._known, self._revision = max(self._known, told.at), told.result.revision


class FreshRun:
    """See the module."""

    def __init__(self, seed: int, trace: Callable[[str], None], counters: Counter[str]) -> None:
        """Creates a run; all random choices follow from ``seed``."""
        self.chance = random.Random(f"fresh {seed}")  # noqa: S311
        judged: type[ReplicaStore] = type("Judged", (ReplicaStore,), {})
        habits = Habits(flush_permille=100, kept_entries=self.chance.choice((5, 40)), install_max_us=20_000)
        nodes = self.chance.choice((3, 5))
        self.cluster = Cluster(f"fresh {seed}", nodes, RaftConfig(), log=MemoryLog, store=judged, habits=habits)
        self.clock = self.cluster.clock
        judged.judge = Judge(lambda: EPOCH_US + self.clock.now_us)
        self.counters = counters
        self.acknowledged = Acknowledged()
        self.active = True
        self.steps = 0
        self._tell = trace
        self._replicas: dict[str, tuple[int, Replica]] = {}

    def replica(self, node: SimulatedNode) -> Replica | None:
        """The replica that serves reads at a node now; None while the node is down. A new process has no proof."""
        store = node.store
        if node.raft is None or node.paused or not isinstance(store, ReplicaStore) or not store.created:
            return None
        life, replica = self._replicas.get(node.name, (-1, None))
        if replica is None or life != node.life:
            replica = Replica(node, lambda: self.clock.now_us / 1e6)
            self._replicas[node.name] = (node.life, replica)
        replica.expire()
        return replica

    def bounded_read(self, node: SimulatedNode, bound_us: int) -> bool:
        """Reads within a bound, if the node can prove it."""
        replica = self.replica(node)
        if replica is None:
            return False
        if not replica.freshness.serves(0, bound_us / 1e6):
            self.counters["fresh_bounded_later"] += 1
            return False
        needed, applied = self.acknowledged.before(self.clock.now_us - bound_us - 1), replica.applied_index
        if applied < needed:
            what = f"{node.name} has applied {applied}, and {needed} was acknowledged more than {bound_us} us ago"
            raise InvariantViolationError("bounded", what)
        self.counters["fresh_bounded"] += 1
        return True

    def run(self) -> str:
        """Runs the seed; returns the broken promise, empty if all held."""
        cluster, clock, chance = self.cluster, self.clock, self.chance
        cluster.start()
        for node in cluster.nodes.values():
            node.apply_max_us = chance.choice((0, 0, 20_000, 60_000))
        injector = FaultInjector(cluster, draw_kinds(chance), gap_us=chance.choice((200_000, 500_000)))
        for number in range(CLIENTS):
            FreshClient(self, number)
        clock.call_later(50_000, self._create)
        enough = clock.run(lambda: self.steps >= STEPS and injector.begun >= FAULTS, SAFETY_LIMIT_US)
        self.active = False
        injector.stop()
        cluster.heal()
        problem = "" if enough else f"only {self.steps} steps and {injector.begun} faults"
        problem = problem or self._live()
        self._tell(f"fresh {self.steps} {cluster.trace.digest()}")
        if problem:
            for line in cluster.trace.tail:
                self._tell(line)
        return problem

    def _create(self) -> None:
        leader = self.cluster.leader
        if leader is not None and isinstance(leader.store, ReplicaStore):
            if leader.store.created:
                return
            command = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
            leader.submit([(Proposal(EntryKind.COMMAND, command, commands.checksum(command)), _ignored)])
        self.clock.call_later(100_000, self._create)

    def _live(self) -> str:
        """Every member of the healed shard must serve a bounded read."""
        served: set[str] = set()

        def ask() -> None:
            for node in self.cluster.members:
                if node.name not in served and self.bounded_read(node, BOUNDS_US[-1]):
                    served.add(node.name)
            self.clock.call_later(20_000, ask)

        ask()
        done = self.clock.run(lambda: len(served) == len(self.cluster.members), self.clock.now_us + LIVENESS_LIMIT_US)
        return "" if done else f"liveness: only {sorted(served)} of the healed shard can be proven fresh"


def _ignored(status: str, value: str | None = None, leader: str = "") -> None:
    """Ignores the answer to a request for which no client waits."""


def run_fresh(seed: int, trace: Callable[[str], None], counters: Counter[str]) -> str:
    """Runs one seed; returns the broken promise, empty if all held."""
    try:
        problem = FreshRun(seed, trace, counters).run()
    except InvariantViolationError as violation:
        problem = str(violation)
    except (AssertionError, DougError, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = repr(error)
    return f"fresh: {problem}" if problem else ""
