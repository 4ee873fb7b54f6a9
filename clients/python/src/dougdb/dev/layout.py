"""The data directory of a local cluster: whether it is ours, which layout it has, and which process uses it.

Invariants:

1. Inspecting a directory changes nothing. A directory that is refused is left as it was found.
2. A directory belongs to one layout for ever: ``LAYOUT.json`` is written once, atomically, under the lock.
3. Its use is marked by a ``flock``, which the kernel drops with the process. The pid in the lock file is only for
   the message.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FORMAT = 1
NODES_MAX = 9
# The files that a directory may have before it is ours: also those of a start that was cut off in the middle of a file,
# and that of the root of every ext4 volume.
_UNFINISHED = {".LAYOUT.json.tmp", ".RESTORE.json.tmp"}
_HARMLESS = {"run", ".gitkeep", ".gitignore", ".DS_Store", "lost+found"} | _UNFINISHED


class RefusedError(Exception):
    """The cluster cannot be started with this directory or these options; nothing was touched."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The number of shards, and the number of nodes of each."""

    shards: int
    nodes: int

    def __str__(self) -> str:
        return f"{self.shards} shard{'s' * (self.shards != 1)} x {self.nodes} node{'s' * (self.nodes != 1)}"

    def node_id(self, shard: int, index: int) -> str:
        """The name of a node."""
        assert 0 <= shard < self.shards
        assert 0 <= index < self.nodes
        return f"shard-{shard}-{index}"

    def places(self) -> list[tuple[int, int]]:
        """The shard and the index of every node, in order."""
        return [(shard, index) for shard in range(self.shards) for index in range(self.nodes)]


class DataDirectory:
    """One data directory of ``dougctl dev``."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.run = self.root / "run"
        self.layout_path = self.root / "LAYOUT.json"
        self.lock_path = self.run / "lock"
        self._lock_fd: int | None = None
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.unlock()

    def inspect(self, wanted: Layout) -> None:
        """Checks without changing anything that a cluster of the wanted layout may use the directory.

        Raises:
            RefusedError: The directory has another layout or foreign files, is in use, or cannot be read.
        """
        try:
            if not self.root.exists():
                self._refuse_dangling()
                return
            if not self.root.is_dir():
                raise RefusedError(f"{self.root} is not a directory")
            if self.lock_path.exists():
                self._lock(create=False)
            if self.layout_path.exists():
                self._compare(self._read_layout(), wanted)
                return
            foreign = sorted(entry.name for entry in self.root.iterdir() if entry.name not in _HARMLESS)
        except OSError as error:
            raise RefusedError(f"{error.filename or self.root}: {error.strerror}") from None
        if foreign:
            raise RefusedError(
                f"{self.root} is not empty and holds no DougDB data (no LAYOUT.json, but {foreign[0]}); "
                "choose another directory with --data"
            )

    def claim(self, wanted: Layout) -> None:
        """Takes the directory: creates it if need be, locks it, and writes the layout at the first start.

        Raises:
            RefusedError: The directory changed since ``inspect`` in a way that forbids its use, or cannot be written.
        """
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self._lock(create=True)
            assert self._lock_fd is not None
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)
            if self.layout_path.exists():
                self._compare(self._read_layout(), wanted)
            else:
                self._write_layout(wanted)
        except OSError as error:
            raise RefusedError(f"{error.filename or self.root}: {error.strerror}") from None

    def require_empty(self) -> None:
        """Checks without changing anything that the directory is empty or does not exist.

        Raises:
            RefusedError: The directory is not empty, or cannot be read.
        """
        try:
            if not self.root.exists():
                self._refuse_dangling()
                return
            if not self.root.is_dir():
                raise RefusedError(f"{self.root} is not a directory")
            found = sorted(entry.name for entry in self.root.iterdir() if entry.name not in _HARMLESS)
        except OSError as error:
            raise RefusedError(f"{error.filename or self.root}: {error.strerror}") from None
        if found:
            raise RefusedError(f"{self.root} is not empty: it holds {found[0]}; a restore needs an empty directory")

    def occupy(self) -> None:
        """Takes the directory without a layout: creates it if need be, and locks it.

        Raises:
            RefusedError: The directory is in use, or cannot be written.
        """
        self._made = [path for path in (self.run, self.root) if not path.exists()]
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self._lock(create=True)
        except OSError as error:
            raise RefusedError(f"{error.filename or self.root}: {error.strerror}") from None

    def vacate(self) -> None:
        """Removes the directories that ``occupy`` made, unless they are not empty now, and unlocks the directory."""
        if self.run in self._made:
            self.lock_path.unlink(missing_ok=True)
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir()
        self.unlock()

    def establish(self, layout: Layout) -> None:
        """Writes the layout of the volumes that were put here. Requires: ``occupy``."""
        if not self.layout_path.exists():
            self._write_layout(layout)

    def _refuse_dangling(self) -> None:
        """Refuses a symbolic link without a target: nothing can be made behind it, and its target cannot be guessed."""
        for path in (self.root, *self.root.parents):
            if path.is_symlink() and not path.exists():
                raise RefusedError(f"{path} is a link to {path.readlink()}, which does not exist")

    def unlock(self) -> None:
        """Unlocks the directory."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def running_pids(self) -> dict[str, int]:
        """The processes that the pid files name and that exist, by node id."""
        found = {}
        for path in sorted(self.run.glob("*.pid")):
            try:
                pid = int(path.read_text())
                os.kill(pid, 0)
            except (OSError, ValueError):
                continue
            found[path.stem] = pid
        return found

    def _lock(self, *, create: bool) -> None:
        if self._lock_fd is not None:
            return
        fd = os.open(self.lock_path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise RefusedError(f"{self.root} is in use by another dougctl dev (pid {holder or 'unknown'})") from None
        self._lock_fd = fd

    def _read_layout(self) -> Layout:
        try:
            document = json.loads(self.layout_path.read_text())
            form, layout = document["format"], Layout(int(document["shards"]), int(document["nodes"]))
        except (ValueError, KeyError, TypeError):
            raise RefusedError(f"{self.layout_path} cannot be understood; it is left as it is") from None
        if form != FORMAT:
            raise RefusedError(f"{self.root} has format {form}; this version knows format {FORMAT} only")
        return layout

    def _compare(self, found: Layout, wanted: Layout) -> None:
        if found != wanted:
            raise RefusedError(
                f"{self.root} holds the data of {found}, but {wanted} were asked for; start it with "
                f"--shards {found.shards} --nodes {found.nodes}, or choose another directory with --data"
            )

    def _write_layout(self, layout: Layout) -> None:
        document = json.dumps({"format": FORMAT, "shards": layout.shards, "nodes": layout.nodes}) + "\n"
        write_atomically(self.layout_path, document)


def write_atomically(path: Path, text: str) -> None:
    """Writes a small file so that it exists whole or not at all, also after a power cut."""
    # The temporary file is beside the file, since run/ may be on another file system.
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
