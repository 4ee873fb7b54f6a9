"""Writes, reads, lists and removes backups: directories of shards with a manifest (docs/formats.md, Backup).

Must not know HTTP or terminals. ``raft_node`` reads the same files and shares no code with this package; a test writes
backups with this package and reads them with ``raft_node``.

Invariants:

1. The manifest ``BACKUP.json`` is written last, when all files that it lists are durable: a directory without it is no
   backup.
2. Only files of a shard's state are written, and only below the backup's own directory.
3. Of an encrypted backup only the manifest is ever on disk unencrypted.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from dougdb import sealing
from dougdb.sealing import Recipients

MANIFEST = "BACKUP.json"
FACTS = "SHARD.json"
FORMAT = 1
SEALED_FORMAT = 2
"""The format of a backup whose files are encrypted."""
READ_BYTES = 1 << 20
FACTS_BYTES_MAX = 16 << 20
INCOMPLETE_KEPT_S = 24 * 3600
"""An unfinished backup that is younger is left alone, because it may still be under way."""

_FILE_NAME = re.compile(r"CHECKPOINT|[0-9]{6,20}\.sst")
_BACKUP_ID = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{8}")
_TIME = "%Y%m%dT%H%M%SZ"

OnBytes = Callable[[int], None]


class BackupError(Exception):
    """A backup cannot be made, read or used; the message says why."""


class IncompleteError(BackupError):
    """The received data is cut off or differs from its own list of files. A new request may succeed."""


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A file of a shard's state, with the XXH3_64 of all its bytes in hexadecimal digits.

    Attributes:
        sealed: The size and the XXH3_64 of the encrypted file on disk; None if the file is not encrypted.
    """

    name: str
    size_bytes: int
    xxh3: str
    sealed: tuple[int, str] | None = None

    @property
    def disk_name(self) -> str:
        """The name of the file on disk."""
        return self.name if self.sealed is None else self.name + sealing.SUFFIX

    @property
    def on_disk(self) -> tuple[int, str]:
        """The size and the checksum of the file on disk."""
        return self.sealed or (self.size_bytes, self.xxh3)


@dataclass(frozen=True, slots=True)
class ShardCut:
    """The state of one shard as of one log entry.

    Attributes:
        shard: The shard's number.
        index: The index of the last log entry that the state includes.
        log_time_us: The log time as of that entry, microseconds since the epoch.
        voters: The names of the voters as of that entry.
        node: The name of the node that sent the state.
        files: The files of the state.
        document: The shard's part of the manifest.
    """

    shard: int
    index: int
    log_time_us: int
    voters: tuple[str, ...]
    node: str
    files: tuple[BackupFile, ...]
    document: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """The sum of the sizes of the shard's files."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was finished.

    Attributes:
        path: The directory of the backup.
        backup_id: The unique id of the backup; it is the directory's name, unless the directory was renamed.
        cluster_id: The id of the cluster that was backed up.
        begun_us: When the backup began: it has every write that was acknowledged before.
        shards: All shards, by number.
        document: The manifest.
    """

    path: Path
    backup_id: str
    cluster_id: str
    begun_us: int
    shards: tuple[ShardCut, ...]
    document: dict[str, Any]

    @property
    def encrypted(self) -> bool:
        """Whether the files are encrypted."""
        return any(file.sealed is not None for cut in self.shards for file in cut.files)

    @property
    def size_bytes(self) -> int:
        """The sum of the sizes of all files."""
        return sum(cut.size_bytes for cut in self.shards)


def new_id(now: datetime.datetime) -> str:
    """A new backup's id: the time, and eight random digits, so that two backups of one second differ."""
    return f"{now.astimezone(datetime.UTC):{_TIME}}-{secrets.token_hex(4)}"


def folder_of(shard: int) -> str:
    """The name of a shard's directory in a backup."""
    return f"shard-{shard}"


