"""Whether the files of a backup are whole, and an unencrypted backup of an encrypted one.

Must not know HTTP or terminals. Invariant: whatever is handed on was checked against the manifest, size and checksum.

Source: docs/formats.md, Backup.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
    load,
    write_manifest,
)
from dougdb.sealing import Identities, SealingError


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
    """Decrypts one file, to nowhere if there is no target, and checks what was in it.

    Raises:
        SealingError: It cannot be decrypted.
        BackupError: What was in it is not what was backed up.
        OSError: It cannot be read or written.
    """
    content = Counted(target, on_bytes)
    with path.open("rb") as source:
        sealing.unseal(source, content, identities)
    if content.facts != (file.size_bytes, file.xxh3):
        raise BackupError("what is in it is not what was backed up")


def unseal(backup: Backup, identities: Identities, folder: Path, on_bytes: OnBytes) -> Backup:
    """Makes an unencrypted backup of an encrypted one, in a new directory. Whoever asks for it removes it.

    Raises:
        SealingError: A file cannot be decrypted.
        BackupError: What was in one is not what was backed up.
        OSError: It cannot be written.
    """
    folder.mkdir()
    plain = []
    for cut in backup.shards:
        place = folder / folder_of(cut.shard)
        place.mkdir()
        for file in cut.files:
            with (place / file.name).open("xb") as target:
                path = backup.path / folder_of(cut.shard) / file.disk_name
                unseal_file(path, file, identities, target, on_bytes)
        files = [{"name": file.name, "size_bytes": file.size_bytes, "xxh3": file.xxh3} for file in cut.files]
        plain.append({**cut.document, "files": files})
    kept = {name: value for name, value in backup.document.items() if name != "encryption"}
    write_manifest(folder, {**kept, "format": FORMAT, "shards": plain})
    return load(folder)


def _hash_of_file(path: Path, on_bytes: OnBytes) -> str:
    content = Counted(None, on_bytes)
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            content.write(data)
    return content.facts[1]
