"""The cache of blocks: bounded by bytes; those that were not used since the hand came by go first."""

from __future__ import annotations

import sys

from raft_node.storage.tables.block import Block, IndexedBlock, encode_block
from raft_node.storage.tables.cache import BlockCache, CachedBlocks


def block(size: int) -> Block:
    return Block(encode_block([b"key"], [bytes(size)]))


def there(*tables: CachedBlocks) -> list[list[int]]:
    """The positions of the blocks of each table that are in memory."""
    return [[position for position, one in enumerate(table.blocks) if one is not None] for table in tables]


def test_a_block_that_was_used_survives_newer_ones() -> None:
    one = block(1000)
    cache, table = BlockCache(3 * one.cost_bytes), CachedBlocks(10)
    for position in range(3):
        cache.put(table, position, block(1000))
    assert cache.get(table, 0) is not None
    cache.put(table, 3, block(1000))
    assert there(table) == [[0, 2, 3]]
    assert cache.used_bytes == 3 * one.cost_bytes and len(cache) == 3
    assert [cache.get(table, position) is not None for position in range(4)] == [True, False, True, True]
    assert (cache.hits, cache.misses) == (4, 1)


def test_the_hand_takes_the_mark_of_a_block_and_drops_it_the_next_time() -> None:
    cache, table = BlockCache(3 * block(1000).cost_bytes), CachedBlocks(10)
    for position in range(3):
        cache.put(table, position, block(1000))
    for position in (0, 1):
        cache.get(table, position)
    for position, left in ((3, [0, 1, 3]), (4, [0, 1, 4])):
        cache.put(table, position, block(1000))
        assert there(table) == [left], "0 and 1 came behind 3, and 2 and 3 were not used"
    cache.get(table, 1)
    cache.put(table, 5, block(1000))
    cache.put(table, 6, block(1000))
    assert there(table) == [[1, 5, 6]]


def test_one_run_through_many_blocks_leaves_those_that_are_used_meanwhile() -> None:
    cache, table = BlockCache(10 * block(1000).cost_bytes), CachedBlocks(1000)
    for position in range(5):
        cache.put(table, position, block(1000))
    for position in range(5, 1000):
        for hot in range(5):
            assert cache.get(table, hot) is not None
        cache.put(table, position, block(1000))
    assert there(table) == [[*range(5), *range(995, 1000)]]


def test_when_all_were_used_the_newest_still_stays() -> None:
    cache, table = BlockCache(3 * block(1000).cost_bytes), CachedBlocks(10)
    for position in range(3):
        cache.put(table, position, block(1000))
        cache.get(table, position)
    cache.put(table, 3, block(1000))
    assert there(table) == [[1, 2, 3]]


def test_the_newest_block_stays_even_when_it_is_too_big() -> None:
    cache, table = BlockCache(10), CachedBlocks(2)
    cache.put(table, 0, block(1000))
    cache.get(table, 0)
    cache.put(table, 1, block(2000))
    assert there(table) == [[1]]
    assert cache.used_bytes == block(2000).cost_bytes


def test_a_block_that_is_put_again_counts_once_and_the_first_one_stays() -> None:
    cache, table = BlockCache(10_000), CachedBlocks(1)
    first = block(100)
    cache.put(table, 0, first)
    cache.put(table, 0, block(100))
    assert cache.get(table, 0) is first
    assert cache.used_bytes == block(100).cost_bytes and len(cache) == 1


def test_the_blocks_of_gone_tables_are_dropped_and_those_that_still_come_are_not_kept() -> None:
    cache = BlockCache(100_000)
    tables = [CachedBlocks(2) for _ in range(3)]
    for table in tables:
        cache.put(table, 0, block(100))
    cache.drop_tables((tables[0], tables[2]))
    assert there(*tables) == [[], [0], []]
    assert cache.used_bytes == block(100).cost_bytes and len(cache) == 1
    cache.put(tables[0], 1, block(100))
    assert there(*tables) == [[], [0], []]
    assert cache.used_bytes == block(100).cost_bytes and len(cache) == 1


def test_the_hand_goes_on_when_the_table_that_it_points_to_is_dropped() -> None:
    cache = BlockCache(4 * block(1000).cost_bytes)
    gone, table = CachedBlocks(10), CachedBlocks(10)
    cache.put(table, 0, block(1000))
    for position in range(3):
        cache.put(gone, position, block(1000))
    cache.get(table, 0)
    cache.get(gone, 0)
    cache.put(table, 1, block(1000))
    assert there(gone, table) == [[0, 2], [0, 1]], "the hand points to the third block of the table that goes"
    cache.drop_tables([gone])
    for position in range(2, 6):
        cache.put(table, position, block(1000))
    assert there(gone, table) == [[], [2, 3, 4, 5]]
    assert cache.used_bytes == 4 * block(1000).cost_bytes and len(cache) == 4


def test_a_block_that_is_used_again_and_again_becomes_a_dict_and_is_counted_as_one() -> None:
    keys = [b"%02d" % number for number in range(50)]
    values: list[bytes | None] = [None if number % 7 == 0 else bytes(number) for number in range(50)]
    loaded = Block(encode_block(keys, values))
    cache, table = BlockCache(1 << 20), CachedBlocks(1)
    cache.put(table, 0, loaded)
    absent = object()
    for use in range(20):
        found = cache.get(table, 0)
        assert found is not None
        assert [found.look_up(key, absent) for key in keys] == values
        assert found.look_up(b"1", absent) is absent
        assert cache.used_bytes == found.cost_bytes
        assert (found.keys, found.values(), found.tombstones) == (keys, values, True)
        assert found.values(3, 9) == values[3:9]
        assert table.dicts[0] == (dict(zip(keys, values, strict=True)) if use >= 7 else None)
    assert isinstance(found, IndexedBlock) and found.cost_bytes > loaded.cost_bytes
    taken = (
        sys.getsizeof(dict.fromkeys(keys)) + sum(map(sys.getsizeof, keys)) + sum(sys.getsizeof(v) for v in values if v)
    )
    assert taken * 0.9 <= found.cost_bytes <= taken * 1.3 + 400


def test_a_look_at_a_block_is_no_use_of_it() -> None:
    cache, table = BlockCache(2 * block(100).cost_bytes), CachedBlocks(3)
    cache.put(table, 0, block(100))
    cache.put(table, 1, block(100))
    for _ in range(20):
        assert isinstance(table.blocks[0], Block)
    assert (cache.hits, cache.misses) == (0, 0)
    cache.put(table, 2, block(100))
    assert there(table) == [[1, 2]]


def test_a_dict_that_is_too_big_makes_others_go() -> None:
    one = Block(encode_block([b"%03d" % number for number in range(100)], [b"v"] * 100))
    cache, table = BlockCache(3 * one.cost_bytes), CachedBlocks(3)
    for position in range(3):
        cache.put(table, position, Block(encode_block([b"%03d" % number for number in range(100)], [b"v"] * 100)))
    for _ in range(10):
        assert cache.get(table, 0) is not None
    assert isinstance(table.blocks[0], IndexedBlock) and table.dicts[0] is not None
    assert len(cache) < 3
    cache.drop_tables([table])
    assert (cache.used_bytes, len(cache), there(table)) == (0, 0, [[]])
    assert table.dicts[0] is None
