"""Background work: a flush on demand, bounded in time; a pause in which nothing begins; merges that can wait."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from raft_node.observability.metrics import Metrics
from raft_node.runtime.disk.maintenance import Maintenance
from raft_node.storage.engine import Engine, Prepared
from raft_node.storage.merges.tasks import CompactionTask, Task, TaskResult
from raft_node.storage.merges.worker import run_task
from raft_node.storage.options import EngineOptions
from raft_testing.engines import TINY_OPTIONS
from raft_testing.files import MemoryFileSystem

D = "/data"
OPTIONS = replace(TINY_OPTIONS, memtable_bytes=1 << 20, l0_tables_trigger=3)


class Rig:
    """A real engine, and a worker in a thread that waits for ``gate``."""

    def __init__(self, idle_s: float = 0.0, options: EngineOptions = OPTIONS, helpers: int = 1) -> None:
        self.room_bytes = 1 << 30
        self.asleep = asyncio.Event()
        self.wake = asyncio.Event()
        self.slept_s: list[float] = []
        self.fs = MemoryFileSystem()
        self.engine = Engine.open(self.fs, D, options, "s1")
        self.loop = asyncio.get_running_loop()
        self.gate = asyncio.Event()
        self.gate.set()
        self.merge_gate = asyncio.Event()
        self.merge_gate.set()
        self.on_progress: Callable[[], None] = lambda: None
        self.given = 0
        self.given_to: list[int] = []
        workers: list[Any] = [
            SimpleNamespace(run=partial(self.work, place), close=lambda: None) for place in range(helpers)
        ]
        self.failures: list[object] = []
        self.maintenance = Maintenance(
            self.engine,
            workers,
            Metrics(0),
            self.progressed,
            self.failures.append,
            lambda name, **details: None,
            idle_s=idle_s,
            room_bytes=lambda: self.room_bytes,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.asleep.set()
        await self.wake.wait()
        self.wake.clear()

    async def pass_time(self) -> None:
        """Lets one idle time pass, and what follows it."""
        await self.asleep.wait()
        self.asleep.clear()
        self.wake.set()
        await self.asleep.wait()

    def progressed(self) -> None:
        self.on_progress()

    def tables(self) -> int:
        return sum(self.engine.stats().level_tables)

    def work(self, place: int, task: Task) -> TaskResult:
        self.given_to.append(place)
        self.given += 1
        gate = self.merge_gate if isinstance(task, CompactionTask) else self.gate
        asyncio.run_coroutine_threadsafe(gate.wait(), self.loop).result(60)
        return run_task(self.fs, D, task)

    def put(self, key: bytes, value: bytes | None) -> None:
        self.engine.write([(key, value)], self.engine.applied_index + 1, 1)
        self.maintenance.poke()

    def write(self, count: int) -> None:
        for _ in range(count):
            index = self.engine.applied_index + 1
            self.engine.write([(b"key%d" % index, b"value")], index, 1)
            self.maintenance.poke()


@asynccontextmanager
async def running(idle_s: float = 0.0, options: EngineOptions = OPTIONS, helpers: int = 1) -> AsyncIterator[Rig]:
    rig = Rig(idle_s, options, helpers)
    task = asyncio.create_task(rig.maintenance.run())
    try:
        yield rig
    finally:
        rig.gate.set()
        rig.merge_gate.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        rig.maintenance.close()
    assert not rig.failures


async def test_a_flush_on_demand_takes_what_was_written() -> None:
    async with running() as rig:
        rig.write(3)
        assert await rig.maintenance.flush(60)
        assert rig.engine.flushed_index == 3
        # Nothing was written since.
        assert await rig.maintenance.flush(60)


async def test_a_flush_that_takes_too_long_is_not_waited_for() -> None:
    async with running() as rig:
        rig.gate.clear()
        rig.write(3)
        assert not await rig.maintenance.flush(0.05)
        rig.gate.set()
        assert await rig.maintenance.flush(60)


async def test_in_a_pause_no_task_is_under_way_and_none_begins() -> None:
    async with running() as rig:
        rig.gate.clear()
        rig.write(3)
        flushing = asyncio.create_task(rig.maintenance.flush(60))
        while not rig.given:
            await asyncio.sleep(0.001)
        entered = asyncio.Event()
        leave = asyncio.Event()

        async def pause() -> None:
            async with rig.maintenance.quiet():
                assert rig.engine.flushed_index == 3, "the task under way came to its end first"
                entered.set()
                await leave.wait()

        pausing = asyncio.create_task(pause())
        await asyncio.sleep(0.01)
        assert not entered.is_set()
        rig.gate.set()
        await entered.wait()
        assert await flushing
        given = rig.given
        rig.write(50)
        rig.maintenance.hurry()
        await asyncio.sleep(0.05)
        assert rig.given == given
        leave.set()
        await pausing
        assert await rig.maintenance.flush(60)
        assert rig.engine.flushed_index == 53


async def with_two_runs(rig: Rig) -> None:
    """One table above another: so few that writes need no merge."""
    rig.write(3)
    assert await rig.maintenance.flush(60)
    await rig.pass_time()
    assert rig.tables() == 1, "one run needs no merge"
    rig.write(1)
    assert await rig.maintenance.flush(60)
    assert rig.tables() == 2 and rig.engine.stats().compactions == 0


async def test_when_little_is_written_runs_are_merged() -> None:
    async with running(idle_s=7.0) as rig:
        await with_two_runs(rig)
        await rig.pass_time()
        assert rig.tables() == 1 and rig.engine.stats().compactions == 1
        assert set(rig.slept_s) == {7.0}
        assert rig.engine.get_blocking(b"key1") == rig.engine.get_blocking(b"key4") == b"value"


async def test_while_much_is_written_no_merge_is_made_that_can_wait() -> None:
    async with running(idle_s=1.0) as rig:
        await with_two_runs(rig)
        rig.engine.write([(b"large", bytes(250_000))], rig.engine.applied_index + 1, 1)
        await rig.pass_time()
        assert rig.tables() == 2
        await rig.pass_time()
        assert rig.tables() == 1


async def test_for_a_merge_that_can_wait_no_disk_is_filled() -> None:
    async with running(idle_s=1.0) as rig:
        await with_two_runs(rig)
        rig.room_bytes = sum(rig.engine.stats().level_bytes) - 1
        given = rig.given
        await rig.pass_time()
        assert rig.tables() == 2 and rig.given == given
        rig.room_bytes += 1
        await rig.pass_time()
        assert rig.tables() == 1


async def test_what_was_deleted_leaves_the_disk_at_rest() -> None:
    """A hundredth of 2,500 keys of 100 kB; the deletes take a fifth of a memtable, which they never fill."""
    options = EngineOptions(
        memtable_bytes=160_000,
        table_bytes=160_000,
        merge_bytes_max=1_920_000,
        level_base_bytes=960_000,
        hidden_bytes_min=10_000,
    )
    rng = random.Random(1)
    async with running(idle_s=1.0, options=options) as rig:
        keys = [b"key%03d" % number for number in range(250)]
        for key in keys:
            rig.put(key, rng.randbytes(10_000))
            if rig.engine.stalled:
                assert await rig.maintenance.flush(60)
        assert await rig.maintenance.flush(60)
        assert sum(rig.engine.stats().level_bytes) > 2_000_000
        flushes = rig.engine.stats().flushes
        for number, key in enumerate(keys, 1):
            rig.put(key, None)
            if number == 20:
                await rig.pass_time()
                assert rig.engine.stats().flushes == flushes, "for less than a tenth nothing is flushed"
        for _ in range(12):
            await rig.pass_time()
        assert rig.engine.stats().flushes == flushes + 1
        assert sum(rig.engine.stats().level_bytes) == 0


async def test_without_an_idle_time_nothing_is_merged_that_can_wait() -> None:
    async with running() as rig:
        rig.write(3)
        assert await rig.maintenance.flush(60)
        rig.write(1)
        assert await rig.maintenance.flush(60)
        assert rig.tables() == 2 and not rig.slept_s


async def with_a_merge_under_way(rig: Rig) -> None:
    """Three tables at level 0, and their merge, which waits for ``merge_gate``."""
    rig.merge_gate.clear()
    for _ in range(3):
        rig.write(2)
        assert await rig.maintenance.flush(60)
    while rig.given < 4:
        await asyncio.sleep(0.001)
    assert rig.engine.stats().compactions == 0


async def test_with_two_helpers_a_flush_does_not_wait_for_a_merge() -> None:
    async with running(helpers=2) as rig:
        await with_a_merge_under_way(rig)
        rig.put(b"key1", b"newer")
        rig.put(b"key2", None)
        assert await rig.maintenance.flush(60), "the merge is still under way"
        assert rig.engine.stats().compactions == 0 and rig.tables() == 4
        rig.merge_gate.set()
        async with asyncio.timeout(60):
            while not rig.engine.stats().compactions:
                await asyncio.sleep(0.001)
        assert rig.engine.get_blocking(b"key1") == b"newer" and rig.engine.get_blocking(b"key2") is None
        assert rig.engine.get_blocking(b"key3") == b"value"


async def test_the_second_helper_has_no_task_before_a_flush_meets_a_merge() -> None:
    async with running(helpers=2) as rig:
        await with_a_merge_under_way(rig)
        assert rig.given_to == [0, 0, 0, 0]
        rig.write(1)
        assert await rig.maintenance.flush(60)
        assert rig.given_to == [0, 0, 0, 0, 1]


async def test_a_merge_that_a_flush_has_made_due_does_not_wait_for_the_next_flush() -> None:
    async with running(helpers=2) as rig:
        for _ in range(2):
            rig.write(2)
            assert await rig.maintenance.flush(60)
        rig.gate.clear()
        for _ in range(2):
            rig.write(2)
            rig.engine.rotate()
        rig.maintenance.hurry()
        async with asyncio.timeout(60):
            while rig.given < 3:
                await asyncio.sleep(0.001)
            # One flush passes, which makes three tables at level 0; the next one follows at once.
            rig.on_progress = rig.gate.clear
            rig.gate.set()
            while not rig.engine.stats().compactions:
                await asyncio.sleep(0.001)
        assert rig.engine.stats().immutables == 1 and rig.given == 5, "the next flush is under way"


async def test_with_one_helper_a_flush_waits_for_the_merge_under_way() -> None:
    async with running() as rig:
        await with_a_merge_under_way(rig)
        rig.put(b"key1", b"newer")
        assert not await rig.maintenance.flush(0.05)
        rig.merge_gate.set()
        assert await rig.maintenance.flush(60)


async def test_in_a_pause_neither_of_two_tasks_is_under_way() -> None:
    async with running(helpers=2) as rig:
        await with_a_merge_under_way(rig)
        rig.gate.clear()
        rig.write(1)
        flushing = asyncio.create_task(rig.maintenance.flush(60))
        while rig.given < 5:
            await asyncio.sleep(0.001)
        entered = asyncio.Event()
        leave = asyncio.Event()

        async def pause() -> None:
            async with rig.maintenance.quiet():
                entered.set()
                await leave.wait()

        pausing = asyncio.create_task(pause())
        rig.gate.set()
        assert await flushing
        assert not entered.is_set(), "the merge is still under way"
        rig.merge_gate.set()
        await entered.wait()
        assert rig.engine.stats().compactions == 1
        given = rig.given
        rig.write(1)
        assert not await rig.maintenance.flush(0.05) and rig.given == given
        leave.set()
        await pausing
        assert await rig.maintenance.flush(60)


@pytest.mark.pure
async def test_two_results_at_once_are_put_in_place_one_after_the_other() -> None:
    async with running(helpers=2) as rig:
        await with_a_merge_under_way(rig)
        rig.gate.clear()
        install, second = rig.engine.prepare_install, threading.Event()
        inside = most = 0

        def watched(task: Task, result: TaskResult) -> Prepared:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            # The other result is there by then, or comes while this one is put in place.
            if inside == 1:
                second.wait(0.2)
            else:
                second.set()
            prepared = install(task, result)
            inside -= 1
            return prepared

        setattr(rig.engine, "prepare_install", watched)  # noqa: B010 - mypy lets nobody assign to a method
        rig.write(1)
        flushing = asyncio.create_task(rig.maintenance.flush(60))
        while rig.given < 5:
            await asyncio.sleep(0.001)
        rig.gate.set()
        rig.merge_gate.set()
        assert await flushing
        async with asyncio.timeout(60):
            while not rig.engine.stats().compactions:
                await asyncio.sleep(0.001)
        assert most == 1
