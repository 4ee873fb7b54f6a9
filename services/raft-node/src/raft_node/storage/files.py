"""The FileSystem port: the one way in which this package reaches a disk.

``OsFileSystem`` is the real one; ``raft_testing.files`` has one that loses, tears and damages what was not synced.
Callers state each fsync and its reason at the call site; only ``make_directory`` syncs on its own. This module must not
know any file format, and it is the only one in this package that may import ``os``.

Errors: a missing file raises ``FileNotFoundError``. Any other failure of a write, sync, rename or removal raises
``DiskError``, after which the node must stop: what lies on disk is not known any more.
"""

# The port speaks strings, and the helper process shall not pay for pathlib.
# ruff: noqa: PTH100, PTH102, PTH104, PTH106, PTH108, PTH112, PTH114, PTH118, PTH120, PTH208
from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from raft_node.errors import DiskError

if sys.platform == "darwin":
    import fcntl

_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
_PARTS_MAX = 512
"""The most parts of one pwritev call; POSIX promises only 16, Linux and macOS take 1024."""

_FILL_BYTES = 1 << 20

WORKER_NICENESS = 10

DESCRIPTOR_PAUSE_S = 0.05
DESCRIPTOR_TRIES = 1200
"""The tries to get a descriptor, which take a minute."""


class WritableFile(Protocol):
    """A file open for writing at explicit offsets."""

    @property
    def path(self) -> str:
        """The path of the file, for messages."""

    def write_at(self, offset: int, parts: Sequence[bytes]) -> None:
        """Writes all parts one behind the other from ``offset`` on. Not durable before ``sync_data``."""

    def sync_data(self) -> None:
        """Makes all writes durable (fdatasync; F_FULLFSYNC on macOS), with the metadata that reading them needs."""

    def close(self) -> None:
        """Closes the file without a sync."""


class ReadableFile(Protocol):
    """A file open for reading at explicit offsets."""

    @property
    def path(self) -> str:
        """The path of the file, for messages."""

    @property
    def size(self) -> int:
        """The size of the file in bytes when it was opened."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; fewer only at the end of the file."""

    def close(self) -> None:
        """Closes the file."""


