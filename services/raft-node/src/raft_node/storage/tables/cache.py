"""The block cache: decoded blocks, bounded by what they take in memory.

A block is found by its table and its position there, without a search: each table carries a ``CachedBlocks``. Which
block goes when another comes is decided by CLOCK: a hand goes round all blocks in the order in which they came; one
that was used since it last came by stays for another round, and one that was not goes. So a hit only leaves a mark,
and moves nothing.

A block that was asked for a few times becomes a dict: those that are read once are not worth making one.

It reads nothing itself, and does not know what a table is. It is used on one thread; others may look at
``CachedBlocks.blocks``, for a block never changes, and is replaced in one step.

Invariants:
1. ``used_bytes`` is the sum of the costs of its blocks.
2. It exceeds its budget by at most the newest block, which is always kept: who has just loaded it will look for it.
3. Each block is on the hand's way once. What goes depends on nothing but the order of the calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from raft_node.storage.tables.block import Block, IndexedBlock

_INDEX_AFTER_USES = 8


class CachedBlocks:
    """The blocks of one table that are in memory, by position. The block cache owns it.

    Attributes:
        blocks: The blocks; None for those that are not in memory.
        dicts: The entries of blocks that became dicts, None for all others: a read looks here first.
        used: 1 for blocks that were used since the hand of the clock came by.
        dropped: Whether the table is gone, so that no block of it is kept any more.
    """

    __slots__ = ("blocks", "dicts", "dropped", "used")

    def __init__(self, count: int) -> None:
        """Begins with none of ``count`` blocks in memory."""
        self.blocks: list[Block | IndexedBlock | None] = [None] * count
        self.dicts: list[dict[bytes, bytes | None] | None] = [None] * count
        self.used = bytearray(count)
        self.dropped = False


class BlockCache:
    """Decoded blocks of all tables.

    Attributes:
        used_bytes: How many bytes the blocks take.
        hits: How often a block was in the cache; also counted by ``storage.tables.reads``.
        misses: How often a block was not in the cache.
        filter_negatives: How often a Bloom filter spared a look into a table; counted by ``storage.tables.reads``.
        filter_false_positives: How often a Bloom filter let a read look into a table without the key.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        # The entry that the clock hand reaches next is on the left.
        self._ring: deque[tuple[CachedBlocks, int]] = deque()
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self.filter_negatives = 0
        self.filter_false_positives = 0

    def __len__(self) -> int:
        return len(self._ring)

    def get(self, cached: CachedBlocks, position: int) -> Block | IndexedBlock | None:
        """The block at a position; None if it is not in the cache."""
        block = cached.blocks[position]
        if block is None:
            self.misses += 1
            return None
        self.hits += 1
        cached.used[position] = 1
        if isinstance(block, Block):
            block.uses += 1
            if block.uses >= _INDEX_AFTER_USES:
                return self._index(cached, position, block)
        return block

    def put(self, cached: CachedBlocks, position: int, block: Block | IndexedBlock) -> None:
        """Keeps a block, and drops others for it. One that is there already stays; those of a gone table go."""
        if cached.dropped or cached.blocks[position] is not None:
            return
        cached.blocks[position] = block
        self._ring.append((cached, position))
        self.used_bytes += block.cost_bytes
        self._make_room(cached, position)

    def _index(self, cached: CachedBlocks, position: int, block: Block) -> IndexedBlock:
        indexed = IndexedBlock(block)
        cached.blocks[position] = indexed
        cached.dicts[position] = indexed.entries
        self.used_bytes += indexed.cost_bytes - block.cost_bytes
        self._make_room(cached, position)
        return indexed

    def _make_room(self, kept: CachedBlocks, kept_position: int) -> None:
        """Drops blocks until the rest fits, but never the one that was just kept."""
        ring = self._ring
        while self.used_bytes > self._budget_bytes and len(ring) > 1:
            cached, position = place = ring.popleft()
            if cached.used[position]:
                cached.used[position] = 0
                ring.append(place)
            elif position == kept_position and cached is kept:
                ring.append(place)
            else:
                self._drop(cached, position)

    def _drop(self, cached: CachedBlocks, position: int) -> None:
        block = cached.blocks[position]
        assert block is not None
        cached.blocks[position] = cached.dicts[position] = None
        self.used_bytes -= block.cost_bytes

    def drop_tables(self, tables: Collection[CachedBlocks]) -> None:
        """Drops all blocks of tables that are gone. Blocks that reads under way still bring are not kept."""
        for cached in tables:
            cached.dropped = True
        stay: deque[tuple[CachedBlocks, int]] = deque()
        for cached, position in self._ring:
            if cached.dropped:
                self._drop(cached, position)
            else:
                stay.append((cached, position))
        self._ring = stay
