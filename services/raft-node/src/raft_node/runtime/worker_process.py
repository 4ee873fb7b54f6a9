"""The helper process that flushes and compacts, seen from its node.

It is started with exec, not forked, so that gRPC's threads and locks are never copied. It reads tasks from its
standard input and ends when that ends, hence with its node. When it dies it is started again, and the task under way is
given out again: it only ever wrote below ``tmp/<start-id>/``, and the node alone puts results in place.
"""

from __future__ import annotations

import subprocess
import sys
import threading

from raft_node.observability.logs import get_logger
from raft_node.storage.tasks import Task, TaskResult, WorkerClient, WorkerGoneError

_log = get_logger()


class WorkerProcess:
    """Starts the helper process and gives it one task at a time. All methods may block; ``run`` does for long."""

    def __init__(self, data_dir: str) -> None:
        """Starts the process, before gRPC has threads."""
        self._data_dir = data_dir
        self._lock = threading.Lock()
        self._closed = False
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The process that runs now."""
        return self._process.pid

    def run(self, task: Task) -> TaskResult:
        """Has a task done, and waits for it.

        Raises:
            WorkerGoneError: The process ended; another one has been started.
            FatalError: The task met a damaged file or a disk that fails.
        """
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            return WorkerClient(process.stdin, process.stdout).run(task)
        except WorkerGoneError:
            self._restart(process)
            raise

    def close(self) -> None:
        """Ends the process; whatever it was doing is of no use any more."""
        with self._lock:
            self._closed = True
            self._end(self._process)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "raft_node.storage", self._data_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def _restart(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._end(process)
            if not self._closed:
                _log.warning("storage.worker_died", exit_code=process.returncode)
                try:
                    self._process = self._start()
                except OSError as error:
                    # No memory or no process left; the next task tries again with the dead one and comes back here.
                    raise WorkerGoneError(f"the storage worker cannot be started: {error}") from error

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    # Closing flushes, and nobody reads any more.
                    continue
