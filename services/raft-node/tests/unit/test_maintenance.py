"""Background work: a flush on demand, bounded in time, and a pause in which nothing begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from raft_node.observability.metrics import Metrics
from raft_node.runtime.maintenance import Maintenance
from raft_node.storage.engine import Engine
from raft_node.storage.tasks import Task, TaskResult
from raft_node.storage.worker import run_task
from raft_node.testing.engines import TINY_OPTIONS
from raft_node.testing.files import MemoryFileSystem

D = "/data"


class Rig:
    """A real engine, and a worker in a thread that waits for ``gate``."""

    def __init__(self) -> None:
        self.fs = MemoryFileSystem()
        self.engine = Engine.open(self.fs, D, TINY_OPTIONS, "s1")
        self.loop = asyncio.get_running_loop()
        self.gate = asyncio.Event()
        self.gate.set()
        self.given = 0
        worker: Any = SimpleNamespace(run=self.work, close=lambda: None)
        self.failures: list[object] = []
        self.maintenance = Maintenance(
            self.engine,
            worker,
            Metrics(0),
            lambda: None,
            self.failures.append,
            lambda name, **details: None,
        )

    def work(self, task: Task) -> TaskResult:
        self.given += 1
        asyncio.run_coroutine_threadsafe(self.gate.wait(), self.loop).result(10)
        return run_task(self.fs, D, task)

    def write(self, count: int) -> None:
        for _ in range(count):
            index = self.engine.applied_index + 1
            self.engine.write([(b"key%d" % index, b"value")], index, 1)
            self.maintenance.poke()


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    rig = Rig()
    task = asyncio.create_task(rig.maintenance.run())
    try:
        yield rig
    finally:
        rig.gate.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        rig.maintenance.close()
    assert not rig.failures


async def test_a_flush_on_demand_takes_what_was_written() -> None:
    async with running() as rig:
        rig.write(3)
        assert await rig.maintenance.flush(10)
        assert rig.engine.flushed_index == 3
        # Nothing was written since.
        assert await rig.maintenance.flush(10)


async def test_a_flush_that_takes_too_long_is_not_waited_for() -> None:
    async with running() as rig:
        rig.gate.clear()
        rig.write(3)
        assert not await rig.maintenance.flush(0.05)
        rig.gate.set()
        assert await rig.maintenance.flush(10)


async def test_in_a_pause_no_task_is_under_way_and_none_begins() -> None:
    async with running() as rig:
        rig.gate.clear()
        rig.write(3)
        flushing = asyncio.create_task(rig.maintenance.flush(10))
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
        assert await rig.maintenance.flush(10)
        assert rig.engine.flushed_index == 53
