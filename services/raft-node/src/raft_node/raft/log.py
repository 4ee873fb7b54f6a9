"""The log as the protocol sees it: the stored entries, and a tail of recent ones in memory.

It knows neither files nor messages. Stored entries come from a ``LogReader``; entries that are not durable yet exist
here alone. The whole log is never kept in memory.

Invariants:

1. ``first_index - 1 <= applied_index <= commit_index <= last_index``; none of the three goes back, but for
   ``last_index`` at a conflict, which is always above ``commit_index``.
2. Memory holds ``[_offset, last_index]`` without a gap, and ``_offset <= stable_index + 1``: what is not in memory is
   stored.
3. The stored log equals this one up to ``stable_index``. Behind it the store may still hold a deposed leader's entries;
   the next write drops them.
4. The prefix of the stored log may go at any time, as far as it was applied. After ``restore`` this log begins behind
   the snapshot even while the store has not followed yet.

Reference: the paper, 5.3 (log matching) and figure 2.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, islice
from operator import attrgetter

from raft_node.entry import Entry
from raft_node.raft.types import LogReader

_DATA = attrgetter("data")

_ENTRY_OBJECT_BYTES = 300
"""The memory that an entry takes beside its bytes: the tuple, its numbers, and two places in lists."""


class RaftLog:
    """The log of one node.

    Attributes:
        last_index: The last entry, durable or not.
        stable_index: The last entry up to which the stored log is the same.
        commit_index: The last entry known to be committed.
        applied_index: The last entry that the state machine has applied.
        last_timestamp_us: The log time of the last entry.
    """

    def __init__(
        self, reader: LogReader, commit_index: int, applied_index: int, cache_bytes_max: int, timestamp_us: int = 0
    ) -> None:
        self._reader = reader
        self._cache_bytes_max = cache_bytes_max
        last = reader.last_index
        self.last_index = last
        self.stable_index = last
        self.applied_index = applied_index
        self.commit_index = max(min(commit_index, last), applied_index)
        self.last_timestamp_us = timestamp_us
        if last >= reader.first_index:
            self.last_timestamp_us = reader.entries(last, last + 1, 1)[0].timestamp_us
        # Where the last restored snapshot ends.
        self._snapshot_index = self._snapshot_term = 0
        # The tail in memory; _ends[i] is where entry i ends in the sequence of all bytes ever appended here.
        self._offset = last + 1
        self._entries: list[Entry] = []
        self._ends: list[int] = []
        self._begin = 0
        # How far the store will reach, and how far it will agree, once the write under way is durable.
        self._stored_index = last
        self._writing_index: int | None = None
        assert reader.first_index - 1 <= applied_index <= last, "the state and the log do not meet"

    @property
    def first_index(self) -> int:
        """The first entry that the log holds."""
        return max(self._reader.first_index, self._snapshot_index + 1)

    @property
    def last_term(self) -> int:
        """The term of the last entry; 0 for an empty log."""
        return self.term(self.last_index)

    def stored_configurations(self) -> list[Entry]:
        """The CONFIGURATION entries behind the applied index. Requires: all entries are stored, as at a start."""
        reader = self._reader
        return [reader.entries(index, index + 1, 1)[0] for index in reader.configurations if index > self.applied_index]

    @property
    def unapplied_bytes(self) -> int:
        """The bytes in memory of entries that were not applied yet."""
        return self._end_of(self.last_index) - self._end_of(max(self.applied_index, self._offset - 1))

    def term(self, index: int) -> int:
        """The term of an entry in ``[first_index - 1, last_index]``; 0 for index 0."""
        assert index <= self.last_index, "beyond the log"
        if index >= self._offset:
            return self._entries[index - self._offset].term
        if index == self._snapshot_index:
            return self._snapshot_term
        return self._reader.term(index)

    def entries(self, start: int, end: int, bytes_max: int) -> Sequence[Entry]:
        """The entries ``[start, end)``, cut after the one that reaches ``bytes_max``, or where memory begins.

        At least one if there is one.
        """
        assert start <= end <= self.last_index + 1, "beyond the log"
        if start < self._offset:
            return self._reader.entries(start, min(end, self._offset), bytes_max)
        low, high = start - self._offset, end - self._offset
        cut = bisect_left(self._ends, self._end_of(start - 1) + bytes_max, low, high)
        return self._entries[low : min(cut + 1, high)]

    def append(self, entries: Sequence[Entry]) -> None:
        """Appends entries that follow the last one."""
        assert entries[0].index == self.last_index + 1, "a gap"
        end = self._end_of(self.last_index)
        self._entries.extend(entries)
        self._ends.extend(islice(accumulate(map(len, map(_DATA, entries)), initial=end), 1, None))
        self.last_index += len(entries)
        self.last_timestamp_us = entries[-1].timestamp_us

    def matches(self, index: int, term: int) -> bool:
        """Whether the entry at ``index`` is there and has this term."""
        return self.first_index - 1 <= index <= self.last_index and self.term(index) == term

    def merge(self, entries: Sequence[Entry]) -> bool:
        """Takes over a leader's entries where the log differs; returns False if all of them were there already.

        Entries are dropped only from the first that really conflicts (the paper, 5.3): a late or repeated message
        must not cut off what came after it.

        Requires: the entry before them matches, and they all lie above ``commit_index``.
        """
        if not entries:
            return False
        first, last = entries[0].index, entries[-1].index
        overlap_end = min(last, self.last_index)
        new = overlap_end + 1
        # Equal index and term mean equal logs up to there, so one look at the end of the overlap settles most cases.
        if overlap_end >= first and self.term(overlap_end) != entries[overlap_end - first].term:
            new = first
            while self.term(new) == entries[new - first].term:
                new += 1
            self._truncate(new)
        if new > last:
            return False
        self.append(entries[new - first :] if new > first else entries)
        return True

    def last_index_of_term_at_most(self, index: int, term: int) -> int:
        """The last entry at or before ``index`` whose term is at most ``term``.

        Terms never decrease along the log, so this is a binary search. If all are greater, or ``index`` lies before the
        log, the answer is not above the entry before the first.
        """
        low, high = self.first_index - 1, min(index, self.last_index)
        if high <= low or self.term(high) <= term:
            return high
        # The answer lies in [low, high): the term at high is too great.
        while high - low > 1:
            middle = (low + high) // 2
            if self.term(middle) <= term:
                low = middle
            else:
                high = middle
        return low

    def commit_to(self, index: int) -> bool:
        """Moves the commit index on, never back; returns whether it moved."""
        assert index <= self.last_index, "what is committed must be in the log"
        if index <= self.commit_index:
            return False
        self.commit_index = index
        return True

    def applied_to(self, index: int) -> None:
        """Notes that the state machine has applied everything up to ``index``."""
        assert self.applied_index <= index <= self.commit_index, "applied beyond the commit index, or backwards"
        self.applied_index = index
        self._evict()

    def restore(self, index: int, term: int, timestamp_us: int) -> bool:
        """Begins anew behind a snapshot; True if the entries behind it stay, because ``index`` and ``term`` match.

        The store follows on its own, by the same rule, before the next write.

        Requires: ``index`` lies above ``commit_index``.
        """
        assert index > self.commit_index, "a log never goes backwards"
        keeps = self.matches(index, term)
        self._snapshot_index, self._snapshot_term = index, term
        if not keeps:
            self._entries.clear()
            self._ends.clear()
            self._offset = index + 1
            self.last_index = self.stable_index = index
            self.last_timestamp_us = timestamp_us
            if self._writing_index is not None:
                self._writing_index = index
        else:
            self.stable_index = max(self.stable_index, index)
            if self._writing_index is not None:
                self._writing_index = max(self._writing_index, index)
        # The store may be left with other entries behind the snapshot: the next ones go in their place.
        self._stored_index = max(self._stored_index, index)
        self.commit_index = self.applied_index = index
        self._evict()
        return keeps

    def begin_write(self) -> tuple[int | None, Sequence[Entry]]:
        """The next write to the store: the index from which it must drop its entries, and the entries to append.

        Requires: no write is under way.
        """
        assert self._writing_index is None, "one write at a time"
        start = self.stable_index + 1
        entries = self._entries[start - self._offset :]
        self._writing_index = self.last_index
        if not entries:
            left_by_snapshot = self.stable_index == self._snapshot_index
            assert left_by_snapshot or self._stored_index == self.stable_index, (
                "a log is only cut where other entries take their place"
            )
            return None, entries
        truncate_from = start if self._stored_index > self.stable_index else None
        self._stored_index = self.last_index
        return truncate_from, entries

    def end_write(self) -> None:
        """Notes that the write under way is durable."""
        assert self._writing_index is not None, "no write is under way"
        self.stable_index = self._writing_index
        self._writing_index = None
        self._evict()

    def validate(self) -> None:
        """Checks the invariants that are cheap to check."""
        assert self.first_index - 1 <= self.applied_index <= self.commit_index <= self.last_index
        assert self.stable_index <= self.last_index
        assert self._offset <= self.stable_index + 1
        assert self._offset + len(self._entries) == self.last_index + 1
        assert len(self._ends) == len(self._entries)
        if self._entries:
            assert self._entries[0].index == self._offset
            assert self._entries[-1].index == self.last_index

    def _end_of(self, index: int) -> int:
        position = index - self._offset
        return self._ends[position] if position >= 0 else self._begin

    def _truncate(self, index: int) -> None:
        assert index > self.commit_index, "a committed entry conflicts with the leader's: the logs cannot be trusted"
        if index >= self._offset:
            del self._entries[index - self._offset :]
            del self._ends[index - self._offset :]
        else:
            # The conflict lies before what is in memory: memory begins anew there, hiding what is stored behind it.
            self._entries.clear()
            self._ends.clear()
            self._offset = index
        self.last_index = index - 1
        self.stable_index = min(self.stable_index, self.last_index)
        if self._writing_index is not None:
            self._writing_index = min(self._writing_index, self.last_index)

    def _evict(self) -> None:
        """Drops from memory old entries that the store holds, down to three quarters of the bound."""
        count = len(self._entries)
        if not count:
            return
        size = self._ends[-1] - self._begin + count * _ENTRY_OBJECT_BYTES
        if size <= self._cache_bytes_max:
            return
        # Entries that are not applied yet are needed soon; they are dropped only at twice the bound, and read back.
        wanted = self.commit_index if size > 2 * self._cache_bytes_max else self.applied_index
        allowed = min(self.stable_index, wanted) + 1 - self._offset
        surplus = size - self._cache_bytes_max * 3 // 4
        needed = 1 + bisect_left(
            range(count), surplus, key=lambda i: self._ends[i] - self._begin + (i + 1) * _ENTRY_OBJECT_BYTES
        )
        drop = min(allowed, needed, count)
        if drop > 0:
            self._begin = self._ends[drop - 1]
            del self._entries[:drop]
            del self._ends[:drop]
            self._offset += drop
