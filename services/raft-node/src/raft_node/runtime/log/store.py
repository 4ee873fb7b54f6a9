"""Raft's port on the write-ahead log: reads on the event loop, appends on one writer thread.

Invariants:
1. One write is under way at a time; what arrives meanwhile is the next one (group commit). A long one goes to the disk
   in pieces, each durable before the next; it is visible, and told, as a whole.
2. What readers see is durable: a frame is published on the event loop after its sync has returned.
3. A failed append ends the node: what lies on disk is not known any more. One that finds no room for a new segment has
   written nothing, and stays under way until there is room (docs/adr/0003-full-disks.md).
4. A reset takes its turn among the writes, on the same thread; none is taken while it is under way.
5. Entries that were dropped vanish for readers first; their files go afterwards, on a thread of their own.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from doug_wire.tracing import Span
from raft_node.entry import Entry
from raft_node.errors import FatalError, NoSpaceError
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces
from raft_node.raft.types import HardState, NodeId, Write
from raft_node.storage.wal.log import Appended, PrefixDrop, Wal, WalHardState

_CLOSE_TIMEOUT_S = 2.0

RETRY_S = 1.0
"""The pause before a write that found no room for a segment is tried again."""


PIECE_BYTES_MAX = 4 << 20
PIECE_BYTES_MIN = 64 << 10
PIECE_S = 0.25
"""One append hands the disk at most these bytes, and what it takes in this time: a write of 32 MiB on a slow disk would
otherwise look like one that hangs, and cost the leader its office."""


def to_raft(state: WalHardState) -> HardState:
    """The hard state as the core knows it."""
    voted_for = NodeId(state.voted_for_name, state.voted_for_incarnation) if state.voted_for_name else None
    return HardState(state.term, voted_for, state.commit_index)


def to_wal(state: HardState) -> WalHardState:
    """The hard state as the log stores it."""
    name, incarnation = state.voted_for or ("", 0)
    return WalHardState(state.term, name, incarnation, state.commit_index)


@dataclass(frozen=True, slots=True)
class _Reset:
    """An order to have the log go on behind a snapshot."""

    index: int
    term: int
    hard_state: HardState
    done: asyncio.Future[None]


class LogStore:
    """The log of one node: a ``LogReader`` to the core, and its writer thread.

    Attributes:
        last_write_s: How long the newest durable write took: first without its sync, then the sync.
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
        on_compacted: Callable[[int, int], None] = lambda before, after: None,
        on_full: Callable[[NoSpaceError], None] = lambda error: None,
        retry_s: float = RETRY_S,
        traces: NodeTraces | None = None,
    ) -> None:
        """Starts the writer thread. Requires: a running event loop.

        Args:
            wal: The open log.
            metrics: The metrics in which durations and batch sizes are counted.
            on_durable: Called on the event loop with the sequence of a write that is durable.
            on_failure: Called on the event loop when the node must stop.
            slow_s: The duration from which on an append is reported as slow.
            on_slow: Called on the event loop with such an append's duration and number of entries.
            on_compacted: Called on the event loop with the first index before and after entries were dropped.
            on_full: Called on the event loop when there was no room for a segment.
            retry_s: The pause before that is tried again.
            traces: The spans of writes with sampled entries; None while tracing is off.
        """
        self._wal = wal
        self._metrics = metrics
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._slow_s = slow_s
        self._on_slow = on_slow
        self._on_compacted = on_compacted
        self._on_full = on_full
        self._retry_s = retry_s
        self._traces = traces
        self._span: Span | None = None
        self._closing = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Write | _Reset | None] = queue.SimpleQueue()
        self._preparing = False
        self._piece_bytes = PIECE_BYTES_MAX
        self._written_entries = 0  # Of the write under way; only the writer uses it.
        self._writing = False
        self._resetting = False
        self._known_first_index = wal.first_index
        self._started_s = 0.0
        self.last_write_s = (0.0, 0.0)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether no write and no reset is under way."""
        return not self._writing and not self._resetting

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

    @property
    def configurations(self) -> Sequence[int]:
        """See ``LogReader``."""
        return self._wal.configurations

    def entries(self, start: int, end: int, bytes_max: int) -> Sequence[Entry]:
        """See ``LogReader``."""
        return self._wal.entries(start, end, bytes_max)

    @property
    def bytes_written(self) -> int:
        """How many bytes were written to the log since the start."""
        return self._wal.bytes_written

    @property
    def syncs(self) -> int:
        """How often the log was synced since the start."""
        return self._wal.syncs

    @property
    def size_bytes(self) -> int:
        """How many bytes the log's files take on disk."""
        return self._wal.size_bytes

    @property
    def write_age_s(self) -> float:
        """How long the write under way, or the piece of it that is, has taken by now; 0 when there is none."""
        return self._loop.time() - self._started_s if self._writing else 0.0

    @property
    def hard_state(self) -> HardState:
        """The newest hard state that is durable."""
        return to_raft(self._wal.hard_state)

    def first_index_within(self, bytes_max: int) -> int:
        """The smallest first index with which the log's files take at most ``bytes_max``."""
        return self._wal.first_index_within(bytes_max)

    def drop_prefix(self, first_index: int) -> None:
        """Drops the entries below ``first_index`` once the next segment begins; see ``Wal.drop_prefix``."""
        self._wal.drop_prefix(first_index)

    def write(self, write: Write) -> None:
        """Hands a write to the writer thread. Requires: ``idle``."""
        assert self.idle, "one write is under way at a time"
        self._writing = True
        self._started_s = self._loop.time()
        self._metrics.wal_group_commit.observe(len(write.entries))
        if self._traces is not None:
            self._span = self._traces.log_write(write.entries)
        self._queue.put(write)

    async def reset(self, index: int, term: int, hard_state: HardState) -> None:
        """Has the log go on behind a snapshot; returns once that is durable and visible. See ``Wal.reset``.

        A write that is under way ends first. Requires: no write follows before this returns.
        """
        assert not self._resetting, "one reset is under way at a time"
        self._resetting = True
        done: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(_Reset(index, term, hard_state, done))
        await done

    def close(self) -> None:
        """Waits for the write under way, ends the thread and closes the log; a disk that hangs is not waited for."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._wal.close()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            started, syncs = time.perf_counter(), self._wal.syncs
            try:
                appended = self._do(item)
            except FatalError as error:
                self._loop.call_soon_threadsafe(self._on_failure, error)
                return
            if appended is None:
                return
            if isinstance(item, _Reset):
                self._loop.call_soon_threadsafe(self._was_reset, item, appended)
                continue
            duration_s = time.perf_counter() - started
            sync_s = self._wal.last_sync_s if self._wal.syncs > syncs else None
            self._loop.call_soon_threadsafe(self._written, item, appended, duration_s, sync_s)

    def _do(self, item: Write | _Reset) -> list[Appended] | None:
        """Does a write or a reset, as soon as there is room for it; None when the log is closed before."""
        if isinstance(item, _Reset):
            hard_state = to_wal(item.hard_state)
            reset = self._when_there_is_room(lambda: self._wal.reset(item.index, item.term, hard_state))
            return None if reset is None else [reset]
        done: list[Appended] = []
        while True:
            piece = self._piece(item, done)
            started_s = time.perf_counter()
            appended = self._when_there_is_room(partial(self._wal.append, *piece))
            if appended is None:
                return None
            done.append(appended)
            self._written_entries += len(piece[2])
            if self._written_entries >= len(item.entries):
                return done
            self._learn_speed(sum(len(entry.data) for entry in piece[2]), time.perf_counter() - started_s)
            self._loop.call_soon_threadsafe(self._progressed)

    def _piece(self, write: Write, done: Sequence[Appended]) -> tuple[WalHardState | None, int | None, Sequence[Entry]]:
        """The next part of a write that is one frame: what a crash leaves of the whole is a prefix of it."""
        if not done:
            self._written_entries = 0
        first, size, end = self._written_entries, 0, self._written_entries
        while end < len(write.entries) and (end == first or size + len(write.entries[end].data) <= self._piece_bytes):
            size += len(write.entries[end].data)
            end += 1
        entries = write.entries[first:end]
        hard_state = None
        # The term and the vote before any entry of them; the commit index, which may lie in the last piece, with that.
        if write.hard_state is not None and (first == 0 or end == len(write.entries)):
            commit_index = write.hard_state.commit_index
            if end < len(write.entries):
                commit_index = min(commit_index, entries[-1].index)
            hard_state = to_wal(write.hard_state._replace(commit_index=commit_index))
        return hard_state, write.truncate_from if first == 0 else None, entries

    def _learn_speed(self, size: int, duration_s: float) -> None:
        """Sets the next piece to as many bytes as this disk takes in ``PIECE_S``."""
        wanted = int(size * PIECE_S / max(duration_s, 1e-6))
        self._piece_bytes = max(PIECE_BYTES_MIN, min(wanted, PIECE_BYTES_MAX, 2 * self._piece_bytes))

    def _progressed(self) -> None:
        """Notes that a piece of the write under way is durable: a slow disk that goes on does not hang."""
        if self._writing:
            self._started_s = self._loop.time()
        self._prepare_if_wanted()

    def _when_there_is_room(self, act: Callable[[], Appended]) -> Appended | None:
        while True:
            try:
                return act()
            except NoSpaceError as error:
                # Nothing was written, so for the core this is a slow disk.
                self._loop.call_soon_threadsafe(self._on_full, error)
                if self._closing.wait(self._retry_s):
                    return None

    def _written(self, write: Write, appended: list[Appended], duration_s: float, sync_s: float | None) -> None:
        self._metrics.wal_append.observe(duration_s)
        if sync_s is not None:
            self._metrics.wal_fsync.observe(sync_s)
        self.last_write_s = (max(0.0, duration_s - (sync_s or 0.0)), sync_s or 0.0)
        if duration_s > self._slow_s:
            self._on_slow(duration_s, len(write.entries))
        for piece in appended:
            self._wal.publish(piece)
        self._writing = False
        if self._span is not None:
            self._span.end()
            self._span = None
        self._on_durable(write.sequence)
        self._tidy()

    def _was_reset(self, reset: _Reset, appended: list[Appended]) -> None:
        for piece in appended:
            self._wal.publish(piece)
        self._resetting = False
        if not reset.done.done():
            reset.done.set_result(None)
        self._tidy()

    def _tidy(self) -> None:
        """Begins the work that is done beside the writes: dropping files, preparing a segment."""
        self._prepare_if_wanted()
        if self._wal.wants_drop:
            drop = self._wal.take_drop()
            before, self._known_first_index = self._known_first_index, self._wal.first_index
            threading.Thread(target=self._drop, args=(drop,), name="log-drop", daemon=True).start()
            if before < self._known_first_index:
                self._on_compacted(before, self._known_first_index)

    def _prepare_if_wanted(self) -> None:
        if self._wal.wants_segment and not self._preparing:
            self._preparing = True
            threading.Thread(target=self._prepare_segment, name="log-segment", daemon=True).start()

    def _prepare_segment(self) -> None:
        try:
            self._wal.prepare_next_segment()
        except NoSpaceError as error:
            self._loop.call_soon_threadsafe(self._not_prepared, error)
            return
        except FatalError as error:
            self._loop.call_soon_threadsafe(self._on_failure, error)
            return
        self._loop.call_soon_threadsafe(self._prepared)

    def _not_prepared(self, error: NoSpaceError) -> None:
        """Notes that there was no room to prepare a segment; a later write has that tried again."""
        self._on_full(error)
        self._loop.call_later(self._retry_s, self._prepared)

    def _prepared(self) -> None:
        self._preparing = False

    def _drop(self, drop: PrefixDrop) -> None:
        try:
            drop.run()
        except FatalError as error:
            self._loop.call_soon_threadsafe(self._on_failure, error)
            return
        self._loop.call_soon_threadsafe(self._wal.drop_done, drop)
