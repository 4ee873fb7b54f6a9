"""The block cache: decoded blocks, least recently used first out, bounded by what they take in memory.

A block that was asked for a few times becomes a dict: those that are read once are not worth making one.

It knows blocks by table number and position and reads nothing itself. It is used on one thread, but for ``peek``.

Invariants:
1. ``used_bytes`` is the sum of the costs of its blocks.
2. It exceeds its budget by at most the newest block, which is always kept: who has just loaded it will look for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from raft_node.storage.block import Block, IndexedBlock

_INDEX_AFTER_USES = 8


class BlockCache:
    """Decoded blocks by (table number, position).

    Attributes:
        used_bytes: What the blocks take.
        hits: How often a block was there.
        misses: How often not.
        filter_negatives: How often a Bloom filter spared a look into a table; kept by ``storage.reads``.
        filter_false_positives: How often it did not, and the key was not there.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._blocks: OrderedDict[tuple[int, int], Block | IndexedBlock] = OrderedDict()
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self.filter_negatives = 0
        self.filter_false_positives = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, number: int, position: int) -> Block | IndexedBlock | None:
        """The block, or None."""
        place = (number, position)
        block = self._blocks.get(place)
        if block is None:
            self.misses += 1
            return None
        self.hits += 1
        self._blocks.move_to_end(place)
        if isinstance(block, Block):
            block.uses += 1
            if block.uses >= _INDEX_AFTER_USES:
                return self._index(place, block)
        return block

    def peek(self, number: int, position: int) -> Block | IndexedBlock | None:
        """The block, or None, for those who read it once: it counts as no use. On any thread; blocks do not change."""
        return self._blocks.get((number, position))

    def put(self, number: int, position: int, block: Block) -> None:
        """Keeps a block, and drops others for it."""
        self._keep((number, position), block)

    def _keep(self, place: tuple[int, int], block: Block | IndexedBlock) -> None:
        before = self._blocks.pop(place, None)
        if before is not None:
            self.used_bytes -= before.cost_bytes
        self._blocks[place] = block
        self.used_bytes += block.cost_bytes
        while self.used_bytes > self._budget_bytes and len(self._blocks) > 1:
            _, dropped = self._blocks.popitem(last=False)
            self.used_bytes -= dropped.cost_bytes

    def _index(self, place: tuple[int, int], block: Block) -> Block | IndexedBlock:
        indexed = IndexedBlock(block)
        self._keep(place, indexed)
        return indexed

    def drop_tables(self, numbers: Collection[int]) -> None:
        """Drops all blocks of tables that are gone."""
        gone = set(numbers)
        for place in [place for place in self._blocks if place[0] in gone]:
            self.used_bytes -= self._blocks.pop(place).cost_bytes
