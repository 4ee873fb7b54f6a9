"""Log stores that lose unsynced writes in a crash.

They keep one node's entries and hard state as a disk would: a write is begun, becomes durable when its fsync completes,
and after a crash in between a part of it may be there. They know neither clock nor node.

``MemoryLog`` is a list. A crash leaves any prefix of the write under way, in the order term and vote, truncation,
entries, commit index; that is more than the real log does, whose frames are there as a whole or not at all.
``WalLog`` is the real ``raft_node.storage.wal.log.Wal`` on a disk in memory, with small segments. A crash cuts the
power before any operation of the append, and then tears the unsynced bytes.

Invariants:
1. Readers see durable entries only.
2. At most one write is under way.
3. The entry before the first one keeps its term.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from raft_node.entry import Entry, EntryKind
from raft_node.raft.types import HardState, LogReader, NodeId, Write
from raft_node.storage.wal.log import Wal, WalHardState, WalOptions
from raft_testing.files import MemoryFileSystem

Fate = Literal["none", "lost", "torn", "whole"]
"""The fate of the write under way in a crash: there was none; nothing, a part, or all of it is there."""

_SEGMENT_BYTES = 4096
_DIRECTORY = "wal"


class Reset(NamedTuple):
    """The place behind which a log begins anew: the last index of a snapshot, and the term of that entry."""

    last_index: int
    term: int


class SimulatedLog(LogReader, Protocol):
    """A node's log, with at most one write under way."""

    writing: Write | None

    @property
    def hard_state(self) -> HardState:
        """The durable hard state."""

    def begin(self, write: Write) -> None:
        """Starts a write; nothing of it is durable yet."""

    def complete(self) -> Write:
        """The fsync of the write under way is done."""

    def drop_prefix(self, first_index: int) -> None:
        """Drops entries below ``first_index``, at once or later, all or some of them."""

    def reset(self, reset: Reset) -> None:
        """Goes on behind a snapshot; the log's entries stay only if it has the snapshot's last entry with that term."""

    def crash(self, chance: random.Random, reset: Reset | None = None) -> tuple[Fate, Sequence[Entry]]:
        """Cuts the power, perhaps in the middle of a reset.

        Returns:
            The fate of the write under way, and those of its entries that survived.
        """


