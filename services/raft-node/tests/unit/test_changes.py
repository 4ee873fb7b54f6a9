"""Change segments: the last write of each key comes back, and damage is found."""

from __future__ import annotations

import pytest

from raft_node.errors import CorruptionError
from raft_node.storage.changes.segments import ChangeReader, ChangeSegment, Position
from raft_node.storage.memtable import Batch
from raft_testing.files import MemoryFileSystem

PATH = "/data/000001.chg"


def a_disk() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_directory("/data")
    return fs


def write(fs: MemoryFileSystem, batches: list[Batch]) -> ChangeSegment:
    segment = ChangeSegment(fs, "/data", 1)
    for index, batch in enumerate(batches, 1):
        segment.add(batch, index, 7, 1 << 20)
        if index % 3 == 0:
            piece = segment.take()
            assert piece is not None
            piece.run()
            piece.done()
    assert not segment.complete
    segment.seal()
    piece = segment.take()
    assert piece is not None
    piece.run()
    piece.done()
    assert segment.take() is None
    return segment


def read(fs: MemoryFileSystem, size: int) -> dict[bytes, bytes | None]:
    reader = ChangeReader(fs, PATH, size)
    values = {key: reader.value(key) for key in reader.entries}
    reader.close()
    return values


def test_the_last_write_of_each_key_is_read_back() -> None:
    fs = a_disk()
    big = b"big" * 1000
    batches: list[Batch] = [
        [(b"a", b"1"), (b"b", b"1"), (b"a", b"2")],
        [],
        [(b"b", None), (b"c", b"")],
        [(b"d", big), (b"e", big + b"x")],
        [(b"d", None), (b"", b"empty key")],
    ]
    segment = write(fs, batches)
    expected = {b"a": b"2", b"b": None, b"c": b"", b"d": None, b"e": big + b"x", b"": b"empty key"}
    assert read(fs, segment.size_bytes) == expected
    reader = ChangeReader(fs, PATH, segment.size_bytes)
    assert (reader.applied_index, reader.applied_term) == (5, 7)
    assert isinstance(reader.entries[b"e"], Position)
    reader.close()


def test_many_frames_of_all_sizes() -> None:
    fs = a_disk()
    batches: list[Batch] = [[(b"%d" % (n % 50), bytes([n % 256]) * (n * 37 % 5000))] for n in range(400)]
    batches.insert(200, [(b"huge", b"h" * 600_000)])
    expected: dict[bytes, bytes | None] = {}
    for batch in batches:
        expected.update(batch)
    assert read(fs, write(fs, batches).size_bytes) == expected


def test_a_segment_without_batches_is_empty() -> None:
    fs = a_disk()
    assert read(fs, write(fs, []).size_bytes) == {}


def test_every_flipped_bit_and_every_cut_is_found() -> None:
    fs = a_disk()
    size = write(fs, [[(b"a", b"1"), (b"b", None)], [(b"c", b"3")]]).size_bytes
    content = fs.read_file(PATH)
    for bit in range(8 * size):
        fs.flip_bit(PATH, bit)
        with pytest.raises(CorruptionError):
            read(fs, size)
        fs.put(PATH, content)
    for cut in range(size):
        fs.put(PATH, content[:cut])
        with pytest.raises(CorruptionError):
            read(fs, size)
        with pytest.raises(CorruptionError):
            read(fs, min(cut, 16) if cut != 16 else 17)
    fs.remove(PATH)
    with pytest.raises(CorruptionError, match="missing"):
        read(fs, size)


def test_a_value_that_changes_between_the_check_and_its_use_is_found() -> None:
    fs = a_disk()
    size = write(fs, [[(b"a", b"v" * 5000)]]).size_bytes
    reader = ChangeReader(fs, PATH, size)
    file = fs.open_for_write(PATH)
    file.write_at(size - 10, [b"?"])
    with pytest.raises(CorruptionError, match="changed"):
        reader.value(b"a")
