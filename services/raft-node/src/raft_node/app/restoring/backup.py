"""A backup on disk as a node's commands read it: what ``dougctl backup create`` wrote (docs/formats.md, Backup).

The client writes it and shares no code with this package; a test of both keeps them together. Everything blocks.

Invariants:
1. A backup without a ``BACKUP.json`` whose checksum fits is no backup.
2. Nothing outside a backup's directory is named by it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import xxhash

from raft_node.errors import CorruptionError
from raft_node.runtime.snapshots.keeper import StateFacts, facts_of
from raft_node.storage import inspect
from raft_node.storage.files import FileSystem
from raft_node.storage.snapshots.checkpoint import CHECKPOINT, CheckpointFile, load_checkpoint, verify_checkpoint

MANIFEST = "BACKUP.json"
FORMAT = 1
ENCRYPTED_FORMAT = 2
"""The format of encrypted backups, which dougctl alone can read."""
_FILE_NAME = re.compile(r"CHECKPOINT|[0-9]{6,20}\.sst")


class ShardCut(NamedTuple):
    """The state of one shard in a backup.

    Attributes:
        shard: The shard's number.
        last_index: The last log entry that the state includes.
        last_term: The term of that entry.
        log_time_us: The log time as of that entry, microseconds since the epoch.
        voters: The names of the voters as of that entry.
        files: The file ``CHECKPOINT`` and the tables.
    """

    shard: int
    last_index: int
    last_term: int
    log_time_us: int
    voters: tuple[str, ...]
    files: tuple[CheckpointFile, ...]

    @property
    def folder(self) -> str:
        """The name of the shard's directory in the backup."""
        return f"shard-{self.shard}"


class Backup(NamedTuple):
    """A whole backup.

    Attributes:
        backup_id: The backup's id, which no other backup has.
        cluster_id: The id of the cluster that was backed up.
        shards: The states of all shards.
    """

    backup_id: str
    cluster_id: str
    shards: tuple[ShardCut, ...]

    def cut_in(self, folder: str) -> ShardCut | None:
        """The shard whose directory has this name, or None."""
        return next((cut for cut in self.shards if cut.folder == folder), None)


def load_backup(fs: FileSystem, path: str) -> Backup:
    """Reads a backup's manifest, but not its files.

    Raises:
        CorruptionError: The backup is damaged, or was never finished.
        DiskError: A read failed.
    """
    name = f"{path}/{MANIFEST}"
    try:
        content = fs.read_file(name)
    except FileNotFoundError:
        raise CorruptionError(name, 0, "there is no backup, or it was not finished") from None
    try:
        return manifest_of(json.loads(content), name)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(name, 0, f"it is not the manifest of a backup: {error!r}") from error


def manifest_of(document: Any, name: str) -> Backup:
    """Reads a manifest.

    Args:
        document: The manifest's JSON.
        name: Where it stands, for errors.

    Raises:
        CorruptionError: The manifest is damaged, or of another format.
    """
    try:
        if not isinstance(document, dict):
            raise ValueError("it is no object")
        document = dict(document)
        expected = document.pop("xxh3")
        # The same text that the writer hashed: sorted names, no blanks.
        body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        if xxhash.xxh3_64_hexdigest(body) != expected:
            raise CorruptionError(name, 0, "its checksum does not fit")
        if document["format"] != FORMAT:
            raise CorruptionError(name, 0, _unknown(document["format"]))
        cuts = tuple(_cut_of(shard) for shard in document["shards"])
        return Backup(str(document["backup_id"]), str(document["cluster_id"]), cuts)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorruptionError(name, 0, f"it is not the manifest of a backup: {error!r}") from error


def _cut_of(shard: dict[str, Any]) -> ShardCut:
    files = []
    for file in shard["files"]:
        if not _FILE_NAME.fullmatch(file["name"]):
            raise ValueError(f"{file['name']!r} is not the name of a file of a checkpoint")
        files.append(CheckpointFile(file["name"], int(file["size_bytes"]), int(file["xxh3"], 16)))
    voters = tuple(str(name) for name in shard["voters"])
    return ShardCut(
        int(shard["shard"]),
        int(shard["index"]),
        int(shard["term"]),
        int(shard["log_time_us"]),
        voters,
        tuple(files),
    )


def check_cut(fs: FileSystem, path: str, cut: ShardCut) -> StateFacts:
    """Reads every byte of a shard's files, wherever they were put, and compares them with the manifest.

    Args:
        fs: The file system.
        path: The directory with the files.
        cut: The state that the files must hold, by the manifest.

    Raises:
        CorruptionError: A file is missing, damaged, or another one.
    """
    listed = {file.name: file for file in cut.files}
    content = _read(fs, f"{path}/{CHECKPOINT}")
    expected = listed.pop(CHECKPOINT, None)
    if expected != CheckpointFile(CHECKPOINT, len(content), xxhash.xxh3_64_intdigest(content)):
        raise CorruptionError(f"{path}/{CHECKPOINT}", 0, "it is not the one that the manifest names")
    checkpoint = load_checkpoint(fs, path)
    if {file.name: file for file in checkpoint.files} != listed:
        raise CorruptionError(f"{path}/{CHECKPOINT}", 0, "it lists other tables than the manifest")
    verify_checkpoint(fs, path)
    facts = facts_of(fs, checkpoint)
    known = (checkpoint.applied_index, checkpoint.applied_term, facts.timestamp_us)
    if known != (cut.last_index, cut.last_term, cut.log_time_us):
        raise CorruptionError(f"{path}/{CHECKPOINT}", 0, "it is of another entry than the manifest says")
    return facts


def damages(fs: FileSystem, path: str, cut: ShardCut) -> Iterator[str]:
    """Yields the damages of a shard's backup, down to single blocks of its tables; none if it is whole."""
    folder = f"{path}/{cut.folder}"
    try:
        check_cut(fs, folder, cut)
    except CorruptionError as error:
        yield str(error)
    for damage in _damaged_blocks(fs, folder, cut):
        yield f"{damage.path}: at byte {damage.offset}: {damage.what}"


def check_blocks(fs: FileSystem, folder: str, cut: ShardCut) -> None:
    """Looks through every block of a shard's tables.

    Raises:
        CorruptionError: One is damaged.
    """
    for damage in _damaged_blocks(fs, folder, cut):
        raise damage


def _damaged_blocks(fs: FileSystem, folder: str, cut: ShardCut) -> Iterator[CorruptionError]:
    for file in cut.files:
        name = f"{folder}/{file.name}"
        if file.name == CHECKPOINT or not fs.exists(name):
            continue
        for finding in inspect.table(fs, name, records=False):
            if finding.kind == "damaged":
                yield CorruptionError(name, finding.offset, str(finding.fields["what"]))


def _read(fs: FileSystem, path: str) -> bytes:
    try:
        return fs.read_file(path)
    except FileNotFoundError:
        raise CorruptionError(path, 0, "the file is missing") from None


def _unknown(form: object) -> str:
    if form == ENCRYPTED_FORMAT:
        words = "dougctl backup restore --identity reads them, and for one node dougctl backup send --identity"
        return f"its files are encrypted: {words}"
    return f"it has format {form}; this version knows {FORMAT} only"
