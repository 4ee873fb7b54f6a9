"""What the log writer and the background work tell the timeline."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from raft_node.observability.metrics import Metrics
from raft_node.raft.types import HardState, Write
from raft_node.runtime.disk.maintenance import Maintenance
from raft_node.runtime.log.store import LogStore
from raft_node.storage.merges.tasks import FlushTask, Task, TaskResult


class FakeWal:
    """A log whose appends take as long as the fake clock says."""

    wants_segment = False
    wants_drop = False
    first_index = 1
    syncs = 0
    last_sync_s = 0.0

    def append(self, *write: object) -> object:
        return write

    def publish(self, appended: object) -> None:
        pass

    def close(self) -> None:
        pass


async def test_only_a_slow_append_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.0, 0.05, 1.0, 1.0, 1.25])
    monkeypatch.setattr("raft_node.runtime.log.store.time", SimpleNamespace(perf_counter=lambda: next(times)))
    durable: asyncio.Queue[int] = asyncio.Queue()
    slow: list[tuple[float, int]] = []
    wal: Any = FakeWal()
    log = LogStore(
        wal,
        Metrics(0),
        durable.put_nowait,
        lambda error: None,
        slow_s=0.1,
        on_slow=lambda duration_s, entries: slow.append((duration_s, entries)),
    )
    for sequence in (1, 2):
        log.write(Write(sequence, HardState(1), None, ()))
        assert await durable.get() == sequence
    log.close()
    assert slow == [(0.25, 0)]


class FakeEngine:
    """An engine with one flush to do."""

    changes_due = False
    flushed_index = 41

    def __init__(self) -> None:
        self.tasks: list[Task] = [FlushTask(1, "start", "1.chg", 10, 41, 3, SimpleNamespace())]  # type: ignore[arg-type]

    def take_changes(self) -> None:
        return None

    def next_task(self, *, idle: bool) -> Task | None:
        assert not idle
        return self.tasks.pop() if self.tasks else None

    def prepare_install(self, task: Task, result: TaskResult) -> object:
        return result

    def finish_install(self, prepared: object) -> None:
        pass


async def test_a_flush_is_told_once_it_is_installed() -> None:
    told: list[tuple[str, dict[str, object]]] = []
    done = asyncio.Event()
    worker: Any = SimpleNamespace(run=lambda task: TaskResult(task.task_id, (), 0, 512), close=lambda: None)
    engine: Any = FakeEngine()

    def record(name: str, **details: object) -> None:
        told.append((name, details))

    maintenance = Maintenance(engine, [worker], Metrics(0), done.set, lambda error: None, record)
    running = asyncio.create_task(maintenance.run())
    await done.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    maintenance.close()
    assert [name for name, _ in told] == ["flush_done"]
    details = told[0][1]
    assert (details["written_bytes"], details["tables"], details["flushed_index"]) == (512, 0, 41)
