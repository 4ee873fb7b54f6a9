"""The formats of docs/formats.md in bytes. A failure here means that older data can no longer be read."""

from __future__ import annotations

from raft_node.storage.changes import segments as changes
from raft_node.storage.changes.span import Span
from raft_node.storage.options import TableOptions
from raft_node.storage.snapshots.checkpoint import CheckpointWrite, decode_checkpoint
from raft_node.storage.tables import manifest
from raft_node.storage.tables.block import Block, encode_block, open_sealed, seal
from raft_node.storage.tables.bloom import build_filter, load_filter
from raft_node.storage.tables.sstable import Table
from raft_node.storage.tables.sstable_writer import TableWriter
from raft_node.storage.tables.version import TableMeta, Version, VersionEdit
from raft_node.storage.tables.view import View
from raft_testing.files import MemoryFileSystem

BLOCK = bytes.fromhex(
    "02000000"  # Two keys.
    "0100 0100"  # Of one byte each.
    "01000000 00000080"  # A value of one byte, and a tombstone.
    "61 62"
    "31"
)
SEALED = BLOCK + bytes.fromhex("00 70a2feb0")
SEALED_ZEROS = bytes.fromhex("64000000 1f0001004b500000000000 01 8aab10ad")
SEALED_ZEROS_ZSTD = bytes.fromhex("28b52ffd206445000010000001003f012c 02 bbb0fbc7")
BLOOM = bytes.fromhex("07 552010882e020080")
TABLE = bytes.fromhex(
    "01000000 0100 01000000 61 31 00 460438c0"  # Data block "a".
    "01000000 0100 00000080 62 00 e17ed37f"  # Data block "b".
    "07 552010882e020080 00 7bf7c7f1"  # Filter.
    "0200000000000000 0100000000000000 0200000000000000 0100000000000000 2100000000000000"  # Properties.
    "02000000 0100 0100 61 62 00 bed213a9"
    "02000000 0100 0100 11000000 10000000 61 62 00 530956e7"  # Index.
    "2100000000000000 2f00000000000000 6600000000000000 0e000000 37000000 17000000 01000000"  # Footer.
    "2045f286 00000000 444f55472d535354"
)
MANIFEST = bytes.fromhex(
    "444f55472d4d414e 01000000 83b29171"  # File header.
    "23c77c09 20000000 0000000000000000 01"  # The base: an empty version.
    "0000000000000000 0000000000000000 0100000000000000 00000000 00000000"
    "5b035ea9 00000000 0100000000000000 02"  # A seal.
    "4a307656 47000000 0200000000000000 01"  # An edit: table 1 at level 0, after entry 5 of term 2.
    "0500000000000000 0200000000000000 0200000000000000 00000000 01000000"
    "00 0100000000000000 ca00000000000000 0200000000000000 0100000000000000 0100 0100 61 62"
    "3ad9cf44 00000000 0300000000000000 02"  # A seal.
)
CURRENT = b"MANIFEST-000003 9fe8597d\n"
CHECKPOINT = bytes.fromhex(
    "444f55472d434b50 01000000 7b7d5c51 47000000"  # Magic, format, checksum, size of the edit.
    "0500000000000000 0200000000000000 0200000000000000 00000000 01000000"  # The edit of the manifest above.
    "00 0100000000000000 ca00000000000000 0200000000000000 0100000000000000 0100 0100 61 62"
    "528505fb3f4d27be"  # XXH3_64 of the table above.
)
CHANGES = bytes.fromhex(
    "444f55472d434847 02000000 934d385a"  # File header.
    "a0da5c74 14000000 0500000000000000 0200000000000000"  # The batch of entry 5, term 2,
    "0900000000000000 02000000 05000000"  # which ends with change 9, and has notes of 5 bytes.
    "0100 0100 01000000 00000080 61 62 31 6e6f746573"
)


def test_block() -> None:
    assert encode_block([b"a", b"b"], [b"1", None]) == BLOCK
    assert list(Block(BLOCK).items(b"", None, False)) == [(b"a", b"1"), (b"b", None)]


def test_sealed_block() -> None:
    assert seal(BLOCK, "lz4") == seal(BLOCK, "none") == SEALED
    assert open_sealed(SEALED) == BLOCK
    assert open_sealed(SEALED_ZEROS) == bytes(100)
    # The compressor may choose other bytes in another version; what it once wrote must stay readable.
    assert open_sealed(seal(bytes(100), "lz4")) == bytes(100)
    assert seal(BLOCK, "zstd") == SEALED
    assert open_sealed(SEALED_ZEROS_ZSTD) == open_sealed(seal(bytes(100), "zstd")) == bytes(100)


def test_bloom_filter() -> None:
    assert build_filter([b"a", b"b"], 10) == BLOOM
    probe = load_filter(BLOOM)
    assert probe(b"a") and probe(b"b") and not probe(b"c")


def test_sstable() -> None:
    fs = MemoryFileSystem()
    writer = TableWriter(fs, "/t.sst", TableOptions(block_bytes=8))
    writer.add(b"a", b"1")
    writer.add(b"b", None)
    writer.finish()
    assert fs.read_file("/t.sst") == TABLE
    fs.put("/golden.sst", TABLE)
    assert list(Table(fs, "/golden.sst", 1).items(b"", None, False)) == [(b"a", b"1"), (b"b", None)]


def test_manifest_and_current() -> None:
    fs = MemoryFileSystem()
    fs.make_directory("/data")
    edit = VersionEdit((), ((0, TableMeta(1, 202, 2, 1, b"a", b"b")),), 5, 2, 2)
    version = Version.empty().apply(edit)
    manifest.Manifest(fs, "/data", 3, 1000, Version.empty()).append(edit, version)
    assert fs.read_file("/data/MANIFEST-000003") == MANIFEST
    assert fs.read_file("/data/CURRENT") == CURRENT
    assert manifest.recover(fs, "/data") == manifest.Recovered(version, 3, 0)


def test_checkpoint() -> None:
    fs = MemoryFileSystem()
    fs.make_directory("/data")
    meta = TableMeta(1, 202, 2, 1, b"a", b"b")
    version = Version.empty().apply(VersionEdit((), ((0, meta),), 5, 2, 2))
    fs.put("/data/000001.sst", TABLE)
    view = View(version, {1: Table(fs, "/data/000001.sst", 1)})
    made = CheckpointWrite(fs, "/data", "/snapshot", view).run()
    assert fs.read_file("/snapshot/CHECKPOINT") == CHECKPOINT
    assert decode_checkpoint("/snapshot", CHECKPOINT) == made
    assert (made.applied_index, made.applied_term, made.files[0].name) == (5, 2, "000001.sst")


def test_change_segment() -> None:
    fs = MemoryFileSystem()
    fs.make_directory("/data")
    segment = changes.ChangeSegment(fs, "/data", 1)
    segment.add([(b"a", b"1"), (b"b", None)], 5, 2, 1 << 20, Span(7, 9, 11, b"notes"))
    segment.seal()
    piece = segment.take()
    assert piece is not None
    piece.run()
    assert fs.read_file("/data/000001.chg") == CHANGES
    assert changes.decode_frame("1", 16, CHANGES[16:]) == ([(b"a", b"1"), (b"b", None)], 9, b"notes")
    reader = changes.ChangeReader(fs, "/data/000001.chg", len(CHANGES))
    assert reader.entries == {b"a": b"1", b"b": None}
    reader.close()
