"""The slot of a key is frozen: stored data depends on it."""

from __future__ import annotations

import pytest
import xxhash

from doug_wire.slots import SLOTS, initial_ranges, slot_of

# Computed once with xxh3_64 (seed 0) of the whole key, modulo 1024.
GOLDEN = {
    b"": 194,
    b"a": 543,
    b"hello": 253,
    b"key-1": 505,
    b"key-2": 292,
    b"user:1000": 159,
    b"foo/bar": 207,
    b"{user1}.name": 668,
    b"user1": 668,
    b"a{}b": 546,
    b"a{b": 913,
    b"\x00": 219,
    b"\xff\xfe": 902,
    b"k" * 1024: 640,
    b"schl\xc3\xbcssel": 222,
    b"\xe9\x8d\xb5": 48,
}


@pytest.mark.parametrize(("key", "slot"), GOLDEN.items())
def test_golden_vectors(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_the_hash_is_xxh3() -> None:
    # The published XXH3 64-bit digest of nothing: the library has not become another hash.
    assert xxhash.xxh3_64_intdigest(b"") == 0x2D06800538D394C2
    assert SLOTS == 1024


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"{user1}.name", b"user1"),
        (b"name{user1}", b"user1"),
        (b"a{b}c{d}", b"b"),
        (b"a{{b}}c", b"{b"),
        (b"{}{user1}", b"{}{user1}"),
        (b"a{}b", b"a{}b"),
        (b"a{b", b"a{b"),
        (b"a}b{c}", b"c"),
        (b"a}b{c", b"a}b{c"),
        (b"{", b"{"),
        (b"}", b"}"),
        (b"", b""),
        (b"{\x00}x", b"\x00"),
        (b"\xff{\xfe\xff}", b"\xfe\xff"),
    ],
)
def test_only_the_first_tag_counts_when_there_is_one(key: bytes, hashed: bytes) -> None:
    assert slot_of(key) == xxhash.xxh3_64_intdigest(hashed) % SLOTS


def test_keys_of_one_tag_share_a_slot() -> None:
    assert len({slot_of(b"{order-7}/%d" % number) for number in range(100)}) == 1


def test_keys_spread_evenly() -> None:
    counts = [0] * SLOTS
    for number in range(100 * SLOTS):
        counts[slot_of(b"key-%d" % number)] += 1
    assert min(counts) > 50
    assert max(counts) < 160


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 16, 1000, SLOTS])
def test_initial_ranges_cover_every_slot_once(shards: int) -> None:
    ranges = initial_ranges(shards)
    assert [shard for _, _, shard in ranges] == list(range(shards))
    assert [slot for first, last, _ in ranges for slot in range(first, last + 1)] == list(range(SLOTS))
    sizes = [last - first + 1 for first, last, _ in ranges]
    assert max(sizes) - min(sizes) <= 1


def test_two_shards_halve_the_slots() -> None:
    assert initial_ranges(2) == [(0, 511, 0), (512, 1023, 1)]


@pytest.mark.parametrize("shards", [0, -1, SLOTS + 1])
def test_an_impossible_number_of_shards_is_refused(shards: int) -> None:
    with pytest.raises(ValueError, match="shards must lie between"):
        initial_ranges(shards)
