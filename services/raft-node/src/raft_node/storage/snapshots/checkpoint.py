"""Checkpoints: the tables of one version in a directory of their own, with a file that lists them (docs/formats.md).

A checkpoint is the whole replicated state as of one log entry, and is what snapshots and backups consist of. Making one
copies nothing: its files are hard links to tables, which never change. ``install_checkpoint`` puts one in the place of
a store that is closed, ``Adoption`` in that of one that is open. This module knows no network and no Raft.

Invariants:
1. The file ``CHECKPOINT`` is written last, when all that it lists is durable; without it, a directory is no checkpoint.
2. An installation leaves, whenever it is cut off, the old state or the new one: the switch of CURRENT decides.
3. A state never takes the place of a later one.
4. Tables get new numbers when they are installed, for a number is used once in the life of a store.
5. A file is known by an XXH3 of all its bytes. A CRC32C would not do: every part of a table ends with its own CRC32C,
   which makes that of the file the same for all contents with parts of the same sizes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import xxhash
from crc32c import crc32c

from raft_node.errors import CorruptionError, DougError
from raft_node.storage.files import FileSystem, ReadableFile
from raft_node.storage.tables.manifest import (
    CURRENT,
    Manifest,
    decode_edit,
    encode_edit,
    recover,
    remove_orphans,
    replace_file,
)
from raft_node.storage.tables.open_files import OpenFiles
from raft_node.storage.tables.sstable import Table, open_table
from raft_node.storage.tables.version import Version, VersionEdit, VersionError, table_name
from raft_node.storage.tables.view import View

# DO NOT CHANGE: this is in every checkpoint. docs/formats.md and a golden-bytes test fix it.
MAGIC = b"DOUG-CKP"
FORMAT = 1
_HEAD = struct.Struct("<8sIII")  # Magic, format, CRC32C of all behind it, bytes of the edit.
_CRC = struct.Struct("<I")
_HASH = struct.Struct("<Q")

CHECKPOINT = "CHECKPOINT"
_READ_BYTES = 1 << 20
_OPEN_TABLES_MAX = 16


class StaleCheckpointError(DougError):
    """The store has applied as much as the checkpoint, or more. Nothing was changed.

    Attributes:
        checkpoint_index: The last entry in the checkpoint.
        store_index: The last entry in the store.
    """

    def __init__(self, checkpoint_index: int, store_index: int) -> None:
        super().__init__(f"the checkpoint ends with entry {checkpoint_index}, and the store with {store_index}")
        self.checkpoint_index = checkpoint_index
        self.store_index = store_index


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """A table in a checkpoint.

    Attributes:
        name: The file name of the table.
        size_bytes: The size of the file.
        xxh3: The XXH3_64 of the whole file.
    """

    name: str
    size_bytes: int
    xxh3: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The parts of a checkpoint.

    Attributes:
        path: The directory of the checkpoint.
        edit: The edit that makes its version from an empty one.
        files: Its tables, in the order of the edit. The file ``CHECKPOINT`` comes on top.
    """

    path: str
    edit: VersionEdit
    files: tuple[CheckpointFile, ...]

    @property
    def applied_index(self) -> int:
        """The last log entry that the state includes."""
        return self.edit.flushed_index

    @property
    def applied_term(self) -> int:
        """The term of that entry."""
        return self.edit.flushed_term

    @property
    def size_bytes(self) -> int:
        """How many bytes the tables take."""
        return sum(file.size_bytes for file in self.files)


def encode_checkpoint(edit: VersionEdit, hashes: list[int]) -> bytes:
    """The content of the file ``CHECKPOINT``."""
    assert len(hashes) == len(edit.added)
    payload = encode_edit(edit)
    body = len(payload).to_bytes(4, "little") + payload + b"".join(map(_HASH.pack, hashes))
    return MAGIC + FORMAT.to_bytes(4, "little") + _CRC.pack(crc32c(body)) + body


