"""Reading an SSTable (docs/formats.md, SSTable).

A table keeps its index and its Bloom filter in memory; blocks are read on demand, from a file that is open now and
then, or always (``open_files``). It may be used on any thread, for nothing in it changes but ``cached``, which is the
block cache's; of that it only looks at ``blocks``. It knows neither levels nor which blocks the cache keeps.

Invariants:
1. No byte is believed before its checksum was checked; damage raises ``CorruptionError`` with path and offset.
2. The file is closed when the last user of the table is gone, so that a reader outlives the removal of the file's name.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

import xxhash
from crc32c import crc32c

from raft_node.errors import CorruptionError
from raft_node.storage.files import FileSystem
from raft_node.storage.tables.block import Block, BlockError, little_endian, open_sealed, span
from raft_node.storage.tables.bloom import load_filter
from raft_node.storage.tables.cache import CachedBlocks
from raft_node.storage.tables.iterators import Columns, Record, records
from raft_node.storage.tables.open_files import OpenFiles, SharedFile
from raft_node.storage.tables.sstable_writer import (
    FOOTER_BODY,
    FOOTER_BYTES,
    FOOTER_CRC,
    FORMAT,
    INDEX_COUNT,
    MAGIC,
    PROPERTIES,
    TableProperties,
)
from raft_node.storage.tables.version import TableMeta, table_name

_READ_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10
_PIECE_BLOCKS = 4
"""The blocks that a merge takes at once: so many records that the interpreter's work for a piece is little for each."""
_BLOCK_OVERHEAD_BYTES = 33 + 32 + 4 * 8 + 1
"""The memory for a block that is not in memory, beside its last key: two objects, and places in four lists."""


class Layout(NamedTuple):
    """The places of the filter, the properties and the index of a table, in this order."""

    offsets: tuple[int, int, int]
    sizes: tuple[int, int, int]


def open_table(fs: FileSystem, directory: str, meta: TableMeta, files: OpenFiles | None = None) -> Table:
    """Opens a table of a version.

    Args:
        fs: The file system of the data directory.
        directory: The data directory.
        meta: The facts of the table in the version.
        files: The open files among which its file is kept; None keeps it open until ``close``.

    Raises:
        CorruptionError: The table is missing, damaged, or another one.
    """
    table = Table(fs, f"{directory}/{table_name(meta.number)}", meta.number, files)
    properties = table.properties
    found = (table.size_bytes, properties.entries, properties.tombstones, properties.smallest, properties.largest)
    if found != (meta.size_bytes, meta.entries, meta.tombstones, meta.smallest, meta.largest):
        table.close()
        raise CorruptionError(table.path, 0, "it is not the table that the manifest names")
    return table


