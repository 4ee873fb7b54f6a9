"""Checks the files of a backup, and writes a shard of a backup as a stream, from which a node is restored.

Must not know HTTP or terminals. Invariants: (1) a complete stream has the sizes and checksums that the manifest names;
(2) decrypted data is written to the stream only, never to another file.

Source: docs/formats.md, Backup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dougdb import sealing
from dougdb.backups import (
    FORMAT,
    READ_BYTES,
    Backup,
    BackupError,
    BackupFile,
    Counted,
    OnBytes,
    folder_of,
    with_hash,
)
from dougdb.sealing import Identities, SealingError

STREAM = 1
"""The format of streams."""


def check_files(backup: Backup, on_bytes: OnBytes, identities: Identities | None = None) -> Iterator[str]:
    """What is wrong with the files of a backup; nothing when their sizes and checksums are those of the manifest.

    Args:
        backup: The backup to check.
        on_bytes: Is told how many bytes were read.
        identities: The keys that can read encrypted files; with these the contents are checked, too.
    """
    for cut in backup.shards:
        for file in cut.files:
            path = backup.path / folder_of(cut.shard) / file.disk_name
            try:
                size_bytes, wanted_bytes = path.stat().st_size, file.on_disk[0]
                if size_bytes != wanted_bytes:
                    yield f"{path}: it has {size_bytes} bytes and should have {wanted_bytes}"
                elif file.sealed is not None and identities is not None:
                    unseal_file(path, file, identities, None, on_bytes)
                elif _hash_of_file(path, on_bytes) != file.on_disk[1]:
                    yield f"{path}: its checksum does not fit"
            except FileNotFoundError:
                yield f"{path}: it is missing"
            except (SealingError, BackupError) as error:
                yield f"{path}: {error}"
            except OSError as error:
                yield f"{path}: {error.strerror}"


def unseal_file(
    path: Path, file: BackupFile, identities: Identities, target: BinaryIO | None, on_bytes: OnBytes
) -> None:
    """Decrypts one file and checks its content; without a target, the content is checked and dropped.

    Raises:
        SealingError: The file cannot be decrypted.
        BackupError: The decrypted content has another size or checksum than the manifest says.
        OSError: The file cannot be read, or the target cannot be written.
    """
    content = Counted(target, on_bytes)
    with path.open("rb") as source:
        sealing.unseal(source, content, identities)
    if content.facts != (file.size_bytes, file.xxh3):
        raise BackupError("what is in it is not what was backed up")


def send(
    backup: Backup, shard: int, identities: Identities | None, target: BinaryIO, on_bytes: OnBytes = lambda count: None
) -> None:
    """Writes a shard as the stream that ``raft-node restore --backup -`` reads; encrypted files are decrypted for it.

    Raises:
        SealingError: A file cannot be decrypted.
        BackupError: The backup has no such shard, or a file has another size or checksum than the manifest says.
        OSError: A file cannot be read, or the target cannot be written.
    """
    cut = next((each for each in backup.shards if each.shard == shard), None)
    if cut is None:
        raise BackupError(f"{backup.path} has no shard {shard}")
    head = {"stream": STREAM, "shard": shard, "manifest": with_hash(_in_plain(backup))}
    target.write(json.dumps(head, separators=(",", ":")).encode() + b"\n")
    for file in cut.files:
        path = backup.path / folder_of(shard) / file.disk_name
        if identities is not None and file.sealed is not None:
            unseal_file(path, file, identities, target, on_bytes)
            continue
        content = Counted(target, on_bytes)
        with path.open("rb") as source:
            while data := source.read(READ_BYTES):
                content.write(data)
        if content.facts != file.on_disk:
            raise BackupError(f"{path}: its checksum does not fit")
    target.flush()


def _in_plain(backup: Backup) -> dict[str, Any]:
    """The manifest that the backup would have if it were not encrypted."""
    shards = []
    for cut in backup.shards:
        files = [{"name": file.name, "size_bytes": file.size_bytes, "xxh3": file.xxh3} for file in cut.files]
        shards.append({**cut.document, "files": files})
    kept = {name: value for name, value in backup.document.items() if name != "encryption"}
    return {**kept, "format": FORMAT, "shards": shards}


def _hash_of_file(path: Path, on_bytes: OnBytes) -> str:
    content = Counted(None, on_bytes)
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            content.write(data)
    return content.facts[1]
