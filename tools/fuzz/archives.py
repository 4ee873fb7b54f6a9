"""Fuzz targets of the client: the archive of a shard as it comes in, and the manifest of a backup."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import xxhash

from dougdb import backups
from dougdb.backups import FACTS, MANIFEST, BackupError
from raft_testing.fuzz import notes
from raft_testing.fuzz.target import Target

_BLOCK_BYTES = 512
_CHECKSUM = slice(148, 156)
_SIZE = slice(124, 136)


def _take_nothing(_: int) -> None:
    pass


def check_archive(content: bytes) -> None:
    """An archive is taken whole and sound, or refused; nothing outside its folder is touched."""
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "shard-0"
        try:
            cut = backups.receive_shard(io.BytesIO(content), 0, folder, lambda _: _take_nothing)
        except BackupError:
            assert [path.name for path in Path(above).iterdir()] in ([], ["shard-0"])
            return
        for file in cut.files:
            assert xxhash.xxh3_64_hexdigest((folder / file.name).read_bytes()) == file.xxh3
        assert sorted(path.name for path in folder.iterdir()) == sorted(file.name for file in cut.files)


def seeds_archive() -> Iterable[bytes]:
    """With two files."""
    files = {"CHECKPOINT": b"hello", "000001.sst": b"abc"}
    facts = {
        **{"format": 1, "shard": 0, "index": 7, "term": 1, "log_time_us": 5, "voters": ["a"], "node": "a"},
        "files": [
            {"name": name, "size_bytes": len(data), "xxh3": xxhash.xxh3_64_hexdigest(data)}
            for name, data in files.items()
        ],
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in {FACTS: json.dumps(facts).encode(), **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    # Without the zeros to a whole record.
    yield buffer.getvalue()[: (2 * 4 + 1) * _BLOCK_BYTES]


def repair_archive(content: bytes) -> bytes:
    """Makes the checksums of the headers fit, as far as the sizes lead."""
    data = bytearray(content)
    position = 0
    while position + _BLOCK_BYTES <= len(data):
        header = data[position : position + _BLOCK_BYTES]
        if not any(header):
            break
        header[_CHECKSUM] = b" " * 8
        header[_CHECKSUM] = b"%06o\0 " % sum(header)
        data[position : position + _BLOCK_BYTES] = header
        try:
            size = int(bytes(header[_SIZE]).strip(b" \0") or b"0", 8)
        except ValueError:
            break
        position += _BLOCK_BYTES * (1 + max(0, -(-size // _BLOCK_BYTES)))
    return bytes(data)


def check_manifest(content: bytes) -> None:
    """The manifest of a backup is known, or refused."""
    with tempfile.TemporaryDirectory() as path:
        (Path(path) / MANIFEST).write_bytes(content)
        try:
            backup = backups.load(Path(path))
        except BackupError:
            return
    assert all("/" not in file.name for cut in backup.shards for file in cut.files)


TARGETS = (
    Target("archive", "the archive of a shard in a backup", check_archive, seeds_archive, repair_archive),
    Target(
        "catalogue",
        "the manifest of a backup, as the client reads it",
        check_manifest,
        notes.seeds_backup,
        notes.repair_backup,
    ),
)
