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
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TypeVar

import lz4.block
import zstandard
from crc32c import crc32c

# DO NOT CHANGE: this is in every SSTable. docs/formats.md and a golden-bytes test fix it.
_COUNT = struct.Struct("<I")
_TRAILER = struct.Struct("<BI")
TRAILER_BYTES = 5
STORED = 0
LZ4 = 1
ZSTD = 2
TOMBSTONE = 1 << 31
KEY_BYTES_MAX = (1 << 16) - 1
VALUE_BYTES_MAX = TOMBSTONE - 1
RECORD_HEADER_BYTES = 6

_KEEP_COMPRESSED_BELOW = 7 / 8
_KEY_OVERHEAD_BYTES = 49  # A bytes object, and the pointer to it.
_BLOCK_OVERHEAD_BYTES = 400
_OBJECT_BYTES = 33
_FEW = 16
"""So few keys of one size are searched by one call, as bytes."""

_LZ4_RATIO_MAX = 255
"""The most that LZ4 compresses: each further byte of a match's length makes it at most 255 bytes longer."""

_ZSTD_RATIO_MAX = 1 << 15
"""The most that Zstandard compresses: a block of a frame holds up to 128 KiB and takes at least four bytes."""

_ZSTD_LEVEL = 1
"""The level of compression: higher ones gain a few percent on a block and take half as long again."""

_compressors: list[zstandard.ZstdCompressor] = []
_decompressors: list[zstandard.ZstdDecompressor] = []
"""The idle decompressors: each serves one thread at a time, and making one costs more than using it."""


_T = TypeVar("_T")


class BlockError(ValueError):
    """The bytes are not a block."""


def encode_block(keys: Sequence[bytes], values: Sequence[bytes | None], sizes: tuple[int, int] | None = None) -> bytes:
    """Encodes sorted keys and their values, None for a tombstone.

    Requires: as many keys as values, at least one, strictly ascending.

    Args:
        keys: The keys.
        values: The values.
        sizes: The size of every key and that of every value, where they are known to be equal.
    """
    count = len(keys)
    assert count and count == len(values)
    if sizes is None:
        lengths = encode_lengths(keys, values)
    else:
        lengths = struct.pack("<H", sizes[0]) * count + struct.pack("<I", sizes[1]) * count
    return b"".join((_COUNT.pack(count), lengths, *keys, *filter(None, values)))


def one_size(parts: Sequence[bytes | None]) -> int:
    """The size that all these parts have; -1 if their sizes differ, or one is None.

    Requires: there is a part.
    """
    try:
        sizes = list(map(len, parts))  # type: ignore[arg-type]
    except TypeError:
        return -1
    return sizes[0] if sizes.count(sizes[0]) == len(sizes) else -1


def encode_lengths(keys: Sequence[bytes], values: Sequence[bytes | None]) -> bytes:
    """The sizes of the keys, 16 bits each, then those of the values, 32 bits each, ``TOMBSTONE`` for None."""
    try:
        value_lengths = list(map(len, values))  # type: ignore[arg-type]
    except TypeError:
        value_lengths = [TOMBSTONE if value is None else len(value) for value in values]
    return _encode("H", list(map(len, keys))) + _encode("I", value_lengths)


def _encode(typecode: str, numbers: list[int]) -> bytes:
    count = len(numbers)
    if count and numbers.count(numbers[0]) == count:
        return struct.pack("<" + typecode, numbers[0]) * count
    return struct.pack(f"<{count}{typecode}", *numbers)


def seal(payload: bytes, compression: str) -> bytes:
    """Compresses the payload when that pays, and adds tag and checksum."""
    tag = STORED
    if compression == "lz4":
        compressed = lz4.block.compress(payload, store_size=True)
        if len(compressed) < len(payload) * _KEEP_COMPRESSED_BELOW:
            tag, payload = LZ4, compressed
    elif compression == "zstd":
        compressed = _compress_zstd(payload)
        if len(compressed) < len(payload) * _KEEP_COMPRESSED_BELOW:
            tag, payload = ZSTD, compressed
    crc = crc32c(bytes((tag,)), crc32c(payload))
    return payload + _TRAILER.pack(tag, crc)


def open_sealed(sealed: bytes) -> bytes:
    """Checks what ``seal`` has made and returns the payload.

    Raises:
        BlockError: The block is damaged.
    """
    end = len(sealed) - TRAILER_BYTES
    if end < 0:
        raise BlockError("it is shorter than its trailer")
    tag, crc = _TRAILER.unpack_from(sealed, end)
    view = memoryview(sealed)  # Parts of it are no copies.
    if crc32c(view[: end + 1]) != crc:
        raise BlockError("the checksum does not fit")
    if tag == STORED:
        return sealed[:end]
    payload = view[:end]
    try:
        # The announced size is believed only if so few bytes can hold it: no more memory is allocated.
        if tag == LZ4 and int.from_bytes(payload[:4], "little") <= len(payload) * _LZ4_RATIO_MAX:
            return bytes(lz4.block.decompress(payload))
        if tag == ZSTD and zstandard.frame_content_size(payload) <= len(payload) * _ZSTD_RATIO_MAX:
            return _decompress_zstd(payload)
    except (lz4.block.LZ4BlockError, zstandard.ZstdError, ValueError) as error:
        raise BlockError(f"it cannot be decompressed: {error}") from error
    raise BlockError(f"unknown compression {tag}, or more than {len(payload)} bytes can hold")


