"""A flush and a compaction at the same time: they end in either order, crash anywhere, and leave each other's files."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest

from raft_node.storage.engine import Engine
from raft_node.storage.merges.tasks import CompactionTask, FlushTask
from raft_node.storage.merges.worker import run_task
from raft_testing.engines import TINY_OPTIONS, settle, write_changes
from raft_testing.files import MemoryFileSystem
from raft_testing.inodes import Loss

D = "/data"


def open_engine(fs: MemoryFileSystem, start_id: str = "s1") -> Engine:
    return Engine.open(fs, D, replace(TINY_OPTIONS, memtable_bytes=1 << 20), start_id)


def flush_all(engine: Engine, fs: MemoryFileSystem) -> None:
    engine.rotate()
    write_changes(engine)
    task = engine.next_task()
    assert isinstance(task, FlushTask)
    engine.finish_install(engine.prepare_install(task, run_task(fs, D, task)))


def engine_with_both_under_way(fs: MemoryFileSystem) -> tuple[Engine, FlushTask, CompactionTask]:
    """Two tables at level 0 whose merge is under way, and the flush of newer writes and deletes of the same keys."""
    engine = open_engine(fs)
    for index, value in ((1, b"first"), (2, b"second")):
        engine.write([(b"a", value), (b"b", value), (b"d%d" % index, value)], index, 1)
        flush_all(engine, fs)
    merge = engine.next_task()
    assert isinstance(merge, CompactionTask) and engine.next_task() is None
    engine.write([(b"a", b"third"), (b"b", None)], 3, 1)
    engine.rotate()
    write_changes(engine)
    second = engine.next_task()
    assert isinstance(second, FlushTask) and engine.next_task() is None
    return engine, second, merge


AFTER_BOTH = {b"a": b"third", b"d1": b"first", b"d2": b"second"}


@pytest.mark.parametrize("flush_first", [True, False])
def test_a_flush_and_a_compaction_may_end_in_either_order(flush_first: bool) -> None:
    fs = MemoryFileSystem()
    engine, flush, merge = engine_with_both_under_way(fs)
    results = {task.task_id: run_task(fs, D, task) for task in (flush, merge)}
    for task in (flush, merge) if flush_first else (merge, flush):
        engine.finish_install(engine.prepare_install(task, results[task.task_id]))
        assert dict(engine.scan(b"", None)) == AFTER_BOTH
    assert engine.flushed_index == 3
    assert dict(open_engine(fs.copy(), start_id="s2").scan(b"", None)) == AFTER_BOTH
    settle(engine, fs, D, idle=True)
    assert dict(engine.scan(b"", None)) == AFTER_BOTH


@pytest.mark.parametrize("flush_first", [True, False])
def test_a_crash_with_both_under_way_loses_nothing(flush_first: bool) -> None:
    """The state on disk is that of the second entry until the flush is in place, and of the third one from then on."""
    before = {b"a": b"second", b"b": b"second", b"d1": b"first", b"d2": b"second"}
    images: list[MemoryFileSystem] = []
    fs = MemoryFileSystem()
    engine, flush, merge = engine_with_both_under_way(fs)
    fs.before_operation = lambda: images.append(fs.copy())
    for task in (flush, merge) if flush_first else (merge, flush):
        engine.finish_install(engine.prepare_install(task, run_task(fs, D, task)))
    fs.before_operation = None
    assert len(images) > 10
    for image, loss in product(images, Loss):
        crashed = image.copy()
        crashed.crash_as(loss, random.Random(1))
        again = open_engine(crashed, start_id="s2")
        assert dict(again.scan(b"", None)) == {2: before, 3: AFTER_BOTH}[again.flushed_index]


def tasks_with_outputs(fs: MemoryFileSystem) -> set[int]:
    return {int(name.partition("-")[0]) for name in fs.list_directory(f"{D}/tmp/s1")}


def test_a_task_leaves_the_outputs_of_the_one_beside_it() -> None:
    """Either may begin, fail, and be given again while the other one is at work."""
    fs = MemoryFileSystem()
    engine, flush, merge = engine_with_both_under_way(fs)
    run_task(fs, D, flush)
    engine.task_failed(flush)
    again = engine.next_task()
    assert isinstance(again, FlushTask)
    # The compaction was given first, but comes to its work only now.
    merged = run_task(fs, D, merge)
    assert tasks_with_outputs(fs) == {merge.task_id, flush.task_id}
    flushed = run_task(fs, D, again)
    assert tasks_with_outputs(fs) == {merge.task_id, again.task_id}, "what the failed one left is gone, and no more"
    for task, result in ((again, flushed), (merge, merged)):
        engine.finish_install(engine.prepare_install(task, result))
    assert dict(engine.scan(b"", None)) == AFTER_BOTH and not tasks_with_outputs(fs)


def test_two_results_are_put_in_place_one_after_the_other() -> None:
    """Both would name their tables alike, and the tables of the first one would be lost."""
    fs = MemoryFileSystem()
    engine, flush, merge = engine_with_both_under_way(fs)
    results = run_task(fs, D, flush), run_task(fs, D, merge)
    prepared = engine.prepare_install(flush, results[0])
    with pytest.raises(AssertionError, match="not visible yet"):
        engine.prepare_install(merge, results[1])
    engine.finish_install(prepared)
    engine.finish_install(engine.prepare_install(merge, results[1]))
    assert dict(engine.scan(b"", None)) == AFTER_BOTH


def test_a_snapshot_is_taken_over_when_neither_is_under_way() -> None:
    fs = MemoryFileSystem()
    engine, flush, merge = engine_with_both_under_way(fs)
    other = Engine.open(fs, "/other", TINY_OPTIONS, "o1")
    other.write([(b"x", b"1")], 9, 1)
    other.rotate()
    settle(other, fs, "/other")
    checkpoint = other.checkpoint("/checkpoint").run()
    assert engine.adopt(checkpoint) is None
    engine.task_failed(flush)
    assert engine.adopt(checkpoint) is None, "the compaction is still under way"
    engine.task_failed(merge)
    assert engine.adopt(checkpoint) is not None
