"""Notes and identities of docs/formats.md in bytes. A failure means that older data can no longer be read."""

from __future__ import annotations

from raft_node.runtime.members import identity as identities
from raft_node.runtime.members.identity import Identity
from raft_node.storage.notes import encode_note, read_note
from raft_node.storage.snapshots.checkpoint import CheckpointFile
from raft_node.storage.snapshots.incoming import IncomingSnapshot, SnapshotHeader
from raft_node.storage.snapshots.installing import Installing, read_installing, write_installing
from raft_testing.files import MemoryFileSystem

NOTE = b'{"b": [1, "x"], "z": null}\n04190d06\n'
INSTALLING = b'{"index": 9, "log_term": 4, "term": 3}\n0d847acb\n'
HEADER = (
    b'{"configuration": "0102", "files": [["000007.sst", 202, 9], ["CHECKPOINT", 103, 8]], "last_index": 5, '
    b'"last_term": 2, "snapshot_id": "0a0b", "timestamp_us": 6}\n41cd6f48\n'
)
IDENTITY = b'{"cluster_id": "c0ffee", "incarnation": 7, "name": "shard-0-1", "shard": 0}\n5be03686\n'


def new_disk() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    for name in ("/wal", "/data"):
        fs.make_directory(name)
    return fs


def test_a_note() -> None:
    assert encode_note({"z": None, "b": [1, "x"]}) == NOTE
    fs = new_disk()
    fs.put("/data/NOTE", NOTE)
    assert read_note(fs, "/data", "NOTE") == {"b": [1, "x"], "z": None}


def test_the_note_of_an_installation() -> None:
    fs = new_disk()
    write_installing(fs, "/data", Installing(9, 3, 4))
    assert fs.read_file("/data/INSTALLING") == INSTALLING
    assert read_installing(fs, "/data") == Installing(9, 3, 4)


def test_the_header_of_a_snapshot_that_is_received() -> None:
    fs = new_disk()
    files = (CheckpointFile("000007.sst", 202, 9), CheckpointFile("CHECKPOINT", 103, 8))
    header = SnapshotHeader("0a0b", 5, 2, b"\1\2", 6, files)
    IncomingSnapshot.open(fs, "/data", header)
    assert fs.read_file("/data/incoming/HEADER") == HEADER


def test_the_identity_of_a_node() -> None:
    fs = new_disk()
    identities.replace(fs, "/wal", "/data", Identity("shard-0-1", 7, 0, "c0ffee"))
    assert fs.read_file("/wal/IDENTITY") == fs.read_file("/data/IDENTITY") == IDENTITY
    assert identities.read(fs, "/data") == Identity("shard-0-1", 7, 0, "c0ffee")
