"""A log store in memory that loses what was not synced.

It keeps one node's entries and hard state as a disk would: a write is begun, becomes durable when its fsync completes,
and a crash in between leaves any prefix of it. The parts of a write reach the disk in the order truncation, entries,
hard state, like the frames of the real log. It knows neither clock nor node; see ``raft_node.raft.types.LogReader`` for
the part that the core reads.

Invariants:
1. Readers see durable entries only.
2. At most one write is under way.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from raft_node.entry import Entry
from raft_node.raft.types import HardState, Write


class SimulatedLog:
    """A durable log with one write under way at most. ``hard_state`` is the durable one."""

    def __init__(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        self.hard_state = hard_state
        self.durable: list[Entry] = list(entries)
        self.writing: Write | None = None

    @property
    def first_index(self) -> int:
        """The first entry; nothing is compacted here."""
        return 1

    @property
    def last_index(self) -> int:
        """The last durable entry."""
        return len(self.durable)

    def term(self, index: int) -> int:
        """The term of a durable entry; 0 for index 0."""
        assert 0 <= index <= len(self.durable), index
        return self.durable[index - 1].term if index else 0

    def entries(self, start: int, end: int, bytes_max: int) -> list[Entry]:
        """The durable entries ``[start, end)``, cut after the one that passes ``bytes_max``."""
        assert 1 <= start <= end <= len(self.durable) + 1, (start, end, len(self.durable))
        chosen: list[Entry] = []
        size = 0
        for entry in self.durable[start - 1 : end - 1]:
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
            assert start == end, f"the write leaves a gap or overwrites: starts at {start}, the log ends before {end}"
        self.writing = write

    def complete(self) -> Write:
        """The fsync of the write under way is done."""
        write = self.writing
        assert write is not None, "no write is under way"
        self.writing = None
        self._keep(write, len(write.entries), hard_state=True)
        return write

    def crash(self, chance: random.Random) -> tuple[str, Sequence[Entry]]:
        """The process dies: of a write under way, a random prefix survives.

        Returns:
            What became of it: ``none`` under way, ``lost``, ``torn`` or ``whole``; and its entries that survived.
        """
        write, self.writing = self.writing, None
        if write is None:
            return "none", ()
        parts = 1 + len(write.entries) + 1
        kept = chance.choice((0, parts, chance.randrange(parts + 1)))
        if kept == 0:
            return "lost", ()
        entries = min(kept - 1, len(write.entries))
        self._keep(write, entries, hard_state=kept == parts)
        return "whole" if kept == parts else "torn", write.entries[:entries]

    def _keep(self, write: Write, entries: int, *, hard_state: bool) -> None:
        if write.truncate_from is not None:
            del self.durable[write.truncate_from - 1 :]
        self.durable.extend(write.entries[:entries])
        if hard_state and write.hard_state is not None:
            self.hard_state = write.hard_state
