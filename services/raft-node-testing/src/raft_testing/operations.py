"""Runs one seed of a shard with the real state machine, with clients that use all operations, faults and clock steps.

It is like ``raft_testing.simulation``, which runs it in every n-th seed, but smaller, and with the wall clocks of
single nodes stepped by up to five seconds. The leader's upkeep (entries that it proposes as time passes) is imitated
here.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from doug_wire import command as commands
from doug_wire.command import Opcode
from raft_node.entry import EntryKind
from raft_node.errors import DougError
from raft_node.kv.operations.expiry import encode_expire
from raft_node.kv.operations.tokens import encode_limits
from raft_node.kv.operations.work import Limits
from raft_node.kv.partitions import encode_create_shard
from raft_node.raft.config import RaftConfig
from raft_node.raft.types import Proposal
from raft_testing.checkers import InvariantViolationError
from raft_testing.cluster import Cluster
from raft_testing.disk import MemoryLog
from raft_testing.environment import EPOCH_US, Habits
from raft_testing.faults import FaultInjector, draw_kinds
from raft_testing.node import SimulatedNode
from raft_testing.operation_clients import OperationClient, Records
from raft_testing.replica_store import CLOCK_STEP_MAX_US, Judge, ReplicaStore
from raft_testing.wishes import SCAN

OPERATIONS = 150
FAULTS = 4
SAFETY_LIMIT_US = 120_000_000
LIVENESS_LIMIT_US = 10_000_000
LIMITS = Limits(kept_us=3_000_000, count_max=30)
_UPKEEP_US = 100_000

EFFECTS = tuple(
    f"operations_{name}"
    for name in (
        *("OK", "OK_replayed", "NOT_FOUND", "PRECONDITION_FAILED", "PRECONDITION_FAILED_replayed", "NOT_A_NUMBER"),
        *("OVERFLOW", "TOKEN_REUSED", "TOKENS_FULL", "expired", "clock_step"),
    )
)
"""The counters that must not stay at zero over many seeds."""


def _ignored(status: str, value: str | None = None, leader: str = "") -> None:
    """Ignores the answer to a request for which no client waits."""


class OperationsRun:
    """One run; see the module.

    Args:
        seed: The seed of all random choices.
        trace: Called with each event.
        counters: Counts the effects.
        store: The state; tests give one with a planted bug.
    """

    def __init__(
        self,
        seed: int,
        trace: Callable[[str], None],
        counters: Counter[str],
        store: type[ReplicaStore] = ReplicaStore,
    ) -> None:
        chance = random.Random(f"operations {seed}")  # noqa: S311
        judged: type[ReplicaStore] = type("Judged", (store,), {})
        habits = Habits(
            flush_permille=chance.choice((50, 300)),
            kept_entries=chance.choice((0, 5, 40)),
            install_max_us=chance.choice((0, 20_000)),
        )
        self._cluster = Cluster(
            f"operations {seed}", chance.choice((3, 5)), RaftConfig(), log=MemoryLog, store=judged, habits=habits
        )
        self._judge = judged.judge = Judge(lambda: EPOCH_US + self._cluster.clock.now_us)
        self._chance = chance
        self._counters = counters
        self._tell = trace
        self._records = Records()
        self._active = True

    def run(self) -> str:
        """Runs the seed; returns the broken invariant, empty if all held."""
        cluster, clock, chance = self._cluster, self._cluster.clock, self._chance
        cluster.start()
        injector = FaultInjector(cluster, draw_kinds(chance), gap_us=chance.choice((200_000, 500_000)))
        pause_us = chance.choice((20_000, 60_000))
        clients = [OperationClient(cluster, self._records, number, pause_us) for number in range(chance.randint(3, 6))]
        clock.call_later(_UPKEEP_US, self._upkeep)
        clock.call_later(_UPKEEP_US, self._step_a_clock)
        enough = clock.run(lambda: self._records.ended >= OPERATIONS and injector.begun >= FAULTS, SAFETY_LIMIT_US)
        for client in clients:
            client.active = False
        injector.stop()
        cluster.heal()
        problem = "" if enough else f"only {self._records.ended} operations and {injector.begun} faults"
        problem = problem or self._live() or self._records.check_order()
        self._active = False
        self._count(problem)
        return problem

    def _count(self, problem: str) -> None:
        for name, count in self._judge.statuses.items():
            self._counters[f"operations_{name}"] += count
        self._tell(f"operations {self._records.answered} of {self._records.ended} {self._cluster.trace.digest()}")
        if problem:
            for line in self._cluster.trace.tail:
                self._tell(line)

    def _live(self) -> str:
        """Checks that the healed shard answers, and that all its members reach the same state."""
        cluster, clock = self._cluster, self._cluster.clock
        limit_us = clock.now_us + LIVENESS_LIMIT_US
        answers: list[str] = []

        def ask() -> None:
            leader = cluster.leader
            if leader is not None and not answers:
                leader.get(SCAN, lambda status, value=None, leader="": answers.extend(["ok"] * (status == "ok")))
            if not answers:
                clock.call_later(100_000, ask)

        ask()
        if not clock.run(lambda: bool(answers), limit_us):
            return "liveness: the healed shard answers no scan"
        self._active = False
        if not clock.run(lambda: cluster.converged, limit_us):
            return "liveness: the members do not come to the same log"
        contents = [node.store.contents() for node in cluster.members]
        if any(content != contents[0] for content in contents):
            return "the members have different states"
        return ""

    def _upkeep(self) -> None:
        if not self._active:
            return
        leader = self._cluster.leader
        if leader is not None and isinstance(leader.store, ReplicaStore):
            command = self._due(leader, leader.store)
            if command:
                leader.submit([(Proposal(EntryKind.COMMAND, command, commands.checksum(command)), _ignored)])
        self._cluster.clock.call_later(_UPKEEP_US, self._upkeep)

    def _due(self, leader: SimulatedNode, store: ReplicaStore) -> bytes:
        """The command that a leader proposes by itself now; empty if there is none."""
        if not store.created:
            return commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
        if store.limits != LIMITS:
            return commands.encode(Opcode.SET_LIMITS, b"", value=encode_limits(LIMITS))
        notes = store.due(leader.now_us)
        if not notes or self._chance.random() < 0.5:
            return b""
        self._counters["operations_expired"] += 1
        return commands.encode(Opcode.EXPIRE, b"", value=encode_expire(notes))

    def _step_a_clock(self) -> None:
        if not self._active:
            return
        node = self._cluster.nodes[self._chance.choice(list(self._cluster.nodes))]
        node.clock_offset_us = self._chance.choice((-CLOCK_STEP_MAX_US, 0, 0, CLOCK_STEP_MAX_US))
        self._counters["operations_clock_step"] += 1
        self._cluster.clock.call_later(int(self._chance.random() * 1_000_000), self._step_a_clock)


def run_operations(
    seed: int, trace: Callable[[str], None], counters: Counter[str], store: type[ReplicaStore] = ReplicaStore
) -> str:
    """Runs one seed; returns the broken invariant, empty if all held."""
    try:
        problem = OperationsRun(seed, trace, counters, store).run()
    except InvariantViolationError as violation:
        problem = str(violation)
    except (AssertionError, DougError, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = repr(error)
    return f"operations: {problem}" if problem else ""
