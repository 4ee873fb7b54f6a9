"""Point reads of tables, in steps that never wait for the disk.

``find`` goes through the tables of a view as far as the block cache knows their blocks. When it does not, a
``BlockNeeded`` says where the read stopped; whoever can wait loads the block and goes on with ``BlockNeeded.rest``. It
knows neither memtables nor threads.

Invariant: a read answers as of the view with which it began.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from raft_node.storage.block import Block
from raft_node.storage.cache import BlockCache
from raft_node.storage.sstable import Table
from raft_node.storage.view import View


class _Absent:
    """Says that a key is not in a block, while None says that it was deleted there."""


_ABSENT = _Absent()


class BlockNeeded:
    """A read that cannot go on before a block is loaded.

    Attributes:
        key: What is looked for.
        table: Where it may be.
        position: In which data block of it.
        rest: The tables to look at afterwards.
    """

    __slots__ = ("key", "position", "rest", "table")

    def __init__(self, key: bytes, table: Table, position: int, rest: Iterator[Table]) -> None:
        self.key = key
        self.table = table
        self.position = position
        self.rest = rest


class LoadedBlock(NamedTuple):
    """A block that was loaded for a read."""

    needed: BlockNeeded
    block: Block


def find(key: bytes, view: View, cache: BlockCache) -> bytes | BlockNeeded | None:
    """The value of a key in the tables of a view."""
    # Written out in one piece: a key that is nowhere costs no more than a search and a probe for each run.
    for number, (largest, smallest, probes, tables) in enumerate(view.runs):
        place = bisect_left(largest, key)
        if place < len(largest) and smallest[place] <= key:
            if not probes[place](key):
                cache.filter_negatives += 1
                continue
            table = tables[place]
            position = bisect_left(table.last_keys, key)
            block = cache.get(table.number, position)
            if block is None:
                return BlockNeeded(key, table, position, view.candidates(key, number + 1))
            value = block.look_up(key, _ABSENT)
            if not isinstance(value, _Absent):
                return value
            cache.filter_false_positives += 1
    return None


def go_on(needed: BlockNeeded, block: Block, cache: BlockCache) -> bytes | BlockNeeded | None:
    """Goes on with a read, with the block that it needed."""
    value = block.look_up(needed.key, _ABSENT)
    if not isinstance(value, _Absent):
        return value
    cache.filter_false_positives += 1
    for table in needed.rest:
        position = table.find_block(needed.key)
        if position < 0:
            continue
        cached = cache.get(table.number, position)
        if cached is None:
            return BlockNeeded(needed.key, table, position, needed.rest)
        value = cached.look_up(needed.key, _ABSENT)
        if not isinstance(value, _Absent):
            return value
        cache.filter_false_positives += 1
    return None


def load(needed: Sequence[BlockNeeded]) -> list[LoadedBlock]:
    """Reads the blocks that these reads need, each block once. Blocking.

    Raises:
        CorruptionError: A block is damaged.
    """
    blocks: dict[tuple[Table, int], Block] = {}
    # In the order of the file, for disks that like that.
    for table, position in sorted({(each.table, each.position) for each in needed}, key=_place):
        blocks[table, position] = table.read_block(position)
    return [LoadedBlock(each, blocks[each.table, each.position]) for each in needed]


def _place(wanted: tuple[Table, int]) -> tuple[int, int]:
    return wanted[0].number, wanted[1]