class Table:
    """An open SSTable.

    Attributes:
        number: The number in the table's name.
        path: The path of the table's file.
        properties: The properties in the file.
        last_keys: The last key of each data block.
        cached: The table's blocks that are in memory; the block cache owns it.
        may_contain: The Bloom filter: false only when the key is certainly not here.
        size_bytes: The size of the file.
        memory_bytes: About what its index and its filter take in memory.
    """

    __slots__ = (
        "__weakref__",
        "_close",
        "_file",
        "_file_xxh3",
        "_offsets",
        "cached",
        "last_keys",
        "may_contain",
        "memory_bytes",
        "number",
        "path",
        "properties",
        "size_bytes",
    )

    def __init__(self, fs: FileSystem, path: str, number: int, files: OpenFiles | None = None) -> None:
        """Opens and checks a table; see ``open_table``.

        Raises:
            CorruptionError: The file is missing or damaged.
        """
        try:
            self._file = SharedFile(fs.open_for_read(path), files)
        except FileNotFoundError as error:
            raise CorruptionError(path, 0, "the table is missing") from error
        self._close = weakref.finalize(self, self._file.close)
        self._close.atexit = False
        self.path = path
        self.number = number
        self.size_bytes = self._file.size
        self._file_xxh3: int | None = None
        offsets, sizes = self._read_footer()
        self.properties = self._read_properties(offsets[1], sizes[1])
        self.last_keys, self._offsets = self._read_index(offsets[2], sizes[2])
        try:
            self.may_contain = load_filter(self._read(offsets[0], sizes[0], "filter"))
        except BlockError as error:
            raise CorruptionError(path, offsets[0], f"filter: {error}") from error
        self.cached = CachedBlocks(len(self.last_keys))
        self.memory_bytes = sizes[0] + sum(map(len, self.last_keys)) + len(self.last_keys) * _BLOCK_OVERHEAD_BYTES
        properties = self.properties
        if (
            offsets[0] != properties.data_bytes
            or self._offsets[-1] != properties.data_bytes
            or len(self.last_keys) != properties.blocks
            or self.last_keys[-1] != properties.largest
        ):
            raise CorruptionError(path, offsets[1], "index and properties contradict each other")
        self._file.share()

    @property
    def blocks(self) -> int:
        """How many data blocks there are."""
        return len(self.last_keys)

    def find_block(self, key: bytes) -> int:
        """The one data block that may hold the key, or -1."""
        position = bisect_left(self.last_keys, key)
        return position if position < len(self.last_keys) and key >= self.properties.smallest else -1

    def block_bytes(self, position: int) -> int:
        """How many bytes a data block takes in the file."""
        return self._offsets[position + 1] - self._offsets[position]

    def read_block(self, position: int) -> Block:
        """Reads, checks and decodes a data block. Blocking.

        Raises:
            CorruptionError: The block is damaged.
        """
        start, end = self._offsets[position], self._offsets[position + 1]
        return self._decode(position, self._file.read_at(start, end - start))

    def _decode(self, position: int, sealed: bytes) -> Block:
        start = self._offsets[position]
        try:
            block = Block(self._open(start, sealed, self._offsets[position + 1] - start, "data block"))
        except BlockError as error:
            raise CorruptionError(self.path, start, f"data block: {error}") from error
        if block.last_key != self.last_keys[position]:
            raise CorruptionError(self.path, start, "the data block is not the one that the index names")
        return block

    def check(self) -> Iterator[int]:
        """Reads all of the file again and checks every checksum, a part at a time. Blocking.

        Yields:
            How many bytes each part took.

        Raises:
            CorruptionError: A part is damaged.
            DiskError: The file cannot be read.
        """
        offsets, sizes = self._read_footer()
        for what, offset, size in zip(("filter", "properties", "index"), offsets, sizes, strict=True):
            self._read(offset, size, what)
            yield size
        for start, end in pairwise(self._offsets):
            self._read(start, end - start, "data block")
            yield end - start

    def items(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Record]:
        """The records with ``start <= key < end`` one by one. Blocking."""
        return records(self.columns(start, end, reverse), reverse=reverse)

    def columns(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[Columns]:
        """The records of a range in pieces, for ``iterators.merge``: one block in memory at a time. Blocking.

        Args:
            start: The first key that is wanted.
            end: The first key behind it that is not; None for no end.
            reverse: Whether to begin with the last block.
        """
        last_keys = self.last_keys
        first = bisect_left(last_keys, start)
        last = len(last_keys) if end is None else min(bisect_left(last_keys, end) + 1, len(last_keys))
        positions = range(first, last)
        for position in reversed(positions) if reverse else positions:
            # A cached block is used, but not marked as used: a scan must not push other blocks out.
            known = self.cached.blocks[position]
            block = self.read_block(position) if known is None else known
            keys = block.keys
            wanted = span(keys, start, end)
            if len(wanted) == len(keys):
                yield Columns(keys, block.values(), block.tombstones)
            elif wanted:
                values = block.values(wanted.start, wanted.stop)
                yield Columns(keys[wanted.start : wanted.stop], values, block.tombstones)

    def all_columns(self) -> Iterator[Columns]:
        """All records, for a merge that reads all of it: in pieces of a few blocks, or of one large block. Blocking.

        Raises:
            CorruptionError: A block is damaged.
        """
        offsets = self._offsets
        first = 0
        while first < self.blocks:
            full = bisect_right(offsets, offsets[first] + _PIECE_BYTES) - 1
            last = min(max(full, first + 1), first + _PIECE_BLOCKS, self.blocks)
            start = offsets[first]
            raw = self._file.read_at(start, offsets[last] - start)
            keys: list[bytes] = []
            values: list[bytes | None] = []
            tombstones = False
            for position in range(first, last):
                block = self._decode(position, raw[offsets[position] - start : offsets[position + 1] - start])
                keys += block.keys
                values += block.values()
                tombstones = tombstones or block.tombstones
            yield Columns(keys, values, tombstones)
            first = last

    def read_raw(self, offset: int, size: int) -> bytes:
        """Bytes of the file, unchecked. Blocking."""
        return self._file.read_at(offset, size)

    def file_xxh3(self) -> int:
        """The XXH3_64 of the whole file, which is read for it the first time. Blocking."""
        if self._file_xxh3 is None:
            state = xxhash.xxh3_64()
            for offset in range(0, self.size_bytes, _READ_BYTES):
                state.update(self.read_raw(offset, min(_READ_BYTES, self.size_bytes - offset)))
            self._file_xxh3 = state.intdigest()
        return self._file_xxh3

    def pin(self) -> None:
        """Keeps the file open for present readers, so that its name can be removed. Blocking."""
        self._file.pin()

    def close(self) -> None:
        """Closes the file. Requires: no reader uses the table any more."""
        self._close()

    def _damaged(self, offset: int, what: str) -> CorruptionError:
        return CorruptionError(self.path, offset, what)

    def _read(self, offset: int, size: int, what: str) -> bytes:
        return self._open(offset, self._file.read_at(offset, size), size, what)

    def _open(self, offset: int, sealed: bytes, size: int, what: str) -> bytes:
        if len(sealed) != size:
            raise self._damaged(offset, f"{what}: the file ends within it")
        try:
            return open_sealed(sealed)
        except BlockError as error:
            raise self._damaged(offset, f"{what}: {error}") from error

    def _read_footer(self) -> Layout:
        start = self.size_bytes - FOOTER_BYTES
        if start < 0:
            raise self._damaged(0, "the file is shorter than a footer")
        try:
            return decode_footer(self._file.read_at(start, FOOTER_BYTES), start)
        except BlockError as error:
            raise self._damaged(start, str(error)) from error

    def _read_properties(self, offset: int, size: int) -> TableProperties:
        payload = self._read(offset, size, "properties")
        try:
            return decode_properties(payload)
        except BlockError as error:
            raise self._damaged(offset, f"properties: {error}") from error

    def _read_index(self, offset: int, size: int) -> tuple[list[bytes], list[int]]:
        payload = self._read(offset, size, "index")
        try:
            return decode_index(payload)
        except BlockError as error:
            raise self._damaged(offset, f"index: {error}") from error


def decode_footer(footer: bytes, start: int) -> Layout:
    """Decodes the footer of a table: the places of its parts.

    Args:
        footer: The last ``FOOTER_BYTES`` of the file.
        start: The offset of the footer in the file.

    Raises:
        BlockError: The footer is damaged, or of another format.
    """
    size = FOOTER_BODY.size
    body, (crc,) = footer[:size], FOOTER_CRC.unpack_from(footer, size)
    if footer[size + 4 :] != bytes(4) + MAGIC or crc32c(body) != crc:
        raise BlockError("the footer is not one of an SSTable")
    *numbers, form = FOOTER_BODY.unpack(body)
    if form != FORMAT:
        raise BlockError(f"unknown SSTable format {form}")
    offsets, sizes = (numbers[0], numbers[1], numbers[2]), (numbers[3], numbers[4], numbers[5])
    if [offsets[0] + sizes[0], offsets[1] + sizes[1], offsets[2] + sizes[2]] != [offsets[1], offsets[2], start]:
        raise BlockError("the footer's parts do not fill the file")
    return Layout(offsets, sizes)


def decode_properties(payload: bytes) -> TableProperties:
    """The opposite of ``TableProperties.encode``.

    Raises:
        BlockError: The payload is damaged.
    """
    if len(payload) < PROPERTIES.size:
        raise BlockError("too short")
    *numbers, blocks, smallest_bytes, largest_bytes = PROPERTIES.unpack_from(payload)
    keys = payload[PROPERTIES.size :]
    if len(keys) != smallest_bytes + largest_bytes:
        raise BlockError("the keys do not fill it")
    smallest, largest = keys[:smallest_bytes], keys[smallest_bytes:]
    return TableProperties(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], blocks, smallest, largest)


def decode_index(payload: bytes) -> tuple[list[bytes], list[int]]:
    """The last key and the offset of each data block, with one offset more for the end of the last.

    Raises:
        BlockError: The payload is damaged.
    """
    if len(payload) < INDEX_COUNT.size:
        raise BlockError("too short")
    (count,) = INDEX_COUNT.unpack_from(payload)
    keys_at = INDEX_COUNT.size + 6 * count
    if not count or keys_at > len(payload):
        raise BlockError(f"no room for {count} blocks")
    ends = list(accumulate(little_endian("H", payload[4 : 4 + 2 * count]), initial=keys_at))
    if ends[-1] != len(payload):
        raise BlockError("the keys do not fill it")
    offsets = list(accumulate(little_endian("I", payload[4 + 2 * count : keys_at]), initial=0))
    return [payload[start:end] for start, end in pairwise(ends)], offsets