def cut_of(document: dict[str, Any]) -> ShardCut:
    """Reads the description of a shard's state: ``SHARD.json``, or a shard's part of the manifest.

    Raises:
        BackupError: The document does not have the documented form.
    """
    try:
        files = tuple(_file_of(file) for file in document["files"])
        voters = tuple(str(name) for name in document["voters"])
        numbers = int(document["shard"]), int(document["index"]), int(document["log_time_us"])
        cut = ShardCut(*numbers, voters, str(document["node"]), files, document)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BackupError(f"not the facts of a shard: {error!r}") from None
    names = [file.name for file in files]
    if names.count("CHECKPOINT") != 1 or len(set(names)) != len(names) or not all(map(_FILE_NAME.fullmatch, names)):
        raise BackupError("the facts of the shard do not name the files of one checkpoint")
    return cut


def _file_of(document: dict[str, Any]) -> BackupFile:
    sealed = None
    if "sealed" in document:
        sealed = int(document["sealed"]["size_bytes"]), str(document["sealed"]["xxh3"])
    return BackupFile(str(document["name"]), int(document["size_bytes"]), str(document["xxh3"]), sealed)


class _PlainFile(tarfile.TarInfo):
    """A member of a shard's archive.

    A member of another kind is refused before tarfile reads more: damaged sparse maps and long names would raise errors
    that are no ``tarfile.TarError``. Its kind is known as soon as its header sets it, in every version of tarfile.
    """

    def _kind(self) -> bytes:
        return self._known_kind

    def _set_kind(self, value: bytes) -> None:
        if value not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise tarfile.ReadError(f"{self.name} is no plain file")
        self._known_kind = value

    type = property(_kind, _set_kind)
    """The kind of the member, as tarfile calls it. Whoever sets it to another one gets ``tarfile.ReadError``."""


def receive_shard(
    source: BinaryIO,
    shard: int,
    folder: Path,
    begun: Callable[[ShardCut], OnBytes],
    recipients: Recipients | None = None,
) -> ShardCut:
    """Writes the archive of a shard's state into a new directory, durably, and checks every byte of it.

    Args:
        source: The answer of ``GET /v1/shards/{id}/backup``, which is read as it arrives.
        shard: The number of the shard that was requested.
        folder: The directory to make.
        begun: Called with the description of the state; returns a function that is called with each number of bytes
            written.
        recipients: The only recipients that can decrypt the files; None for files that are not encrypted.

    Raises:
        IncompleteError: The archive is cut off, or its content differs from its description.
        OSError: The directory cannot be written.
        SealingError: The files cannot be encrypted.
    """
    folder.mkdir()
    try:
        with tarfile.open(fileobj=source, mode="r|", tarinfo=_PlainFile) as archive:
            members = iter(archive)
            cut = _facts(archive, next(members, None))
            if cut.shard != shard:
                raise IncompleteError(f"shard {cut.shard} came in place of shard {shard}")
            if any(file.sealed is not None for file in cut.files):
                raise IncompleteError(f"shard {shard} came encrypted, which no facade sends")
            on_bytes = begun(cut)
            written = []
            for file in cut.files:
                member = next(members, None)
                if member is None or not member.isreg() or (member.name, member.size) != (file.name, file.size_bytes):
                    raise IncompleteError(f"{file.name} of shard {shard} is missing, or is another file")
                written.append(_write(archive, member, folder, file, on_bytes, recipients))
            if next(members, None) is not None:
                raise IncompleteError(f"more files came of shard {shard} than it names")
    except (tarfile.TarError, BackupError) as error:
        raise IncompleteError(f"shard {shard}: {error}") from None
    sync_folder(folder)
    return cut if recipients is None else cut_of({**cut.document, "files": written})


