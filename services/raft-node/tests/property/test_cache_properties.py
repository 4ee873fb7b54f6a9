"""The cache of blocks against CLOCK as the books have it: a list of pages in a circle, and a hand."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raft_node.storage.tables.block import Block, encode_block
from raft_node.storage.tables.cache import BlockCache, CachedBlocks

TABLES, BLOCKS = 3, 8
SIZES = (10, 300, 1000)
BLOCK_OF = {size: encode_block([b"key"], [bytes(size)]) for size in SIZES}

places = st.tuples(st.integers(0, TABLES - 1), st.integers(0, BLOCKS - 1))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("get"), places),
        st.tuples(st.just("put"), places),
        st.tuples(st.just("drop"), st.integers(0, TABLES - 1)),
    ),
    max_size=120,
)


class Clock:
    """The circle as a list whose first page the hand points to."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.pages: list[list[int]] = []
        """Table, position, cost, mark."""
        self.dropped: set[int] = set()

    def used(self) -> int:
        return sum(page[2] for page in self.pages)

    def get(self, table: int, position: int) -> bool:
        for page in self.pages:
            if page[:2] == [table, position]:
                page[3] = 1
                return True
        return False

    def put(self, table: int, position: int, cost: int) -> None:
        if table in self.dropped or any(page[:2] == [table, position] for page in self.pages):
            return
        newest = [table, position, cost, 0]
        self.pages.append(newest)
        while self.used() > self.budget and len(self.pages) > 1:
            page = self.pages.pop(0)
            if page[3] or page is newest:
                self.pages.append([*page[:3], 0] if page is not newest else page)

    def drop(self, table: int) -> None:
        self.dropped.add(table)
        self.pages = [page for page in self.pages if page[0] != table]


@settings(max_examples=200, deadline=None)
@given(steps=operations, budget=st.integers(0, 6000))
def test_the_cache_does_what_a_clock_does(
    steps: list[tuple[str, tuple[int, int]] | tuple[str, int]], budget: int
) -> None:
    cache, clock = BlockCache(budget), Clock(budget)
    tables = [CachedBlocks(BLOCKS) for _ in range(TABLES)]
    hits = misses = 0
    for name, where in steps:
        if isinstance(where, int):
            cache.drop_tables([tables[where]])
            clock.drop(where)
        elif name == "put":
            one = Block(BLOCK_OF[SIZES[sum(where) % len(SIZES)]])
            cache.put(tables[where[0]], where[1], one)
            clock.put(*where, one.cost_bytes)
        else:
            found = cache.get(tables[where[0]], where[1])
            if found is not None:
                # It shall stay a block: what a dict costs is not the matter here.
                assert isinstance(found, Block)
                found.uses = 0
            assert (found is not None) == clock.get(*where)
            hits, misses = hits + (found is not None), misses + (found is None)
        assert {
            (number, position)
            for number, table in enumerate(tables)
            for position, one_block in enumerate(table.blocks)
            if one_block is not None
        } == {(page[0], page[1]) for page in clock.pages}
        assert cache.used_bytes == clock.used() and len(cache) == len(clock.pages)
        assert cache.used_bytes <= budget or len(cache) == 1
    assert (cache.hits, cache.misses) == (hits, misses)
