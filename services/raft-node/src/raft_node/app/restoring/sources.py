"""Where a restore takes a shard's files from: a backup's directory, or a stream on standard input.

A stream is what ``dougctl backup send`` writes (docs/formats.md, Backup), also of an encrypted backup: the key stays
with whoever sends, and what is decrypted lies nowhere but in the volumes that are made of it. Must not know volumes.
Everything blocks.

Invariants:
1. A file is copied only if it has as many bytes as the manifest says; what is in it is checked where it arrives.
2. No more is read of a stream than its manifest announces, and a stream that has more or less is damaged.
"""

from __future__ import annotations

import json
from typing import BinaryIO, Protocol

from raft_node.app.restoring.backup import Backup, ShardCut, load_backup, manifest_of
from raft_node.errors import CorruptionError, RestoreRefusedError
from raft_node.storage.files import FileSystem
from raft_node.storage.snapshots.checkpoint import CheckpointFile

STREAM = 1
"""The format of streams."""
HEAD_BYTES_MAX = 64 << 20
STANDARD_INPUT = "standard input"
_COPY_BYTES = 1 << 20


class Source(Protocol):
    """A shard of a backup."""

    @property
    def backup(self) -> Backup:
        """The manifest."""

    @property
    def cut(self) -> ShardCut:
        """The shard's part of the manifest."""

    @property
    def looked_through(self) -> bool:
        """Whether somebody could have looked through the files before (``raft-node verify-backup``)."""

    def copy(self, fs: FileSystem, file: CheckpointFile, target: str) -> None:
        """Copies the next file, durably. Files are asked for in the order of the manifest.

        Raises:
            CorruptionError: The file is missing, or has another size.
            DiskError: It cannot be read or written.
        """

    def finish(self) -> None:
        """Makes sure that there is nothing behind the last file.

        Raises:
            CorruptionError: There is.
        """

    def discard(self) -> None:
        """Reads what is left, so that whoever sends it is not cut off."""


class FolderSource:
    """A shard's directory in a backup."""

    looked_through = True

    def __init__(self, fs: FileSystem, folder: str) -> None:
        """Reads the manifest, which lies above the directory.

        Raises:
            RestoreRefusedError: It is not the directory of one of the backup's shards.
            CorruptionError: The backup is damaged, or was never finished.
        """
        above, _, name = folder.rstrip("/").rpartition("/")
        self.backup = load_backup(fs, above or ".")
        cut = self.backup.cut_in(name)
        if cut is None:
            raise RestoreRefusedError(f"{folder} is not a shard's directory of the backup {self.backup.backup_id}")
        self.cut = cut
        self._folder = folder

    def copy(self, fs: FileSystem, file: CheckpointFile, target: str) -> None:
        """See ``Source.copy``."""
        source = f"{self._folder}/{file.name}"
        try:
            read = fs.open_for_read(source)
        except FileNotFoundError:
            raise CorruptionError(source, 0, "the file is missing") from None
        try:
            if read.size != file.size_bytes:
                raise CorruptionError(source, read.size, f"it should have {file.size_bytes} bytes")
            written = fs.create(target)
            try:
                for offset in range(0, file.size_bytes, _COPY_BYTES):
                    piece = read.read_at(offset, min(_COPY_BYTES, file.size_bytes - offset))
                    written.write_at(offset, [piece])
                # The state that is put in force consists of these very blocks.
                written.sync_data()
            finally:
                written.close()
        finally:
            read.close()

    def finish(self) -> None:
        """Nothing is behind the last file of a directory."""

    def discard(self) -> None:
        """Nobody sends."""


class StreamSource:
    """A shard that is sent."""

    looked_through = False

    def __init__(self, stream: BinaryIO) -> None:
        """Reads the stream's head.

        Raises:
            CorruptionError: It is none.
        """
        self._stream = stream
        head = stream.readline(HEAD_BYTES_MAX + 1)
        try:
            if not head.endswith(b"\n"):
                raise ValueError("it has no whole first line")
            document = json.loads(head)
            if document["stream"] != STREAM:
                raise ValueError(f"it has format {document['stream']!r}; this version knows {STREAM} only")
            self.backup = manifest_of(document["manifest"], STANDARD_INPUT)
            cut = self.backup.cut_in(f"shard-{document['shard']}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = f"it is not what dougctl backup send writes: {error!r}"
            raise CorruptionError(STANDARD_INPUT, 0, what) from error
        if cut is None:
            raise CorruptionError(STANDARD_INPUT, 0, "its manifest has no such shard")
        self.cut = cut

    def copy(self, fs: FileSystem, file: CheckpointFile, target: str) -> None:
        """See ``Source.copy``."""
        written = fs.create(target)
        try:
            offset = 0
            while offset < file.size_bytes:
                piece = self._stream.read(min(_COPY_BYTES, file.size_bytes - offset))
                if not piece:
                    raise CorruptionError(STANDARD_INPUT, offset, f"it ends within {file.name}")
                written.write_at(offset, [piece])
                offset += len(piece)
            written.sync_data()
        finally:
            written.close()

    def finish(self) -> None:
        """See ``Source.finish``."""
        if self._stream.read(1):
            raise CorruptionError(STANDARD_INPUT, 0, "it goes on behind its last file")

    def discard(self) -> None:
        """See ``Source.discard``."""
        while self._stream.read(_COPY_BYTES):
            pass