def decode_checkpoint(path: str, content: bytes) -> Checkpoint:
    """Decodes the content of the file ``CHECKPOINT``.

    Args:
        path: The checkpoint's directory.
        content: The bytes that were read, or received.

    Raises:
        CorruptionError: The list is damaged.
    """
    name = f"{path}/{CHECKPOINT}"
    if len(content) < _HEAD.size:
        raise CorruptionError(name, 0, "it is shorter than its header")
    magic, form, crc, edit_bytes = _HEAD.unpack_from(content)
    if magic != MAGIC or form != FORMAT:
        raise CorruptionError(name, 0, "it does not begin like a checkpoint of a known format")
    if crc32c(content[_HEAD.size - 4 :]) != crc:
        raise CorruptionError(name, _HEAD.size - 4, "its checksum does not fit")
    hashes_at = _HEAD.size + edit_bytes
    try:
        edit = decode_edit(content[_HEAD.size : hashes_at])
        Version.empty().apply(edit)
    except VersionError as error:
        raise CorruptionError(name, _HEAD.size, str(error)) from error
    if len(content) != hashes_at + _HASH.size * len(edit.added):
        raise CorruptionError(name, hashes_at, "it does not hold one checksum for each table")
    files = tuple(
        CheckpointFile(table_name(meta.number), meta.size_bytes, xxh3)
        for (_, meta), (xxh3,) in zip(edit.added, _HASH.iter_unpack(content[hashes_at:]), strict=True)
    )
    return Checkpoint(path, edit, files)


def load_checkpoint(fs: FileSystem, path: str) -> Checkpoint:
    """Reads the list of a checkpoint, but not its tables. Blocking.

    Raises:
        CorruptionError: There is no checkpoint, it is not finished, or its list is damaged.
    """
    name = f"{path}/{CHECKPOINT}"
    try:
        return decode_checkpoint(path, fs.read_file(name))
    except FileNotFoundError as error:
        raise CorruptionError(name, 0, "there is no checkpoint, or it was not finished") from error


def verify_checkpoint(fs: FileSystem, path: str) -> Checkpoint:
    """Reads every byte of a checkpoint and checks it. Blocking.

    Raises:
        CorruptionError: A part of it is missing or damaged. Nothing was changed.
    """
    checkpoint = load_checkpoint(fs, path)
    for expected in checkpoint.files:
        name = f"{path}/{expected.name}"
        try:
            file = fs.open_for_read(name)
        except FileNotFoundError as error:
            raise CorruptionError(name, 0, "the table is missing") from error
        try:
            if file.size != expected.size_bytes:
                raise CorruptionError(name, file.size, f"it should have {expected.size_bytes} bytes")
            if hash_of(file) != expected.xxh3:
                raise CorruptionError(name, 0, "the checksum of the whole file does not fit")
        finally:
            file.close()
    return checkpoint


def read_checkpoint(fs: FileSystem, checkpoint: Checkpoint, keys: Sequence[bytes]) -> list[bytes | None]:
    """Looks a few keys up in a checkpoint. Blocking.

    Raises:
        CorruptionError: A table is missing, damaged, or another one than the list says.
    """
    version = Version.empty().apply(checkpoint.edit)
    files = OpenFiles(fs, _OPEN_TABLES_MAX)
    tables = {meta.number: open_table(fs, checkpoint.path, meta, files) for meta in version.tables()}
    try:
        view = View(version, tables)
        return [view.find_blocking(key) for key in keys]
    finally:
        for table in tables.values():
            table.close()


def hash_of(file: ReadableFile) -> int:
    """The XXH3_64 of a whole file. Blocking."""
    state = xxhash.xxh3_64()
    for offset in range(0, file.size, _READ_BYTES):
        state.update(file.read_at(offset, min(_READ_BYTES, file.size - offset)))
    return state.intdigest()


class CheckpointWrite:
    """A checkpoint that is to be made, of the tables as of the moment of ``Engine.checkpoint``."""

    def __init__(self, fs: FileSystem, directory: str, path: str, view: View) -> None:
        """For ``Engine.checkpoint`` alone."""
        self._fs = fs
        self._directory = directory
        self._path = path
        self._view = view

    def run(self) -> Checkpoint:
        """Makes the checkpoint, and first removes what was at its path. Blocking, on any thread; all else may go on.

        Raises:
            DiskError: The disk failed.
        """
        fs, path = self._fs, self._path
        fs.remove_tree(path)
        fs.make_directory(path)
        edit = self._view.version.as_edit()
        hashes = []
        for _, meta in edit.added:
            table = self._view.tables[meta.number]
            name = table_name(meta.number)
            try:
                fs.link(f"{self._directory}/{name}", f"{path}/{name}")
            except FileNotFoundError:
                # A compaction has removed the table since, but had pinned it before.
                self._copy(table, f"{path}/{name}")
            hashes.append(table.file_xxh3())
        # All names must be durable before the list makes a checkpoint of them.
        fs.sync_directory(path)
        content = encode_checkpoint(edit, hashes)
        replace_file(fs, path, CHECKPOINT, content)
        return decode_checkpoint(path, content)

    def _copy(self, table: Table, path: str) -> None:
        file = self._fs.create(path)
        try:
            for offset in range(0, table.size_bytes, _READ_BYTES):
                file.write_at(offset, [table.read_raw(offset, min(_READ_BYTES, table.size_bytes - offset))])
            # The list that will name it relies on its content.
            file.sync_data()
        finally:
            file.close()


