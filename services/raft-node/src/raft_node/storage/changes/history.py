"""The history of changes: the batches of the memtables, and behind them change segments that are kept after a flush.

A segment that was flushed is renamed and stays until there are too many bytes of them or they are too old. Its name
says which changes it holds, so that a start need read none of them. The event loop calls everything that is not marked
as blocking. This module must not know what a change is, nor who reads the history (docs/formats.md, Change segment).

Invariants:
1. The segments follow each other without a gap, and the memtables follow the last one: what is held are all changes
   behind ``floor``.
2. A kept segment was synced before its flush was installed (docs/adr/0002).
3. A segment that goes beyond the tables after a crash is dropped: the log makes its changes again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from raft_node.errors import CorruptionError
from raft_node.storage.changes.segments import (
    FILE_HEADER_BYTES,
    FRAME_BYTES,
    decode_frame,
    encode_file_header,
    frame_bytes,
    frame_upto,
)
from raft_node.storage.changes.span import Span
from raft_node.storage.files import FileSystem, ReadableFile
from raft_node.storage.memtable import Batch

SUFFIX = ".hst"
_NAME_PARTS = 3
_PART_DIGITS = 16
_READ_BYTES = 256 << 10


class Limits(NamedTuple):
    """The limits of the history on disk: bytes of segments (0: none), and microseconds by the time of the batches."""

    bytes_max: int = 0
    age_us: int = 0


class Written(NamedTuple):
    """A batch that was written.

    Attributes:
        upto: The last change of the batch.
        batch: The batch.
        notes: The notes beside the batch.
        after: The last change before the batch; -1 if that is not known.
    """

    upto: int
    batch: Batch
    notes: bytes
    after: int = -1


class Kept(NamedTuple):
    """A segment that stays after its flush.

    Attributes:
        after: The last change before the segment.
        upto: The last change in it.
        time_us: The time of its last batch.
        size_bytes: The size of the segment; 0 if it is not known yet.
    """

    after: int
    upto: int
    time_us: int
    size_bytes: int = 0

    @property
    def name(self) -> str:
        """The file name of the segment."""
        return f"{self.after:016x}-{self.upto:016x}-{self.time_us:016x}{SUFFIX}"


class Piece(NamedTuple):
    """Some batches out of a kept segment.

    Attributes:
        written: The batches.
        offset: The offset in the file of the next batch; 0 at its end.
    """

    written: list[Written]
    offset: int


class _Chapter:
    """The batches of one memtable."""

    __slots__ = ("after", "time_us", "written")

    def __init__(self, after: int) -> None:
        self.after = after
        self.time_us = 0
        self.written: list[Written] = []

    @property
    def upto(self) -> int:
        return self.written[-1].upto if self.written else self.after


_upto = attrgetter("upto")


class History:
    """The history of changes of one engine: see the module."""

    def __init__(self, fs: FileSystem, directory: str, limits: Limits) -> None:
        """Finds the kept segments, of which ``begin`` chooses those that count. Blocking."""
        self._fs = fs
        self._directory = directory
        self._limits = limits
        self._kept = deque(_find(fs, directory))
        self._kept_bytes = sum(kept.size_bytes for kept in self._kept)
        self._chapters: deque[_Chapter] = deque((_Chapter(0),))

    @property
    def keeps(self) -> bool:
        """Whether segments stay after their flush, for which they must be synced."""
        return self._limits.bytes_max > 0

    @property
    def kept_bytes(self) -> int:
        """The bytes of the kept segments."""
        return self._kept_bytes

    @property
    def upto(self) -> int:
        """The number of the last change."""
        return self._chapters[-1].upto

    @property
    def floor(self) -> int:
        """The change behind which all changes are held."""
        return self._kept[0].after if self._kept else self._chapters[0].after

    # Writing.

    def begin(self, mark: int) -> list[str]:
        """Takes the last change in the tables, before any write; returns the files of segments that do not count."""
        assert len(self._chapters) == 1 and not self._chapters[0].written, "something was written already"
        self._chapters = deque((_Chapter(mark),))
        dropped = []
        while self._kept and (self._kept[-1].upto > mark or not self.keeps):
            dropped.append(self._kept.pop())
        if self._kept and self._kept[-1].upto != mark:
            dropped += self._kept
            self._kept.clear()
        return self._forget(dropped)

    def add(self, batch: Batch, span: Span) -> None:
        """Takes a batch of the newest memtable, which must not change any more."""
        if span.upto == span.after:
            return
        chapter = self._chapters[-1]
        if not chapter.written:
            chapter.after = span.after
        chapter.written.append(Written(span.upto, batch, span.notes, span.after))
        chapter.time_us = span.time_us

    def rotate(self) -> None:
        """Begins the history of a new memtable."""
        self._chapters.append(_Chapter(self.upto))

    def to_keep(self) -> str:
        """The name under which the segment of the oldest memtable stays; empty if it need not stay."""
        chapter = self._chapters[0]
        if not self.keeps or not chapter.written:
            return ""
        return Kept(chapter.after, chapter.upto, chapter.time_us).name

    def flushed(self, size_bytes: int) -> list[str]:
        """Notes that the oldest memtable was flushed, and its segment named ``to_keep``; returns files that may go."""
        chapter = self._chapters.popleft()
        if not chapter.written:
            return []
        if self.keeps:
            self._kept.append(Kept(chapter.after, chapter.upto, chapter.time_us, size_bytes))
            self._kept_bytes += size_bytes
        return self._prune(chapter.time_us)

    def reset(self) -> None:
        """Forgets all changes, because another state took the place of this one; ``begin`` follows."""
        self._chapters = deque((_Chapter(0),))

    def drop_kept(self) -> list[str]:
        """Gives up the kept segments, because one cannot be read or room is short; returns the files that may go."""
        dropped = list(self._kept)
        self._kept.clear()
        return self._forget(dropped)

    def _prune(self, now_us: int) -> list[str]:
        limits, dropped = self._limits, []
        kept_bytes = self._kept_bytes
        while self._kept and (kept_bytes > limits.bytes_max or self._kept[0].time_us < now_us - limits.age_us):
            dropped.append(self._kept.popleft())
            kept_bytes -= dropped[-1].size_bytes
        return self._forget(dropped)

    def _forget(self, dropped: Sequence[Kept]) -> list[str]:
        self._kept_bytes -= sum(kept.size_bytes for kept in dropped)
        return [kept.name for kept in dropped]

    # Reading.

    def behind(self, mark: int, count_max: int) -> list[Written] | Kept | None:
        """The changes behind a change: batches in memory, else the segment that holds them, or None if they are gone.

        The first batch may begin with changes up to the mark.
        """
        if mark >= self._chapters[0].after:
            found: list[Written] = []
            for chapter in self._chapters:
                if chapter.upto > mark:
                    place = bisect_right(chapter.written, mark, key=_upto)
                    found += chapter.written[place : place + count_max - len(found)]
                    if len(found) >= count_max:
                        break
            return found
        if not self._kept or mark < self._kept[0].after:
            return None
        return self._kept[bisect_right(self._kept, mark, key=_upto)]

    def read(self, kept: Kept, mark: int, offset: int, bytes_max: int) -> Piece:
        """Batches of a kept segment behind a change. Blocking.

        Args:
            kept: The segment.
            mark: The change.
            offset: The offset at which to go on, as the last piece has named it; 0 for the beginning.
            bytes_max: About how much to read; a batch at least.

        Raises:
            FileNotFoundError: The segment was dropped meanwhile.
            CorruptionError: The segment is damaged; nothing but history is lost with it.
        """
        path = f"{self._directory}/{kept.name}"
        file = self._fs.open_for_read(path)
        try:
            return _read_piece(file, path, mark, offset, bytes_max)
        finally:
            file.close()


def _read_piece(file: ReadableFile, path: str, mark: int, offset: int, bytes_max: int) -> Piece:
    if not offset:
        if file.read_at(0, FILE_HEADER_BYTES) != encode_file_header():
            raise CorruptionError(path, 0, "it does not begin like a change segment of a known format")
        offset = FILE_HEADER_BYTES
    written: list[Written] = []
    size = 0
    for at, frame in _frames(file, path, offset):
        if size >= bytes_max:
            return Piece(written, at)
        if frame_upto(frame) <= mark:
            continue
        batch, upto, notes = decode_frame(path, at, frame)
        size += len(frame)
        written.append(Written(upto, batch, notes))
    return Piece(written, 0)


def _frames(file: ReadableFile, path: str, offset: int) -> Iterator[tuple[int, bytes]]:
    """The frames from an offset on, with their places, read in larger pieces."""
    piece, start = b"", offset
    while offset < file.size:
        at = offset - start
        if at + FRAME_BYTES > len(piece):
            piece, start, at = file.read_at(offset, _READ_BYTES), offset, 0
        if at + FRAME_BYTES > len(piece):
            raise CorruptionError(path, offset, "the segment ends within a frame")
        size = frame_bytes(piece, at)
        if offset + size > file.size:
            raise CorruptionError(path, offset, "the segment ends within a frame")
        if at + size > len(piece):
            piece, start, at = file.read_at(offset, max(size, _READ_BYTES)), offset, 0
        yield offset, piece[at : at + size]
        offset += size


def _find(fs: FileSystem, directory: str) -> list[Kept]:
    """The kept segments in order, those that follow each other without a gap up to the last one."""
    found: list[Kept] = []
    for name in fs.list_directory(directory):
        kept = _named(name)
        if kept is None:
            continue
        if found and found[-1].upto != kept.after:
            for gap in found:
                fs.remove(f"{directory}/{gap.name}")
            found = []
        file = fs.open_for_read(f"{directory}/{name}")
        found.append(kept._replace(size_bytes=file.size))
        file.close()
    return found


def _named(name: str) -> Kept | None:
    parts = name.removesuffix(SUFFIX).split("-")
    if not name.endswith(SUFFIX) or len(parts) != _NAME_PARTS or any(len(part) != _PART_DIGITS for part in parts):
        return None
    try:
        after, upto, time_us = (int(part, 16) for part in parts)
    except ValueError:
        return None
    return Kept(after, upto, time_us) if after < upto else None
