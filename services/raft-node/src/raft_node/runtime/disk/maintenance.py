"""Looks after the engine: change segments, flushes and compactions, all off the event loop.

One loop appends the change segments, in order; one for each helper process gives it one task at a time, puts its
result in place and has the engine take it up; and one now and then gives the first a merge that can wait, when little
is written (docs/adr/0008). With two helpers a flush runs beside a compaction (docs/adr/0022). The engine itself is only
touched on the event loop, and results are put in place one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from raft_node.errors import FatalError, NoSpaceError
from raft_node.observability.logs import get_logger
from raft_node.observability.metrics import Metrics
from raft_node.runtime.disk.worker_process import WorkerProcess
from raft_node.runtime.events import Recorder
from raft_node.storage.engine import Engine
from raft_node.storage.merges.tasks import CompactionTask, FlushTask, Task, WorkerGoneError, WorkerHungError

_RESTART_PAUSE_S = 0.5
_FAILURES_MAX = 10
_FULL_PAUSE_S = 1.0
_IDLE_BYTES_PER_S_MAX = 200 << 10
"""At this rate a memtable of default size fills in 80 s, so that no flush will wait for a merge to end."""

_log = get_logger()


class _Helper:
    """A helper process as this module uses it.

    Attributes:
        worker: The process.
        busy: Held while it has a task, and while it may have none.
        failures: How many times in a row it died.
    """

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.busy = asyncio.Lock()
        self.failures = 0


class Maintenance:
    """Does the background work of one engine: flushes, compactions, merges while idle."""

    def __init__(
        self,
        engine: Engine,
        workers: Sequence[WorkerProcess],
        metrics: Metrics,
        on_progress: Callable[[], None],
        on_failure: Callable[[FatalError], None],
        record: Recorder,
        on_full: Callable[[NoSpaceError], None] = lambda error: None,
        retry_s: float = _FULL_PAUSE_S,
        idle_s: float = 0.0,
        room_bytes: Callable[[], int] = lambda: sys.maxsize,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Builds it; ``run`` sets it going.

        Args:
            engine: The engine to look after.
            workers: The helper processes, one or two: so many tasks are done at a time.
            metrics: The metrics in which durations are counted.
            on_progress: Called on the event loop when a task was installed; applying may go on.
            on_failure: Called on the event loop when the node must stop.
            record: Notes every flush and compaction in the timeline.
            on_full: Called on the event loop when there was no room for a piece of work.
            retry_s: The pause before that is tried again.
            idle_s: How long little must have been written before a merge is made that could wait; 0 for never.
            room_bytes: How much of the disk such a merge may take until it is installed.
            sleep: Waits for so many seconds.
        """
        self._engine = engine
        self._helpers = [_Helper(worker) for worker in workers]
        self._metrics = metrics
        self._on_progress = on_progress
        self._on_failure = on_failure
        self._record = record
        self._on_full = on_full
        self._retry_s = retry_s
        self._idle_s = idle_s
        self._room_bytes = room_bytes
        self._sleep = sleep
        self._changes_wanted = asyncio.Event()
        self._task_wanted = asyncio.Event()
        self._threads = ThreadPoolExecutor(1 + len(self._helpers), thread_name_prefix="maintenance")
        self._installs = asyncio.Lock()
        self._progress = asyncio.Condition()

    def poke(self) -> None:
        """Notes that entries were written; the two threads wake up only when there is enough to do."""
        if self._engine.changes_due:
            self._changes_wanted.set()

    def hurry(self) -> None:
        """Notes that a memtable was rotated before it was full."""
        self._changes_wanted.set()

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Waits until no flush or compaction is under way, and begins none within."""
        async with contextlib.AsyncExitStack() as stack:
            for helper in self._helpers:
                await stack.enter_async_context(helper.busy)
            yield
        self._task_wanted.set()

    async def flush(self, timeout_s: float) -> bool:
        """Flushes what was written up to now; returns False if that takes longer, and goes on flushing."""
        engine = self._engine
        target = engine.applied_index
        engine.rotate()
        self.hurry()
        try:
            async with asyncio.timeout(timeout_s), self._progress:
                await self._progress.wait_for(lambda: engine.flushed_index >= target)
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Runs until cancelled."""
        self._changes_wanted.set()
        self._task_wanted.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._append_changes())
                for place, helper in enumerate(self._helpers):
                    group.create_task(self._run_tasks(helper, self._helpers[:place]))
                if self._idle_s:
                    group.create_task(self._merge_when_idle())
        except* FatalError as errors:
            first = errors.exceptions[0]
            assert isinstance(first, FatalError)
            self._on_failure(first)

    def close(self) -> None:
        """Ends the threads. Requires: ``run`` has ended."""
        for helper in self._helpers:
            helper.worker.close()
        self._threads.shutdown()

    async def _append_changes(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._changes_wanted.wait()
            self._changes_wanted.clear()
            while (change := self._engine.take_changes()) is not None:
                while True:
                    try:
                        await loop.run_in_executor(self._threads, change.run)
                        break
                    except NoSpaceError as error:
                        # The memtables stay in memory, and stall applying before they take too much of it.
                        self._on_full(error)
                        await asyncio.sleep(self._retry_s)
                self._engine.changes_done(change)
            self._task_wanted.set()

    async def _run_tasks(self, helper: _Helper, earlier: Sequence[_Helper]) -> None:
        while True:
            # This wakes all helpers that wait, even when another one clears it first.
            await self._task_wanted.wait()
            self._task_wanted.clear()
            # No later process is started while an earlier one is free, which was woken as well, or asks anyway.
            while all(each.busy.locked() for each in earlier) and await self._run_next(helper):
                # What was put in place may make a task due that this helper does not take, but another one can.
                self._task_wanted.set()

    async def _merge_when_idle(self) -> None:
        while True:
            before = self._engine.written_bytes
            await self._sleep(self._idle_s)
            # One merge at a time: with several nodes on a machine, pauses leave the disk to others.
            if self._engine.written_bytes - before <= _IDLE_BYTES_PER_S_MAX * self._idle_s:
                if self._engine.hides_much:
                    # No further writes may come to fill the memtable, and until it is flushed no merge drops the hidden
                    # data.
                    self._engine.rotate()
                    self.hurry()
                await self._run_next(self._helpers[0], idle=True)

    async def _run_next(self, helper: _Helper, *, idle: bool = False) -> bool:
        async with helper.busy:
            task = self._engine.next_task(idle=idle)
            if task is None:
                return False
            if idle and isinstance(task, CompactionTask) and _output_bytes(task) > self._room_bytes():
                # An idle merge is not important enough to refuse writes for its space.
                self._engine.task_failed(task)
                return False
            # A task of the other kind may be due beside it.
            self._task_wanted.set()
            await self._run_task(helper, task)
        async with self._progress:
            self._progress.notify_all()
        return True

    async def _run_task(self, helper: _Helper, task: Task) -> None:
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            result = await loop.run_in_executor(self._threads, helper.worker.run, task)
        except WorkerHungError:
            # This is no fault of the task: the disk, or the whole process, stood still, and may go on.
            self._engine.task_failed(task)
            self._record("worker_hung", task=type(task).__name__)
            return
        except WorkerGoneError as error:
            helper.failures += 1
            if helper.failures >= _FAILURES_MAX:
                raise FatalError(f"the storage worker died {helper.failures} times in a row: {error}") from error
            self._engine.task_failed(task)
            await asyncio.sleep(_RESTART_PAUSE_S)
            return
        except NoSpaceError as error:
            self._engine.task_failed(task)
            self._on_full(error)
            await asyncio.sleep(self._retry_s)
            return
        helper.failures = 0
        async with self._installs:
            # Renames, syncs and the manifest's record first; only then does the engine show the new tables.
            prepared = await loop.run_in_executor(self._threads, self._engine.prepare_install, task, result)
            self._engine.finish_install(prepared)
        duration_s = time.perf_counter() - started
        if isinstance(task, FlushTask):
            self._metrics.flush_duration.observe(duration_s)
            name = "flush_done"
        else:
            self._metrics.compaction_duration.observe(duration_s)
            name = "compaction_done"
        _log.debug("storage.task_done", task=type(task).__name__, duration_s=round(duration_s, 3))
        self._record(
            name,
            duration_ms=round(duration_s * 1000),
            tables=len(result.outputs),
            written_bytes=result.written_bytes,
            flushed_index=self._engine.flushed_index,
        )
        self._on_progress()


def _output_bytes(task: CompactionTask) -> int:
    """The bytes that a merge is likely to write: each tombstone goes, and takes a record along.

    When it hides nothing after all, the merge may find no room; then it is thrown away, as any other.
    """
    size = sum(table.size_bytes for table in task.inputs())
    tombstones = sum(table.tombstones for table in task.inputs())
    records = sum(table.entries for table in task.inputs()) - tombstones
    return size * max(0, records - tombstones) // records if records else size
