"""Blocks: what is put in is found again, and no damaged byte passes."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_node.storage.options import COMPRESSIONS
from raft_node.storage.tables.block import Block, BlockError, encode_block, open_sealed, seal

RECORDS: list[tuple[bytes, bytes | None]] = [(b"a", b"1"), (b"ab", None), (b"b", b""), (b"\xff\x00", b"x" * 300)]


def block_of(records: list[tuple[bytes, bytes | None]]) -> Block:
    return Block(encode_block([key for key, _ in records], [value for _, value in records]))


def test_a_block_gives_back_keys_values_empty_values_and_tombstones() -> None:
    block = block_of(RECORDS)
    assert list(block.items(b"", None, False)) == RECORDS
    assert list(zip(block.keys, block.values(), strict=True)) == RECORDS
    assert [block.value(block.find(key)) for key, _ in RECORDS] == [value for _, value in RECORDS]
    assert len(block) == 4


@pytest.mark.parametrize("key", [b"", b"A", b"aa", b"abc", b"c", b"\xff\x00\x00"])
def test_a_key_that_is_not_there_is_not_found(key: bytes) -> None:
    assert block_of(RECORDS).find(key) == -1


@pytest.mark.parametrize(
    ("start", "end", "keys"),
    [
        (b"", None, [b"a", b"ab", b"b", b"\xff\x00"]),
        (b"ab", b"b", [b"ab"]),
        (b"ab", b"b\x00", [b"ab", b"b"]),
        (b"c", b"d", []),
        (b"b", b"a", []),
    ],
)
def test_ranges_are_half_open_in_both_directions(start: bytes, end: bytes | None, keys: list[bytes]) -> None:
    block = block_of(RECORDS)
    assert [key for key, _ in block.items(start, end, False)] == keys
    assert [key for key, _ in block.items(start, end, True)] == keys[::-1]


ONE_SIZE = [b"k%02d" % number for number in range(20)]
MANY_SIZES = [b"k%02d" % number + b"x" * (number % 3) for number in range(20)]


@pytest.mark.parametrize("keys", [ONE_SIZE, MANY_SIZES])
@pytest.mark.parametrize(
    "values",
    [
        [b"v%02d" % number for number in range(20)],
        [b""] * 20,
        [None] * 20,
        [None if number % 4 == 0 else b"v" * number for number in range(20)],
        [b"v" * number for number in range(20)],
    ],
)
def test_sizes_may_be_one_or_many(keys: list[bytes], values: list[bytes | None]) -> None:
    block = block_of(list(zip(keys, values, strict=True)))
    assert (block.keys, block.values()) == (keys, values)
    assert [block.value(block.find(key)) for key in keys] == values
    assert block.values(3, 11) == values[3:11] and block.values(5, 5) == []
    assert block.tombstones == (None in values)


def test_compression_is_used_only_when_it_pays() -> None:
    noise = random.Random(1).randbytes(4000)
    assert len(seal(bytes(4000), "lz4")) < 100
    assert seal(noise, "lz4") == seal(noise, "zstd") == seal(noise, "none")
    assert len(seal(bytes(4000), "zstd")) < 100
    assert seal(bytes(4000), "none")[:4000] == bytes(4000)
    for payload in (b"", b"x", bytes(4000), noise):
        for compression in COMPRESSIONS:
            assert open_sealed(seal(payload, compression)) == payload


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_flipped_bit_of_a_sealed_block_is_found(compression: str) -> None:
    sealed = seal(encode_block([b"a", b"b"], [b"v" * 50, b"v" * 50]), compression)
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BlockError):
            open_sealed(bytes(damaged))


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_cut_of_a_sealed_block_is_found(compression: str) -> None:
    sealed = seal(bytes(100), compression)
    for size in range(len(sealed)):
        with pytest.raises(BlockError):
            open_sealed(sealed[:size])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x00\x00\x00",
        b"\x01\x00\x00\x00",
        b"\xff\xff\xff\xff" + bytes(60),
        encode_block([b"a"], [b"b"])[:-1],
        # Keys that are cut off, of one size and of two, with nothing behind them.
        encode_block([b"aa", b"bb"], [b"", b""])[:-1],
        encode_block([b"a", b"bbb"], [b"", b""])[:-1],
        encode_block([b"a", b"bbb"], [None, None])[:-1],
        encode_block([b"a", b"bbb"], [b"", b"x"])[:-2] + b"",
    ],
)
def test_a_payload_whose_parts_do_not_fit_is_refused(raw: bytes) -> None:
    with pytest.raises(BlockError):
        Block(raw)


@pytest.mark.parametrize("value_bytes", [0, 8, 100, 5000])
def test_the_cost_of_a_block_is_what_it_takes_in_memory(value_bytes: int) -> None:
    one_size = encode_block([b"key%06d" % number for number in range(100)], [bytes(value_bytes)] * 100)
    assert len(one_size) <= Block(one_size).cost_bytes <= len(one_size) + 1000
    keys = [b"key%d" % number for number in range(50, 150)]
    raw = encode_block(sorted(keys), [bytes(value_bytes + number % 2) for number in range(100)])
    block = Block(raw)
    assert block._keys is block.keys, "kept, for it is searched"
    taken = sys.getsizeof(raw) + sys.getsizeof(block.keys) + sum(map(sys.getsizeof, block.keys)) + 100 * 8
    assert taken * 0.98 <= block.cost_bytes <= taken * 1.2 + 200


def test_a_key_across_two_others_is_not_found() -> None:
    keys = [b"aaab", b"abab", b"abba", b"baba"]
    block = block_of([(key, b"") for key in keys])
    raw = b"".join(keys)
    for start in range(len(raw) - 3):
        key = raw[start : start + 4]
        assert block.find(key) == (keys.index(key) if key in keys else -1)


@given(st.sets(st.text("ab", min_size=5, max_size=5), min_size=1), st.text("ab", min_size=5, max_size=5))
def test_a_key_is_found_among_keys_of_one_size_however_alike(texts: set[str], text: str) -> None:
    keys = sorted(each.encode() for each in texts)
    block = block_of([(key, b"%d" % place) for place, key in enumerate(keys)])
    assert [block.find(key) for key in keys] == list(range(len(keys)))
    assert block.find(text.encode()) == (keys.index(text.encode()) if text in texts else -1)
    assert block.last_key == keys[-1]


def test_the_empty_key_alone_is_a_block() -> None:
    block = block_of([(b"", b"v")])
    assert (block.find(b""), block.find(b"a"), block.last_key, block.keys) == (0, -1, b"", [b""])
