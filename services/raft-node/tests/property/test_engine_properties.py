"""The engine against a dict, through flushes, compactions, checkpoints, restarts and crashes, under any options."""

from __future__ import annotations

import random
from enum import Enum

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raft_node.errors import DiskError
from raft_node.storage.engine import BlockNeeded, Engine
from raft_node.storage.memtable import Batch
from raft_node.storage.options import COMPRESSIONS, EngineOptions
from raft_node.storage.snapshots.checkpoint import install_checkpoint, verify_checkpoint
from raft_testing.engines import run_one_task, settle, write_changes
from raft_testing.files import MemoryFileSystem

D = "/data"
KEYS = [b"", b"\x00", b"a", b"a\x00", b"aa", b"ab", b"b", b"ba", b"c", b"\x7f", b"\xff", b"\xff\xff"]
keys = st.one_of(st.sampled_from(KEYS), st.binary(max_size=3))
values = st.one_of(st.none(), st.binary(max_size=20), st.integers(100, 3000).map(lambda size: b"v" * size))
batches = st.lists(st.tuples(keys, values), max_size=6)
engine_options = st.builds(
    EngineOptions,
    memtable_bytes=st.integers(1, 3000),
    block_bytes=st.integers(1, 400),
    compression=st.sampled_from(COMPRESSIONS),
    bloom_bits_per_key=st.sampled_from([0, 1, 10]),
    block_cache_bytes=st.integers(0, 3000),
    table_bytes=st.integers(1, 2000),
    table_keys_max=st.integers(1, 20),
    l0_tables_trigger=st.integers(2, 3),
    l0_tables_max=st.just(8),
    l0_inputs_max=st.integers(3, 5),
    merge_ratio=st.sampled_from([1.0, 2.0, 4.0]),
    idle_merge_ratio=st.sampled_from([1.0, 4.0, 100.0]),
    merge_bytes_max=st.integers(100, 6000),
    level_base_bytes=st.integers(100, 3000),
    level_multiplier=st.integers(2, 4),
    manifest_bytes=st.integers(1, 800),
    open_tables_max=st.sampled_from([1, 2, 100]),
)


def live(model: dict[bytes, bytes | None], start: bytes, end: bytes | None) -> list[tuple[bytes, bytes]]:
    return [
        (key, value)
        for key, value in sorted(model.items())
        if value is not None and key >= start and (end is None or key < end)
    ]


