"""The helper process, killed while it flushes and compacts: it is started again, nothing is lost, memory is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raft_node.errors import FatalError
from raft_node.observability.metrics import Metrics
from raft_node.runtime.disk import maintenance as maintenances
from raft_node.runtime.disk import worker_process
from raft_node.runtime.disk.maintenance import Maintenance
from raft_node.runtime.disk.worker_process import WorkerProcess
from raft_node.storage.engine import Engine
from raft_node.storage.files import OsFileSystem
from raft_node.storage.merges.tasks import FlushTask, WorkerGoneError, WorkerHungError, encode_task, frame
from raft_node.storage.options import EngineOptions, TableOptions

pytestmark = [pytest.mark.integration, pytest.mark.light]

WAIT_S = 60.0

OPTIONS = EngineOptions(
    memtable_bytes=256 << 10,
    table_bytes=64 << 10,
    l0_tables_trigger=2,
    merge_bytes_max=256 << 10,
    level_base_bytes=128 << 10,
)
LARGE_OPTIONS = EngineOptions(memtable_bytes=24 << 20)
WORKER_BYTES_MAX = 128 << 20


class Rig:
    def __init__(self, folder: Path, options: EngineOptions, worker: Any = None, others: tuple[Any, ...] = ()) -> None:
        self.engine = Engine.open(OsFileSystem(), str(folder), options, "s1")
        self.worker = worker or WorkerProcess(str(folder))
        self.workers = [self.worker, *others]
        self.failures: list[FatalError] = []
        self.maintenance = Maintenance(
            self.engine, self.workers, Metrics(0), lambda: None, self.failures.append, lambda name, **details: None
        )

    def put(self, key: bytes, value: bytes | None) -> None:
        self.engine.write([(key, value)], self.engine.applied_index + 1, 1)
        self.maintenance.poke()


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[None]:
    task = asyncio.create_task(rig.maintenance.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        rig.maintenance.close()
        rig.engine.close()


@pytest.mark.parametrize("helpers", [1, 2])
async def test_a_worker_that_is_killed_again_and_again_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helpers: int
) -> None:
    monkeypatch.setattr(maintenances, "_RESTART_PAUSE_S", 0.01)
    rng = random.Random(3)
    rig = Rig(tmp_path, OPTIONS, None, tuple(WorkerProcess(str(tmp_path)) for _ in range(helpers - 1)))
    expected: dict[bytes, bytes] = {}
    pids: set[int] = set()
    async with running(rig):
        for number in range(14):
            pids.update(worker.pid for worker in rig.workers)
            for _ in range(400):
                key = b"key%04d" % rng.randrange(2000)
                if rng.random() < 0.1:
                    expected.pop(key, None)
                    rig.put(key, None)
                else:
                    expected[key] = rng.randbytes(900)
                    rig.put(key, expected[key])
            flushing = asyncio.create_task(rig.maintenance.flush(WAIT_S))
            if number % 2:
                # Compactions come after the flushes.
                assert await flushing
            await asyncio.sleep(rng.random() * 0.05)
            # None may be there at this very moment: the next one is about to be started.
            for worker in rig.workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
            assert await flushing
        assert rig.engine.flushed_index == rig.engine.applied_index
        async with asyncio.timeout(WAIT_S):
            while not rig.engine.stats().compactions:
                await asyncio.sleep(0.01)
        assert dict(rig.engine.scan(b"", None)) == expected
    assert not rig.failures and len(pids) >= 4, "each that was killed was followed by another"
    left = {path.name.partition("-")[0] for path in (tmp_path / "tmp").glob("*/*.sst")}
    assert len(left) <= helpers, "what dead workers left is gone but for the tasks that the end cut off"
    again = Engine.open(OsFileSystem(), str(tmp_path), OPTIONS, "s2")
    assert dict(again.scan(b"", None)) == expected
    again.close()


def test_a_worker_whose_node_died_during_its_task_ends_without_a_word(tmp_path: Path) -> None:
    """A node that is killed leaves a worker with an answer for nobody; a crash report in its log would mislead."""
    argv = [sys.executable, "-m", "raft_node.storage", str(tmp_path)]
    worker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert worker.stdout is not None
    worker.stdout.close()
    task = FlushTask(1, "start", "000001.chg", 99, 5, 2, TableOptions())
    _, errors = worker.communicate(frame(encode_task(task)), timeout=WAIT_S)
    assert (worker.returncode, errors) == (0, b"")


async def test_a_worker_that_never_lives_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenances, "_RESTART_PAUSE_S", 0.001)
    given = []

    def dies(task: object) -> object:
        given.append(task)
        raise WorkerGoneError("the storage worker ended")

    rig = Rig(tmp_path, OPTIONS, SimpleNamespace(run=dies, close=lambda: None))
    async with running(rig):
        rig.put(b"k", b"v")
        flushing = asyncio.create_task(rig.maintenance.flush(WAIT_S))
        async with asyncio.timeout(WAIT_S):
            while not rig.failures:
                await asyncio.sleep(0.01)
        assert not flushing.done()
        flushing.cancel()
        await asyncio.gather(flushing, return_exceptions=True)
        assert len(given) == 10 and "died 10 times in a row" in str(rig.failures[0])


TASK = FlushTask(1, "start", "000001.chg", 99, 5, 2, TableOptions())


def test_a_worker_that_cannot_be_started_again_is_started_by_a_later_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = WorkerProcess(str(tmp_path))
    start = subprocess.Popen

    def no_memory(*arguments: object, **options: object) -> object:
        raise OSError(errno.ENOMEM, "no memory is left")

    try:
        os.kill(worker.pid, signal.SIGKILL)
        monkeypatch.setattr(subprocess, "Popen", no_memory)
        for _ in range(3):
            with pytest.raises(WorkerGoneError):
                worker.run(TASK)
        monkeypatch.setattr(subprocess, "Popen", start)
        # It lives, and says that the change segment is not there.
        with pytest.raises(FatalError):
            worker.run(TASK)
    finally:
        worker.close()
    with pytest.raises(WorkerGoneError):
        worker.run(TASK)


def test_a_worker_that_stands_still_is_killed_and_another_one_does_its_task(tmp_path: Path) -> None:
    worker = WorkerProcess(str(tmp_path), deadline_s=0.5)
    try:
        stopped = worker.pid
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(WorkerHungError):
            worker.run(TASK)
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, 0)
        # Whatever this machine needs to start another one.
        with pytest.raises(FatalError):
            while True:
                with contextlib.suppress(WorkerHungError):
                    worker.run(TASK)
        assert worker.pid != stopped
    finally:
        worker.close()


def test_a_worker_that_was_killed_because_it_was_late_counts_as_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine the timer's thread may run for a while before whoever started it goes on."""
    now_s = 100.0

    class Timer(threading.Timer):
        def start(self) -> None:
            nonlocal now_s
            now_s += self.interval
            self.function()

    monkeypatch.setattr(threading, "Timer", Timer)
    monkeypatch.setattr(worker_process, "time", SimpleNamespace(monotonic=lambda: now_s))
    worker = WorkerProcess(str(tmp_path))
    try:
        with pytest.raises(WorkerHungError):
            worker.run(TASK)
    finally:
        worker.close()


async def test_a_worker_that_stood_still_costs_time_and_no_data(tmp_path: Path) -> None:
    rig = Rig(tmp_path, OPTIONS, WorkerProcess(str(tmp_path), deadline_s=2.0))
    async with running(rig):
        os.kill(rig.worker.pid, signal.SIGSTOP)
        for number in range(100):
            rig.put(b"%03d" % number, b"v" * 5000)
        assert await rig.maintenance.flush(WAIT_S)
    assert not rig.failures


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_its_memory_is_bounded_whatever_the_values(tmp_path: Path) -> None:
    rig = Rig(tmp_path, LARGE_OPTIONS)
    async with running(rig):
        for number in range(90):
            rig.put(b"%03d" % (number % 60), random.Random(number).randbytes(1 << 20))
            await asyncio.sleep(0.005)
        assert await rig.maintenance.flush(WAIT_S)
        status = Path(f"/proc/{rig.worker.pid}/status").read_text()
        peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
        assert rig.engine.stats().flushes >= 4 and peak < WORKER_BYTES_MAX, peak
    assert not rig.failures
