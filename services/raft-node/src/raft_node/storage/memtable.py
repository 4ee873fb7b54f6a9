"""The memtable: the newest writes, in a dict; and lazily sorted runs of it for scans.

A dict is written 20 times faster than a sorted structure, and a flush sorts once. Scans sort what they need: the keys
in insertion order are cut into runs that are each sorted in a millisecond or two, and merged as far as the scan goes.
This module knows neither files nor other memtables.

Invariants:
1. ``size_bytes`` counts every write, also one that replaces another: it bounds the change segment as well.
2. A snapshot never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from raft_node.storage.iterators import Columns, Record, merge, records

Batch = Sequence[tuple[bytes, bytes | None]]
"""Key and value, None for a delete. A later item of the same key wins."""

ENTRY_OVERHEAD_BYTES = 110
"""Two bytes objects and a place in a dict."""

_RUN_KEYS = 4096
_PIECE_KEYS = 256


class Memtable:
    """The newest writes.

    Attributes:
        entries: Key to value, None for a tombstone. Readers may look up; only ``write`` changes it.
        size_bytes: What was written, bookkeeping included.
        applied_index: The last log entry it includes.
        applied_term: That entry's term.
    """

    __slots__ = ("_snapshot", "applied_index", "applied_term", "entries", "size_bytes")

    def __init__(self, applied_index: int, applied_term: int) -> None:
        self.entries: dict[bytes, bytes | None] = {}
        self.size_bytes = 0
        self.applied_index = applied_index
        self.applied_term = applied_term
        self._snapshot: MemtableSnapshot | None = None

    def write(self, batch: Batch, applied_index: int, applied_term: int) -> None:
        """Takes the writes of log entries up to ``applied_index``."""
        self.entries.update(batch)
        try:
            size = sum(map(len, chain.from_iterable(batch)))  # type: ignore[arg-type]
        except TypeError:
            size = sum([len(key) + (0 if value is None else len(value)) for key, value in batch])
        self.size_bytes += size + ENTRY_OVERHEAD_BYTES * len(batch)
        self.applied_index = applied_index
        self.applied_term = applied_term
        self._snapshot = None

    def snapshot(self) -> MemtableSnapshot:
        """What it holds now. Shared until the next write; the copy costs about a millisecond per 100,000 keys."""
        if self._snapshot is None:
            self._snapshot = MemtableSnapshot(self.entries.copy())
        return self._snapshot

    def freeze(self) -> None:
        """No write will follow, so that snapshots need no copy."""
        self._snapshot = MemtableSnapshot(self.entries)


class MemtableSnapshot:
    """A memtable at one moment; safe to read on any thread."""

    __slots__ = ("_entries",)

    def __init__(self, entries: dict[bytes, bytes | None]) -> None:
        self._entries = entries

    def items(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Record]:
        """The records with ``start <= key < end`` one by one, in key order."""
        return records(self.columns(start, end, reverse), reverse=reverse)

    def columns(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Columns]:
        """The same in pieces, for ``iterators.merge``; lazily sorted."""
        runs = []
        keys = iter(self._entries)
        while some := list(islice(keys, _RUN_KEYS)):
            if end is None:
                run = [key for key in some if key >= start] if start else some
            else:
                run = [key for key in some if start <= key < end]
            if run:
                run.sort()
                runs.append(self._pieces(run, reverse))
        yield from merge(runs, reverse=reverse)

    def _pieces(self, run: list[bytes], reverse: bool) -> Iterator[Columns]:
        entries = self._entries
        starts = range(0, len(run), _PIECE_KEYS)
        for first in reversed(starts) if reverse else starts:
            keys = run[first : first + _PIECE_KEYS]
            yield Columns(keys, [entries[key] for key in keys], True)
