"""Stores the files of a directory tree, each under its path, and compares the files with the store.

The module knows files and a client, and must not know terminals or command lines. Invariants:

1. Nothing is left out silently: every file below the root is stored, or a ``Problem`` names it.
2. A write whose outcome is unknown is repeated, even without an idempotency key: storing the same bytes under the same
   key again is harmless.
3. Memory is bounded by ``concurrency`` files of ``VALUE_BYTES_MAX`` and a few hundred bytes per file.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

from dougdb.checks import KEY_BYTES_MAX, OCTET_STREAM, VALUE_BYTES_MAX
from dougdb.client import AsyncDougClient
from dougdb.errors import InvalidKeyError, KeyNotFoundError, OutcomeUnknownError, RejectedError, UnavailableError
from dougdb.shapes import Consistency

R = TypeVar("R")

RETRY_S = 30.0
"""How many seconds a file is sent again while the store is unavailable; an election takes about one."""
SETTLE_S = 5.0
"""How many seconds an eventual read may lag behind before a difference is a problem."""


Act = Callable[[AsyncDougClient, "TreeFile"], Awaitable[None]]


class ProblemKind(StrEnum):
    """Why a file is not in the store, or has other bytes there."""

    UNREADABLE = "unreadable"
    TOO_LARGE = "too large"
    BAD_NAME = "bad name"
    REJECTED = "rejected"
    MISSING = "missing"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that was not stored, or was not read back with the same bytes."""

    path: str
    kind: ProblemKind
    reason: str


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of the tree: its path, its key, and its size when it was found."""

    path: Path
    key: bytes
    size: int


@dataclass(slots=True)
class Scan:
    """The files below a directory, and the problems with those that cannot be stored."""

    files: list[TreeFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def total_bytes(self) -> int:
        """The sum of the sizes of all files."""
        return sum(file.size for file in self.files)


def scan(root: Path, prefix: str = "") -> Scan:
    """Lists every file below ``root`` in the order of the names, and everything that cannot be stored.

    Links are followed, but a link to a directory above itself is a problem: following it would never end.
    """
    found = Scan()
    _scan_directory(os.fsencode(root), b"", os.fsencode(prefix), frozenset(), found)
    return found


def _scan_directory(
    root: bytes, relative: bytes, prefix: bytes, above: frozenset[tuple[int, int]], found: Scan
) -> None:
    directory = os.path.join(root, relative) if relative else root  # noqa: PTH118 - names are bytes here
    try:
        status = os.stat(directory)  # noqa: PTH116
        names = sorted(os.listdir(directory))  # noqa: PTH208
    except OSError as error:
        found.problems.append(Problem(os.fsdecode(directory), ProblemKind.UNREADABLE, error.strerror or str(error)))
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        reason = "a link that leads back to a directory above itself"
        found.problems.append(Problem(os.fsdecode(directory), ProblemKind.UNREADABLE, reason))
        return
    for name in names:
        path = relative + b"/" + name if relative else name
        full = os.path.join(root, path)  # noqa: PTH118
        try:
            status = os.stat(full)  # noqa: PTH116
        except OSError as error:
            found.problems.append(Problem(os.fsdecode(full), ProblemKind.UNREADABLE, error.strerror or str(error)))
            continue
        if stat.S_ISDIR(status.st_mode):
            _scan_directory(root, path, prefix, above | {identity}, found)
        else:
            _scan_file(Path(os.fsdecode(full)), prefix + path, status, found)


def _scan_file(path: Path, key: bytes, status: os.stat_result, found: Scan) -> None:
    try:
        key.decode()
    except UnicodeDecodeError:
        found.problems.append(Problem(str(path), ProblemKind.BAD_NAME, "the name is not valid UTF-8"))
        return
    if len(key) > KEY_BYTES_MAX:
        reason = f"the key would have {len(key)} bytes; the limit is {KEY_BYTES_MAX}"
        found.problems.append(Problem(str(path), ProblemKind.BAD_NAME, reason))
    elif not stat.S_ISREG(status.st_mode):
        found.problems.append(Problem(str(path), ProblemKind.UNREADABLE, "not a regular file"))
    else:
        found.files.append(TreeFile(path, key, status.st_size))


class TreeCopy:
    """Stores files and reads them back, many at once.

    Args:
        clients: Send the requests; at least one is needed for any file. Each client sends one file at a time. (One
            client with as many connections would be slower, since httpx looks at every connection of a client for
            every request.)
        clock: Gives monotonic seconds.
        sleep: Waits for some seconds.
        on_file: Called after each file with its size.
    """

    def __init__(
        self,
        clients: Sequence[AsyncDougClient],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        on_file: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._clients = clients
        self._clock = clock
        self._sleep = sleep
        self._on_file = on_file
        self.problems: list[Problem] = []
        self.stored = 0
        self.stored_bytes = 0
        self.verified = 0
        #: The hash of each stored content, by key: a verification uses it even if the file has changed meanwhile.
        self._digests: dict[bytes, bytes] = {}

    async def store(self, files: list[TreeFile]) -> None:
        """Stores the files.

        Raises:
            UnavailableError: The store was unavailable for ``RETRY_S``.
        """
        await self._each(files, self._store_file)

    async def verify(self, files: list[TreeFile], consistency: Consistency) -> None:
        """Reads the files back, and compares each with the bytes that were stored or, if none were, with the disk.

        Raises:
            UnavailableError: The store was unavailable for ``RETRY_S``.
        """

        async def verify_file(client: AsyncDougClient, file: TreeFile) -> None:
            await self._verify_file(client, file, consistency)

        await self._each(files, verify_file)

    async def _each(self, files: list[TreeFile], act: Act) -> None:
        assert self._clients
        remaining = iter(files)
        outage: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for client in self._clients[: len(files)]:
                    group.create_task(self._work(client, remaining, act))
        except* (UnavailableError, OutcomeUnknownError) as errors:
            # The same outage stops all workers; one report of it is enough.
            outage = _first_of(errors)
        if outage is not None:
            raise outage  # Not above: up to Python 3.11.3 what is raised there is put into another group.

    async def _work(self, client: AsyncDougClient, remaining: Iterator[TreeFile], act: Act) -> None:
        for file in remaining:
            await act(client, file)
            self._on_file(file.size)

    def _read(self, file: TreeFile) -> bytes | None:
        """The file's content; None if it cannot be stored, which is then noted as a problem."""
        try:
            with file.path.open("rb") as stream:
                data = stream.read(VALUE_BYTES_MAX + 1)
        except OSError as error:
            self._note(file, ProblemKind.UNREADABLE, error.strerror or str(error))
            return None
        if len(data) > VALUE_BYTES_MAX:
            self._note(file, ProblemKind.TOO_LARGE, f"{file.size} bytes; the limit of a value is {VALUE_BYTES_MAX}")
            return None
        return data

    async def _store_file(self, client: AsyncDougClient, file: TreeFile) -> None:
        data = self._read(file)
        if data is None:
            return
        content_type = mimetypes.guess_type(file.path.name)[0] or OCTET_STREAM
        try:
            await self._patiently(lambda: client.put(file.key, data, content_type=content_type))
        except RejectedError as error:
            kind = ProblemKind.TOO_LARGE if error.status == 413 else ProblemKind.REJECTED
            self._note(file, kind, str(error))
            return
        except InvalidKeyError as error:
            self._note(file, ProblemKind.BAD_NAME, str(error))
            return
        self.stored += 1
        self.stored_bytes += len(data)
        self._digests[file.key] = _digest(data)

    async def _verify_file(self, client: AsyncDougClient, file: TreeFile, consistency: Consistency) -> None:
        expected = self._digests.get(file.key)
        if expected is None:
            data = self._read(file)
            if data is None:
                return
            expected = _digest(data)
        settled_at = self._clock() + (SETTLE_S if consistency is Consistency.EVENTUAL else 0.0)
        while True:
            problem = await self._difference(client, file, expected, consistency)
            if problem is None:
                self.verified += 1
                return
            if self._clock() >= settled_at:
                self._note(file, *problem)
                return
            await self._sleep(0.1)

    async def _difference(
        self, client: AsyncDougClient, file: TreeFile, expected: bytes, consistency: Consistency
    ) -> tuple[ProblemKind, str] | None:
        try:
            value = await self._patiently(lambda: client.get(file.key, consistency=consistency))
        except KeyNotFoundError:
            return ProblemKind.MISSING, f"not found in the store ({consistency})"
        except RejectedError as error:
            return ProblemKind.REJECTED, str(error)
        if _digest(value.data) != expected:
            return ProblemKind.DIFFERS, f"the store holds {len(value.data)} other bytes ({consistency})"
        return None

    async def _patiently(self, call: Callable[[], Awaitable[R]]) -> R:
        """Repeats a call while the store is unavailable, with growing pauses, for ``RETRY_S`` at most."""
        give_up_at = self._clock() + RETRY_S
        pause = 0.1
        while True:
            try:
                return await call()
            except (UnavailableError, OutcomeUnknownError):
                if self._clock() + pause > give_up_at:
                    raise
            await self._sleep(pause)
            pause = min(pause * 2, 2.0)

    def _note(self, file: TreeFile, kind: ProblemKind, reason: str) -> None:
        self.problems.append(Problem(str(file.path), kind, reason))


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
