"""A checkpoint on its way in: received in pieces below the data directory, and continued after a cut or a restart.

The directory ``incoming`` holds one snapshot, whole or in part: the note ``HEADER``, written first, says which one;
then its files, in the header's order. What is there when it is opened again counts as received; a whole file counts
only after all of it was read back and its checksum found right. Everything here blocks, and runs on one thread at a
time. It knows no network and no Raft.

Invariants:
1. A file is passed over only when its bytes on this disk have the size and the XXH3 of the header.
2. Names come from the header only as far as they are those of a checkpoint: nothing outside ``incoming`` is touched.
3. A snapshot that does not fit its header is removed; it is never installed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from raft_node.errors import CorruptionError, DougError
from raft_node.storage.files import FileSystem, WritableFile
from raft_node.storage.notes import read_note, write_note
from raft_node.storage.snapshots.checkpoint import CHECKPOINT, Checkpoint, CheckpointFile, hash_of, load_checkpoint

INCOMING = "incoming"
HEADER = "HEADER"
_TABLE_NAME = re.compile(r"[0-9]{6,20}\.sst")


class IncomingError(DougError):
    """The header or the piece is not that of a snapshot; nothing of it was taken."""


class Taken(Enum):
    """The outcomes of taking a piece."""

    TAKEN = "taken"
    IGNORED = "ignored"
    DAMAGED = "damaged"
    """The piece completed a file whose checksum does not fit; that file was removed, and is asked for again."""


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """The header of a snapshot: its parts.

    Attributes:
        snapshot_id: A random id, in hexadecimal digits.
        last_index: The last log entry that the state includes.
        last_term: The term of that entry.
        configuration: The encoded members as of that entry.
        timestamp_us: The log time as of that entry.
        files: The file ``CHECKPOINT`` and the tables that it lists.
    """

    snapshot_id: str
    last_index: int
    last_term: int
    configuration: bytes
    timestamp_us: int
    files: tuple[CheckpointFile, ...]

    @property
    def size_bytes(self) -> int:
        """How many bytes all files take."""
        return sum(file.size_bytes for file in self.files)

    def check(self) -> None:
        """Makes sure that the header can be that of a snapshot.

        Raises:
            IncomingError: The header cannot be that of a snapshot.
        """
        names = [file.name for file in self.files]
        if names.count(CHECKPOINT) != 1 or len(set(names)) != len(names):
            raise IncomingError("the files are not those of one checkpoint")
        for file in self.files:
            if file.name != CHECKPOINT and not _TABLE_NAME.fullmatch(file.name):
                raise IncomingError(f"{file.name!r} is not the name of a table")
            if file.size_bytes <= 0:
                raise IncomingError(f"{file.name} is empty")
        if self.last_index < 1 or self.last_term < 1 or not self.snapshot_id:
            raise IncomingError("it names no log entry, or has no id")

    def as_fields(self) -> dict[str, object]:
        """The header as fields of a note."""
        return {
            "snapshot_id": self.snapshot_id,
            "last_index": self.last_index,
            "last_term": self.last_term,
            "configuration": self.configuration.hex(),
            "timestamp_us": self.timestamp_us,
            "files": [[file.name, file.size_bytes, file.xxh3] for file in self.files],
        }


class IncomingSnapshot:
    """One snapshot while it is received.

    Attributes:
        header: The header of the snapshot.
        damaged_files: How many whole files were found damaged and dropped.
    """

    def __init__(self, fs: FileSystem, directory: str, header: SnapshotHeader) -> None:
        """For ``open`` alone."""
        self.header = header
        self.damaged_files = 0
        self._fs = fs
        self._directory = directory
        self._file: WritableFile | None = None
        self._number = 0
        self._offset = 0

    @classmethod
    def open(cls, fs: FileSystem, data_dir: str, header: SnapshotHeader) -> IncomingSnapshot:
        """Goes on with a snapshot of which a part is here already, or begins it in the place of any other.

        Raises:
            IncomingError: The header is not that of a snapshot.
            DiskError: The disk failed.
        """
        header.check()
        directory = f"{data_dir}/{INCOMING}"
        try:
            known = read_note(fs, directory, HEADER)
        except CorruptionError:
            known = None
        if known != header.as_fields():
            fs.remove_tree(directory)
            fs.make_directory(directory)
            write_note(fs, directory, HEADER, header.as_fields())
        incoming = cls(fs, directory, header)
        incoming._pass_over()
        return incoming

    @property
    def position(self) -> tuple[int, int]:
        """The file, and the place in it, that is to come next; the number of files, and 0, when all are here."""
        return self._number, self._offset

    @property
    def complete(self) -> bool:
        """Whether all files are here and sound."""
        return self._number == len(self.header.files)

    def write(self, file: int, offset: int, data: bytes) -> Taken:
        """Takes a piece, if it is the one that is to come next.

        Raises:
            IncomingError: The piece goes beyond the end of its file.
            DiskError: The disk failed.
        """
        if (file, offset) != self.position or self.complete or not data:
            return Taken.IGNORED
        expected = self.header.files[file]
        if offset + len(data) > expected.size_bytes:
            raise IncomingError(f"{expected.name} has {expected.size_bytes} bytes, and more were sent")
        path = f"{self._directory}/{expected.name}"
        if self._file is None:
            self._file = self._fs.open_for_write(path) if offset else self._fs.create(path)
        self._file.write_at(offset, [data])
        self._offset += len(data)
        if self._offset < expected.size_bytes:
            return Taken.TAKEN
        # Synced before it is read back, so that the checked bytes survive a crash.
        self._file.sync_data()
        self.close()
        damaged_before = self.damaged_files
        self._offset = 0
        self._pass_over()
        return Taken.TAKEN if self.damaged_files == damaged_before else Taken.DAMAGED

    def finish(self) -> Checkpoint:
        """Checks every byte of the received files, and returns them as a checkpoint. Requires: ``complete``.

        Raises:
            CorruptionError: The files do not fit each other or the header. They were removed.
            DiskError: The disk failed.
        """
        assert self.complete, "a part is still to come"
        header, path = self.header, self._directory
        try:
            checkpoint = load_checkpoint(self._fs, path)
            if (checkpoint.applied_index, checkpoint.applied_term) != (header.last_index, header.last_term):
                raise CorruptionError(f"{path}/{CHECKPOINT}", 0, "it is of another entry than was announced")
            tables = {file.name: file for file in header.files if file.name != CHECKPOINT}
            if tables != {file.name: file for file in checkpoint.files}:
                raise CorruptionError(f"{path}/{CHECKPOINT}", 0, "it lists other tables than were announced")
        except CorruptionError:
            self._fs.remove_tree(path)
            raise
        self._fs.sync_directory(path)
        return checkpoint

    def close(self) -> None:
        """Closes the file that is being written; the received files stay."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _pass_over(self) -> None:
        """Moves on to the first byte that was not received, and drops whole files that are damaged."""
        while not self.complete:
            expected = self.header.files[self._number]
            path = f"{self._directory}/{expected.name}"
            self._offset = 0
            if not self._fs.exists(path):
                return
            file = self._fs.open_for_read(path)
            try:
                size = file.size
                sound = size == expected.size_bytes and hash_of(file) == expected.xxh3
            finally:
                file.close()
            if sound:
                self._number += 1
                continue
            if size < expected.size_bytes:
                self._offset = size
                return
            self._fs.remove(path)
            self.damaged_files += 1
            return


def discard(fs: FileSystem, data_dir: str) -> None:
    """Removes all received files."""
    fs.remove_tree(f"{data_dir}/{INCOMING}")


def discard_outdated(fs: FileSystem, data_dir: str, applied_index: int) -> None:
    """Removes a received snapshot if the state includes it already, or if its note cannot be read."""
    directory = f"{data_dir}/{INCOMING}"
    if not fs.exists(directory):
        return
    try:
        known = read_note(fs, directory, HEADER)
    except CorruptionError:
        known = None
    last_index = known.get("last_index") if known is not None else None
    if not isinstance(last_index, int) or last_index <= applied_index:
        discard(fs, data_dir)
