"""The engine with its helper's tasks done by hand: reads through all levels, restarts, crashes, damage."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from raft_node.errors import CorruptionError, DiskError
from raft_node.storage.engine import BlockNeeded, Engine, LoadedBlock
from raft_node.storage.files import OsFileSystem
from raft_node.storage.memtable import Batch
from raft_node.storage.merges.tasks import CompactionTask, FlushTask, TaskResult
from raft_node.storage.merges.worker import run_task
from raft_node.storage.options import EngineOptions
from raft_node.storage.tables.sstable import Table
from raft_node.storage.tables.version import TableMeta
from raft_testing.engines import TINY_OPTIONS, run_one_task, settle, write_changes
from raft_testing.files import MemoryFileSystem

D = "/data"
Model = dict[bytes, bytes | None]


def open_engine(fs: MemoryFileSystem, options: EngineOptions = TINY_OPTIONS, start_id: str = "s1") -> Engine:
    return Engine.open(fs, D, options, start_id)


def history(count: int, seed: int = 1) -> list[Batch]:
    """Batch number n is the log entry n + 1."""
    rng = random.Random(seed)
    batches: list[Batch] = []
    for index in range(count):
        batch: list[tuple[bytes, bytes | None]] = [(b"\x00applied", b"%d" % (index + 1))]
        for _ in range(rng.randrange(1, 4)):
            key = b"\x01key%03d" % rng.randrange(120)
            batch.append((key, None if rng.random() < 0.3 else rng.randbytes(rng.randrange(40))))
        batches.append(batch)
    return batches


def state(batches: list[Batch]) -> dict[bytes, bytes]:
    model: Model = {}
    for batch in batches:
        model.update(batch)
    return {key: value for key, value in sorted(model.items()) if value is not None}


def contents(engine: Engine) -> dict[bytes, bytes]:
    forwards = list(engine.scan(b"", None))
    assert list(engine.scan(b"", None, reverse=True)) == forwards[::-1]
    found = dict(forwards)
    assert list(found) == [key for key, _ in forwards] == sorted(found)
    for number in range(120):
        key = b"\x01key%03d" % number
        assert engine.get_blocking(key) == found.get(key)
    return found


def replay(engine: Engine, batches: list[Batch]) -> None:
    for index in range(engine.applied_index + 1, len(batches) + 1):
        engine.write(batches[index - 1], index, 1)


def is_stalled(engine: Engine) -> bool:
    return engine.stalled


def test_a_new_store_is_empty() -> None:
    engine = open_engine(MemoryFileSystem())
    assert engine.get(b"a") is None
    assert (engine.applied_index, engine.applied_term, engine.flushed_index) == (0, 0, 0)
    assert not engine.stalled and engine.next_task() is None and engine.take_changes() is None
    assert contents(engine) == {}


@pytest.mark.seconds
def test_a_write_is_seen_at_once_and_through_every_level() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = history(600)
    for index, batch in enumerate(batches, 1):
        engine.write(batch, index, 3)
        assert all(engine.get_blocking(key) == value for key, value in dict(batch).items())
        if index % 7 == 0:
            settle(engine, fs, D)
    assert contents(engine) == state(batches)
    stats = engine.stats()
    assert sum(tables > 0 for tables in stats.level_tables) >= 3
    assert stats.flushes > 10 and stats.compactions > 10
    assert engine.applied_index == 600 and engine.applied_term == 3


@pytest.mark.parametrize(("bits", "spared", "misled"), [(10, 3, 0), (0, 0, 3)])
def test_answers_of_filters_are_counted(bits: int, spared: int, misled: int) -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs, replace(TINY_OPTIONS, bloom_bits_per_key=bits))
    engine.write([(b"\x01key%03d" % number, b"v") for number in range(0, 100, 2)], 1, 1)
    engine.rotate()
    settle(engine, fs, D)
    for number in (31, 33, 35):
        found = engine.get(b"\x01key%03d" % number)
        while isinstance(found, BlockNeeded):
            found = engine.resume(engine.load_block(found))
        assert found is None
    stats = engine.stats()
    assert (stats.filter_negatives, stats.filter_false_positives) == (spared, misled)
    assert engine.get(b"\x01key030") is not None
    assert engine.stats().filter_false_positives == misled


@pytest.mark.seconds
def test_after_a_restart_the_tables_are_the_state_up_to_the_flushed_index() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = history(300)
    for start in range(5):
        replay(engine, batches[: 60 * (start + 1)])
        settle(engine, fs, D)
        flushed = engine.flushed_index
        assert 0 < flushed <= engine.applied_index
        engine.close()
        engine = open_engine(fs, start_id=f"s{start + 2}")
        assert engine.flushed_index == engine.applied_index == flushed
        assert engine.applied_term == engine.flushed_term == 1
        assert contents(engine) == state(batches[:flushed])
    replay(engine, batches)
    assert contents(engine) == state(batches)


def test_a_read_of_an_uncached_block_can_be_done_in_steps() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs, replace(TINY_OPTIONS, block_cache_bytes=100_000))
    batches = history(100)
    replay(engine, batches)
    settle(engine, fs, D)
    engine.rotate()
    settle(engine, fs, D)
    expected = state(batches)
    for key, value in expected.items():
        found = engine.get(key)
        while isinstance(found, BlockNeeded):
            engine.cache_block(Engine.load_block(found))
            found = engine.get(key)
        assert found == value
    # Everything is cached now.
    assert all(engine.get(key) == value for key, value in expected.items())


def test_many_keys_are_read_together_and_each_block_once() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs, replace(TINY_OPTIONS, block_cache_bytes=100_000))
    batches = history(100)
    replay(engine, batches)
    engine.rotate()
    settle(engine, fs, D)
    engine.write([(b"new", b"1")], engine.applied_index + 1, 1)
    expected: dict[bytes, bytes | None] = {**state(batches), b"new": b"1", b"nowhere": None}
    keys = list(expected) * 2
    found = engine.multi_get(keys)
    waiting = [value for value in found if isinstance(value, BlockNeeded)]
    loaded = Engine.load_blocks(waiting)
    assert [each.needed for each in loaded] == waiting
    places = {(needed.table.number, needed.position) for needed in waiting}
    assert len({id(each.block) for each in loaded}) == len(places) < len(waiting)
    assert engine.multi_get_blocking(keys) == [expected[key] for key in keys]
    assert engine.multi_get_blocking([]) == []


def test_reads_that_wait_together_see_the_state_of_their_call() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = history(60)
    replay(engine, batches)
    settle(engine, fs, D)
    expected = state(batches)
    found = engine.multi_get(list(expected))
    replay(engine, [*batches, *history(60, seed=9)])
    settle(engine, fs, D)
    for key, value in zip(expected, found, strict=True):
        answer = value
        while isinstance(answer, BlockNeeded):
            (loaded,) = Engine.load_blocks([answer])
            answer = engine.resume(loaded)
        assert answer == expected[key]


def flush_without_compaction(engine: Engine, fs: MemoryFileSystem) -> None:
    """Writes the memtable to level 0, whatever compaction is due."""
    engine.rotate()
    write_changes(engine)
    while isinstance(task := engine.next_task(), FlushTask):
        engine.finish_install(engine.prepare_install(task, run_task(fs, D, task)))
    if task is not None:
        engine.task_failed(task)


def test_a_read_under_way_survives_the_compaction_of_its_tables() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = history(60)
    replay(engine, batches)
    flush_without_compaction(engine, fs)
    expected = state(batches)
    scan = engine.scan(b"", None)
    first = next(scan)
    waiting = {key: needed for key in expected if isinstance(needed := engine.get(key), BlockNeeded)}
    assert waiting
    before = set(fs.list_directory(D))
    assert settle(engine, fs, D) > 0
    assert before - set(fs.list_directory(D))
    assert dict([first, *scan]) == expected
    for key, needed in waiting.items():
        value = engine.resume(Engine.load_block(needed))
        while isinstance(value, BlockNeeded):
            value = engine.resume(Engine.load_block(value))
        assert value == expected[key]


def test_a_scan_takes_blocks_from_the_cache_and_reads_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs, replace(TINY_OPTIONS, block_cache_bytes=1 << 20))
    batches = history(200)
    replay(engine, batches)
    engine.rotate()
    settle(engine, fs, D)
    expected = state(batches)
    for rounds in (1, 10):
        # At first blocks are searched in their bytes; those that were asked for often are dicts.
        for key in list(expected)[::7] * rounds:
            assert engine.get_blocking(key) == expected[key]
        assert dict(engine.scan(b"", None)) == expected
        assert list(engine.scan(b"", None, reverse=True)) == list(expected.items())[::-1]
    part = dict(engine.scan(b"\x01key050", b"\x01key060"))
    assert part == {key: value for key, value in expected.items() if b"\x01key050" <= key < b"\x01key060"}
    keys = list(engine.scan(b"", None))
    for table in engine.tables():
        for position in range(table.blocks):
            engine.cache_block(LoadedBlock(BlockNeeded(b"", table, position, ()), table.read_block(position)))
    # What is in the cache is not read again, not even when it could not be.
    monkeypatch.delattr(Table, "read_block")
    assert list(engine.scan(b"", None)) == keys


def test_a_scan_is_a_view_of_the_moment_of_its_call() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = history(200)
    for index in range(1, 100):
        engine.write(batches[index - 1], index, 1)
    settle(engine, fs, D)
    views = []
    for index in range(100, 201):
        engine.write(batches[index - 1], index, 1)
        if index % 20 == 0:
            views.append((index, engine.scan(b"", None)))
            settle(engine, fs, D)
    for index, view in views:
        assert dict(view) == state(batches[:index])


@pytest.mark.seconds
def test_ranges_over_all_levels() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = history(400)
    for index, batch in enumerate(batches, 1):
        engine.write(batch, index, 1)
        if index % 50 == 0:
            settle(engine, fs, D)
    expected = state(batches)
    rng = random.Random(5)
    for _ in range(100):
        start, end = (b"\x01key%03d" % rng.randrange(-5, 130) for _ in range(2))
        wanted = [(key, value) for key, value in expected.items() if start <= key < end]
        assert list(engine.scan(start, end)) == wanted
        assert list(engine.scan(start, end, reverse=True)) == wanted[::-1]


def test_it_is_stalled_while_flushes_are_behind() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = history(200)
    index = 0
    while not engine.stalled:
        index += 1
        engine.write(batches[index - 1], index, 1)
    assert engine.stats().immutables == 2
    assert engine.next_task() is None, "the changes were not written yet"
    write_changes(engine)
    assert run_one_task(engine, fs, D)
    assert not engine.stalled


def test_more_memtables_may_wait_while_the_log_is_replayed_and_until_their_flushes_have_followed() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = iter(history(2000))

    def write_until_stalled() -> int:
        while not is_stalled(engine):
            engine.write(next(batches), engine.applied_index + 1, 1)
        return engine.stats().immutables

    engine.begin_replay(1500)
    assert write_until_stalled() == 4
    write_changes(engine)
    flush_without_compaction(engine, fs)
    assert engine.applied_index < 1500 and write_until_stalled() == 4
    while engine.applied_index < 1500:
        settle(engine, fs, D)
        while not is_stalled(engine) and engine.applied_index < 1500:
            engine.write(next(batches), engine.applied_index + 1, 1)
    settle(engine, fs, D)
    assert engine.stats().immutables == 0
    assert write_until_stalled() == 2
    # With nothing to replay there is no such time.
    engine.begin_replay(engine.applied_index)
    settle(engine, fs, D)
    assert write_until_stalled() == 2


def test_it_is_stalled_while_level_0_is_full() -> None:
    fs = MemoryFileSystem()
    options = replace(TINY_OPTIONS, l0_tables_trigger=4, l0_inputs_max=4, l0_tables_max=5)
    engine = open_engine(fs, options)
    for index in range(1, 6):
        engine.write([(b"k", b"%d" % index)], index, 1)
        flush_without_compaction(engine, fs)
    assert engine.stats().level_tables[0] == 5
    assert is_stalled(engine)
    settle(engine, fs, D)
    assert not is_stalled(engine)
    assert engine.get_blocking(b"k") == b"5"


LARGE = bytes(1 << 20)


def test_small_changes_gather_until_they_are_worth_a_write_or_the_memtable_rotates() -> None:
    engine = open_engine(MemoryFileSystem(), EngineOptions())
    engine.write([(b"a", b"1")], 1, 1)
    assert engine.take_changes() is None
    engine.write([(b"b", LARGE)], 2, 1)
    first = engine.take_changes()
    assert first is not None
    first.run()
    engine.changes_done(first)
    engine.write([(b"c", b"1")], 3, 1)
    assert engine.take_changes() is None
    engine.rotate()
    assert engine.take_changes() is not None


def test_changes_are_taken_one_at_a_time_and_a_flush_waits_for_all_of_them() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs, EngineOptions())
    engine.write([(b"a", LARGE)], 1, 1)
    first = engine.take_changes()
    assert first is not None and engine.take_changes() is None
    engine.write([(b"b", LARGE)], 2, 1)
    engine.rotate()
    engine.write([(b"c", LARGE)], 3, 1)
    first.run()
    engine.changes_done(first)
    assert engine.next_task() is None
    second = engine.take_changes()
    assert second is not None
    second.run()
    engine.changes_done(second)
    task = engine.next_task()
    assert isinstance(task, FlushTask) and task.applied_index == 2
    assert engine.next_task() is None, "a flush is under way, and no compaction is due"
    third = engine.take_changes()
    assert third is not None
    third.run()
    engine.changes_done(third)
    engine.finish_install(engine.prepare_install(task, run_task(fs, D, task)))
    assert engine.flushed_index == 2


def test_a_failed_task_is_given_again() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    engine.write([(b"a", b"1")], 1, 1)
    engine.rotate()
    write_changes(engine)
    task = engine.next_task()
    assert task is not None
    run_task(fs, D, task)  # It did its work, and then its answer was lost.
    engine.task_failed(task)
    again = engine.next_task()
    assert again is not None and again.task_id != task.task_id
    engine.finish_install(engine.prepare_install(again, run_task(fs, D, again)))
    assert (engine.flushed_index, engine.get_blocking(b"a")) == (1, b"1")


def test_entries_without_writes_move_the_flushed_index_on() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    engine.rotate()
    engine.write([], 5, 2)
    engine.rotate()
    engine.rotate()
    settle(engine, fs, D)
    assert (engine.flushed_index, engine.flushed_term) == (5, 2)
    assert engine.stats().level_tables[0] == 0
    engine.close()
    assert open_engine(fs, start_id="s2").applied_index == 5


def test_tables_that_are_gone_are_closed(tmp_path: Path) -> None:
    fs = OsFileSystem()
    directory = str(tmp_path / "data")
    engine = Engine.open(fs, directory, TINY_OPTIONS, "s1")

    def opened() -> list[str]:
        links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        targets = [os.readlink(link) for link in links if os.path.islink(link)]
        return sorted(target for target in targets if target.startswith(directory))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system has no /proc to count open files in")
    for index, batch in enumerate(history(200), 1):
        engine.write(batch, index, 1)
        if index % 10 == 0:
            settle(engine, fs, directory)
    engine.get_blocking(b"\x01key001")
    tables = [path for path in opened() if ".sst" in path]
    assert len(tables) == sum(engine.stats().level_tables)
    assert all(os.path.exists(path) for path in tables)
    engine.close()
    assert opened() == []


def test_the_log_never_goes_back() -> None:
    engine = open_engine(MemoryFileSystem())
    engine.write([], 2, 1)
    with pytest.raises(AssertionError):
        engine.write([], 2, 1)


def test_what_the_manifest_does_not_know_is_removed_at_the_start() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = history(100)
    replay(engine, batches)
    settle(engine, fs, D)
    flushed = engine.flushed_index
    engine.close()
    for name in ("000900.sst", "000003.chg", "MANIFEST-000090", "tmp/s1/9-1.sst", "CURRENT.tmp"):
        fs.put(f"{D}/{name}", b"left over")
    fs.put(f"{D}/notes.txt", b"not ours")
    engine = open_engine(fs, start_id="s2")
    assert engine.flushed_index == flushed
    names = fs.list_directory(D)
    manifests = [name for name in names if name.startswith("MANIFEST")]
    assert len(manifests) == 1 and fs.read_file(f"{D}/CURRENT").startswith(manifests[0].encode())
    assert "notes.txt" in names and "000900.sst" not in names and "CURRENT.tmp" not in names
    assert not [name for name in names if name.endswith(".chg")]
    assert fs.list_directory(f"{D}/tmp") == ["s2"]
    assert fs.list_directory(f"{D}/tmp/s2") == []


def test_damage_stops_the_start_and_changes_nothing() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    replay(engine, history(100))
    settle(engine, fs, D)
    engine.close()
    before = fs.files()
    tables = [path for path in before if path.endswith(".sst")]
    for path in (*tables, f"{D}/CURRENT"):
        fs.put(path, before[path][:-1])
        damaged = fs.files()
        with pytest.raises(CorruptionError) as error:
            open_engine(fs, start_id="s2")
        assert error.value.path == path
        assert fs.files() == damaged
        fs.put(path, before[path])
    for path in tables:
        fs.remove(path)
        with pytest.raises(CorruptionError, match="missing"):
            open_engine(fs, start_id="s2")
        fs.put(path, before[path])
    # Another table under the same name.
    if len(tables) > 1:
        fs.put(tables[0], before[tables[1]])
        with pytest.raises(CorruptionError, match="not the table"):
            open_engine(fs, start_id="s2")


def test_a_flipped_bit_of_any_table_is_never_a_wrong_answer() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    batches = history(120)
    replay(engine, batches)
    settle(engine, fs, D)
    expected = state(batches[: engine.flushed_index])
    engine.close()
    before = fs.files()
    rng = random.Random(11)
    tables = [path for path in before if path.endswith(".sst")]
    for _ in range(150):
        path = rng.choice(tables)
        fs.flip_bit(path, rng.randrange(8 * len(before[path])))
        with pytest.raises(CorruptionError) as error:
            opened = open_engine(fs, start_id="s2")
            assert contents(opened) == expected
        assert error.value.path == path
        for name, content in before.items():
            fs.put(name, content)


def test_an_output_that_is_not_what_the_worker_said_is_not_installed() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    engine.write([(b"a", b"1")], 1, 1)
    engine.rotate()
    write_changes(engine)
    task = engine.next_task()
    assert task is not None
    result = run_task(fs, D, task)
    lie = replace(result.outputs[0], entries=5)
    with pytest.raises(CorruptionError):
        engine.prepare_install(task, replace(result, outputs=(lie,)))
    assert engine.flushed_index == 0


def test_outputs_that_overlap_are_not_installed() -> None:
    fs = MemoryFileSystem()
    engine = open_engine(fs)
    for index in (1, 2):
        engine.write([(b"a", b"%d" % index), (b"b", b"1")], index, 1)
        flush_without_compaction(engine, fs)
    task = engine.next_task()
    assert isinstance(task, CompactionTask)
    outputs = run_task(fs, D, task).outputs
    twin = TableMeta(2, *[getattr(outputs[0], name) for name in TableMeta.__slots__[1:]])
    fs.link(f"{D}/tmp/s1/{task.task_id}-1.sst", f"{D}/tmp/s1/{task.task_id}-2.sst")
    with pytest.raises(CorruptionError, match="do not fit"):
        engine.prepare_install(task, TaskResult(task.task_id, (outputs[0], twin), 0, 0))


def run_until_failure(fs: MemoryFileSystem, batches: list[Batch]) -> int:
    """Opens, replays, flushes and compacts; returns the flushed index that was last seen before the disk failed."""
    flushed = 0
    try:
        engine = open_engine(fs, start_id=f"s{fs.crashes}")
        flushed = engine.flushed_index
        for index in range(engine.applied_index + 1, len(batches) + 1):
            engine.write(batches[index - 1], index, 1)
            if index % 10 == 0:
                write_changes(engine)
                while run_one_task(engine, fs, D):
                    flushed = engine.flushed_index
    except DiskError:
        return flushed
    return -1


@pytest.mark.seconds
@pytest.mark.parametrize("seed", range(2))
def test_a_crash_at_any_step_loses_nothing_and_brings_nothing_back(seed: int) -> None:
    batches = history(45, seed)
    steps = 0
    step = 0
    while True:
        step += 1
        fs = MemoryFileSystem()
        fs.fail_at(step)
        flushed = run_until_failure(fs, batches)
        if flushed < 0:
            break
        fs.crash(random.Random(f"{seed}-{step}"))
        # Some crash again while they start anew.
        if step % 3 == 0:
            fs.fail_at(1 + step % 17)
            flushed = max(flushed, run_until_failure(fs, batches))
            fs.crash(random.Random(f"{seed}-{step}-again"))
        engine = open_engine(fs, start_id="last")
        assert engine.flushed_index >= flushed, (seed, step)
        assert contents(engine) == state(batches[: engine.flushed_index]), (seed, step)
        replay(engine, batches)
        settle(engine, fs, D)
        assert contents(engine) == state(batches), (seed, step)
        steps += 1
    assert steps > 100
