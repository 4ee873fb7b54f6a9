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
        """The first entry that the log holds."""

    @property
    def size_bytes(self) -> int:
        """How many bytes the log's files take."""

    def first_index_within(self, bytes_max: int) -> int:
        """The smallest first index with which the files take at most ``bytes_max``."""

    def drop_prefix(self, first_index: int) -> None:
        """Drops the entries before ``first_index``."""


class FlushedEngine(Protocol):
    """The engine as the trimmer sees it."""

    @property
    def flushed_index(self) -> int:
        """The last entry in the SSTables."""

    def rotate(self) -> None:
        """Has the memtable flushed."""


class LogTrimmer:
    """Decides where one node's log may begin."""

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
            engine: The engine, whose tables make the log's beginning dispensable.
            keep_bytes: How many bytes of the log are kept for followers that lag behind or restart.
            bytes_max: How many bytes are kept at most for a follower that is healthy but slow.
            slowest_match: Gives the last entry of the slowest healthy follower, while this node leads.
            snapshots: Gives the last entries of the snapshots that are held for followers.
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
