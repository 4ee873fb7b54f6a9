"""A disk that gets full: what is refused, what waits, and that all of it goes on by itself once there is room."""

from __future__ import annotations

import asyncio
import errno
import io
import random
from types import SimpleNamespace
from typing import Any

import pytest

from raft_node import entry as entries
from raft_node.app.parts import remove_all
from raft_node.entry import Entry, EntryKind
from raft_node.errors import DiskError, FatalError, NoSpaceError
from raft_node.observability.metrics import Metrics
from raft_node.raft.types import HardState, Write
from raft_node.runtime.disk.maintenance import Maintenance
from raft_node.runtime.disk.space import RESERVE, SpaceWatch, release_for_start
from raft_node.runtime.log.store import LogStore
from raft_node.runtime.snapshots.keeper import Snapshots
from raft_node.storage.changes.span import Span
from raft_node.storage.engine import Engine
from raft_node.storage.merges.tasks import Task, TaskResult, decode_result, encode_task, frame, read_message
from raft_node.storage.merges.worker import run_task, serve
from raft_node.storage.options import EngineOptions
from raft_node.storage.wal.log import Wal, WalOptions
from raft_testing.engines import TINY_OPTIONS
from raft_testing.inodes import Loss
from raft_testing.small_disk import SmallDisk

D = "/data"
SEGMENT = 8192
OPTIONS = WalOptions(segment_bytes=SEGMENT)


def run(first: int, count: int) -> list[Entry]:
    return [entries.encode(index, 1, EntryKind.COMMAND, 1, b"c" * 1000) for index in range(first, first + count)]


def written(wal: Wal, count: int) -> None:
    wal.publish(wal.append(None, None, run(wal.last_index + 1, count)))


@pytest.mark.parametrize("operation", ["sync", "sync directory"])
def test_a_sync_is_never_forgiven(operation: str) -> None:
    assert DiskError(D, "write", OSError(errno.ENOSPC, "full")).no_space
    assert DiskError(D, "create", OSError(errno.EDQUOT, "quota")).no_space
    assert not DiskError(D, "write", OSError(errno.EIO, "broken")).no_space
    assert not DiskError(D, operation, OSError(errno.ENOSPC, "full")).no_space