def _facts(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> ShardCut:
    if member is None or member.name != FACTS or not member.isreg() or member.size > FACTS_BYTES_MAX:
        raise IncompleteError(f"the archive does not begin with {FACTS}")
    file = archive.extractfile(member)
    assert file is not None, "a regular file has content"
    try:
        document = json.loads(file.read())
        form = document["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IncompleteError(f"{FACTS} cannot be understood") from None
    if form != FORMAT:
        raise BackupError(f"the facade sends format {form}; this version knows format {FORMAT} only")
    return cut_of(document)


class Counted:
    """Reads from a source or writes to a target, and computes the size and the checksum of the data."""

    def __init__(self, other: Any, on_bytes: OnBytes | None = None) -> None:
        self._other = other
        self._on_bytes = on_bytes
        self._state = xxhash.xxh3_64()
        self._size = 0

    @property
    def facts(self) -> tuple[int, str]:
        """The size and the checksum of the data so far."""
        return self._size, self._state.hexdigest()

    def read(self, size: int) -> bytes:
        """Reads at most ``size`` bytes."""
        data: bytes = self._other.read(size)
        self._count(data)
        return data

    def write(self, data: bytes) -> int:
        """Writes all bytes to the target; without a target they are only counted."""
        if self._other is not None:
            self._other.write(data)
        self._count(data)
        return len(data)

    def flush(self) -> None:
        """Writes the bytes that are still buffered."""
        if self._other is not None:
            self._other.flush()

    def _count(self, data: bytes) -> None:
        self._state.update(data)
        self._size += len(data)
        if self._on_bytes is not None:
            self._on_bytes(len(data))


def _write(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    folder: Path,
    file: BackupFile,
    on_bytes: OnBytes,
    recipients: Recipients | None,
) -> dict[str, Any]:
    """Writes a file durably; returns the file's part of the manifest."""
    content = archive.extractfile(member)
    assert content is not None, "a regular file has content"
    source = Counted(content, on_bytes)
    named: dict[str, Any] = {"name": file.name, "size_bytes": file.size_bytes, "xxh3": file.xxh3}
    with (folder / (file.name if recipients is None else file.name + sealing.SUFFIX)).open("xb") as file_on_disk:
        target = Counted(file_on_disk)
        if recipients is None:
            while data := source.read(READ_BYTES):
                target.write(data)
        else:
            sealing.seal(source, target, recipients)
            size_bytes, xxh3 = target.facts
            named["sealed"] = {"size_bytes": size_bytes, "xxh3": xxh3}
        file_on_disk.flush()
        os.fsync(file_on_disk.fileno())
    if source.facts != (file.size_bytes, file.xxh3):
        raise IncompleteError(f"{file.name} is not what was sent: its checksum does not fit")
    return named


def finish(
    path: Path,
    cuts: list[ShardCut],
    begun_us: int,
    ended_us: int,
    version: str,
    recipients: Recipients | None = None,
) -> Backup:
    """Completes a backup by its manifest. Requires: every shard's directory is durable.

    Raises:
        BackupError: The shards belong to several clusters.
        OSError: The manifest cannot be written.
    """
    clusters = sorted({str(cut.document.get("cluster_id")) for cut in cuts})
    if len(clusters) != 1:
        raise BackupError(f"the shards belong to different clusters: {', '.join(clusters)}")
    keys = ("shard", "index", "term", "log_time_us", "initial_shards", "voters", "learners", "node", "version", "files")
    document = {
        "format": FORMAT if recipients is None else SEALED_FORMAT,
        "backup_id": path.name,
        "cluster_id": clusters[0],
        "begun_us": begun_us,
        "ended_us": ended_us,
        "version": version,
        "shards": [{key: cut.document[key] for key in keys} for cut in sorted(cuts, key=lambda cut: cut.shard)],
    }
    if recipients is not None:
        document["encryption"] = {"format": sealing.FORMAT, "recipients": list(recipients.names)}
    write_manifest(path, document)
    return load(path)


def write_manifest(path: Path, document: dict[str, Any]) -> None:
    """Writes the manifest durably, by which a directory becomes a backup.

    Raises:
        OSError: The manifest cannot be written.
    """
    temporary = path / f".{MANIFEST}.tmp"
    with temporary.open("w") as target:
        target.write(json.dumps(with_hash(document), indent=2) + "\n")
        target.flush()
        os.fsync(target.fileno())
    # The names of all shards must be durable before the manifest that lists them.
    sync_folder(path)
    temporary.replace(path / MANIFEST)
    sync_folder(path)
    sync_folder(path.parent)


def with_hash(document: dict[str, Any]) -> dict[str, Any]:
    """The manifest, with its checksum added."""
    return {**document, "xxh3": _hash_of(document)}


def _hash_of(document: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def load(path: Path) -> Backup:
    """Reads a backup's manifest.

    Raises:
        BackupError: The directory has no manifest, or the manifest is damaged.
    """
    try:
        document = json.loads((path / MANIFEST).read_bytes())
        expected = document.pop("xxh3")
        if _hash_of(document) != expected:
            raise BackupError(f"{path / MANIFEST} is damaged: its checksum does not fit")
        if document["format"] not in (FORMAT, SEALED_FORMAT):
            known = f"formats {FORMAT} and {SEALED_FORMAT} only"
            raise BackupError(f"{path} has format {document['format']}; this version knows {known}")
        shards = tuple(cut_of(shard) for shard in document["shards"])
        sealed = {file.sealed is not None for cut in shards for file in cut.files}
        if sealed != {document["format"] == SEALED_FORMAT}:
            raise BackupError(f"{path / MANIFEST} is damaged: some of its files are encrypted and others are not")
        named = str(document["backup_id"]), str(document["cluster_id"])
        return Backup(path, *named, int(document["begun_us"]), shards, document)
    except FileNotFoundError:
        raise BackupError(f"{path} is no backup: it has no {MANIFEST}, or was not finished") from None
    except NotADirectoryError:
        raise BackupError(f"{path} is no backup: it is not a directory") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BackupError(f"{path / MANIFEST} is damaged: {error!r}") from None


@dataclass(frozen=True, slots=True)
class Listed:
    """A directory that is a complete backup, or an unfinished or damaged one.

    Attributes:
        path: The directory.
        backup: The backup; None if it is unfinished or damaged.
        problem: Why there is no complete backup; empty if there is one.
        size_bytes: The sum of the sizes of the files in it.
    """

    path: Path
    backup: Backup | None
    problem: str
    size_bytes: int


def list_backups(directory: Path) -> list[Listed]:
    """All backups in a directory, also unfinished and damaged ones, oldest first.

    Raises:
        OSError: The directory cannot be read.
    """
    found = []
    for path in sorted(directory.iterdir()):
        if not path.is_dir() or not (_BACKUP_ID.fullmatch(path.name) or (path / MANIFEST).exists()):
            continue
        size_bytes = sum(file.stat().st_size for file in path.glob("*/*") if file.is_file())
        try:
            found.append(Listed(path, load(path), "", size_bytes))
        except BackupError as error:
            found.append(Listed(path, None, str(error), size_bytes))
    return found


def remove_old(directory: Path, newest: Backup, keep: int, now_s: float) -> list[Path]:
    """Removes old backups of a cluster, and backups of any cluster that were begun long ago and never finished.

    Args:
        directory: The directory of all backups.
        newest: The backup that was just made; only complete backups of the same cluster are counted.
        keep: How many of these stay, ``newest`` included.
        now_s: The time, in seconds since the epoch.

    Returns:
        The directories that were removed.

    Raises:
        OSError: A directory cannot be removed.
    """
    listed = list_backups(directory)
    whole = [entry.backup for entry in listed if entry.backup is not None]
    same = sorted((b for b in whole if b.cluster_id == newest.cluster_id), key=lambda b: (b.begun_us, b.path.name))
    old = [backup.path for backup in same[: max(0, len(same) - keep)] if backup.path != newest.path]
    for entry in listed:
        match = _BACKUP_ID.fullmatch(entry.path.name)
        # A damaged manifest needs a person's attention; a missing one is left by an interrupted backup.
        if entry.backup is not None or match is None or (entry.path / MANIFEST).exists():
            continue
        begun = datetime.datetime.strptime(match[1], _TIME).replace(tzinfo=datetime.UTC)
        if begun.timestamp() < now_s - INCOMPLETE_KEPT_S:
            old.append(entry.path)
    for path in old:
        discard(path)
    return old


def discard(path: Path) -> None:
    """Removes a backup, its manifest first: if the removal is interrupted, the rest is not taken for a backup.

    Raises:
        OSError: The backup cannot be removed.
    """
    (path / MANIFEST).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        sync_folder(path)
        shutil.rmtree(path)


def sync_folder(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
