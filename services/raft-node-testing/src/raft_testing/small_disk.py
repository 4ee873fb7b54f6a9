"""A disk in memory that can get full: ``MemoryFileSystem`` with a size.

A write beyond the size fails with ENOSPC after a part of it was written, as on a real disk; a write that only
overwrites never fails. Names take no space. Must not know any file format.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from raft_node.errors import DiskError
from raft_node.storage.files import WritableFile
from raft_testing.files import MemoryFileSystem


class _Bounded:
    """See ``WritableFile``."""

    def __init__(self, disk: SmallDisk, file: WritableFile) -> None:
        self._disk = disk
        self._file = file

    @property
    def path(self) -> str:
        return self._file.path

    def write_at(self, offset: int, parts: Sequence[bytes]) -> None:
        data = b"".join(parts)
        room = self._disk.size_of(self.path) + max(0, self._disk.free_bytes("/"))
        if offset + len(data) > room:
            self._disk.refused.append(self.path)
            if offset < room:
                self._file.write_at(offset, [data[: room - offset]])
            raise DiskError(self.path, "write", OSError(errno.ENOSPC, "No space left on device"))
        self._file.write_at(offset, [data])

    def sync_data(self) -> None:
        self._file.sync_data()

    def close(self) -> None:
        self._file.close()


class SmallDisk(MemoryFileSystem):
    """A disk with a size; see the module.

    Attributes:
        size_bytes: How many bytes fit.
        refused: The paths of the writes that failed for lack of space.
    """

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.size_bytes = size_bytes
        self.refused: list[str] = []

    def create(self, path: str) -> WritableFile:  # type: ignore[override]
        """Creates (or empties) a file."""
        return _Bounded(self, super().create(path))

    def open_for_write(self, path: str) -> WritableFile:  # type: ignore[override]
        """Opens an existing file to overwrite parts of it."""
        return _Bounded(self, super().open_for_write(path))

    def size_of(self, path: str) -> int:
        """The size of a file."""
        return len(self._names[path].seen) if path in self._names else 0

    def free_bytes(self, path: str) -> int:
        """How many bytes may still be written; there is one file system."""
        used = sum(len(inode.seen) for inode in {id(inode): inode for inode in self._names.values()}.values())
        return self.size_bytes - used

    def allocate(self, path: str, size: int) -> None:
        """Makes a file whose blocks are taken."""
        if size > self.free_bytes(path):
            raise DiskError(path, "allocate", OSError(errno.ENOSPC, "No space left on device"))
        self.create(path).write_at(0, [bytes(size)])
