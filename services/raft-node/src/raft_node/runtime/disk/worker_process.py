"""The helper process that flushes and compacts, seen from its node.

It is started with exec, not forked, so that gRPC's threads and locks are never copied. It reads tasks from its
standard input and ends when that ends, hence with its node. When it dies it is started again, and the task under way is
given out again: it only ever wrote below ``tmp/<start-id>/``, and the node alone puts results in place.

Invariants:
1. A task ends: a helper that has not answered by the task's deadline is killed, whatever it waits for.
2. Without a process there is nothing to talk to: the next task starts one first, or says that it cannot.
"""

from __future__ import annotations

import select
import subprocess
import sys
import threading
import time
from typing import IO

from raft_node.observability.logs import get_logger
from raft_node.storage.merges.tasks import (
    CompactionTask,
    Task,
    TaskResult,
    WorkerClient,
    WorkerGoneError,
    WorkerHungError,
)

DEADLINE_S = 20.0
"""How long the smallest task may take: a machine that swaps, or a disk that recovers, needs seconds."""
BYTES_PER_S_MIN = 1 << 20
"""The slowest pace of a task: a disk that needs over a second for a mebibyte, all told, serves nobody."""
PATIENCE_MAX = 16
"""The largest factor by which a task's deadline grows after deadlines that were too short."""
_END_TIMEOUT_S = 1.0
"""How long the end of the process is waited for: while its disk stands still, it cannot end."""

_log = get_logger()


class WorkerProcess:
    """Starts the helper process and gives it one task at a time. All methods may block; ``run`` does for long."""

    def __init__(self, data_dir: str, deadline_s: float = DEADLINE_S, *, at_once: bool = True) -> None:
        """Starts the process, before gRPC has threads, or leaves that to the first task.

        Args:
            data_dir: The directory of the tables.
            deadline_s: How long the smallest task may take before the process is given up.
            at_once: Whether to start it now; one that is rarely needed takes no memory before it is.
        """
        self._data_dir = data_dir
        self._deadline_s = deadline_s
        self._patience = 1
        self._lock = threading.Lock()
        self._closed = False
        self._pid = 0
        self._process: subprocess.Popen[bytes] | None = self._start() if at_once else None

    @property
    def pid(self) -> int:
        """The id of the process that runs now, or of the last one that did."""
        return self._pid

    def run(self, task: Task) -> TaskResult:
        """Has a task done, and waits for it.

        Raises:
            WorkerHungError: The process did not answer in time; it was killed.
            WorkerGoneError: The process ended, or none can be started. The next task tries to start another one.
            FatalError: The task met a damaged file or a disk that fails.
        """
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        deadline_s = self._patience * (self._deadline_s + _input_bytes(task) / BYTES_PER_S_MIN)
        # Before the timer counts: whom it has killed was late by this clock, too.
        ends_s = time.monotonic() + deadline_s
        # A stopped process must be killed to close the pipe to which a long task is still being written.
        timer = threading.Timer(deadline_s, process.kill)
        timer.daemon = True
        timer.start()
        try:
            result = WorkerClient(process.stdin, _Patient(process.stdout, deadline_s)).run(task)
        except WorkerGoneError as error:
            self._end_and_forget(process)
            if time.monotonic() >= ends_s:
                # The process may only have been slow: the same task gets more time when it is given again.
                self._patience = min(2 * self._patience, PATIENCE_MAX)
                _log.warning("storage.worker_hung", deadline_s=round(deadline_s, 1))
                raise WorkerHungError(f"the storage worker did not answer within {deadline_s:.0f} s") from error
            raise
        finally:
            timer.cancel()
        self._patience = 1
        return result

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._end(self._process)
                self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "raft_node.storage", self._data_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._pid = process.pid
        return process

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._process is None:
                if self._closed:
                    raise WorkerGoneError("the node stops")
                try:
                    self._process = self._start()
                except OSError as error:
                    # No memory or no process is left.
                    raise WorkerGoneError(f"the storage worker cannot be started: {error}") from error
            return self._process

    def _end_and_forget(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if self._process is process:
                self._end(process)
                self._process = None
                _log.warning("storage.worker_died", exit_code=process.returncode)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # The kernel ends it once the disk call returns. It writes only to files that are not used otherwise.
            _log.warning("storage.worker_stays", pid=process.pid)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    # Closing flushes the pipe, whose other end may be closed.
                    continue


class _Patient:
    """Reads the answer of the process; waits for its first byte no longer than the deadline.

    A process that waits for a disk cannot even be killed, so that its end of the pipe may stay open.
    """

    def __init__(self, stream: IO[bytes], timeout_s: float) -> None:
        self._stream = stream
        self._timeout_s: float | None = timeout_s

    def read(self, size: int, /) -> bytes:
        """See ``ByteSource``; behaves as at the end of the stream if nothing came in time."""
        if self._timeout_s is not None:
            poll = select.poll()
            poll.register(self._stream, select.POLLIN)
            if not poll.poll(self._timeout_s * 1000 + 1):
                return b""
            # The rest of the answer comes at once.
            self._timeout_s = None
        return self._stream.read(size)


def _input_bytes(task: Task) -> int:
    if isinstance(task, CompactionTask):
        return sum(table.size_bytes for table in task.inputs())
    return task.change_bytes
