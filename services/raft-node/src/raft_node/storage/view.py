"""The open tables of one version, arranged for reads.

A view never changes; whoever holds one can read on while newer ones take its place. It knows neither memtables nor the
block cache.

Invariant: ``candidates`` names tables from the newest to the oldest, and each that holds the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from raft_node.storage.iterators import Record
from raft_node.storage.sstable import Table
from raft_node.storage.version import Version, find_table


@dataclass(frozen=True, slots=True)
class _SortedLevel:
    """A level below 0 that has tables."""

    largest: list[bytes]
    smallest: list[bytes]
    tables: list[Table]


class View:
    """A version with its open tables.

    Attributes:
        version: Which tables these are.
        tables: The open ones by number.
    """

    __slots__ = ("_l0", "_levels", "tables", "version")

    def __init__(self, version: Version, tables: Mapping[int, Table]) -> None:
        self.version = version
        self.tables = {meta.number: tables[meta.number] for meta in version.tables()}
        self._l0 = [(meta.smallest, meta.largest, self.tables[meta.number]) for meta in version.levels[0]]
        self._levels = [
            _SortedLevel(
                [meta.largest for meta in level],
                [meta.smallest for meta in level],
                [self.tables[meta.number] for meta in level],
            )
            for level in version.levels[1:]
            if level
        ]

    def candidates(self, key: bytes) -> Iterator[Table]:
        """The tables that may hold the key, newest first, found as far as they are asked for."""
        for smallest, largest, table in self._l0:
            if smallest <= key <= largest and table.may_contain(key):
                yield table
        for level in self._levels:
            position = find_table(level.largest, level.smallest, key)
            if position >= 0 and level.tables[position].may_contain(key):
                yield level.tables[position]

    def find_blocking(self, key: bytes) -> bytes | None:
        """The value of a key in these tables, None when it has none. Blocking; no block stays in the cache."""
        for table in self.candidates(key):
            position = table.find_block(key)
            if position >= 0:
                block = table.read_block(position)
                place = block.find(key)
                if place >= 0:
                    return block.value(place)
        return None

    def sources(self, start: bytes, end: bytes | None, reverse: bool) -> list[Iterator[Record]]:
        """The records of the range, one source per sorted run, newest first. Reading them blocks."""
        sources = [
            table.items(start, end, reverse)
            for smallest, largest, table in self._l0
            if largest >= start and (end is None or smallest < end)
        ]
        sources.extend(_level_items(level, start, end, reverse) for level in self._levels)
        return sources


def _level_items(level: _SortedLevel, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Record]:
    for position in reversed(range(len(level.tables))) if reverse else range(len(level.tables)):
        if level.largest[position] >= start and (end is None or level.smallest[position] < end):
            yield from level.tables[position].items(start, end, reverse)
