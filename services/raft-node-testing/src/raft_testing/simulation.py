"""Runs one seed: a shard with clients and faults, which is then healed and judged.

The safety phase lasts until enough operations have ended and enough faults have begun. Then all faults end, and
within a bound there must be a leader, one more write accepted, all keys read, and all members in the same state. The
clients' history must be linearizable. Each step is checked by ``raft_testing.checkers`` and by
``raft_testing.conduct``. In one of three runs a node's disks then go through
``raft_testing.ordeal``; in one of four another shard goes through ``raft_testing.operations``, and in one of four
another through ``raft_testing.fresh``.

The same seed and options give the same trace, in any process: every choice is drawn from one ``random.Random``, and
nothing depends on the order of a set.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from raft_node.errors import DougError
from raft_node.raft.config import RaftConfig
from raft_node.raft.node import RaftNode
from raft_testing.checkers import InvariantViolationError
from raft_testing.clients import Client, FinalReader
from raft_testing.cluster import Cluster
from raft_testing.conduct import watched
from raft_testing.disk import MemoryLog, WalLog
from raft_testing.engine_store import EngineStore
from raft_testing.environment import Habits
from raft_testing.faults import EFFECTS, FAULTS, FaultInjector, draw_kinds
from raft_testing.fresh import EFFECTS as FRESH_EFFECTS
from raft_testing.fresh import run_fresh
from raft_testing.history import History
from raft_testing.linearizability import check_history
from raft_testing.machine import MemoryStore
from raft_testing.members import OPERATIONS, Operator
from raft_testing.operations import EFFECTS as OPERATION_EFFECTS
from raft_testing.operations import run_operations
from raft_testing.ordeal import EFFECTS as ORDEAL_EFFECTS
from raft_testing.ordeal import run_ordeal

SAFETY_LIMIT_US = 120_000_000
LIVENESS_LIMIT_US = 10_000_000
NODES_MAX = 9
OPERATIONS_MAX = 20_000
FAULTS_MAX = 200

ORDEAL_EVERY = 3
"""Every how many seeds one also runs an ordeal of one node's disks."""
OPERATIONS_EVERY = 4
"""Every how many seeds one also runs a shard with the real state machine, and another one a
shard whose followers serve session reads and bounded reads."""

ALL_EFFECTS = (*EFFECTS, *ORDEAL_EFFECTS, *OPERATION_EFFECTS, *FRESH_EFFECTS)
"""The counters that must not stay at zero over a run of many seeds."""


@dataclass(frozen=True, slots=True)
class Options:
    """The size of a run: how many ``operations`` must end, how many ``faults`` begin, and its first ``nodes``.

    Raises:
        ValueError: No run can have this size.
    """

    nodes: int = 5
    operations: int = 300
    faults: int = 10

    def __post_init__(self) -> None:
        """Refuses impossible sizes."""
        for name, value, least, most in (
            ("nodes", self.nodes, 1, NODES_MAX),
            ("ops", self.operations, 1, OPERATIONS_MAX),
            ("faults", self.faults, 0, FAULTS_MAX),
        ):
            if not least <= value <= most:
                raise ValueError(f"--{name} must be from {least} to {most}, not {value}")


@dataclass(slots=True)
class Result:
    """The result of a seed. ``failure`` is empty if everything held."""

    seed: int
    options: Options
    failure: str = ""
    trace: str = ""
    log: str = ""
    store: str = ""
    tail: list[str] = field(default_factory=list)
    kinds: tuple[str, ...] = ()
    counters: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    operations: int = 0
    succeeded: int = 0
    unknown: int = 0
    leaders: int = 0
    operations_on_members: int = 0
    snapshots: int = 0
    changes: int = 0
    committed: int = 0
    virtual_ms: int = 0
    recovery_ms: int = 0

    @property
    def replay(self) -> str:
        """The command that runs the seed again."""
        options = self.options
        return (
            f"python -m raft_testing --seed {self.seed} --nodes {options.nodes} --ops {options.operations} "
            f"--faults {options.faults}"
        )

    def summary(self) -> str:
        """The result as one line."""
        verdict = "FAIL" if self.failure else "ok"
        return (
            f"seed {self.seed} {verdict} ops={self.operations} ok={self.succeeded} unknown={self.unknown} "
            f"faults={self.faults} leaders={self.leaders} changes={self.changes} snapshots={self.snapshots} "
            f"committed={self.committed} virtual_ms={self.virtual_ms} recovery_ms={self.recovery_ms} "
            f"log={self.log} store={self.store} kinds={','.join(self.kinds)} trace {self.trace}"
        )


