"""A disk in memory that can be crashed, torn, damaged and made to fail.

It keeps two worlds: the files as a running process sees them, and as they would be after a power cut. A file's bytes
move to the second world with ``sync_data``, a name with ``sync_directory``. ``crash`` throws the first world away,
except for a random part of what was not synced, as a real disk would:

1. A write that was not synced may survive whole, not at all, or torn: cut at a byte, or in sectors of 512 or 4096 bytes
   of which any may survive. Bytes of a file beyond what survived are zero.
2. A name that was not synced may be there or not; a rename is atomic.
3. After a failed sync, the bytes look written but will never be durable (as Linux does it).

All randomness comes from the generator that the test passes in. This module must not know any file format.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from raft_node.errors import DiskError
from raft_testing.inodes import Inode, Loss


class Operation(NamedTuple):
    """One operation that changes or syncs something, in the order of ``MemoryFileSystem.operations``."""

    name: str
    path: str


class _NameChange(NamedTuple):
    """Names that appear or vanish together."""

    targets: dict[str, Inode | None]

    def directories(self) -> set[str]:
        return {_parent(path) for path in self.targets}


class _Writable:
    """See ``WritableFile``."""

    def __init__(self, disk: MemoryFileSystem, path: str, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._crashes = disk.crashes
        self._open = True

    @property
    def path(self) -> str:
        return self._path

    def write_at(self, offset: int, parts: Sequence[bytes]) -> None:
        self._check()
        data = b"".join(parts)
        try:
            self._disk._begin("write", self._path)
        except DiskError:
            # A write that fails may have written a part.
            self._inode.write(offset, data[: len(data) // 2])
            raise
        self._inode.write(offset, data)

    def sync_data(self) -> None:
        self._check()
        try:
            self._disk._begin("sync", self._path)
        except DiskError:
            # The kernel marks the pages clean although they never reached the disk.
            self._inode.pending.clear()
            raise
        self._inode.sync()

    def close(self) -> None:
        self._open = False

    def _check(self) -> None:
        assert self._open, f"{self._path} is closed"
        assert self._crashes == self._disk.crashes, f"{self._path} was opened before the crash"


class _Readable:
    """See ``ReadableFile``."""

    def __init__(self, path: str, inode: Inode) -> None:
        self._path = path
        self._inode = inode
        self._size = len(inode.seen)
        self._open = True

    @property
    def path(self) -> str:
        return self._path

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, size: int) -> bytes:
        assert self._open, f"{self._path} is closed"
        return bytes(self._inode.seen[offset : offset + size])

    def close(self) -> None:
        self._open = False


class MemoryFileSystem:
    """A ``FileSystem`` in memory; see the module for what a crash does to it.

    Attributes:
        operations: Every operation that changed or synced something, oldest first.
        crashes: How often it crashed.
        has_failed: Whether an operation failed, as ``fail_at`` or ``fail_next`` had asked for.
        before_operation: Called before each operation that changes or syncs something.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.crashes = 0
        self._names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._pending_names: list[_NameChange] = []
        self._directories: set[str] = {"", "/"}
        self._fail_at = -1
        self._fail_for_ever = False
        self._fail_name = ""
        self.has_failed = False
        self.before_operation: Callable[[], None] | None = None

    # The port.

    def make_directory(self, path: str) -> None:
        """Creates a directory and its parents, durably."""
        self._begin("make_directory", path)
        path = _clean(path)
        while path not in self._directories:
            self._directories.add(path)
            path = _parent(path)

    def list_directory(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty when it does not exist."""
        path = _clean(path)
        paths = [other for other in (*self._names, *self._directories) if other and other != "/"]
        return sorted({other.rpartition("/")[2] for other in paths if _parent(other) == path})

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        path = _clean(path)
        return path in self._names or path in self._directories

    def create(self, path: str) -> _Writable:
        """Creates (or empties) a file."""
        path = _clean(path)
        self._begin("create", path)
        self._require_parent(path)
        inode = self._names.get(path)
        if inode is None:
            inode = Inode()
            self._change_names({path: inode})
        else:
            inode.truncate()
        return _Writable(self, path, inode)

    def open_for_write(self, path: str) -> _Writable:
        """Opens an existing file to overwrite parts of it."""
        path = _clean(path)
        return _Writable(self, path, self._inode(path))

    def open_for_read(self, path: str) -> _Readable:
        """Opens an existing file."""
        path = _clean(path)
        return _Readable(path, self._inode(path))

    def read_file(self, path: str) -> bytes:
        """The whole content of a small file."""
        return bytes(self._inode(_clean(path)).seen)

    def rename(self, source: str, target: str) -> None:
        """Renames, replacing ``target``."""
        source, target = _clean(source), _clean(target)
        self._begin("rename", source)
        inode = self._inode(source)
        self._require_parent(target)
        self._change_names({source: None, target: inode})

    def link(self, source: str, target: str) -> None:
        """Makes a hard link."""
        source, target = _clean(source), _clean(target)
        self._begin("link", target)
        inode = self._inode(source)
        self._require_parent(target)
        if target in self._names:
            raise DiskError(source, f"link to {target}", OSError(errno.EEXIST, "File exists"))
        self._change_names({target: inode})

    def remove(self, path: str) -> None:
        """Removes a file; a missing one is fine."""
        path = _clean(path)
        self._begin("remove", path)
        if path in self._names:
            self._change_names({path: None})

    def remove_tree(self, path: str) -> None:
        """Removes a directory with all below it; a missing one is fine."""
        path = _clean(path)
        self._begin("remove_tree", path)
        below = path + "/"
        for name in [name for name in self._names if name.startswith(below)]:
            self._change_names({name: None})
        self._directories = {name for name in self._directories if name != path and not name.startswith(below)}

    def free_bytes(self, path: str) -> int:
        """A very large number: this disk is never full."""
        return 1 << 40

    def allocate(self, path: str, size: int) -> None:
        """Makes a file whose blocks are taken."""
        self.create(path).write_at(0, [bytes(size)])

    def sync_directory(self, path: str) -> None:
        """Makes the names in a directory durable."""
        path = _clean(path)
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        self._begin("sync_directory", path)
        # A rename takes the earlier changes in its other directory along, as a journal does.
        directories = {path}
        rest: list[_NameChange] = []
        synced: list[_NameChange] = []
        for change in reversed(self._pending_names):
            touched = change.directories()
            if touched & directories:
                directories |= touched
                synced.append(change)
            else:
                rest.append(change)
        for change in reversed(synced):
            _apply(self._durable_names, change)
        self._pending_names = rest[::-1]

    # Operations for tests.

    def crash(self, rng: random.Random) -> None:
        """Cuts the power: synced data are kept, and a random part of the rest. Open files become unusable."""
        self.crashes += 1
        self._fail_at, self._fail_name = -1, ""
        chance = rng.choice((0.0, 0.5, 1.0))
        for inode in self._crash_names(lambda: rng.random() < chance):
            inode.crash(rng)

    def crash_as(self, loss: Loss, rng: random.Random) -> None:
        """As ``crash``, but loses data by a rule; ``rng`` chooses where a write is torn."""
        self.crashes += 1
        self._fail_at, self._fail_name = -1, ""
        survives = {Loss.DROPPED: lambda: False, Loss.RANDOM: lambda: rng.random() < 0.5}.get(loss, lambda: True)
        for inode in self._crash_names(survives):
            inode.lose(loss, rng)

    def _crash_names(self, survives: Callable[[], bool]) -> list[Inode]:
        """Keeps or drops each name that is not durable; returns the files that still have a name."""
        for change in self._pending_names:
            if survives():
                _apply(self._durable_names, change)
        self._pending_names = []
        self._names = dict(self._durable_names)
        for path in self._names:
            # A file may come back whose directory was removed without a sync.
            directory = _parent(path)
            while directory not in self._directories:
                self._directories.add(directory)
                directory = _parent(directory)
        return list({id(inode): inode for inode in self._names.values()}.values())

    def copy(self) -> MemoryFileSystem:
        """The disk as it is now, in both worlds, without its history; files that are open here are not open there."""
        copy = MemoryFileSystem()
        copies: dict[int, Inode] = {}

        def copied(inode: Inode) -> Inode:
            known = copies.get(id(inode))
            if known is None:
                known = copies[id(inode)] = inode.copy()
            return known

        copy._names = {path: copied(inode) for path, inode in self._names.items()}
        copy._durable_names = {path: copied(inode) for path, inode in self._durable_names.items()}
        copy._pending_names = [
            _NameChange({path: None if inode is None else copied(inode) for path, inode in change.targets.items()})
            for change in self._pending_names
        ]
        copy._directories = set(self._directories)
        return copy

    @property
    def is_settled(self) -> bool:
        """Whether a crash would lose nothing."""
        return not self._pending_names and not any(inode.pending for inode in self._names.values())

    def fail_at(self, operations: int, *, for_ever: bool = True) -> None:
        """Lets the n-th next operation (from 1) raise ``DiskError``; with ``for_ever``, all later ones, too."""
        self._fail_at = operations
        self._fail_for_ever = for_ever

    def fail_next(self, name: str) -> None:
        """Lets the next operation of that name (see ``operations``) raise ``DiskError``."""
        self._fail_name = name

    def heal(self) -> None:
        """Cancels ``fail_at`` and ``fail_next``."""
        self._fail_at, self._fail_name = -1, ""

    def durable(self, path: str) -> bytes | None:
        """The content that is sure to be read under a name after a crash; None if the name may be missing."""
        inode = self._durable_names.get(_clean(path))
        return None if inode is None else bytes(inode.durable)

    def is_synced(self, path: str) -> bool:
        """Whether neither the name nor a byte of the file can be lost by a crash."""
        path = _clean(path)
        inode = self._names.get(path)
        return inode is not None and self._durable_names.get(path) is inode and inode.seen == inode.durable

    def put(self, path: str, content: bytes) -> None:
        """Places a file, durably: for tests that damage one, or start from given bytes."""
        path = _clean(path)
        self._require_parent(path)
        inode = Inode()
        inode.seen[:] = content
        inode.durable[:] = content
        self._names[path] = inode
        self._durable_names[path] = inode

    def flip_bit(self, path: str, bit: int) -> None:
        """Flips one bit of a file, durably."""
        content = bytearray(self.read_file(path))
        content[bit // 8] ^= 1 << bit % 8
        self.put(path, bytes(content))

    def files(self) -> dict[str, bytes]:
        """All files with their content, as a running process sees them."""
        return {path: bytes(inode.seen) for path, inode in sorted(self._names.items())}

    def count(self, name: str) -> int:
        """How many operations of that name there were."""
        return sum(operation.name == name for operation in self.operations)

    def _begin(self, name: str, path: str) -> None:
        if self.before_operation is not None:
            self.before_operation()
        failing = name == self._fail_name
        if failing:
            self._fail_name = ""
        if self._fail_at > 0:
            self._fail_at -= 1
        if self._fail_at == 0:
            failing = True
            if not self._fail_for_ever:
                self._fail_at = -1
        if failing:
            self.has_failed = True
            raise DiskError(path, name, OSError(errno.EIO, "Input/output error"))
        self.operations.append(Operation(name, path))

    def _change_names(self, targets: dict[str, Inode | None]) -> None:
        change = _NameChange(targets)
        _apply(self._names, change)
        self._pending_names.append(change)

    def _inode(self, path: str) -> Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return inode

    def _require_parent(self, path: str) -> None:
        if _parent(path) not in self._directories:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)


def _apply(names: dict[str, Inode], change: _NameChange) -> None:
    for path, inode in change.targets.items():
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


def _clean(path: str) -> str:
    return path.rstrip("/") or path[:1]


def _parent(path: str) -> str:
    head, slash, _ = path.rpartition("/")
    return head or slash
