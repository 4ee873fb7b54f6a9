"""Lets the log go where it is not needed any more, by ``raft_node.runtime.log.retention``.

It looks at the figures now and then and tells the log where it may begin; the log itself drops whole segments when it
begins a new one. Runs on the event loop; nothing here blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from raft_node.runtime.log.retention import LogFigures, first_index_to_keep


class TrimmedLog(Protocol):
    """The log as the trimmer sees it."""

    @property
    def first_index(self) -> int:
        """The first entry that is still there."""

    @property
    def size_bytes(self) -> int:
        """What its files take."""

    def first_index_within(self, bytes_max: int) -> int:
        """The smallest index with which the files take at most so much."""

    def drop_prefix(self, first_index: int) -> None:
        """Lets the entries before it go."""


class FlushedEngine(Protocol):
    """The engine as the trimmer sees it."""

    @property
    def flushed_index(self) -> int:
        """The last entry in the SSTables."""

    def rotate(self) -> None:
        """Has what is in memory flushed."""


class LogTrimmer:
    """Decides for one node."""

    def __init__(
        self,
        log: TrimmedLog,
        engine: FlushedEngine,
        keep_bytes: int,
        bytes_max: int,
        slowest_match: Callable[[], int | None],
        snapshots: Callable[[], Sequence[int]],
        on_rotated: Callable[[], None],
    ) -> None:
        """Builds it.

        Args:
            log: The log.
            engine: What is durable elsewhere.
            keep_bytes: So much of the log is kept for followers that lag behind or restart.
            bytes_max: So much of it is kept at most for a follower that is healthy but slow.
            slowest_match: What the slowest healthy follower holds, while this node leads.
            snapshots: The last entries of the snapshots that are held for others.
            on_rotated: Called when a flush was asked for.
        """
        self._log = log
        self._engine = engine
        self._keep_bytes = keep_bytes
        self._bytes_max = bytes_max
        self._slowest_match = slowest_match
        self._snapshots = snapshots
        self._on_rotated = on_rotated

    def look(self) -> None:
        """Tells the log where it may begin. Requires: no snapshot is being installed."""
        log = self._log
        if log.size_bytes <= self._keep_bytes:
            return
        figures = LogFigures(
            self._engine.flushed_index,
            log.first_index_within(self._keep_bytes),
            log.first_index_within(self._bytes_max),
            self._slowest_match(),
            self._snapshots(),
        )
        first = first_index_to_keep(figures)
        if first > log.first_index:
            log.drop_prefix(first)
        if figures.bound_from > figures.flushed_index + 1:
            # Entries that leave nothing in memory, such as refused commands, would never bring a flush about.
            self._engine.rotate()
            self._on_rotated()