def _compress_zstd(payload: bytes) -> bytes:
    try:
        compressor = _compressors.pop()
    except IndexError:
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False, write_content_size=True)
    compressed = compressor.compress(payload)
    _compressors.append(compressor)
    return compressed


def _decompress_zstd(payload: memoryview) -> bytes:
    try:
        decompressor = _decompressors.pop()
    except IndexError:
        decompressor = zstandard.ZstdDecompressor()
    raw = decompressor.decompress(payload, allow_extra_data=False)
    _decompressors.append(decompressor)
    return raw


class Block:
    """A decoded block, quick to search.

    Most blocks have keys of one size and values of one size. Then keys are looked for in the bytes as they are: these
    lie together, while a list of all keys is all over the memory and takes half as much again as the block, and most
    blocks that come from the disk answer one read. Blocks of other keys are cut up at once.

    Attributes:
        tombstones: Whether the block has tombstones.
        cost_bytes: How many bytes the block takes in memory.
        last_key: The last key of the block.
        uses: How often the cache has given the block out.
    """

    __slots__ = (
        "_count",
        "_ends",
        "_key_bytes",
        "_keys",
        "_keys_at",
        "_lengths",
        "_raw",
        "_value_bytes",
        "_values_at",
        "cost_bytes",
        "last_key",
        "tombstones",
        "uses",
    )

    def __init__(self, raw: bytes) -> None:
        """Decodes a payload.

        Raises:
            BlockError: The parts of the payload do not fill it.
        """
        if len(raw) < _COUNT.size:
            raise BlockError("it is shorter than its header")
        (count,) = _COUNT.unpack_from(raw)
        lengths_at = _COUNT.size + 2 * count
        keys_at = _COUNT.size + RECORD_HEADER_BYTES * count
        if not count or keys_at > len(raw):
            raise BlockError("its header does not fit its size")
        self._raw = raw
        self._count = count
        self._keys_at = keys_at
        self._key_bytes = same(raw[_COUNT.size : lengths_at], 2)
        self.uses = 0
        self._keys: list[bytes] | None = None
        self.cost_bytes = len(raw) + _BLOCK_OVERHEAD_BYTES
        if self._key_bytes >= 0:
            values_at = keys_at + count * self._key_bytes
            last_at = values_at - self._key_bytes
        else:
            lengths = little_endian("H", raw[_COUNT.size : lengths_at])
            values_at = keys_at + sum(lengths)
            last_at = values_at - lengths[-1]
        self._values_at = values_at
        if self._index_values(raw[lengths_at:keys_at]) != len(raw):
            raise BlockError("its parts do not fill it")
        self.last_key = raw[last_at:values_at]
        if self._key_bytes <= 0:
            self._keys = cut(raw, keys_at, raw[_COUNT.size : lengths_at], 2)
            self.cost_bytes += (values_at - keys_at) + count * _KEY_OVERHEAD_BYTES

    def _index_values(self, lengths_raw: bytes) -> int:
        """Notes where the values are; returns the end of the last one."""
        length = same(lengths_raw, 4)
        if 0 <= length < TOMBSTONE:
            self.tombstones = False
            self._value_bytes = length
            return int(self._values_at + self._count * length)
        # The index for finding one value among values of many sizes.
        self._value_bytes = -1
        self._lengths = little_endian("I", lengths_raw)
        lengths: array[int] | list[int] = self._lengths
        self.tombstones = max(lengths) >= TOMBSTONE
        if self.tombstones:
            lengths = [0 if length >= TOMBSTONE else length for length in lengths]
        end: int = self._values_at + sum(lengths)
        if end == len(self._raw):
            self._ends = array("I", accumulate(lengths, initial=self._values_at))
        self.cost_bytes += 8 * self._count
        return end

    def __len__(self) -> int:
        return int(self._count)

    @property
    def payload_bytes(self) -> int:
        """The size of the payload from which the block was decoded."""
        return len(self._raw)

    @property
    def keys(self) -> list[bytes]:
        """The keys of the block, ascending. Keys of one size are cut up by each call: keep them to use them again."""
        if self._keys is not None:
            return self._keys
        return list(_splitter(self._key_bytes, self._count).unpack_from(self._raw, self._keys_at))

    def find(self, key: bytes) -> int:
        """The position of the key, or -1."""
        size = self._key_bytes
        if size > 0:
            if len(key) != size:
                return -1
            # Half the keys are left out while there are many; the last few are searched by one call.
            raw, start, first, last = self._raw, self._keys_at, 0, self._count
            while last - first > _FEW:
                middle = (first + last) >> 1
                at = start + middle * size
                if key < raw[at : at + size]:
                    last = middle
                else:
                    first = middle
            found: int = raw.find(key, start + first * size, start + last * size) - start
            if found < 0:
                return -1
            if found % size == 0:
                return found // size
            # The end of one key and the beginning of the next look like it, which is rare enough.
        keys = self.keys
        position = bisect_left(keys, key)
        if position < len(keys) and keys[position] == key:
            return position
        return -1

    def look_up(self, key: bytes, default: _T) -> bytes | _T | None:
        """The value of a key, None for a tombstone; or the default when the key is not here."""
        position = self.find(key)
        return self.value(position) if position >= 0 else default

    def value(self, position: int) -> bytes | None:
        """The value at a position; None for a tombstone."""
        size = self._value_bytes
        if size >= 0:
            start = self._values_at + position * size
            return self._raw[start : start + size]
        if self._lengths[position] >= TOMBSTONE:
            return None
        return self._raw[self._ends[position] : self._ends[position + 1]]

    def values(self, first: int = 0, last: int | None = None) -> list[bytes | None]:
        """The values at the positions from ``first`` to before ``last``, in the order of the keys."""
        raw = self._raw
        last = self._count if last is None else last
        size = self._value_bytes
        if size >= 0:
            # All are cut out, for a splitter of another count takes as long to make.
            return list(_splitter(size, self._count).unpack_from(raw, self._values_at)[first:last])
        values: list[bytes | None] = [raw[start:end] for start, end in pairwise(self._ends[first : last + 1])]
        if self.tombstones:
            lengths = self._lengths[first:last]
            return [None if length >= TOMBSTONE else value for length, value in zip(lengths, values, strict=True)]
        return values

    def items(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, bytes | None]]:
        """The records with ``start <= key < end``, lazily."""
        keys = self.keys
        positions = span(keys, start, end)
        for position in reversed(positions) if reverse else positions:
            yield keys[position], self.value(position)


