"""Bloom filters of SSTables (docs/formats.md, Bloom filter).

With ``m`` = 8 times the bytes of the bit array, a key sets the bits ``(h1 + i * h2) mod m`` for ``0 <= i < k``, where
``h1 = XXH3_64(key, seed 0) mod m`` and ``h2 = XXH3_64(key, seed 32) mod m``. Bit ``b`` is bit ``b mod 8`` of byte
``b div 8``. fastbloom-rs does the work natively; a test holds it to this text, so that another library can replace it.
This module knows neither tables nor files.

Invariant: a filter that says no is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from fastbloom_rs import BloomFilter

from raft_node.storage.tables.block import BlockError

# DO NOT CHANGE: this is in every SSTable. docs/formats.md and a golden-bytes test fix it.
_WORD_BYTES = 8

_PROBES_MAX = 30


def build_filter(keys: Sequence[bytes], bits_per_key: int) -> bytes:
    """The filter of the keys as a payload: u8 probes, then the bit array; empty when there are to be no bits."""
    if not bits_per_key or not keys:
        return b""
    probes = min(_PROBES_MAX, max(1, round(bits_per_key * math.log(2))))
    words = max(1, -(-len(keys) * bits_per_key // (8 * _WORD_BYTES)))
    native = BloomFilter.from_bytes(bytes(words * _WORD_BYTES), probes)
    native.add_bytes_batch(list(keys))
    return bytes((probes,)) + bytes(native.get_bytes())


def load_filter(payload: bytes) -> Callable[[bytes], bool]:
    """The probe of a filter: whether a key may be among those it was built from.

    Raises:
        BlockError: The payload is not a filter.
    """
    if not payload:
        return _may_contain
    probes, size = payload[0], len(payload) - 1
    if not 0 < probes <= _PROBES_MAX or not size or size % _WORD_BYTES:
        raise BlockError(f"a Bloom filter of {size} bytes with {probes} probes")
    probe: Callable[[bytes], bool] = BloomFilter.from_bytes(payload[1:], probes).contains_bytes
    return probe


def _may_contain(key: bytes) -> bool:
    return True
