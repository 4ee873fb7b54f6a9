"""The open tables of one version, arranged for reads.

A view never changes; whoever holds one can read on while newer ones take its place. It does not know the block cache.

Invariant: ``candidates`` names tables from the newest to the oldest, and each that holds the key.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from raft_node.storage.memtable import MemtableSnapshot
from raft_node.storage.tables.iterators import Columns, merge
from raft_node.storage.tables.sstable import Table
from raft_node.storage.tables.version import TableMeta, Version


class Run(NamedTuple):
    """Tables that do not overlap, in key order: one of level 0, or a whole deeper level.

    Attributes:
        largest: The last key of each table.
        smallest: The first key of each table.
        probes: The Bloom filter of each table.
        tables: The tables themselves.
    """

    largest: list[bytes]
    smallest: list[bytes]
    probes: list[Callable[[bytes], bool]]
    tables: list[Table]


class View:
    """A version with its open tables.

    Attributes:
        version: The version, which names the tables.
        tables: The open tables by number.
        runs: The tables arranged for reads, newest first.
    """

    __slots__ = ("runs", "tables", "version")

    def __init__(self, version: Version, tables: Mapping[int, Table]) -> None:
        self.version = version
        self.tables = {meta.number: tables[meta.number] for meta in version.tables()}
        tables_of_runs = [(meta,) for meta in version.levels[0]] + [level for level in version.levels[1:] if level]
        self.runs = [self._run(metas) for metas in tables_of_runs]

    def candidates(self, key: bytes) -> Iterator[Table]:
        """The tables that may hold the key, newest first, found as they are asked for."""
        for largest, smallest, probes, tables in self.runs:
            place = bisect_left(largest, key)
            if place < len(largest) and smallest[place] <= key and probes[place](key):
                yield tables[place]

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

    def sources(self, start: bytes, end: bytes | None, reverse: bool) -> list[Iterator[Columns]]:
        """The records of the range, one source per sorted run, newest first. Reading them blocks: ``Table.columns``."""
        return [
            _columns(run, start, end, reverse)
            for run in self.runs
            if run.largest[-1] >= start and (end is None or run.smallest[0] < end)
        ]

    def _run(self, metas: Sequence[TableMeta]) -> Run:
        tables = [self.tables[meta.number] for meta in metas]
        return Run(
            [meta.largest for meta in metas],
            [meta.smallest for meta in metas],
            [table.may_contain for table in tables],
            tables,
        )


class HeldView:
    """All records at one moment, memtables included. Its tables stay open as long as a reader refers to it."""

    __slots__ = ("_memtables", "_view")

    def __init__(self, memtables: Sequence[MemtableSnapshot], view: View) -> None:
        """Takes memtables, newest first, and the tables below them."""
        self._memtables = memtables
        self._view = view

    def columns(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Columns]:
        """The records with ``start <= key < end`` in pieces, tombstones included. Reading them blocks; on any thread.

        Raises:
            CorruptionError: A block is damaged.
        """
        sources = [memtable.columns(start, end, reverse) for memtable in self._memtables]
        return merge([*sources, *self._view.sources(start, end, reverse)], reverse=reverse)


def _columns(run: Run, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Columns]:
    last = len(run.tables) if end is None else bisect_left(run.smallest, end)
    places = range(bisect_left(run.largest, start), last)
    for place in reversed(places) if reverse else places:
        yield from run.tables[place].columns(start, end, reverse)