def test_a_log_without_room_for_a_segment_writes_nothing_and_goes_on_later() -> None:
    fs = SmallDisk(SEGMENT + SEGMENT // 2)
    wal = Wal.open(fs, D, OPTIONS)
    written(wal, 5)
    with pytest.raises(NoSpaceError):
        wal.prepare_next_segment()
    assert fs.list_directory(D) == ["00000000000000000001.wal"], "what was begun of the next segment is gone"
    written(wal, 1)
    before = fs.read_file(f"{D}/00000000000000000001.wal")
    for _ in range(3):
        with pytest.raises(NoSpaceError):
            wal.append(None, None, run(7, 3))
    assert fs.list_directory(D) == ["00000000000000000001.wal"]
    assert fs.read_file(f"{D}/00000000000000000001.wal") == before
    assert wal.entries(1, 7, 1 << 20) == run(1, 6), "reads go on"
    for loss in Loss:
        crashed = fs.copy()
        crashed.crash_as(loss, random.Random(7))
        assert Wal.open(crashed, D, OPTIONS).last_index == 6
    fs.size_bytes *= 4
    written(wal, 3)
    assert wal.wants_segment is False or wal.last_index == 9
    assert Wal.open(fs.copy(), D, OPTIONS).entries(1, 10, 1 << 20) == run(1, 9)


async def test_the_log_writer_waits_for_room_and_loses_nothing() -> None:
    fs = SmallDisk(SEGMENT + 100)
    wal = Wal.open(fs, D, OPTIONS)
    durable: asyncio.Queue[int] = asyncio.Queue()
    failures: list[FatalError] = []
    full: asyncio.Queue[NoSpaceError] = asyncio.Queue()
    log = LogStore(wal, Metrics(0), durable.put_nowait, failures.append, on_full=full.put_nowait, retry_s=0.01)
    log.write(Write(1, HardState(1, None, 0), None, run(1, 6)))
    assert await durable.get() == 1
    log.write(Write(2, None, None, run(7, 4)))
    async with asyncio.timeout(60):
        for _ in range(4):
            await full.get()
    assert not log.idle and log.write_age_s > 0, "to the core it is a disk that takes its time"
    assert (log.last_index, durable.qsize()) == (6, 0)
    assert list(log.entries(1, 7, 1 << 20)) == run(1, 6)
    fs.size_bytes *= 10
    async with asyncio.timeout(60):
        assert await durable.get() == 2
    assert log.last_index == 10 and not failures
    log.close()
    assert Wal.open(fs, D, OPTIONS).entries(1, 11, 1 << 20) == run(1, 10)


async def test_a_log_that_waits_for_room_can_be_closed() -> None:
    wal = Wal.open(SmallDisk(SEGMENT + 100), D, OPTIONS)
    full: asyncio.Queue[NoSpaceError] = asyncio.Queue()
    log = LogStore(wal, Metrics(0), lambda sequence: None, lambda error: None, on_full=full.put_nowait, retry_s=60)
    log.write(Write(1, None, None, run(1, 9)))
    async with asyncio.timeout(60):
        await full.get()
    log.close()
    assert wal._file is None, "the writer has ended, so that the log could be closed"


async def test_background_work_waits_for_room_and_then_ends() -> None:
    fs = SmallDisk(1 << 20)
    engine = Engine.open(fs, D, TINY_OPTIONS, "s1")

    def work(task: Task) -> TaskResult:
        sink = io.BytesIO()
        serve(fs, D, io.BytesIO(frame(encode_task(task))), sink)
        message = read_message(io.BytesIO(sink.getvalue()))
        assert message is not None
        return decode_result(message)

    worker: Any = SimpleNamespace(run=work, close=lambda: None)
    failures: list[FatalError] = []
    full: list[NoSpaceError] = []
    maintenance = Maintenance(
        engine,
        [worker],
        Metrics(0),
        lambda: None,
        failures.append,
        lambda name, **details: None,
        full.append,
        0.005,
    )
    task = asyncio.create_task(maintenance.run())
    expected = {b"key%03d" % index: b"v%d" % index * 40 for index in range(1, 60)}
    for index, (key, value) in enumerate(expected.items(), 1):
        engine.write([(key, value)], index, 1)
    for room in (0, 300, 2000):
        # Short of room in turn for the change segment, for the rest of it, and for the table.
        fs.size_bytes += room - fs.free_bytes(D)
        before = len(full)
        assert not await maintenance.flush(0.05)
        async with asyncio.timeout(60):
            while len(full) == before:
                await asyncio.sleep(0.001)
        assert not failures
        assert all(engine.get_blocking(key) == value for key, value in expected.items())
        assert not [name for name in fs.list_directory(f"{D}/tmp/s1") if name.endswith(".sst")]
    fs.size_bytes = 1 << 20
    assert await maintenance.flush(10)
    assert engine.flushed_index == 59
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    maintenance.close()
    assert not failures
    engine.close()
    again = Engine.open(fs, D, TINY_OPTIONS, "s2")
    assert dict(again.scan(b"", None)) == expected


def test_what_a_killed_worker_left_goes_before_the_next_task() -> None:
    fs = SmallDisk(1 << 20)
    engine = Engine.open(fs, D, TINY_OPTIONS, "s1")
    fs.make_directory(f"{D}/tmp/s1/snapshot-abc")
    engine.write([(b"k", b"v")], 1, 1)
    engine.rotate()
    change = engine.take_changes()
    assert change is not None
    change.run()
    engine.changes_done(change)
    killed = engine.next_task()
    assert killed is not None and killed.task_id == 1
    fs.create(f"{D}/tmp/s1/1-1.sst").write_at(0, [b"a part of a table"])
    engine.task_failed(killed)
    task = engine.next_task()
    assert task is not None
    run_task(fs, D, task)
    assert fs.list_directory(f"{D}/tmp/s1") == ["2-1.sst", "snapshot-abc"]


async def test_a_snapshot_without_room_leaves_nothing_behind() -> None:
    fs = SmallDisk(1 << 20)
    engine = Engine.open(fs, D, TINY_OPTIONS, "s1")
    threads: Any = None
    snapshots = Snapshots(fs, engine, f"{D}/tmp/s1", threads, lambda: 0.0)
    fs.size_bytes -= fs.free_bytes(D)
    path = f"{D}/tmp/s1/snapshot-1"
    with pytest.raises(NoSpaceError):
        snapshots._run(engine.checkpoint(path), path, "1")
    assert not fs.exists(path)


class Watched:
    """A watch over two volumes of one small disk, and a clock that the test moves."""

    def __init__(self, size_bytes: int, reserve_bytes: int = 1000) -> None:
        self.fs = SmallDisk(size_bytes)
        self.fs.make_directory(D)
        self.now_s = 0.0
        self.events: list[str] = []
        self.watch = SpaceWatch(
            self.fs,
            {"wal": D, "data": D},
            D,
            reserve_bytes,
            lambda name, **details: self.events.append(name),
            lambda: self.now_s,
        )

    def has_reserve(self) -> bool:
        return self.fs.exists(f"{D}/{RESERVE}")

    async def look(self, free_bytes: int) -> bool:
        self.fs.size_bytes += free_bytes - self.fs.free_bytes(D)
        await self.watch.look()
        return self.watch.low


async def test_writes_are_refused_before_the_disk_is_full_and_taken_again_later() -> None:
    rig = Watched(10_000)
    assert not await rig.look(10_000) and rig.has_reserve()
    assert not await rig.look(1000)
    assert await rig.look(999) and rig.has_reserve(), "what is free suffices for a while"
    assert await rig.look(499) and not rig.has_reserve(), "now compaction gets the reserve as well"
    assert rig.fs.free_bytes(D) == 1499
    found = [(await rig.look(free), rig.watch.full) for free in (1499, 250, 249)]
    assert found == [(True, False), (True, False), (True, True)], "deletes are noted in what the reserve was"
    # Whoever frees a little shall not have writes fill it at once: the reserve comes first.
    assert await rig.look(2000) and not rig.has_reserve()
    assert await rig.look(2249) and not rig.has_reserve()
    assert not await rig.look(2250) and rig.has_reserve()
    assert rig.events == ["disk_low", "disk_recovered"]


async def test_whoever_finds_no_room_has_writes_refused_whatever_the_file_system_says() -> None:
    rig = Watched(10_000)
    assert not await rig.look(9000)
    rig.watch.notice(NoSpaceError(f"{D}/1.chg"))
    assert rig.watch.low
    rig.now_s = 4.9
    assert await rig.look(9000) and not rig.has_reserve()
    rig.now_s = 5.1
    assert not await rig.look(9000) and rig.has_reserve()
    assert rig.events == ["disk_low", "disk_recovered"]


async def test_a_start_on_a_full_disk_gets_the_reserve() -> None:
    rig = Watched(10_000)
    await rig.look(9000)
    release_for_start(rig.fs, D, 1000)
    assert rig.has_reserve()
    await rig.look(600)
    rig.fs.size_bytes -= 200
    release_for_start(rig.fs, D, 1000)
    assert not rig.has_reserve()


async def test_without_a_reserve_only_a_full_disk_counts() -> None:
    rig = Watched(10_000, reserve_bytes=0)
    assert not await rig.look(0) and not rig.has_reserve()
    rig.watch.notice(NoSpaceError(D))
    assert await rig.look(0) and rig.watch.full
    rig.now_s = 6.0
    assert not await rig.look(0)


async def test_what_can_be_done_without_goes_before_writes_are_refused() -> None:
    rig = Watched(10_000)
    kept = [400]

    async def give_way() -> bool:
        rig.fs.size_bytes += sum(kept)
        gave = bool(kept)
        kept.clear()
        return gave

    rig.watch.give_way = give_way
    assert not await rig.look(10_000) and kept
    assert not await rig.look(1000) and kept, "there is no need yet"
    assert not await rig.look(700) and not kept
    assert rig.fs.free_bytes(D) == 1100
    assert await rig.look(999), "nothing is left to be given up"
    assert rig.events == ["disk_low"]


async def test_whoever_finds_no_room_gets_what_can_be_done_without() -> None:
    rig = Watched(10_000)
    asked = []

    async def give_way() -> bool:
        asked.append(rig.now_s)
        return False

    rig.watch.give_way = give_way
    await rig.look(9000)
    rig.watch.notice(NoSpaceError(f"{D}/1.chg"))
    await rig.look(9000)
    rig.now_s = 6.0
    await rig.look(9000)
    assert asked == [0.0]


def test_history_that_is_given_up_leaves_the_disk_and_is_not_told_any_more() -> None:
    fs = SmallDisk(1 << 20)
    options = EngineOptions(history_bytes_max=1 << 20, history_age_us=1 << 60)
    engine = Engine.open(fs, D, options, "s1")
    engine.begin_history(0)
    engine.write([(b"k", b"v")], 1, 1, Span(0, 1, 5, b""))
    engine.rotate()
    change = engine.take_changes()
    assert change is not None
    change.run()
    engine.changes_done(change)
    task = engine.next_task()
    assert task is not None
    engine.finish_install(engine.prepare_install(task, run_task(fs, D, task)))
    assert [name for name in fs.list_directory(D) if name.endswith(".hst")]
    assert engine.history.floor == 0
    for name in engine.history.drop_kept():
        fs.remove(f"{D}/{name}")
    assert not [name for name in fs.list_directory(D) if name.endswith(".hst")]
    assert engine.history.floor == 1
    assert engine.history.drop_kept() == []


def test_a_file_that_cannot_be_removed_for_want_of_room_stays_and_ends_nothing() -> None:
    """Some file systems need room for that, and it is done when there is none."""
    removed = []

    def remove(path: str) -> None:
        if path == "/data/2":
            raise DiskError(path, "remove", OSError(errno.ENOSPC, "No space left on device"))
        removed.append(path)

    files: Any = SimpleNamespace(remove=remove)
    assert remove_all(files, ["/data/1", "/data/2", "/data/3"]) == ["/data/2"]
    assert removed == ["/data/1", "/data/3"]