class FileSystem(Protocol):
    """Directories, names and files. Paths are strings with forward slashes."""

    def make_directory(self, path: str) -> None:
        """Creates a directory and its parents; existing ones are fine. Its parent is synced."""

    def list_directory(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty when it does not exist."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""

    def create(self, path: str) -> WritableFile:
        """Creates (or empties) a file."""

    def open_for_write(self, path: str) -> WritableFile:
        """Opens an existing file to overwrite parts of it."""

    def open_for_read(self, path: str) -> ReadableFile:
        """Opens an existing file."""

    def read_file(self, path: str) -> bytes:
        """The whole content of a small file."""

    def rename(self, source: str, target: str) -> None:
        """Renames within one file system, replacing ``target``. Not durable before ``sync_directory``."""

    def link(self, source: str, target: str) -> None:
        """Makes a hard link. Not durable before ``sync_directory``."""

    def remove(self, path: str) -> None:
        """Removes a file; a missing one is fine."""

    def remove_tree(self, path: str) -> None:
        """Removes a directory with all below it; a missing one is fine."""

    def sync_directory(self, path: str) -> None:
        """Makes the names in a directory durable."""


class Volume(Protocol):
    """The free room of a disk, and files that reserve some of it, for code that refuses work before a disk is full."""

    def free_bytes(self, path: str) -> int:
        """How many bytes this process may still write on the file system of a directory."""

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""

    def allocate(self, path: str, size: int) -> None:
        """Makes a file whose blocks are taken, without any content that counts; it need not outlive a crash."""

    def remove(self, path: str) -> None:
        """Removes a file; a missing one is fine."""


class DiskFileSystem(FileSystem, Volume, Protocol):
    """A file system that is also a volume, as a disk is."""


def discard(descriptor: int) -> None:
    """Sends all further writes to a descriptor, such as a broken pipe, nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def lower_priority() -> None:
    """Lets every other process of this machine go first; for the helper process that flushes and compacts."""
    os.nice(WORKER_NICENESS)


def _sync_data(descriptor: int) -> None:
    if sys.platform == "darwin":
        # fsync on macOS only hands the data to the drive's cache.
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def _sync_all(descriptor: int) -> None:
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _write_rest(descriptor: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        if count == 0:
            raise OSError(errno.EIO, "the disk took no bytes")
        view = view[count:]
        offset += count


def _write_parts(descriptor: int, offset: int, parts: Sequence[bytes]) -> None:
    if len(parts) == 1:
        _write_rest(descriptor, offset, parts[0])
        return
    for first in range(0, len(parts), _PARTS_MAX):
        group = parts[first : first + _PARTS_MAX]
        size = sum(map(len, group))
        count = os.pwritev(descriptor, group, offset)
        if count < size:
            # Short writes are rare (a signal, a full disk), so joining the parts for the rest costs nothing.
            _write_rest(descriptor, offset + count, b"".join(group)[count:])
        offset += size


class _OsWritableFile:
    """See ``WritableFile``."""

    def __init__(self, path: str, descriptor: int, before_sync: Callable[[], None] | None) -> None:
        self._path = path
        self._descriptor = descriptor
        self._before_sync = before_sync

    @property
    def path(self) -> str:
        return self._path

    def write_at(self, offset: int, parts: Sequence[bytes]) -> None:
        try:
            _write_parts(self._descriptor, offset, parts)
        except OSError as error:
            raise DiskError(self._path, "write", error) from error

    def sync_data(self) -> None:
        if self._before_sync is not None:
            self._before_sync()
        try:
            _sync_data(self._descriptor)
        except OSError as error:
            raise DiskError(self._path, "sync", error) from error

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class _OsReadableFile:
    """See ``ReadableFile``."""

    def __init__(self, path: str, descriptor: int, size: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._size = size

    @property
    def path(self) -> str:
        return self._path

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._descriptor, size, offset)
            while len(data) < size:
                more = os.pread(self._descriptor, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise DiskError(self._path, "read", error) from error
        return data

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class OsFileSystem:
    """The disk of this machine. See ``FileSystem`` for what each method promises."""

    def __init__(self, before_sync: Callable[[], None] | None = None) -> None:
        """Takes what is called before each sync of a file, by the thread that syncs; it may take its time."""
        self._before_sync = before_sync

    def make_directory(self, path: str) -> None:
        """Creates a directory and its missing parents; syncs the parent of each one that it creates, and its own."""
        missing = []
        part = os.path.abspath(path)
        while not os.path.isdir(part):
            missing.append(part)
            part = os.path.dirname(part)
        try:
            for directory in reversed(missing):
                try:
                    os.mkdir(directory, _DIRECTORY_MODE)
                except FileExistsError:
                    # Several nodes may start at once below one directory.
                    if not os.path.isdir(directory):
                        raise
                self.sync_directory(os.path.dirname(directory))
        except OSError as error:
            raise DiskError(path, "make directory", error) from error
        if not missing:
            # A process may have made it that was killed before it could sync the parent.
            self.sync_directory(os.path.dirname(part))

    def list_directory(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty when it does not exist."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DiskError(path, "list directory", error) from error

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        return os.path.lexists(path)

    def create(self, path: str) -> WritableFile:
        """Creates (or empties) a file."""
        return self._writable(path, self._open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "create"))

    def open_for_write(self, path: str) -> WritableFile:
        """Opens an existing file to overwrite parts of it."""
        return self._writable(path, self._open(path, os.O_WRONLY, "open"))

    def _writable(self, path: str, descriptor: int) -> WritableFile:
        return _OsWritableFile(path, descriptor, self._before_sync)

    def open_for_read(self, path: str) -> ReadableFile:
        """Opens an existing file."""
        descriptor = self._open(path, os.O_RDONLY, "open")
        return _OsReadableFile(path, descriptor, os.fstat(descriptor).st_size)

    def read_file(self, path: str) -> bytes:
        """The whole content of a small file."""
        file = self.open_for_read(path)
        try:
            return file.read_at(0, file.size)
        finally:
            file.close()

    def rename(self, source: str, target: str) -> None:
        """Renames within one file system, replacing ``target``."""
        try:
            os.rename(source, target)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DiskError(source, f"rename to {target}", error) from error

    def link(self, source: str, target: str) -> None:
        """Makes a hard link."""
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DiskError(source, f"link to {target}", error) from error

    def remove(self, path: str) -> None:
        """Removes a file; a missing one is fine."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DiskError(path, "remove", error) from error

    def remove_tree(self, path: str) -> None:
        """Removes a directory with all below it, following no symbolic link; a missing one is fine."""
        try:
            try:
                self._remove_tree(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                # The helper process of an earlier start may have put one more file there before it noticed its end.
                self._remove_tree(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DiskError(path, "remove tree", error) from error

    @staticmethod
    def _remove_tree(path: str) -> None:
        for directory, directories, names in os.walk(path, topdown=False):
            for name in names:
                os.unlink(os.path.join(directory, name))
            for name in directories:
                child = os.path.join(directory, name)
                if os.path.islink(child):
                    os.unlink(child)
                else:
                    os.rmdir(child)
        os.rmdir(path)

    def sync_directory(self, path: str) -> None:
        """Makes the names in a directory durable."""
        descriptor = self._open(path, os.O_RDONLY | os.O_DIRECTORY, "open directory")
        try:
            _sync_all(descriptor)
        except OSError as error:
            raise DiskError(path, "sync directory", error) from error
        finally:
            os.close(descriptor)

    def free_bytes(self, path: str) -> int:
        """How many bytes this process may still write on the file system of a directory."""
        try:
            status = os.statvfs(path)
        except OSError as error:
            raise DiskError(path, "look at the space", error) from error
        # Some network file systems tell no free space; an unknown one must not stop writes.
        return status.f_frsize * status.f_bavail if status.f_blocks else sys.maxsize

    def allocate(self, path: str, size: int) -> None:
        """Makes a file whose blocks are taken."""
        descriptor = self._open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "create")
        try:
            if sys.platform == "linux":
                os.posix_fallocate(descriptor, 0, size)
            else:
                for offset in range(0, size, _FILL_BYTES):
                    _write_rest(descriptor, offset, bytes(min(_FILL_BYTES, size - offset)))
        except OSError as error:
            raise DiskError(path, "allocate", error) from error
        finally:
            os.close(descriptor)

    def _open(self, path: str, flags: int, operation: str) -> int:
        tries = 0
        while True:
            try:
                return os.open(path, flags | os.O_CLOEXEC, _FILE_MODE)
            except FileNotFoundError:
                raise
            except OSError as error:
                tries += 1
                # This is no fault of the disk: once another file or connection is closed, the file can be opened.
                if error.errno not in (errno.EMFILE, errno.ENFILE) or tries > DESCRIPTOR_TRIES:
                    raise DiskError(path, operation, error) from error
                time.sleep(DESCRIPTOR_PAUSE_S)
