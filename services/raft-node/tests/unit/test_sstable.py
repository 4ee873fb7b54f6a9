"""SSTables: what was written comes back in order, and no damaged byte passes."""

from __future__ import annotations

import gc
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_node.errors import CorruptionError
from raft_node.storage.options import COMPRESSIONS, TableOptions
from raft_node.storage.tables.block import encode_block, seal
from raft_node.storage.tables.sstable import Table
from raft_node.storage.tables.sstable_writer import TableWriter
from raft_testing.files import MemoryFileSystem

Records = list[tuple[bytes, bytes | None]]


def write(fs: MemoryFileSystem, records: Records, options: TableOptions | None = None, path: str = "/t.sst") -> None:
    writer = TableWriter(fs, path, options or TableOptions(block_bytes=100))
    for key, value in records:
        writer.add(key, value)
    writer.finish()


def read_all(fs: MemoryFileSystem, path: str = "/t.sst") -> Records:
    return list(Table(fs, path, 1).items(b"", None, False))


def find(table: Table, key: bytes) -> bytes | None:
    position = table.find_block(key)
    if position < 0:
        return None
    block = table.read_block(position)
    place = block.find(key)
    return block.value(place) if place >= 0 else None


def some_records(count: int, seed: int = 1) -> Records:
    rng = random.Random(seed)
    keys = sorted({b"key%08d" % rng.randrange(10**8) for _ in range(count)})
    return [(key, None if rng.random() < 0.1 else rng.randbytes(rng.randrange(60))) for key in keys]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("bits", [0, 10])
def test_a_table_gives_back_what_was_written(compression: str, bits: int) -> None:
    fs = MemoryFileSystem()
    records = some_records(500)
    write(fs, records, TableOptions(block_bytes=200, compression=compression, bloom_bits_per_key=bits))
    table = Table(fs, "/t.sst", 1)
    assert list(table.items(b"", None, False)) == records
    assert list(table.items(b"", None, True)) == records[::-1]
    assert all(table.may_contain(key) and find(table, key) == value for key, value in records)
    assert find(table, b"") is find(table, b"key") is find(table, b"zzz") is None
    properties = table.properties
    assert (properties.smallest, properties.largest) == (records[0][0], records[-1][0])
    assert properties.entries == len(records)
    assert properties.tombstones == sum(value is None for _, value in records)
    assert properties.value_bytes == sum(len(value) for _, value in records if value is not None)
    assert table.blocks == properties.blocks > 10


def test_ranges_are_half_open_in_both_directions() -> None:
    fs = MemoryFileSystem()
    records = some_records(300)
    write(fs, records)
    table = Table(fs, "/t.sst", 1)
    rng = random.Random(2)
    for _ in range(80):
        start, end = (rng.choice(records)[0] + rng.choice((b"", b"x")) for _ in range(2))
        expected = [record for record in records if start <= record[0] < end]
        assert list(table.items(start, end, False)) == expected
        assert list(table.items(start, end, True)) == expected[::-1]


def test_a_big_value_makes_a_block_of_its_own() -> None:
    fs = MemoryFileSystem()
    big = random.Random(1).randbytes(1 << 20)
    records: Records = [(b"a", b"1"), (b"b", big), (b"c", b"2"), (b"d", b"3")]
    write(fs, records, TableOptions())
    table = Table(fs, "/t.sst", 1)
    assert table.blocks == 3
    assert [table.read_block(position).keys for position in range(3)] == [[b"a"], [b"b"], [b"c", b"d"]]
    assert read_all(fs) == records


def test_long_and_empty_keys_and_values() -> None:
    fs = MemoryFileSystem()
    records: Records = [(b"", b""), (b"\x00", b"x"), (b"\xff" * 65535, b"y")]
    write(fs, records)
    assert read_all(fs) == records


def test_the_file_is_synced_before_the_writer_is_done() -> None:
    fs = MemoryFileSystem()
    write(fs, some_records(100))
    fs.sync_directory("/")
    assert fs.is_synced("/t.sst")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_flipped_bit_is_found(compression: str) -> None:
    fs = MemoryFileSystem()
    records: Records = [(b"apple", b"v" * 40), (b"berry", b"v" * 40), (b"cherry", None), (b"date", b"w" * 80)]
    write(fs, records, TableOptions(block_bytes=100, compression=compression))
    content = fs.read_file("/t.sst")
    for bit in range(8 * len(content)):
        fs.flip_bit("/t.sst", bit)
        with pytest.raises(CorruptionError) as damage:
            read_all(fs)
        assert damage.value.path == "/t.sst"
        assert 0 <= damage.value.offset <= bit // 8
        fs.put("/t.sst", content)
    assert read_all(fs) == records


def test_every_cut_and_any_added_byte_is_found() -> None:
    fs = MemoryFileSystem()
    write(fs, [(b"a", b"1"), (b"b", b"2")])
    content = fs.read_file("/t.sst")
    for size in range(len(content)):
        fs.put("/t.sst", content[:size])
        with pytest.raises(CorruptionError):
            read_all(fs)
    for damaged in (content + b"\x00", b"\x00" + content, content + content):
        fs.put("/t.sst", damaged)
        with pytest.raises(CorruptionError):
            read_all(fs)