class IndexedBlock:
    """A block that is read again and again: a dict, which answers in a third of the time and takes twice the memory.

    Attributes:
        entries: The values by key.
        tombstones: Whether the block has tombstones.
        cost_bytes: How many bytes the block takes in memory.
    """

    __slots__ = ("cost_bytes", "entries", "tombstones")

    def __init__(self, block: Block) -> None:
        entries = dict(zip(block.keys, block.values(), strict=True))
        self.entries = entries
        self.tombstones = block.tombstones
        self.cost_bytes = sys.getsizeof(entries) + block.payload_bytes + len(entries) * 2 * _OBJECT_BYTES

    @property
    def keys(self) -> list[bytes]:
        """See ``Block.keys``: a dict keeps the order of the block."""
        return list(self.entries)

    def look_up(self, key: bytes, default: _T) -> bytes | _T | None:
        """See ``Block.look_up``."""
        return self.entries.get(key, default)

    def values(self, first: int = 0, last: int | None = None) -> list[bytes | None]:
        """See ``Block.values``."""
        return list(self.entries.values())[first:last]


def span(keys: Sequence[bytes], start: bytes, end: bytes | None) -> range:
    """The positions of the keys with ``start <= key < end`` among ascending keys."""
    first = bisect_left(keys, start)
    return range(first, len(keys) if end is None else max(first, bisect_left(keys, end)))


def same(lengths_raw: bytes, width: int) -> int:
    """The value of all these encoded numbers, each ``width`` bytes wide; -1 if they differ."""
    one = lengths_raw[:width]
    return int.from_bytes(one, "little") if one * (len(lengths_raw) // width) == lengths_raw else -1


def cut(raw: bytes, start: int, lengths_raw: bytes, width: int) -> list[bytes]:
    """Cuts bytes into parts that lie one behind the other; into none when there are not enough bytes.

    Args:
        raw: The bytes.
        start: The offset of the first part.
        lengths_raw: The sizes of the parts, little-endian.
        width: How many bytes each of these sizes takes: 2 or 4.
    """
    length = same(lengths_raw, width)
    if length >= 0:
        count = len(lengths_raw) // width
        return list(_splitter(length, count).unpack_from(raw, start)) if start + count * length <= len(raw) else []
    ends = list(accumulate(little_endian("H" if width == 2 else "I", lengths_raw), initial=start))
    return [raw[first:last] for first, last in pairwise(ends)] if ends[-1] <= len(raw) else []


@lru_cache(maxsize=32)
def _splitter(size: int, count: int) -> struct.Struct:
    return struct.Struct(f"{size}s" * count)


def little_endian(typecode: str, raw: bytes) -> array[int]:
    """An array of unsigned little-endian numbers: "H" for 16 bits, "I" for 32."""
    numbers: array[int] = array(typecode)
    assert numbers.itemsize == {"H": 2, "I": 4}[typecode]
    numbers.frombytes(raw)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
