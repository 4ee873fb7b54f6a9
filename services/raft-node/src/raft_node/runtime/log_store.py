"""Raft's port on the write-ahead log: reads on the event loop, appends on one writer thread.

Invariants:
1. One write is under way at a time; what arrives meanwhile is the next one (group commit).
2. What readers see is durable: a frame is published on the event loop after its sync has returned.
3. A failed append ends the node: what lies on disk is not known any more.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence

from raft_node.entry import Entry
from raft_node.errors import FatalError
from raft_node.observability.metrics import Metrics
from raft_node.raft.types import HardState, NodeId, Write
from raft_node.storage.wal import Appended, Wal, WalHardState

_CLOSE_TIMEOUT_S = 2.0


def to_raft(state: WalHardState) -> HardState:
    """The hard state as the core knows it."""
    voted_for = NodeId(state.voted_for_name, state.voted_for_incarnation) if state.voted_for_name else None
    return HardState(state.term, voted_for, state.commit_index)


def to_wal(state: HardState) -> WalHardState:
    """The hard state as the log stores it."""
    name, incarnation = state.voted_for or ("", 0)
    return WalHardState(state.term, name, incarnation, state.commit_index)


class LogStore:
    """The log of one node: a ``LogReader`` to the core, and its writer thread.

    Attributes:
        idle: Whether no write is under way.
    """

    def __init__(
        self,
        wal: Wal,
        metrics: Metrics,
        on_durable: Callable[[int], None],
        on_failure: Callable[[FatalError], None],
        *,
        slow_s: float = math.inf,
        on_slow: Callable[[float, int], None] = lambda duration_s, entries: None,
    ) -> None:
        """Starts the writer thread. Requires: a running event loop.

        Args:
            wal: The open log.
            metrics: Where durations and batch sizes are counted.
            on_durable: Called on the event loop with the sequence of a write that is durable.
            on_failure: Called on the event loop when the node must stop.
            slow_s: An append that takes longer than this is worth telling.
            on_slow: Called on the event loop with such an append's duration and number of entries.
        """
        self._wal = wal
        self._metrics = metrics
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._slow_s = slow_s
        self._on_slow = on_slow
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._preparing = False
        self.idle = True
        self._started_s = 0.0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def first_index(self) -> int:
        """See ``LogReader``."""
        return self._wal.first_index

    @property
    def last_index(self) -> int:
        """See ``LogReader``."""
        return self._wal.last_index

    def term(self, index: int) -> int:
        """See ``LogReader``."""
        return self._wal.term(index)

    def entries(self, start: int, end: int, bytes_max: int) -> Sequence[Entry]:
        """See ``LogReader``."""
        return self._wal.entries(start, end, bytes_max)

    @property
    def bytes_written(self) -> int:
        """Bytes that were written to the log since the start."""
        return self._wal.bytes_written

    @property
    def syncs(self) -> int:
        """Syncs of the log since the start."""
        return self._wal.syncs

    @property
    def size_bytes(self) -> int:
        """What the files of the log take on disk."""
        return self._wal.size_bytes

    @property
    def write_age_s(self) -> float:
        """How long the write under way has taken by now; 0 when there is none."""
        return 0.0 if self.idle else self._loop.time() - self._started_s

    def write(self, write: Write) -> None:
        """Hands a write to the writer thread. Requires: ``idle``."""
        assert self.idle, "one write is under way at a time"
        self.idle = False
        self._started_s = self._loop.time()
        self._metrics.wal_group_commit.observe(len(write.entries))
        self._queue.put(write)

    def close(self) -> None:
        """Waits for the write under way, ends the thread and closes the log; a disk that hangs is not waited for."""
        self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._wal.close()

    def _run(self) -> None:
        while (write := self._queue.get()) is not None:
            started, syncs = time.perf_counter(), self._wal.syncs
            hard_state = to_wal(write.hard_state) if write.hard_state is not None else None
            try:
                appended = self._wal.append(hard_state, write.truncate_from, write.entries)
            except FatalError as error:
                self._loop.call_soon_threadsafe(self._on_failure, error)
                return
            duration_s = time.perf_counter() - started
            sync_s = self._wal.last_sync_s if self._wal.syncs > syncs else None
            self._loop.call_soon_threadsafe(self._written, write, appended, duration_s, sync_s)

    def _written(self, write: Write, appended: Appended, duration_s: float, sync_s: float | None) -> None:
        self._metrics.wal_append.observe(duration_s)
        if sync_s is not None:
            self._metrics.wal_fsync.observe(sync_s)
        if duration_s > self._slow_s:
            self._on_slow(duration_s, len(write.entries))
        self._wal.publish(appended)
        self.idle = True
        self._on_durable(write.sequence)
        if self._wal.wants_segment and not self._preparing:
            self._preparing = True
            threading.Thread(target=self._prepare_segment, name="log-segment", daemon=True).start()

    def _prepare_segment(self) -> None:
        try:
            self._wal.prepare_next_segment()
        except FatalError as error:
            self._loop.call_soon_threadsafe(self._on_failure, error)
            return
        self._loop.call_soon_threadsafe(self._prepared)

    def _prepared(self) -> None:
        self._preparing = False
