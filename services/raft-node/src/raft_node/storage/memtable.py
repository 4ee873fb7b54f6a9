"""The memtable: the newest writes, in a dict; and lazily sorted runs of it for scans.

A dict is written 20 times faster than a sorted structure, and a flush sorts once. Scans sort too, but each only the
keys that came since the last one: a dict keeps its order, so these are the last ones of it. This module knows neither
files nor other memtables.

Invariants:
1. ``size_bytes`` counts every write, also one that replaces another: it bounds the change segment as well.
2. A snapshot never changes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import overload

from raft_node.storage.tables.iterators import Columns, Record, merge, records

Batch = Sequence[tuple[bytes, bytes | None]]
"""Key and value, None for a delete. A later item of the same key wins."""


class Writes(Batch):
    """A batch that is kept for as long as its memtable, as two columns: they need no object for each write.

    Attributes:
        keys: The keys.
        values: The values.
    """

    __slots__ = ("keys", "values")

    def __init__(self, batch: Batch) -> None:
        self.keys = [key for key, _ in batch]
        self.values = [value for _, value in batch]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[bytes, bytes | None]]:
        return zip(self.keys, self.values, strict=True)

    @overload
    def __getitem__(self, place: int) -> tuple[bytes, bytes | None]: ...

    @overload
    def __getitem__(self, place: slice) -> Batch: ...

    def __getitem__(self, place: int | slice) -> tuple[bytes, bytes | None] | Batch:
        if isinstance(place, slice):
            return list(zip(self.keys[place], self.values[place], strict=True))
        return self.keys[place], self.values[place]

    @classmethod
    def of(cls, batch: Batch) -> Writes:
        """A batch as columns; itself if it is."""
        return batch if isinstance(batch, Writes) else cls(batch)


ENTRY_OVERHEAD_BYTES = 110
"""The bytes that a record takes beside its key and value: two bytes objects and a place in a dict."""

_MERGE_BELOW = 4
_PIECE_KEYS = 256
_SORTED_KEYS = 4096
"""The number of keys that are sorted at once: a sort holds the interpreter from its beginning to its end."""


class Memtable:
    """The newest writes, in memory.

    Attributes:
        entries: Key to value, None for a tombstone. Readers may look up; only ``write`` changes it.
        size_bytes: The bytes that were written, bookkeeping included.
        deletes: How many of these writes were deletes: an upper bound of the tombstones.
        applied_index: The last log entry whose writes the memtable includes.
        applied_term: The term of that entry.
    """

    __slots__ = ("_order", "_snapshot", "applied_index", "applied_term", "deletes", "entries", "size_bytes")

    def __init__(self, applied_index: int, applied_term: int) -> None:
        self.entries: dict[bytes, bytes | None] = {}
        self.size_bytes = 0
        self.deletes = 0
        self.applied_index = applied_index
        self.applied_term = applied_term
        self._snapshot: MemtableSnapshot | None = None
        self._order = _Order()

    def write(self, batch: Batch, applied_index: int, applied_term: int) -> None:
        """Takes the writes of log entries up to ``applied_index``."""
        writes = Writes.of(batch)
        keys, values = writes.keys, writes.values
        self.entries.update(zip(keys, values, strict=True))
        try:
            size = sum(map(len, keys)) + sum(map(len, values))  # type: ignore[arg-type]
        except TypeError:
            size = sum(map(len, keys)) + sum([0 if value is None else len(value) for value in values])
            self.deletes += values.count(None)
        self.size_bytes += size + ENTRY_OVERHEAD_BYTES * len(keys)
        self.applied_index = applied_index
        self.applied_term = applied_term
        self._snapshot = None

    def snapshot(self) -> MemtableSnapshot:
        """The present records. Shared until the next write; the copy costs about a millisecond per 100,000 keys."""
        if self._snapshot is None:
            self._snapshot = MemtableSnapshot(self.entries.copy(), self._order)
        return self._snapshot

    def freeze(self) -> None:
        """Notes that no write will follow, so that snapshots need no copy."""
        self._snapshot = MemtableSnapshot(self.entries, self._order)


class MemtableSnapshot:
    """A memtable at one moment; safe to read on any thread."""

    __slots__ = ("_entries", "_order")

    def __init__(self, entries: dict[bytes, bytes | None], order: _Order) -> None:
        self._entries = entries
        self._order = order

    def items(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Record]:
        """The records with ``start <= key < end`` one by one, in key order."""
        return records(self.columns(start, end, reverse), reverse=reverse)

    def columns(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Columns]:
        """The records of a range in pieces, for ``iterators.merge``; lazily sorted."""
        sources = []
        for run in self._order.of(self._entries):
            first = bisect_left(run, start)
            last = len(run) if end is None else bisect_left(run, end)
            if first < last:
                sources.append(self._pieces(run, first, last, reverse))
        yield from merge(sources, reverse=reverse)

    def _pieces(self, run: list[bytes], first: int, last: int, reverse: bool) -> Iterator[Columns]:
        entries = self._entries
        starts = range(first, last, _PIECE_KEYS)
        for place in reversed(starts) if reverse else starts:
            keys = run[place : min(place + _PIECE_KEYS, last)]
            yield Columns(keys, [entries[key] for key in keys], True)


class _Order:
    """Sorted runs of the keys that a memtable had when it was last scanned; each scan sorts the keys that are new.

    Any thread may ask: what it finds is replaced as a whole, and never changed.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: tuple[int, tuple[list[bytes], ...]] = (0, ())

    def of(self, entries: dict[bytes, bytes | None]) -> tuple[list[bytes], ...]:
        """The keys of these entries as sorted runs, of which none has a key of another.

        Requires: a dict keeps its order, so the keys that were known at some time come first.
        """
        count, known = self._known
        if count > len(entries):
            # An older snapshot is still read.
            count, known = 0, ()
        if count == len(entries):
            return known
        runs = [*known]
        new = islice(reversed(entries), len(entries) - count)
        while run := sorted(islice(new, _SORTED_KEYS)):
            runs.append(run)
            # Few runs, each much longer than the next: a key is sorted again a few times only.
            while len(runs) > 1 and len(runs[-2]) <= _MERGE_BELOW * len(runs[-1]):
                last = runs.pop()
                runs[-1] = _merged(runs[-1], last)
        found = tuple(runs)
        if len(entries) > self._known[0]:
            self._known = (len(entries), found)
        return found


def _merged(first: list[bytes], second: list[bytes]) -> list[bytes]:
    """Two sorted runs as one, a few keys at a time, so that other threads have their turn."""
    found: list[bytes] = []
    place, other = 0, 0
    while place < len(first) and other < len(second):
        bound = min(
            first[min(place + _SORTED_KEYS, len(first)) - 1], second[min(other + _SORTED_KEYS, len(second)) - 1]
        )
        place_end, other_end = bisect_right(first, bound, place), bisect_right(second, bound, other)
        found += sorted(first[place:place_end] + second[other:other_end])
        place, other = place_end, other_end
    found += first[place:]
    found += second[other:]
    return found
