"""Fuzz targets of SSTables: the whole file, a block, a Bloom filter."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

from crc32c import crc32c

from raft_node.errors import CorruptionError
from raft_node.storage import inspect
from raft_node.storage.options import COMPRESSIONS, TableOptions
from raft_node.storage.tables.block import Block, BlockError, IndexedBlock, encode_block, open_sealed, seal
from raft_node.storage.tables.bloom import build_filter, load_filter
from raft_node.storage.tables.sstable import Table, decode_footer, decode_index
from raft_node.storage.tables.sstable_writer import FOOTER_BODY, FOOTER_BYTES, TableWriter
from raft_testing.files import MemoryFileSystem
from raft_testing.fuzz.target import Target, damaged, disk

_PATH = "/data/000001.sst"
_TRAILER_BYTES = 5

Records = list[tuple[bytes, bytes | None]]


def _records(content: bytes) -> tuple[Table, Records]:
    table = Table(disk({_PATH: content}), _PATH, 1)
    try:
        return table, list(table.items(b"", None, reverse=False))
    except CorruptionError:
        table.close()
        raise


def check_table(content: bytes) -> None:
    """All ways to read a table agree, or it is refused."""
    for _ in inspect.table(disk({_PATH: content}), _PATH, records=True):
        pass
    try:
        table, records = _records(content)
    except CorruptionError:
        return
    assert sum(table.check()) <= len(content)
    keys = [key for key, _ in records]
    if all(one < other for one, other in pairwise(keys)):
        assert list(table.items(b"", None, reverse=True)) == records[::-1]
    for key in (*keys[:8], b"", b"k1", b"\xff"):
        table.may_contain(key)
        position = table.find_block(key)
        if position >= 0:
            table.read_block(position).look_up(key, None)
    table.close()


def seeds_table() -> Iterable[bytes]:
    """One of each compression, with and without a filter, tombstones and values of many sizes."""
    for compression in COMPRESSIONS:
        for bits, size in ((0, 1), (10, 60)):
            fs = MemoryFileSystem()
            fs.make_directory("/data")
            options = TableOptions(block_bytes=100, compression=compression, bloom_bits_per_key=bits)
            writer = TableWriter(fs, _PATH, options)
            for key in range(6):
                value = None if key == 3 and bits else b"v%d" % key * size
                writer.add(b"k%d" % key, value)
            writer.finish()
            yield fs.read_file(_PATH)


def repair_table(content: bytes) -> bytes:
    """Makes the checksums of footer, filter, properties, index and blocks fit, as far as the offsets lead."""
    start = len(content) - FOOTER_BYTES
    if start < 0:
        return content
    data = bytearray(content)
    body = start + FOOTER_BODY.size
    data[body : body + 4] = crc32c(bytes(data[start:body])).to_bytes(4, "little")
    try:
        offsets, sizes = decode_footer(bytes(data[start:]), start)
    except BlockError:
        return bytes(data)
    for offset, size in zip(offsets, sizes, strict=True):
        _reseal(data, offset, offset + size)
    try:
        _, blocks = decode_index(open_sealed(bytes(data[offsets[2] : offsets[2] + sizes[2]])))
    except BlockError:
        return bytes(data)
    for first, last in pairwise(blocks):
        if last <= start:
            _reseal(data, first, last)
    return bytes(data)


def _reseal(data: bytearray, start: int, end: int) -> None:
    if end - start >= _TRAILER_BYTES:
        data[end - 4 : end] = crc32c(bytes(data[start : end - 4])).to_bytes(4, "little")


def damage_table(script: bytes) -> None:
    """A damaged table is refused when it is opened or read, or has the contents of the sound one."""
    # The first byte chooses a table.
    sound = _sound_tables()
    content, expected = sound[script[0] % len(sound) if script else 0]
    content = damaged(content, script[1:])
    for _ in inspect.table(disk({_PATH: content}), _PATH, records=True):
        pass
    try:
        table, records = _records(content)
    except CorruptionError:
        return
    table.close()
    assert records == expected, "a damaged table served what was never written"


@lru_cache(maxsize=1)
def _sound_tables() -> tuple[tuple[bytes, Records], ...]:
    return tuple((content, _records(content)[1]) for content in seeds_table())


def check_block(sealed: bytes) -> None:
    """All ways to read a block agree, and a sorted block encodes to the same bytes."""
    try:
        block = Block(open_sealed(sealed))
    except BlockError:
        return
    keys, values = block.keys, block.values()
    assert len(keys) == len(values) == len(block)
    assert values == [block.value(position) for position in range(len(block))]
    assert keys[-1] == block.last_key
    assert block.tombstones == (None in values)
    if any(one >= other for one, other in pairwise(keys)):
        return
    assert all(block.look_up(key, 0) == value for key, value in zip(keys, values, strict=True))
    indexed = IndexedBlock(block)
    assert all(indexed.look_up(key, 0) == value for key, value in zip(keys, values, strict=True))
    assert block.look_up(keys[-1] + b"\0", 0) == 0
    for compression in COMPRESSIONS:
        again = Block(open_sealed(seal(encode_block(keys, values), compression)))
        assert (again.keys, again.values()) == (keys, values)


def repair_block(sealed: bytes) -> bytes:
    """Makes the checksum of a sealed block fit."""
    data = bytearray(sealed)
    _reseal(data, 0, len(data))
    return bytes(data)


def seeds_block() -> Iterable[bytes]:
    """Keys and values of one size, of many sizes, and none; compressed and not."""
    for compression in COMPRESSIONS:
        yield seal(encode_block([b"k%02d" % key for key in range(20)], [b"value"] * 20), compression)
        yield seal(encode_block([b"", b"a", b"ab" * 9], [None, b"", b"v" * 99]), compression)


def check_filter(payload: bytes) -> None:
    """A filter loads and can be asked."""
    try:
        may_contain = load_filter(payload)
    except BlockError:
        return
    for key in (b"", b"k1", payload[:16]):
        assert may_contain(key) in (False, True)


def seeds_filter() -> Iterable[bytes]:
    """None, a small one, a bigger one."""
    yield b""
    yield build_filter([b"k1"], 10)
    yield build_filter([b"k%d" % key for key in range(50)], 8)


TARGETS = (
    Target(
        "sstable", "SSTables: footer, index, properties, blocks", check_table, seeds_table, repair_table, damage_table
    ),
    Target("block", "sealed blocks and their compression", check_block, seeds_block, repair_block),
    Target("bloom", "Bloom filters", check_filter, seeds_filter),
)
