"""Which SSTables make up the state: an immutable ``Version``, changed by a ``VersionEdit``.

Level 0 holds flushed memtables, newest first; their key ranges overlap. Every deeper level is one sorted run, cut into
tables. For one key, what lies higher is newer. This module knows no files; the manifest stores edits.

Invariants:
1. In a level below 0 tables are sorted and their key ranges are disjoint.
2. A table number is used once in the life of a store.
3. All tables together are the state after the entry ``flushed_index``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

LEVELS = 7


class VersionError(ValueError):
    """An edit does not fit the version."""


@dataclass(frozen=True, slots=True)
class TableMeta:
    """The facts of a table that are known without opening it.

    Attributes:
        number: The table's number; its file is ``table_name(number)``.
        size_bytes: The size of the file.
        entries: How many keys the table holds, tombstones included.
        tombstones: How many of these are tombstones.
        smallest: The first key.
        largest: The last key.
    """

    number: int
    size_bytes: int
    entries: int
    tombstones: int
    smallest: bytes
    largest: bytes

    def overlaps(self, smallest: bytes, largest: bytes) -> bool:
        """Whether the table may hold a key in ``[smallest, largest]``."""
        return self.smallest <= largest and smallest <= self.largest


def table_name(number: int) -> str:
    """The file name of a table."""
    return f"{number:06d}.sst"


@dataclass(frozen=True, slots=True)
class VersionEdit:
    """A change of the version: one record of the manifest.

    Attributes:
        removed: Numbers of the tables that are no longer part of the state.
        added: The new tables, each with its level; at level 0 the last one is the newest.
        flushed_index: The last log entry that the state includes.
        flushed_term: The term of that entry.
        next_table_number: The first number that was not yet given to a table.
    """

    removed: tuple[int, ...]
    added: tuple[tuple[int, TableMeta], ...]
    flushed_index: int
    flushed_term: int
    next_table_number: int


@dataclass(frozen=True, slots=True)
class Version:
    """One state of the table set. See the module for the order inside ``levels``."""

    levels: tuple[tuple[TableMeta, ...], ...]
    flushed_index: int
    flushed_term: int
    next_table_number: int

    @classmethod
    def empty(cls) -> Version:
        """The version of a new store."""
        return cls(((),) * LEVELS, 0, 0, 1)

    def apply(self, edit: VersionEdit) -> Version:
        """The version after an edit.

        Raises:
            VersionError: The edit removes a table that is not there, adds one that may not be, or goes back.
        """
        if edit.flushed_index < self.flushed_index or edit.next_table_number < self.next_table_number:
            raise VersionError(f"an edit goes back from entry {self.flushed_index} to {edit.flushed_index}")
        removed = set(edit.removed)
        levels = [[table for table in level if table.number not in removed] for level in self.levels]
        before, after = sum(map(len, self.levels)), sum(map(len, levels))
        if before - after != len(edit.removed):
            raise VersionError(f"an edit removes tables that are not there: {sorted(removed)}")
        numbers = {table.number for level in levels for table in level}
        for level, table in edit.added:
            if not 0 <= level < LEVELS or table.number in numbers or table.number >= edit.next_table_number:
                raise VersionError(f"an edit adds table {table.number} to level {level}")
            if table.smallest > table.largest or not table.entries:
                raise VersionError(f"table {table.number} has no keys")
            numbers.add(table.number)
            levels[level].insert(0 if level == 0 else len(levels[level]), table)
        for tables in levels[1:]:
            tables.sort(key=lambda table: table.smallest)
            for left, right in pairwise(tables):
                if left.largest >= right.smallest:
                    raise VersionError(f"tables {left.number} and {right.number} of one level overlap")
        return Version(tuple(map(tuple, levels)), edit.flushed_index, edit.flushed_term, edit.next_table_number)

    def as_edit(self) -> VersionEdit:
        """The edit that makes this version from an empty one."""
        added = [(0, table) for table in reversed(self.levels[0])]
        added += [(level, table) for level in range(1, LEVELS) for table in self.levels[level]]
        return VersionEdit((), tuple(added), self.flushed_index, self.flushed_term, self.next_table_number)

    def tables(self) -> list[TableMeta]:
        """All tables."""
        return [table for level in self.levels for table in level]

    def overlapping(self, level: int, smallest: bytes, largest: bytes) -> tuple[TableMeta, ...]:
        """The tables of a level that may hold a key in ``[smallest, largest]``, in the order of the level."""
        return tuple(table for table in self.levels[level] if table.overlaps(smallest, largest))

    def level_bytes(self, level: int) -> int:
        """The size of all files of a level."""
        return sum(table.size_bytes for table in self.levels[level])