class MemoryLog:
    """A log that is a list."""

    def __init__(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        self.hard_state = hard_state
        self.durable: list[Entry] = list(entries)
        self.writing: Write | None = None
        self.first_index = 1
        self._previous_term = 0

    @property
    def last_index(self) -> int:
        """The last durable entry."""
        return self.first_index + len(self.durable) - 1

    def term(self, index: int) -> int:
        """The term of a durable entry, or of the one before the first; 0 for index 0."""
        position = index - self.first_index
        assert -1 <= position < len(self.durable), index
        return self.durable[position].term if position >= 0 else self._previous_term

    @property
    def configurations(self) -> list[int]:
        """The indexes of the durable CONFIGURATION entries."""
        return [entry.index for entry in self.durable if entry.kind == EntryKind.CONFIGURATION]

    def entries(self, start: int, end: int, bytes_max: int) -> list[Entry]:
        """The durable entries ``[start, end)``, cut after the one that passes ``bytes_max``."""
        first = self.first_index
        assert first <= start <= end <= self.last_index + 1, (start, end, first, self.last_index)
        chosen: list[Entry] = []
        size = 0
        for entry in self.durable[start - first : end - first]:
            chosen.append(entry)
            size += len(entry.data)
            if size >= bytes_max:
                break
        return chosen

    def begin(self, write: Write) -> None:
        """Starts a write; nothing of it is durable yet."""
        assert self.writing is None, "one write is under way"
        if write.entries:
            start = write.entries[0].index
            end = self.last_index + 1 if write.truncate_from is None else write.truncate_from
            assert start == end <= self.last_index + 1, f"a gap: {start} is written, the log ends at {self.last_index}"
            assert end >= self.first_index, f"{end} was compacted away"
        self.writing = write

    def complete(self) -> Write:
        """The fsync of the write under way is done."""
        write = self.writing
        assert write is not None, "no write is under way"
        self.writing = None
        self._keep(write)
        return write

    def drop_prefix(self, first_index: int) -> None:
        """Drops the entries below ``first_index``."""
        if first_index > self.first_index:
            previous_term = self.term(first_index - 1)
            del self.durable[: first_index - self.first_index]
            self.first_index, self._previous_term = first_index, previous_term

    def reset(self, reset: Reset) -> None:
        """Goes on behind a snapshot."""
        assert self.writing is None, "a write is under way"
        index, term = reset
        assert index >= self.first_index - 1, f"entry {index} was compacted away"
        if index > self.last_index or self.term(index) != term:
            self.durable.clear()
            self.first_index, self._previous_term = index + 1, term

    def crash(self, chance: random.Random, reset: Reset | None = None) -> tuple[Fate, Sequence[Entry]]:
        """Keeps a random prefix of the write under way; the reset is done or not."""
        write, self.writing = self.writing, None
        if reset is not None and chance.random() < 0.5:
            self.reset(reset)
        if write is None:
            return "none", ()
        # Term and vote, truncation, entries, commit index.
        parts = 2 + len(write.entries) + 1
        kept = chance.choice((0, parts, chance.randrange(parts + 1)))
        if kept == 0:
            return "lost", ()
        if kept == parts:
            self._keep(write)
            return "whole", write.entries
        entries = write.entries[: max(0, kept - 2)]
        hard_state = write.hard_state
        if hard_state is not None:
            hard_state = hard_state._replace(commit_index=self.hard_state.commit_index)
        self._keep(Write(write.sequence, hard_state, write.truncate_from if kept > 1 else None, entries))
        return "torn", entries

    def _keep(self, write: Write) -> None:
        if write.truncate_from is not None:
            del self.durable[write.truncate_from - self.first_index :]
        self.durable.extend(write.entries)
        if write.hard_state is not None:
            self.hard_state = write.hard_state


class PowerCutError(Exception):
    """The power was cut in the middle of an operation."""


class CuttableFileSystem(MemoryFileSystem):
    """A disk whose power is cut before the n-th next operation (1 is the next one); 0: never."""

    def __init__(self) -> None:
        super().__init__()
        self.cut_at = 0

    def _begin(self, name: str, path: str) -> None:
        if self.cut_at == 1:
            raise PowerCutError
        self.cut_at = max(0, self.cut_at - 1)
        super()._begin(name, path)


class WalLog:
    """The real log on a disk in memory."""

    def __init__(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        self.writing: Write | None = None
        self._disk = CuttableFileSystem()
        self._wal = self._open()
        self._append(Write(0, hard_state, None, entries))

    @property
    def hard_state(self) -> HardState:
        """The durable hard state."""
        state = self._wal.hard_state
        voted_for = NodeId(state.voted_for_name, state.voted_for_incarnation) if state.voted_for_name else None
        return HardState(state.term, voted_for, state.commit_index)

    @property
    def first_index(self) -> int:
        """The first entry that is still there."""
        return self._wal.first_index

    @property
    def last_index(self) -> int:
        """The last durable entry."""
        return self._wal.last_index

    def term(self, index: int) -> int:
        """The term of a durable entry, or of the one before the first; 0 for index 0."""
        return self._wal.term(index)

    @property
    def configurations(self) -> Sequence[int]:
        """The indexes of the durable CONFIGURATION entries."""
        return self._wal.configurations

    def entries(self, start: int, end: int, bytes_max: int) -> Sequence[Entry]:
        """The durable entries ``[start, end)``, cut after the one that passes ``bytes_max``."""
        return self._wal.entries(start, end, bytes_max)

    def begin(self, write: Write) -> None:
        """Starts a write; it is written to the disk when it completes."""
        assert self.writing is None, "one write is under way"
        self.writing = write

    def complete(self) -> Write:
        """The fsync of the write under way is done."""
        write = self.writing
        assert write is not None, "no write is under way"
        self.writing = None
        self._append(write)
        if self._wal.wants_segment and write.sequence % 2:
            self._wal.prepare_next_segment()
        return write

    def drop_prefix(self, first_index: int) -> None:
        """Drops whole segments; those that the newest header names as dropped are removed now."""
        self._wal.drop_prefix(max(first_index, self.first_index))
        self._remove_dropped()

    def reset(self, reset: Reset) -> None:
        """Goes on behind a snapshot."""
        assert self.writing is None, "a write is under way"
        self._wal.publish(self._wal.reset(reset.last_index, reset.term, self._wal.hard_state))
        self._remove_dropped()

    def crash(self, chance: random.Random, reset: Reset | None = None) -> tuple[Fate, Sequence[Entry]]:
        """Cuts the power before an operation of the append or reset under way, and opens the log again."""
        write, self.writing = self.writing, None
        before = self.last_index if write is None or write.truncate_from is None else write.truncate_from - 1
        state_before = self.hard_state
        if write is not None or reset is not None:
            self._disk.cut_at = chance.choice((1, 2, 2, 3, 3, 5, 8))
            with contextlib.suppress(PowerCutError):
                if reset is not None:
                    self.reset(reset)
                if write is not None:
                    self._append(write)
            self._disk.cut_at = 0
        self._disk.crash(chance)
        self._wal = self._open()
        if write is None:
            return "none", ()
        # A frame is there as a whole or not at all, so if any part of the write is found, all of it is there.
        written = write.entries[-1].index if write.entries else before
        whole = self.last_index == written and self.hard_state == (write.hard_state or state_before)
        if whole and (not write.entries or self.term(written) == write.entries[-1].term):
            return "whole", write.entries
        return "torn" if self._wal.recovery_notes else "lost", ()

    def _append(self, write: Write) -> None:
        state = write.hard_state
        if state is not None:
            name, incarnation = state.voted_for or ("", 0)
            wal_state: WalHardState | None = WalHardState(state.term, name, incarnation, state.commit_index)
        else:
            wal_state = None
        self._wal.publish(self._wal.append(wal_state, write.truncate_from, write.entries))

    def _remove_dropped(self) -> None:
        if self._wal.wants_drop:
            drop = self._wal.take_drop()
            drop.run()
            self._wal.drop_done(drop)

    def _open(self) -> Wal:
        return Wal.open(self._disk, _DIRECTORY, WalOptions(segment_bytes=_SEGMENT_BYTES))