class EngineMachine(RuleBasedStateMachine):
    """``log`` plays the Raft log: what a crash takes from the engine is replayed from it."""

    @initialize(options=engine_options)
    def open(self, options: EngineOptions) -> None:
        self.fs = MemoryFileSystem()
        self.log: list[Batch] = []
        self.model: dict[bytes, bytes | None] = {}
        self.starts = 0
        self.durable_index = 0
        self.start(options)

    def start(self, options: EngineOptions) -> None:
        self.starts += 1
        self.engine = Engine.open(self.fs, D, options, f"s{self.starts}")
        assert self.durable_index <= self.engine.flushed_index <= len(self.log)
        assert self.engine.applied_index == self.engine.flushed_index
        model: dict[bytes, bytes | None] = {}
        for batch in self.log[: self.engine.flushed_index]:
            model.update(batch)
        assert list(self.engine.scan(b"", None)) == live(model, b"", None)
        for index in range(self.engine.applied_index + 1, len(self.log) + 1):
            self.engine.write(self.log[index - 1], index, 1)

    @rule(batch=batches)
    def write(self, batch: Batch) -> None:
        self.log.append(batch)
        self.model.update(batch)
        self.engine.write(batch, len(self.log), 1)

    @rule(many=st.lists(batches, min_size=5, max_size=15))
    def write_much(self, many: list[Batch]) -> None:
        for batch in many:
            self.write(batch)

    @rule()
    def rotate(self) -> None:
        self.engine.rotate()

    @rule()
    def write_some_changes(self) -> None:
        change_write = self.engine.take_changes()
        if change_write is not None:
            change_write.run()
            self.engine.changes_done(change_write)

    @rule(idle=st.booleans())
    def do_one_task(self, idle: bool) -> None:
        write_changes(self.engine)
        if run_one_task(self.engine, self.fs, D, idle=idle):
            self.durable_index = self.engine.flushed_index

    @rule(idle=st.booleans())
    def do_all_tasks(self, idle: bool) -> None:
        settle(self.engine, self.fs, D, idle=idle)
        self.durable_index = self.engine.flushed_index
        assert not self.engine.stalled

    # The other node writes the whole log anew, which is the dearest step here.
    @precondition(lambda self: len(self.log) < 40)
    @rule(
        more=st.lists(batches, min_size=1, max_size=4),
        options=engine_options,
        step=st.integers(0, 25),
        seed=st.integers(0, 1 << 30),
    )
    def adopt(self, more: list[Batch], options: EngineOptions, step: int, seed: int) -> None:
        """Another node is ahead; with a step, this one dies while it takes over that node's checkpoint."""
        for batch in more:
            self.log.append(batch)
            self.model.update(batch)
        self.starts += 1
        other_directory, path = f"/other{self.starts}", f"/checkpoint{self.starts}"
        other = Engine.open(self.fs, other_directory, options, "s1")
        for index, batch in enumerate(self.log, 1):
            other.write(batch, index, 1)
        other.rotate()
        settle(other, self.fs, other_directory)
        other.checkpoint(path).run()
        other.close()
        adoption = self.engine.adopt(verify_checkpoint(self.fs, path))
        assert adoption is not None
        self.fs.fail_at(step or -1)
        try:
            adoption.run()
        except DiskError:
            self.fs.crash(random.Random(seed))
            self.start(options)
        else:
            self.engine.finish_adoption(adoption)
            self.durable_index = len(self.log)
        self.fs.heal()

    @rule(options=engine_options)
    def checkpoint(self, options: EngineOptions) -> None:
        """A checkpoint is the state as of the flushed index, for a store of its own, whatever happens here later."""
        self.starts += 1
        path, directory = f"/checkpoint{self.starts}", f"/copy{self.starts}"
        index = self.engine.flushed_index
        write = self.engine.checkpoint(path)
        settle(self.engine, self.fs, D)
        self.durable_index = self.engine.flushed_index
        write.run()
        assert verify_checkpoint(self.fs, path).applied_index == index
        if not index:
            return
        install_checkpoint(self.fs, directory, path)
        copy = Engine.open(self.fs, directory, options, "s1")
        model: dict[bytes, bytes | None] = {}
        for batch in self.log[:index]:
            model.update(batch)
        assert copy.applied_index == index and list(copy.scan(b"", None)) == live(model, b"", None)
        copy.close()

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert self.engine.get_blocking(key) == self.model.get(key)
        found = self.engine.get(key)
        for _ in range(100):
            if not isinstance(found, BlockNeeded):
                break
            found = self.engine.resume(Engine.load_block(found))
        assert found == self.model.get(key)

    @rule(wanted=st.lists(keys, max_size=12))
    def multi_get(self, wanted: list[bytes]) -> None:
        assert self.engine.multi_get_blocking(wanted) == [self.model.get(key) for key in wanted]

    @rule(start=keys, end=st.one_of(st.none(), keys), reverse=st.booleans())
    def scan(self, start: bytes, end: bytes | None, reverse: bool) -> None:
        expected = live(self.model, start, end)
        assert list(self.engine.scan(start, end, reverse=reverse)) == (expected[::-1] if reverse else expected)

    @rule(options=engine_options)
    def restart(self, options: EngineOptions) -> None:
        self.engine.close()
        self.start(options)

    @precondition(lambda self: self.log)
    @rule(options=engine_options, seed=st.integers(0, 1 << 30))
    def crash(self, options: EngineOptions, seed: int) -> None:
        self.fs.crash(random.Random(seed))
        self.start(options)

    @invariant()
    def indexes_fit(self) -> None:
        if hasattr(self, "engine"):
            assert self.engine.applied_index == len(self.log)
            assert self.engine.flushed_index >= self.durable_index


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class Step(Enum):
    """What is done to both engines beside writes."""

    SETTLE = "settle"
    IDLE = "idle"
    REOPEN = "reopen"
    CRASH = "crash"


steps = st.one_of(batches, st.sampled_from(Step))


def answers_of(operations: list[Batch | Step], options: EngineOptions, seed: int) -> list[object]:
    """What an engine under some options answers in the end; what a crash takes is written again, as from a log."""
    fs, rng = MemoryFileSystem(), random.Random(seed)
    log: list[Batch] = []
    starts = 1
    engine = Engine.open(fs, D, options, "s1")
    for operation in operations:
        if not isinstance(operation, Step):
            log.append(operation)
            engine.write(operation, len(log), 1)
            continue
        if operation in (Step.SETTLE, Step.IDLE):
            settle(engine, fs, D, idle=operation is Step.IDLE)
            continue
        if operation is Step.REOPEN:
            engine.close()
        else:
            fs.crash(rng)
        starts += 1
        engine = Engine.open(fs, D, options, f"s{starts}")
        for index in range(engine.applied_index + 1, len(log) + 1):
            engine.write(log[index - 1], index, 1)
    answers: list[object] = []
    # As it lies by then, some of it in memory, and when all of it lies in tables.
    for _ in range(2):
        answers += [
            list(engine.scan(start, end, reverse=reverse))
            for start, end in ((b"", None), (b"a", b"b"), (b"\x00", b"\xff"))
            for reverse in (False, True)
        ]
        answers += [[engine.get_blocking(key) for key in KEYS], engine.multi_get_blocking(KEYS)]
        engine.rotate()
        settle(engine, fs, D)
    # Once more from the cache.
    return [*answers, [engine.get_blocking(key) for key in KEYS]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
@given(
    operations=st.lists(steps, min_size=3, max_size=40),
    one=engine_options,
    other=engine_options,
    seed=st.integers(0, 1 << 30),
)
def test_the_same_operations_under_different_options_give_the_same_answers(
    operations: list[Batch | Step], one: EngineOptions, other: EngineOptions, seed: int
) -> None:
    """Compression, block size, memtable size, table and level sizes, cache, filters: speed, never answers."""
    assert answers_of(operations, one, seed) == answers_of(operations, other, seed + 1)
