"""Point reads of tables, in steps that never wait for the disk.

``find`` goes through the sorted runs of a view as far as the block cache knows their blocks. When it does not, a
``BlockNeeded`` says where the read stopped; whoever can wait loads the block and goes on with ``BlockNeeded.rest``. It
knows no threads.

Invariant: a read answers as of the view with which it began.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

from raft_node.storage.tables.block import Block, IndexedBlock
from raft_node.storage.tables.cache import BlockCache
from raft_node.storage.tables.sstable import Table
from raft_node.storage.tables.view import Run


class _Absent(Enum):
    """The mark for a key that is not in a block, while None means that it was deleted there."""

    ABSENT = 0


_ABSENT: Final = _Absent.ABSENT


class BlockNeeded:
    """A read that cannot go on before a block is loaded.

    Attributes:
        key: The key that is looked for.
        table: The table that may hold it.
        position: The data block of the table that may hold it.
        rest: The runs to look at afterwards.
        context: A value that the reader wants at hand when the read goes on; it means nothing here.
    """

    __slots__ = ("context", "key", "position", "rest", "table")

    def __init__(self, key: bytes, table: Table, position: int, rest: Sequence[Run]) -> None:
        self.key = key
        self.table = table
        self.position = position
        self.rest = rest
        self.context: object = None

    @property
    def place(self) -> tuple[int, int]:
        """The place of the block: the number of its table, and its position there. Ascends with the keys of a table."""
        return self.table.number, self.position


class LoadedBlock(NamedTuple):
    """A block that was loaded for a read."""

    needed: BlockNeeded
    block: Block | IndexedBlock


def find(key: bytes, runs: Sequence[Run], cache: BlockCache) -> bytes | BlockNeeded | None:
    """The value of a key in the tables of some runs, newest first."""
    # Written out in one piece: a key that is nowhere costs no more than a search and a probe for each run.
    remaining = iter(runs)
    for largest, smallest, probes, tables in remaining:
        place = bisect_left(largest, key)
        if place < len(largest) and smallest[place] <= key:
            if not probes[place](key):
                cache.filter_negatives += 1
                continue
            table = tables[place]
            position = bisect_left(table.last_keys, key)
            cached = table.cached
            entries = cached.dicts[position]
            if entries is not None:
                cache.hits += 1
                cached.used[position] = 1
                value = entries.get(key, _ABSENT)
            else:
                block = cache.get(cached, position)
                if block is None:
                    return BlockNeeded(key, table, position, list(remaining))
                value = block.look_up(key, _ABSENT)
            if value is not _ABSENT:
                return value
            cache.filter_false_positives += 1
    return None


def find_many(
    keys: Sequence[bytes], memory: Sequence[Mapping[bytes, bytes | None]], runs: Sequence[Run], cache: BlockCache
) -> list[bytes | BlockNeeded | None]:
    """The value of each key in memtables and tables, newest first."""
    filled = [entries for entries in memory if entries]
    if not filled:
        return [find(key, runs, cache) for key in keys]
    found: list[bytes | BlockNeeded | None] = []
    for key in keys:
        for entries in filled:
            if key in entries:
                found.append(entries[key])
                break
        else:
            found.append(find(key, runs, cache))
    return found


def go_on(needed: BlockNeeded, block: Block | IndexedBlock, cache: BlockCache) -> bytes | BlockNeeded | None:
    """Goes on with a read, with the block that it needed."""
    value = block.look_up(needed.key, _ABSENT)
    if value is not _ABSENT:
        return value
    cache.filter_false_positives += 1
    found = find(needed.key, needed.rest, cache)
    if isinstance(found, BlockNeeded):
        found.context = needed.context
    return found


def load(needed: Sequence[BlockNeeded]) -> list[LoadedBlock]:
    """Reads the blocks that these reads need, each block once, and none that came into the cache meanwhile. Blocking.

    Raises:
        CorruptionError: A block is damaged.
    """
    blocks: dict[tuple[Table, int], Block | IndexedBlock] = {}
    # In the order of the file, for disks that like that.
    for table, position in sorted({(each.table, each.position) for each in needed}, key=_place):
        cached = table.cached.blocks[position]
        blocks[table, position] = table.read_block(position) if cached is None else cached
    return [LoadedBlock(each, blocks[each.table, each.position]) for each in needed]


def _place(wanted: tuple[Table, int]) -> tuple[int, int]:
    return wanted[0].number, wanted[1]
