"""Bloom filters: the native one is the documented one, and no key that is there is denied."""

from __future__ import annotations

import random

import pytest
import xxhash

from raft_node.storage.tables.block import BlockError
from raft_node.storage.tables.bloom import build_filter, load_filter


def filter_by_the_text(keys: list[bytes], size: int, probes: int) -> bytes:
    """The bit array as docs/formats.md describes it, one bit after the other."""
    bits = size * 8
    array = bytearray(size)
    for key in keys:
        first = xxhash.xxh3_64_intdigest(key, seed=0) % bits
        step = xxhash.xxh3_64_intdigest(key, seed=32) % bits
        for probe in range(probes):
            bit = (first + probe * step) % bits
            array[bit // 8] |= 1 << bit % 8
    return bytes(array)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("bits_per_key", [1, 8, 10, 20])
def test_the_native_filter_is_the_documented_one(count: int, bits_per_key: int) -> None:
    rng = random.Random(count)
    keys = [rng.randbytes(rng.randrange(300)) for _ in range(count)]
    payload = build_filter(keys, bits_per_key)
    assert payload[1:] == filter_by_the_text(keys, len(payload) - 1, payload[0])


def test_no_key_is_denied_and_few_others_are_let_through() -> None:
    keys = [b"key%d" % number for number in range(5000)]
    probe = load_filter(build_filter(keys, 10))
    assert all(map(probe, keys))
    others = sum(probe(b"other%d" % number) for number in range(20000))
    assert others / 20000 < 0.02


def test_no_filter_lets_everything_through() -> None:
    assert build_filter([b"a"], 0) == b""
    assert load_filter(b"")(b"anything")


@pytest.mark.parametrize("payload", [b"\x07", b"\x00" + bytes(8), b"\x07" + bytes(7), b"\xff" + bytes(8)])
def test_a_payload_that_is_no_filter_is_refused(payload: bytes) -> None:
    with pytest.raises(BlockError):
        load_filter(payload)
