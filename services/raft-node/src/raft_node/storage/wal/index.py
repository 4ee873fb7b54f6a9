"""The places of the log's entries and their terms, which the WAL keeps in memory instead of entries.

About 32 bytes for every 64 KiB of log, a pair of numbers for every change of term, one for every change of the members,
and a few for every segment. This module must not touch files.

Invariants:

1. Extents are ordered by their first index, without gaps; each one ends where the next begins, or at ``last_index``.
   Behind that, an extent may hold entries that were truncated: they are never looked at.
2. Terms never fall along the log (the paper, 5.3).
3. The log begins with the first entry of the first segment in the list.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raft_node.entry import Entry, EntryKind
from raft_node.storage.wal.segment import SegmentHeader

_CONFIGURATION = int(EntryKind.CONFIGURATION)

EXTENT_BYTES = 64 << 10
"""An extent ends with the entry that reaches this size: what a read of one entry costs at most, beside the entry."""


class Extent(NamedTuple):
    """Adjacent entries in one frame."""

    first_index: int
    segment_id: int
    offset: int
    size: int


@dataclass(slots=True)
class Segment:
    """One file of the log.

    Attributes:
        segment_id: The segment's number.
        segment_bytes: The size of the file.
        previous_index: The last entry before the segment.
        previous_term: The term of that entry.
        can_begin: Whether the log can begin with it. It cannot once a truncation, here or later, reached back before
            it: then the entries that follow on the truncation need the ones before it.
    """

    segment_id: int
    segment_bytes: int
    previous_index: int
    previous_term: int
    can_begin: bool = True


class Summary(NamedTuple):
    """The places of the entries of one frame, and their terms."""

    extents: list[Extent]
    runs: list[tuple[int, int]]
    """``(first index, term)`` wherever the term differs from that of the entry before, within this frame."""
    last_index: int
    configurations: list[int]
    """The indexes of those that change the members."""


def positions_of(entries: Sequence[Entry], start: int) -> Iterable[tuple[int, int, int, int, int]]:
    """Entries that will lie one behind the other from ``start`` on, each as ``entry.scan`` gives it."""
    for index, term, kind, _, data in entries:
        end = start + len(data)
        yield index, term, kind, start, end
        start = end


def summarise(positions: Iterable[tuple[int, int, int, int, int]], segment_id: int) -> Summary:
    """Cuts the entries of one frame, as ``entry.scan`` gives them, into extents and runs of equal terms.

    Raises:
        ValueError: The indexes of the entries have a gap, or their terms fall.
    """
    extents: list[Extent] = []
    runs: list[tuple[int, int]] = []
    configurations: list[int] = []
    previous_index, previous_term = 0, -1
    first, offset, end = 0, 0, 0
    for index, term, kind, position, entry_end in positions:
        if not first:
            first, offset = index, position
        elif index != previous_index + 1:
            raise ValueError(f"entry {index} follows entry {previous_index}")
        if term != previous_term:
            if term < previous_term:
                raise ValueError(f"entry {index} of term {term} follows one of term {previous_term}")
            runs.append((index, term))
            previous_term = term
        if kind == _CONFIGURATION:
            configurations.append(index)
        previous_index, end = index, entry_end
        if end - offset >= EXTENT_BYTES:
            extents.append(Extent(first, segment_id, offset, end - offset))
            # The next entry begins an extent; until it comes, there is none to close.
            first = index + 1
            offset = end
    if end > offset:
        extents.append(Extent(first, segment_id, offset, end - offset))
    return Summary(extents, runs, previous_index, configurations)


class Terms:
    """The term of every entry, as runs of equal terms."""

    def __init__(self, previous_index: int, previous_term: int) -> None:
        self._starts = [previous_index]
        self._terms = [previous_term]
        self.last_index = previous_index

    @property
    def first_index(self) -> int:
        """The first entry whose term is known; that of the one before it is known as well."""
        return self._starts[0] + 1

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._terms[-1]

    def term(self, index: int) -> int:
        """The term of an entry that is there, or of the one before the first."""
        assert self._starts[0] <= index <= self.last_index, f"entry {index} is not in the log"
        return self._terms[bisect_right(self._starts, index) - 1]

    def truncate(self, index: int) -> None:
        """Drops the entries from ``index`` on."""
        while self._starts[-1] >= index:
            self._starts.pop()
            self._terms.pop()
        self.last_index = min(self.last_index, index - 1)

    def extend(self, summary: Summary) -> None:
        """Takes the entries of one frame in."""
        for index, term in summary.runs:
            if term != self._terms[-1]:
                self._starts.append(index)
                self._terms.append(term)
        self.last_index = summary.last_index

    def drop_before(self, index: int) -> None:
        """Forgets the terms of the entries below ``index``."""
        place = bisect_right(self._starts, index) - 1
        assert place >= 0, f"the terms begin behind entry {index}"
        del self._starts[:place], self._terms[:place]
        self._starts[0] = index

    def copy(self) -> Terms:
        """An independent copy."""
        other = Terms(0, 0)
        other._starts = list(self._starts)
        other._terms = list(self._terms)
        other.last_index = self.last_index
        return other


class WalIndex:
    """The index of the entries that readers may see.

    Attributes:
        first_index: The first entry.
        segments: The files that hold the entries.
        terms: The terms of the entries.
        configurations: The indexes of entries that change the members, which a start so finds without reading all.
    """

    def __init__(self, previous_index: int, previous_term: int) -> None:
        self.first_index = previous_index + 1
        self.segments: list[Segment] = []
        self.configurations: list[int] = []
        self.terms = Terms(previous_index, previous_term)
        self._firsts = array("Q")
        self._segments = array("Q")
        self._offsets = array("Q")
        self._sizes = array("Q")

    @property
    def last_index(self) -> int:
        """The last entry; ``first_index - 1`` when there is none."""
        return self.terms.last_index

    def truncate(self, index: int) -> None:
        """Drops the entries from ``index`` on."""
        self.terms.truncate(index)
        while self.configurations and self.configurations[-1] >= index:
            self.configurations.pop()
        for segment in self.segments:
            if segment.previous_index >= index:
                segment.can_begin = False
        while self._firsts and self._firsts[-1] >= index:
            for column in (self._firsts, self._segments, self._offsets, self._sizes):
                column.pop()

    def begin_segment(self, header: SegmentHeader) -> None:
        """Takes a new segment in, behind all others."""
        self.segments.append(
            Segment(header.segment_id, header.segment_bytes, header.previous_index, header.previous_term)
        )

    def beginning(self, first_index: int) -> Segment:
        """The last segment with which the log can begin so that this entry is still in it."""
        for segment in reversed(self.segments):
            if segment.can_begin and segment.previous_index < first_index:
                return segment
        return self.segments[0]

    def drop_before(self, segment_id: int) -> list[Segment]:
        """Lets the log begin with a segment; returns the segments before it. Requires: the log can begin with it."""
        place = next((place for place, one in enumerate(self.segments) if one.segment_id >= segment_id), 0)
        dropped, self.segments = self.segments[:place], self.segments[place:]
        first = self.segments[0]
        assert first.segment_id == segment_id and first.can_begin, f"the log can not begin with segment {segment_id}"
        extents = bisect_left(self._segments, segment_id)
        for column in (self._firsts, self._segments, self._offsets, self._sizes):
            del column[:extents]
        self.first_index = first.previous_index + 1
        self.terms.drop_before(first.previous_index)
        del self.configurations[: bisect_left(self.configurations, self.first_index)]
        return dropped

    def extend(self, summary: Summary) -> None:
        """Takes the entries of one frame in."""
        for first_index, segment_id, offset, size in summary.extents:
            self._firsts.append(first_index)
            self._segments.append(segment_id)
            self._offsets.append(offset)
            self._sizes.append(size)
        self.configurations += summary.configurations
        self.terms.extend(summary)

    def locate(self, index: int) -> tuple[Extent, int]:
        """The extent that holds an entry, and the index behind its last entry that is still in the log."""
        place = bisect_right(self._firsts, index) - 1
        extent = Extent(self._firsts[place], self._segments[place], self._offsets[place], self._sizes[place])
        end = self._firsts[place + 1] if place + 1 < len(self._firsts) else self.last_index + 1
        return extent, end