def _link_tables(fs: FileSystem, directory: str, checkpoint: Checkpoint, first_number: int) -> Version:
    """Links the tables of a checkpoint into a data directory; returns the version that they make.

    The names are not durable before a new manifest has synced the directory, which it does before it is in force.
    """
    added = []
    for number, (level, meta) in enumerate(checkpoint.edit.added, first_number):
        source = f"{checkpoint.path}/{table_name(meta.number)}"
        target = f"{directory}/{table_name(number)}"
        file = fs.open_for_write(source)
        # The receiver may not have synced it; the manifest must not name files that a crash can remove.
        file.sync_data()
        file.close()
        # An earlier installation that was cut off may have left that name, which no manifest knows.
        fs.remove(target)
        fs.link(source, target)
        added.append((level, replace(meta, number=number)))
    edit = replace(checkpoint.edit, added=tuple(added), next_table_number=first_number + len(added))
    return Version.empty().apply(edit)


def install_checkpoint(fs: FileSystem, directory: str, path: str) -> Checkpoint:
    """Puts a checkpoint in the place of all that a closed store holds, or makes a store of it. Blocking.

    A crash, or a failure, leaves the old state or the new one. The checkpoint itself stays as it is. The log is not
    touched: see ``Wal.reset`` for what is to follow.

    Args:
        fs: The file system of both directories.
        directory: The data directory; no engine has it open.
        path: The checkpoint's directory, on the same file system.

    Raises:
        CorruptionError: The checkpoint, or the store's manifest, is damaged. Nothing was changed.
        StaleCheckpointError: The store has applied as much, or more.
        DiskError: The disk failed.
    """
    checkpoint = verify_checkpoint(fs, path)
    recovered = recover(fs, directory)
    if recovered is None:
        fs.make_directory(directory)
        # Tables without a manifest in force would be taken for the remains of a lost store.
        Manifest(fs, directory, 1, 0, Version.empty()).close()
        recovered = recover(fs, directory)
        assert recovered is not None, f"{directory}/{CURRENT} was just written"
    version, number = recovered.version, recovered.number
    if checkpoint.applied_index <= version.flushed_index:
        raise StaleCheckpointError(checkpoint.applied_index, version.flushed_index)
    after = _link_tables(fs, directory, checkpoint, version.next_table_number)
    for meta in after.tables():
        # Checked before the switch: a list may have checksums that fit, and still describe its tables wrongly.
        open_table(fs, directory, meta).close()
    Manifest(fs, directory, number + 1, 0, after).close()
    # Only now may the old state go.
    remove_orphans(fs, directory, after, number + 1)
    return checkpoint


class Adoption:
    """A checkpoint that is to take the place of what an open engine holds; see ``Engine.adopt``.

    Attributes:
        checkpoint: The checkpoint that is adopted.
        view: The new tables; None before ``run`` has ended.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        checkpoint: Checkpoint,
        before: View,
        manifest: Manifest,
        open_files: OpenFiles,
    ) -> None:
        """For ``Engine.adopt`` alone."""
        self.checkpoint = checkpoint
        self.view: View | None = None
        self._fs = fs
        self._directory = directory
        self._before = before
        self._manifest = manifest
        self._open_files = open_files

    def run(self) -> None:
        """Makes the checkpoint the durable state. Blocking, on one background thread; reads go on meanwhile.

        Raises:
            CorruptionError: The checkpoint is not what ``verify_checkpoint`` saw. The durable state is the old one.
            DiskError: The disk failed; the node must stop. The durable state is the old or the new one.
        """
        fs, directory, before = self._fs, self._directory, self._before.version
        after = _link_tables(fs, directory, self.checkpoint, before.next_table_number)
        tables = {meta.number: open_table(fs, directory, meta, self._open_files) for meta in after.tables()}
        self._manifest.replace(after)
        # Only now may the old state go. Readers may still need its tables.
        for meta in before.tables():
            self._before.tables[meta.number].pin()
            fs.remove(f"{directory}/{table_name(meta.number)}")
        self.view = View(after, tables)
