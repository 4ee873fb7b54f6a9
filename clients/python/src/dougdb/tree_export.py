"""Writes keys as files below a directory: the opposite of ``dougdb.tree``.

The module knows files and entries, and must not know terminals or command lines. Invariants:

1. No file is written outside the directory, whatever the keys are: a key whose path could lead elsewhere is a
   ``Problem``, and no link is followed.
2. Nothing is left out silently: every key becomes a file, or a ``Problem`` names it.
3. A file is written whole or not at all, and an existing file with other bytes is replaced only with ``overwrite``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from dougdb.ranges import Entry

NAME_BYTES_MAX = 255


@dataclass(frozen=True, slots=True)
class Problem:
    """A key that was not written as a file, or whose file has other bytes."""

    key: bytes
    reason: str


class _RefusedError(Exception):
    """A key cannot be written as a file below this directory."""


@dataclass(slots=True)
class Export:
    """The counts of an export.

    Attributes:
        written: How many files were written.
        written_bytes: The sum of the sizes of the written files.
        unchanged: How many files existed with the same bytes already.
        verified: How many files were read back and were equal.
        problems: The keys that were not written, or whose files differ.
    """

    written: int = 0
    written_bytes: int = 0
    unchanged: int = 0
    verified: int = 0
    problems: list[Problem] = field(default_factory=list)


class TreeExport:
    """Writes entries below a directory.

    Args:
        root: The directory.
        prefix: The beginning of all keys, which is left out of the files' paths.
        overwrite: Whether existing files with other bytes are replaced.
        on_file: Called after each key.
    """

    def __init__(
        self, root: Path, prefix: bytes, *, overwrite: bool = False, on_file: Callable[[], None] = lambda: None
    ) -> None:
        self._root = os.fsencode(root)
        self._prefix = prefix
        self._overwrite = overwrite
        self._on_file = on_file
        self.done = Export()
        #: The hash of each written content, by key: a verification compares the files with it.
        self._digests: dict[bytes, bytes] = {}

    def write(self, entries: Iterable[Entry]) -> None:
        """Writes every entry as a file."""
        for entry in entries:
            try:
                self._write(entry)
                self._digests[entry.key] = _digest(entry.data)
            except _RefusedError as error:
                self.done.problems.append(Problem(entry.key, str(error)))
            except OSError as error:
                self.done.problems.append(Problem(entry.key, error.strerror or str(error)))
            self._on_file()

    def verify(self) -> None:
        """Reads every file back, and compares it with the bytes that the store had."""
        for key, digest in self._digests.items():
            try:
                with open(self._path(key), "rb") as stream:  # noqa: PTH123 - names are bytes here
                    same = _digest(stream.read()) == digest
            except OSError as error:
                self.done.problems.append(Problem(key, f"it cannot be read back: {error.strerror}"))
                continue
            if same:
                self.done.verified += 1
            else:
                self.done.problems.append(Problem(key, "the file has other bytes than the store had"))
            self._on_file()

    def _path(self, key: bytes) -> bytes:
        """The path of a key's file.

        Raises:
            _RefusedError: The key has no path below the directory.
        """
        names = key.removeprefix(self._prefix).split(b"/")
        for name in names:
            if name in (b"", b".", b"..") or b"\0" in name:
                raise _RefusedError("its path has an empty name, . or .., or a zero byte")
            if len(name) > NAME_BYTES_MAX:
                raise _RefusedError(f"a name in its path has more than {NAME_BYTES_MAX} bytes")
        return os.path.join(self._root, *names)  # noqa: PTH118

    def _write(self, entry: Entry) -> None:
        path = self._path(entry.key)
        self._make_directories(os.path.dirname(path))  # noqa: PTH120
        if os.path.islink(path):  # noqa: PTH114
            raise _RefusedError("a link is there")
        if os.path.isdir(path):  # noqa: PTH112
            raise _RefusedError("a directory is there: another key goes on behind this one with /")
        if os.path.exists(path):  # noqa: PTH110
            with open(path, "rb") as stream:  # noqa: PTH123
                if stream.read(len(entry.data) + 1) == entry.data:
                    self.done.unchanged += 1
                    return
            if not self._overwrite:
                raise _RefusedError("a file with other bytes is there")
        part = os.path.join(os.path.dirname(path), b".dougctl-" + secrets.token_hex(8).encode())  # noqa: PTH118, PTH120
        try:
            with open(part, "xb") as stream:  # noqa: PTH123
                stream.write(entry.data)
            os.replace(part, path)  # noqa: PTH105
        finally:
            # Also of who interrupts: the next import would take it for a file.
            with contextlib.suppress(OSError):
                os.unlink(part)  # noqa: PTH108
        self.done.written += 1
        self.done.written_bytes += len(entry.data)

    def _make_directories(self, directory: bytes) -> None:
        """Makes the directories between the root and a file, and refuses links among them, which could lead elsewhere.

        Raises:
            _RefusedError: One of the directories is a link or a file.
        """
        names = os.path.relpath(directory, self._root).split(b"/")
        at = self._root
        for name in names:
            if name == b".":
                continue
            at = os.path.join(at, name)  # noqa: PTH118
            if os.path.islink(at):  # noqa: PTH114
                raise _RefusedError("a link is in its path")
            if not os.path.isdir(at):  # noqa: PTH112
                try:
                    os.mkdir(at)  # noqa: PTH102
                except FileExistsError:
                    raise _RefusedError("a file is in its path: another key ends where this one goes on") from None


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