def run_seed(seed: int, options: Options | None = None, core: type[RaftNode] = RaftNode) -> Result:
    """Simulates one seed.

    Args:
        seed: The seed of all random choices.
        options: The size of the run.
        core: The core's class; tests give one with a planted bug.
    """
    options = options or Options()
    result = Result(seed, options)
    chance = random.Random(f"options {seed}")  # noqa: S311
    log = chance.choice((MemoryLog, MemoryLog, MemoryLog, WalLog))
    store = chance.choice((MemoryStore,) * 5 + (EngineStore,))
    result.kinds = draw_kinds(chance)
    operations = tuple(kind for kind in OPERATIONS if chance.random() < 0.35)
    spares = chance.randint(1, 3) if operations else 0
    config = draw_config(chance)
    if "clock_skew" not in result.kinds:
        # Clocks of half the speed are beyond any margin that a lease can have.
        leases = random.Random(f"leases {seed}")  # noqa: S311
        config = replace(config, lease_ticks=leases.choice((0, 9, config.election_timeout_ticks - 1)))
    cluster = Cluster(seed, options.nodes, config, watched(core), log, store, spares, draw_habits(chance))
    result.log, result.store, result.kinds = log.__name__, store.__name__, (*result.kinds, *operations)
    operator = Operator(cluster, operations, gap_us=chance.choice((100_000, 300_000)))
    history = History()
    try:
        _run(cluster, history, chance, result, operator)
    except InvariantViolationError as violation:
        result.failure = str(violation)
    except (AssertionError, DougError, ValueError, LookupError, TypeError, AttributeError) as error:
        # A bug in the core may raise any of these, and the seed must be reported all the same.
        result.failure = f"{error!r} in {_place(error)}"
    if not result.failure and seed % ORDEAL_EVERY == 0:
        result.failure = run_ordeal(seed, cluster.trace.add, cluster.counters)
    if not result.failure and seed % OPERATIONS_EVERY == 1:
        result.failure = run_operations(seed, cluster.trace.add, cluster.counters)
    if not result.failure and seed % OPERATIONS_EVERY == OPERATIONS_EVERY - 1:
        result.failure = run_fresh(seed, cluster.trace.add, cluster.counters)
    if result.failure:
        cluster.trace.add(f"FAILURE {result.failure}")
        result.tail = list(cluster.trace.tail)
    result.trace = cluster.trace.digest()
    result.counters = cluster.counters
    result.counters["leader_change"] = max(0, cluster.checkers.leaders - 1)
    result.leaders = cluster.checkers.leaders
    result.committed = cluster.checkers.committed_index
    result.changes = cluster.checkers.configurations.changes
    result.snapshots = cluster.counters["snapshot_installed"]
    result.operations_on_members = operator.begun
    result.unknown = history.unknown
    return result


def draw_config(chance: random.Random) -> RaftConfig:
    """Draws the core's settings for a run: sometimes settings that make rare orders of events common."""
    return RaftConfig(
        inflight_appends_max=chance.choice((1, 1, 2, 8)),
        append_bytes_max=chance.choice((1, 200, 1 << 20)),
        committed_bytes_max=chance.choice((1, 1 << 20)),
        uncommitted_bytes_max=chance.choice((500, 1 << 20)),
        cache_bytes_max=chance.choice((1, 2_000, 1 << 20)),
        trail_ticks=chance.choice((0, 1, 1, 3)),
    )


def draw_habits(chance: random.Random) -> Habits:
    """Draws the nodes' habits: frequent activities, so that they meet the faults."""
    return Habits(
        flush_permille=chance.choice((50, 300)),
        kept_entries=chance.choice((None, 0, 0, 5, 40)),
        install_max_us=chance.choice((0, 20_000, 100_000)),
        resign_us=chance.choice((None, 400_000)),
    )


def missing_effects(results: Iterable[Result]) -> list[str]:
    """The faults that made no difference in any of the runs."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.counters)
    return [effect for effect in ALL_EFFECTS if not total[effect]]


def _run(cluster: Cluster, history: History, chance: random.Random, result: Result, operator: Operator) -> None:
    options, clock = result.options, cluster.clock
    keys = chance.randint(1, 3)
    for node in cluster.nodes.values():
        node.sleeps = chance.random() < 0.5
    watches = random.Random(f"watches {result.seed}")  # noqa: S311
    for node in cluster.nodes.values():
        node.watched = watches.random() < 0.3
    cluster.start()
    kinds = tuple(kind for kind in result.kinds if kind in FAULTS)
    injector = FaultInjector(cluster, kinds, gap_us=chance.choice((50_000, 100_000, 200_000)))
    pause_us = chance.choice((10_000, 30_000, 80_000))
    clients = [Client(cluster, history, number, keys, pause_us) for number in range(1, chance.randint(3, 8) + 1)]

    def enough() -> bool:
        return cluster.counters["operations"] >= options.operations and injector.begun >= options.faults

    finished = clock.run(enough, SAFETY_LIMIT_US)
    result.operations = sum(client.done for client in clients)
    result.succeeded = sum(client.succeeded for client in clients)
    result.faults = injector.begun
    result.virtual_ms = clock.now_us // 1000
    if not finished:
        result.failure = f"only {result.operations} operations and {result.faults} faults in {result.virtual_ms} ms"
        return
    for client in clients:
        client.active = False
    injector.stop()
    operator.active = False
    cluster.heal()
    result.failure = _live(cluster, history, keys, result)
    if not result.failure and (violations := check_history(history.operations)):
        result.failure = f"not linearizable: {violations[0]}"


def _live(cluster: Cluster, history: History, keys: int, result: Result) -> str:
    """Runs the liveness phase; returns the goal that was not reached, empty if all were."""
    clock = cluster.clock
    healed_us = clock.now_us
    limit_us = healed_us + LIVENESS_LIMIT_US
    if not clock.run(lambda: cluster.leader is not None, limit_us):
        return "liveness: no leader after healing"
    reader = FinalReader(cluster, history, keys)
    if not clock.run(lambda: reader.finished, limit_us):
        return "liveness: the healed cluster does not accept a write and reads"
    if not clock.run(lambda: cluster.converged, limit_us):
        return "liveness: the members do not come to the same log"
    result.recovery_ms = (clock.now_us - healed_us) // 1000
    members = cluster.members
    digests = {node.store.head.digest.hex() for node in members}
    contents = {tuple(sorted(node.store.contents().items())) for node in members}
    if len(digests) != 1 or len(contents) != 1:
        return f"the members have different states: {sorted(digests)}"
    return ""


def _place(error: BaseException) -> str:
    """The file and the line at which an assertion failed, without the machine's paths."""
    trace = error.__traceback__
    place = "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return place
