"""Writing an SSTable, block by block (docs/formats.md, SSTable).

The writer holds one data block, up to 256 KiB of finished ones and the keys of the table (for the filter), never the
table. It knows neither levels nor
the manifest.

Invariants:
1. Keys are added in strictly ascending order.
2. Every byte of the file is covered by a checksum or compared with a constant.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from operator import add, lt
from typing import NamedTuple

from crc32c import crc32c

from raft_node.storage.files import FileSystem
from raft_node.storage.options import TableOptions
from raft_node.storage.tables.block import (
    KEY_BYTES_MAX,
    RECORD_HEADER_BYTES,
    VALUE_BYTES_MAX,
    encode_block,
    one_size,
    seal,
)
from raft_node.storage.tables.bloom import build_filter

# DO NOT CHANGE: this is in every SSTable. docs/formats.md and a golden-bytes test fix it.
MAGIC = b"DOUG-SST"
FORMAT = 1
FOOTER_BODY = struct.Struct("<QQQIIII")  # Offsets, then sizes, of filter, properties and index; the format.
FOOTER_CRC = struct.Struct("<I")
FOOTER_BYTES = 40 + 4 + 8 + 4
PROPERTIES = struct.Struct("<QQQQQIHH")  # Entries, tombstones, key, value and data bytes, blocks, two key sizes.
INDEX_COUNT = struct.Struct("<I")

_WRITE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class TableProperties:
    """The properties of a table, as its file holds them.

    Attributes:
        entries: How many keys the table has, tombstones included.
        tombstones: How many of the keys are tombstones.
        key_bytes: The sum of the keys' sizes.
        value_bytes: The sum of the values' sizes.
        data_bytes: How many bytes the data blocks take in the file.
        blocks: How many data blocks the table has.
        smallest: The first key.
        largest: The last key.
    """

    entries: int
    tombstones: int
    key_bytes: int
    value_bytes: int
    data_bytes: int
    blocks: int
    smallest: bytes
    largest: bytes

    def encode(self) -> bytes:
        """The payload of the properties block."""
        head = PROPERTIES.pack(
            self.entries,
            self.tombstones,
            self.key_bytes,
            self.value_bytes,
            self.data_bytes,
            self.blocks,
            len(self.smallest),
            len(self.largest),
        )
        return head + self.smallest + self.largest


def encode_index(last_keys: list[bytes], sizes: list[int]) -> bytes:
    """The payload of the index block: for each data block its last key and its sealed size."""
    count = len(sizes)
    return struct.pack(f"<I{count}H{count}I", count, *map(len, last_keys), *sizes) + b"".join(last_keys)


def encode_footer(offsets: tuple[int, int, int], sizes: tuple[int, int, int]) -> bytes:
    """The last bytes of a table."""
    body = FOOTER_BODY.pack(*offsets, *sizes, FORMAT)
    return body + FOOTER_CRC.pack(crc32c(body)) + bytes(4) + MAGIC


class TableWriter:
    """Writes one table to a new file.

    Attributes:
        size_bytes: The size of the file with all records that were added, but for the open block.
        key_bytes: The sum of the sizes of the keys, which it keeps for the filter.
    """

    def __init__(self, fs: FileSystem, path: str, options: TableOptions) -> None:
        self._file = fs.create(path)
        self._options = options
        self.size_bytes = 0
        self._written_bytes = 0
        self._waiting: list[bytes] = []
        self._keys: list[bytes] = []
        self._block_start = 0
        self._values: list[bytes | None] = []
        self._block_bytes = 0
        self._block_sizes: tuple[int, int] | None = None
        self._last_keys: list[bytes] = []
        self._sizes: list[int] = []
        self._tombstones = 0
        self.key_bytes = 0
        self._value_bytes = 0

    @property
    def entries(self) -> int:
        """How many keys were added."""
        return len(self._keys)

    @property
    def full(self) -> bool:
        """Whether the table is large enough: in bytes, or in the sizes of its keys, which may compress well."""
        options = self._options
        return max(self.size_bytes, self.key_bytes) >= options.table_bytes or len(self._keys) >= options.table_keys_max

    def add(self, key: bytes, value: bytes | None) -> None:
        """Adds the next record; None is a tombstone."""
        self.add_all((key,), (value,))

    def add_all(self, keys: Sequence[bytes], values: Sequence[bytes | None], *, until_full: bool = False) -> int:
        """Adds the records that come next; None is a tombstone.

        Args:
            keys: Their keys, strictly ascending, at least one.
            values: Their values.
            until_full: Whether to stop once the table is ``full``.

        Returns:
            How many records were added: fewer only if the table is full.
        """
        assert all(map(lt, keys, islice(keys, 1, None))), "keys must ascend"
        assert not self._keys or self._keys[-1] < keys[0], "keys must ascend"
        key_ends, value_ends, ends, sizes = _measure(keys, values)
        count, first = len(keys), 0
        while first < count:
            room = self._options.block_bytes - self._block_bytes
            last = max(first, bisect_right(ends, ends[first] + room, first) - 1)
            if last == first and not self._values:
                # A big value makes a block of its own.
                last += 1
            if until_full:
                last = min(last, first + self._options.table_keys_max - len(self._keys))
            added = values[first:last]
            self._keys += keys[first:last]
            self._values += added
            self._tombstones += added.count(None) if sizes is None else 0
            self.key_bytes += key_ends[last] - key_ends[first]
            self._value_bytes += value_ends[last] - value_ends[first]
            self._block_sizes = sizes if not self._block_bytes or sizes == self._block_sizes else None
            self._block_bytes += ends[last] - ends[first]
            first = last
            # A record that would overfill the block begins the next one.
            if first < count and (self._block_bytes + ends[first + 1] - ends[first] > self._options.block_bytes):
                self._close_block()
            if until_full and self.full:
                break
        return first

    def finish(self) -> TableProperties:
        """Writes the rest and syncs the file. Its name is not durable before its directory is synced."""
        assert self._keys, "a table has at least one key"
        if self._values:
            self._close_block()
        data_bytes = self.size_bytes
        properties = TableProperties(
            len(self._keys),
            self._tombstones,
            self.key_bytes,
            self._value_bytes,
            data_bytes,
            len(self._sizes),
            self._keys[0],
            self._keys[-1],
        )
        filter_at = (data_bytes, self._append(build_filter(self._keys, self._options.bloom_bits_per_key)))
        properties_at = (self.size_bytes, self._append(properties.encode()))
        index_at = (self.size_bytes, self._append(encode_index(self._last_keys, self._sizes)))
        (offsets, sizes) = zip(filter_at, properties_at, index_at, strict=True)
        footer = encode_footer((offsets[0], offsets[1], offsets[2]), (sizes[0], sizes[1], sizes[2]))
        self._put(footer)
        self._write()
        # The manifest will refer to this file as if it could not be lost.
        self._file.sync_data()
        self._file.close()
        return properties

    def close(self) -> None:
        """Closes an unfinished file as it is."""
        self._file.close()

    def _close_block(self) -> None:
        payload = encode_block(self._keys[self._block_start :], self._values, self._block_sizes)
        self._sizes.append(self._append(payload, self._options.compression))
        self._last_keys.append(self._keys[-1])
        self._block_start = len(self._keys)
        self._values = []
        self._block_bytes = 0

    def _append(self, payload: bytes, compression: str = "none") -> int:
        sealed = seal(payload, compression)
        self._put(sealed)
        return len(sealed)

    def _put(self, part: bytes) -> None:
        """Queues bytes for the file, which are written with others: a call for each block costs more than its bytes."""
        self._waiting.append(part)
        self.size_bytes += len(part)
        if self.size_bytes - self._written_bytes >= _WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        self._file.write_at(self._written_bytes, self._waiting)
        self._written_bytes = self.size_bytes
        self._waiting = []


class _Places(NamedTuple):
    """The ends of records, if all were laid one behind the other; the first one begins at 0.

    Attributes:
        keys: The end of each key among all keys.
        values: The end of each value among all values.
        records: The end of each whole record with its header.
        sizes: The size of every key and that of every value; None when they differ.
    """

    keys: Sequence[int]
    values: Sequence[int]
    records: Sequence[int]
    sizes: tuple[int, int] | None


def _measure(keys: Sequence[bytes], values: Sequence[bytes | None]) -> _Places:
    count = len(keys)
    key_bytes, value_bytes = one_size(keys), one_size(values)
    if key_bytes > 0 and value_bytes > 0:
        # These sums need no work per record.
        assert key_bytes <= KEY_BYTES_MAX and value_bytes <= VALUE_BYTES_MAX
        steps = (key_bytes, value_bytes, key_bytes + value_bytes + RECORD_HEADER_BYTES)
        key_ends, value_ends, ends = (range(0, (count + 1) * step, step) for step in steps)
        return _Places(key_ends, value_ends, ends, (key_bytes, value_bytes))
    key_sizes = list(map(len, keys))
    value_sizes = [0 if value is None else len(value) for value in values]
    assert max(key_sizes) <= KEY_BYTES_MAX and max(value_sizes) <= VALUE_BYTES_MAX
    sizes = [size + RECORD_HEADER_BYTES for size in map(add, key_sizes, value_sizes)]
    key_sums, value_sums, sums = (list(accumulate(each, initial=0)) for each in (key_sizes, value_sizes, sizes))
    return _Places(key_sums, value_sums, sums, None)