def test_a_valid_block_in_the_wrong_place_is_found() -> None:
    fs = MemoryFileSystem()
    write(fs, [(b"a", b"1" * 80), (b"b", b"2" * 80)], TableOptions(block_bytes=90, compression="none"))
    content = fs.read_file("/t.sst")
    size = Table(fs, "/t.sst", 1)._offsets[1]
    fs.put("/t.sst", content[size : 2 * size] + content[size:])
    with pytest.raises(CorruptionError, match="not the one that the index names"):
        read_all(fs)


def test_a_missing_table_is_damage() -> None:
    with pytest.raises(CorruptionError, match="missing"):
        Table(MemoryFileSystem(), "/t.sst", 1)


def test_a_reader_outlives_the_removal_and_the_last_user_closes_the_file() -> None:
    fs = MemoryFileSystem()
    records = some_records(50)
    write(fs, records)
    table = Table(fs, "/t.sst", 1)
    file = table._file
    fs.remove("/t.sst")
    iterator = table.items(b"", None, False)
    gc.disable()
    try:
        del table
        assert list(iterator) == records
        with pytest.raises(AssertionError, match="is closed"):
            file.read_at(0, 1)
    finally:
        gc.enable()


def test_keys_must_ascend() -> None:
    writer = TableWriter(MemoryFileSystem(), "/t.sst", TableOptions())
    writer.add(b"b", b"")
    for keys in ([b"b"], [b"a", b"c"], [b"c", b"c"], [b"d", b"c"]):
        with pytest.raises(AssertionError):
            writer.add_all(keys, [b""] * len(keys))


@given(
    st.dictionaries(
        st.binary(max_size=4) | st.binary(min_size=3, max_size=3),
        st.none() | st.binary(max_size=50) | st.binary(min_size=7, max_size=7),
        min_size=1,
        max_size=60,
    )
    | st.dictionaries(st.binary(min_size=3, max_size=3), st.binary(min_size=7, max_size=7), min_size=1, max_size=60),
    st.lists(st.integers(1, 9), min_size=1),
    st.integers(1, 120),
)
def test_records_that_come_together_make_the_table_of_those_that_come_one_by_one(
    content: dict[bytes, bytes | None], sizes: list[int], block_bytes: int
) -> None:
    fs = MemoryFileSystem()
    options = TableOptions(block_bytes=block_bytes)
    records = sorted(content.items())
    write(fs, records, options, "/one.sst")
    writer = TableWriter(fs, "/many.sst", options)
    added = turn = 0
    while added < len(records):
        some = records[added : added + sizes[turn % len(sizes)]]
        added, turn = added + len(some), turn + 1
        assert writer.add_all([key for key, _ in some], [value for _, value in some]) == len(some)
    writer.finish()
    assert fs.read_file("/many.sst") == fs.read_file("/one.sst")
    table = Table(fs, "/one.sst", 1)
    assert list(table.items(b"", None, False)) == records
    data = b""
    for position in range(table.blocks):
        block = table.read_block(position)
        size = sum(6 + len(key) + len(value or b"") for key, value in block.items(b"", None, False))
        assert size <= block_bytes or len(block) == 1
        data += seal(encode_block(block.keys, block.values()), options.compression)
    assert fs.read_file("/one.sst").startswith(data) and len(data) == table.properties.data_bytes
    pieces = list(table.all_columns())
    assert [record for piece in pieces for record in zip(piece.keys, piece.values, strict=True)] == records
    assert all(piece.tombstones == (None in piece.values) for piece in pieces)


def test_reading_a_table_through_takes_a_few_blocks_at_a_time_or_a_large_one() -> None:
    fs = MemoryFileSystem()
    small: Records = [(b"a%03d" % number, b"value") for number in range(100)]
    large: Records = [(b"b%d" % number, bytes(range(256)) * 400) for number in range(3)]
    write(fs, [*small, *large], TableOptions(block_bytes=100, compression="none"))
    sizes = [len(piece.keys) for piece in Table(fs, "/t.sst", 1).all_columns()]
    assert sum(sizes) == 103
    assert max(sizes) == 4 * (100 // 15)
    assert sizes[-3:] == [1, 1, 1]


def test_reading_a_table_through_finds_damage_in_any_block() -> None:
    fs = MemoryFileSystem()
    records = some_records(60)
    write(fs, records)
    content = fs.read_file("/t.sst")
    table = Table(fs, "/t.sst", 1)
    for position in range(0, table.properties.data_bytes, 7):
        damaged = MemoryFileSystem()
        damaged.create("/t.sst").write_at(0, [content])
        opened = Table(damaged, "/t.sst", 1)
        damaged.open_for_write("/t.sst").write_at(position, [bytes([content[position] ^ 4])])
        with pytest.raises(CorruptionError, match="data block"):
            list(opened.all_columns())


@given(st.integers(1, 30), st.integers(1, 400), st.integers(1, 200))
def test_a_table_is_full_by_its_keys_or_by_its_bytes(keys_max: int, table_bytes: int, value_bytes: int) -> None:
    options = TableOptions(block_bytes=100, compression="none", table_bytes=table_bytes, table_keys_max=keys_max)
    keys = [b"%04d" % number for number in range(100)]
    writer = TableWriter(MemoryFileSystem(), "/t.sst", options)
    added = writer.add_all(keys, [bytes(value_bytes)] * 100, until_full=True)
    assert 0 < added <= keys_max
    assert writer.full == (added < 100)
    # It stops behind the block with which it became full.
    assert writer.size_bytes < table_bytes + 100 + value_bytes + 50
