"""The cache of blocks: bounded by bytes, least recently used first."""

from __future__ import annotations

import sys

from raft_node.storage.block import Block, IndexedBlock, encode_block
from raft_node.storage.cache import BlockCache


def block(size: int) -> Block:
    return Block(encode_block([b"key"], [bytes(size)]))


def test_the_least_recently_used_blocks_go_first() -> None:
    one = block(1000)
    cache = BlockCache(3 * one.cost_bytes)
    for position in range(3):
        cache.put(1, position, block(1000))
    assert cache.get(1, 0) is not None
    cache.put(1, 3, block(1000))
    assert [cache.get(1, position) is not None for position in range(4)] == [True, False, True, True]
    assert cache.used_bytes == 3 * one.cost_bytes and len(cache) == 3
    assert (cache.hits, cache.misses) == (4, 1)


def test_the_newest_block_stays_even_when_it_is_too_big() -> None:
    cache = BlockCache(10)
    cache.put(1, 0, block(1000))
    cache.put(1, 1, block(2000))
    assert cache.get(1, 0) is None and cache.get(1, 1) is not None
    assert cache.used_bytes == block(2000).cost_bytes


def test_a_block_that_is_put_again_counts_once() -> None:
    cache = BlockCache(10_000)
    cache.put(1, 0, block(100))
    cache.put(1, 0, block(100))
    assert cache.used_bytes == block(100).cost_bytes and len(cache) == 1


def test_the_blocks_of_gone_tables_are_dropped() -> None:
    cache = BlockCache(100_000)
    for number in (1, 2, 3):
        cache.put(number, 0, block(100))
    cache.drop_tables((1, 3))
    assert [cache.get(number, 0) is not None for number in (1, 2, 3)] == [False, True, False]
    assert cache.used_bytes == block(100).cost_bytes


def test_a_block_that_is_used_again_and_again_becomes_a_dict_and_is_counted_as_one() -> None:
    keys = [b"%02d" % number for number in range(50)]
    values: list[bytes | None] = [None if number % 7 == 0 else bytes(number) for number in range(50)]
    loaded = Block(encode_block(keys, values))
    cache = BlockCache(1 << 20)
    cache.put(1, 0, loaded)
    absent = object()
    for _ in range(20):
        found = cache.get(1, 0)
        assert found is not None
        assert [found.look_up(key, absent) for key in keys] == values
        assert found.look_up(b"1", absent) is absent
        assert cache.used_bytes == found.cost_bytes
        assert (found.keys, found.values(), found.tombstones) == (keys, values, True)
        assert found.values(3, 9) == values[3:9]
    assert isinstance(found, IndexedBlock) and found.cost_bytes > loaded.cost_bytes
    taken = (
        sys.getsizeof(dict.fromkeys(keys)) + sum(map(sys.getsizeof, keys)) + sum(sys.getsizeof(v) for v in values if v)
    )
    assert taken * 0.9 <= found.cost_bytes <= taken * 1.3 + 400


def test_a_peek_is_no_use_of_a_block() -> None:
    cache = BlockCache(2 * block(100).cost_bytes)
    cache.put(1, 0, block(100))
    cache.put(1, 1, block(100))
    for _ in range(20):
        assert isinstance(cache.peek(1, 0), Block)
    assert cache.peek(2, 0) is None
    assert (cache.hits, cache.misses) == (0, 0)
    cache.put(1, 2, block(100))
    assert [cache.peek(1, position) is None for position in range(3)] == [True, False, False]


def test_a_dict_that_is_too_big_makes_others_go() -> None:
    one = Block(encode_block([b"%03d" % number for number in range(100)], [b"v"] * 100))
    cache = BlockCache(3 * one.cost_bytes)
    for position in range(3):
        cache.put(1, position, Block(encode_block([b"%03d" % number for number in range(100)], [b"v"] * 100)))
    for _ in range(10):
        assert cache.get(1, 0) is not None
    assert cache.get(1, 0) is not None
    assert len(cache) < 3
    cache.drop_tables([1])
    assert (cache.used_bytes, len(cache)) == (0, 0)
