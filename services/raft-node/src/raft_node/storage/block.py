"""A block: sorted keys with their values, column by column (docs/formats.md, Block).

Before compression, little-endian::

    u32 count | u16 key bytes [count] | u32 value bytes [count] | keys | values

A value length with its highest bit set is a tombstone and has no value bytes. On disk every block, also the filter, the
properties and the index of a table, is sealed: payload, compression tag, and a CRC32C over both. This module knows no
files; damage is a ``BlockError``, which the caller turns into a ``CorruptionError`` with path and offset.

Invariants:
1. A block has at least one key; keys strictly ascend.
2. ``open_sealed(seal(x)) == x``, and one flipped bit raises.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import lz4.block
from crc32c import crc32c

# DO NOT CHANGE: this is in every SSTable. docs/formats.md and a golden-bytes test fix it.
_COUNT = struct.Struct("<I")
_TRAILER = struct.Struct("<BI")
TRAILER_BYTES = 5
STORED = 0
LZ4 = 1
TOMBSTONE = 1 << 31
KEY_BYTES_MAX = (1 << 16) - 1
VALUE_BYTES_MAX = TOMBSTONE - 1
RECORD_HEADER_BYTES = 6

_KEEP_COMPRESSED_BELOW = 7 / 8
_KEY_OVERHEAD_BYTES = 49  # A bytes object and the pointer to it.
_BLOCK_OVERHEAD_BYTES = 400


class BlockError(ValueError):
    """The bytes are not a block."""


def encode_block(keys: Sequence[bytes], values: Sequence[bytes | None]) -> bytes:
    """Encodes sorted keys and their values, None for a tombstone.

    Requires: as many keys as values, at least one, strictly ascending.
    """
    count = len(keys)
    assert count and count == len(values)
    lengths = [TOMBSTONE if value is None else len(value) for value in values]
    head = struct.pack(f"<I{count}H{count}I", count, *map(len, keys), *lengths)
    return b"".join((head, *keys, *filter(None, values)))


def seal(payload: bytes, compression: str) -> bytes:
    """Compresses the payload when that pays, and adds tag and checksum."""
    tag = STORED
    if compression == "lz4":
        compressed = lz4.block.compress(payload, store_size=True)
        if len(compressed) < len(payload) * _KEEP_COMPRESSED_BELOW:
            tag, payload = LZ4, compressed
    crc = crc32c(bytes((tag,)), crc32c(payload))
    return payload + _TRAILER.pack(tag, crc)


def open_sealed(sealed: bytes) -> bytes:
    """Checks what ``seal`` has made and returns the payload.

    Raises:
        BlockError: It is damaged.
    """
    end = len(sealed) - TRAILER_BYTES
    if end < 0:
        raise BlockError("it is shorter than its trailer")
    tag, crc = _TRAILER.unpack_from(sealed, end)
    if crc32c(memoryview(sealed)[: end + 1]) != crc:
        raise BlockError("the checksum does not fit")
    payload = sealed[:end]
    if tag == STORED:
        return payload
    if tag != LZ4:
        raise BlockError(f"unknown compression {tag}")
    try:
        return bytes(lz4.block.decompress(payload))
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise BlockError(f"it cannot be decompressed: {error}") from error


class Block:
    """A decoded block, quick to search.

    Attributes:
        keys: Its keys, ascending.
        cost_bytes: What it takes in memory.
    """

    __slots__ = ("_ends", "_lengths", "_raw", "cost_bytes", "keys")

    def __init__(self, raw: bytes) -> None:
        """Decodes a payload.

        Raises:
            BlockError: Its parts do not fill it.
        """
        if len(raw) < _COUNT.size:
            raise BlockError("it is shorter than its header")
        (count,) = _COUNT.unpack_from(raw)
        keys_at = _COUNT.size + RECORD_HEADER_BYTES * count
        if not count or keys_at > len(raw):
            raise BlockError("its header does not fit its size")
        key_lengths = little_endian("H", raw[4 : 4 + 2 * count])
        self._lengths = little_endian("I", raw[4 + 2 * count : keys_at])
        self._raw = raw
        key_ends = list(accumulate(key_lengths, initial=keys_at))
        lengths: array[int] | list[int] = self._lengths
        if max(lengths) >= TOMBSTONE:
            lengths = [0 if length >= TOMBSTONE else length for length in lengths]
        values_at = key_ends[-1]
        if values_at + sum(lengths) != len(raw):
            raise BlockError("its parts do not fill it")
        self._ends = array("I", accumulate(lengths, initial=values_at))
        self.keys = [raw[start:end] for start, end in pairwise(key_ends)]
        self.cost_bytes = len(raw) + (values_at - keys_at) + count * (_KEY_OVERHEAD_BYTES + 8) + _BLOCK_OVERHEAD_BYTES

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, key: bytes) -> int:
        """The position of the key, or -1."""
        keys = self.keys
        position = bisect_left(keys, key)
        if position < len(keys) and keys[position] == key:
            return position
        return -1

    def value(self, position: int) -> bytes | None:
        """The value at a position; None for a tombstone."""
        if self._lengths[position] >= TOMBSTONE:
            return None
        return self._raw[self._ends[position] : self._ends[position + 1]]

    def values(self) -> list[bytes | None]:
        """All values, in the order of the keys."""
        raw, lengths = self._raw, self._lengths
        values: list[bytes | None] = [raw[start:end] for start, end in pairwise(self._ends)]
        if max(lengths) >= TOMBSTONE:
            return [None if length >= TOMBSTONE else value for length, value in zip(lengths, values, strict=True)]
        return values

    def items(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes | None]]:
        """The records with ``start <= key < end``, lazily."""
        first = bisect_left(self.keys, start)
        last = len(self.keys) if end is None else bisect_left(self.keys, end)
        positions = range(first, last)
        for position in reversed(positions) if reverse else positions:
            yield self.keys[position], self.value(position)


def little_endian(typecode: str, raw: bytes) -> array[int]:
    """An array of unsigned little-endian numbers: "H" for 16 bits, "I" for 32."""
    numbers: array[int] = array(typecode)
    assert numbers.itemsize == {"H": 2, "I": 4}[typecode]
    numbers.frombytes(raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
