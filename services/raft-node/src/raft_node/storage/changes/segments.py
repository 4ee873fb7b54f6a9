"""Change segments: the writes of one memtable, in the order of the log (docs/formats.md, Change segment).

The event loop queues batches; a background thread writes them; a flush reads the segment in another process. So the
node never sorts or encodes a memtable on its event loop. Until its flush is installed the log holds the same writes,
and a crash before that makes a new segment from the log; so a segment is synced only if it is to be kept as history
after its flush (docs/adr/0002, ``raft_node.storage.changes.history``).

Invariants:
1. A segment holds the batches of its memtable, all of them and in order, before its flush begins.
2. One write of a segment is under way at most.
3. A segment that is to be kept is durable before its flush begins.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple, cast

from crc32c import crc32c

from raft_node.errors import CorruptionError, DiskError, NoSpaceError
from raft_node.storage.changes.span import NO_SPAN, Span
from raft_node.storage.files import FileSystem, ReadableFile, WritableFile
from raft_node.storage.memtable import Batch, Writes
from raft_node.storage.tables.block import KEY_BYTES_MAX, TOMBSTONE, cut, encode_lengths, little_endian, same
from raft_node.storage.tables.iterators import Columns

# DO NOT CHANGE: docs/formats.md and a golden-bytes test fix it.
MAGIC = b"DOUG-CHG"
FORMAT = 2
FILE_HEADER_BYTES = 16
_FRAME = struct.Struct("<IIQQQII")
"""A frame's header: CRC32C of all behind it, body bytes, applied index and term, last change, count, notes' bytes."""
FRAME_BYTES = _FRAME.size
_UPTO_AT = 24
_RECORD_BYTES = 6

_JOIN_BYTES_MAX = 128 << 10
_INLINE_BYTES_MAX = 1 << 10
_PIECE_KEYS = 4096
_WRITE_BYTES = 1 << 20
_READ_BYTES = 256 << 10


class _Change(NamedTuple):
    applied_index: int
    applied_term: int
    batch: Batch
    span: Span


def change_name(number: int) -> str:
    """The file name of a change segment."""
    return f"{number:06d}.chg"


def encode_file_header() -> bytes:
    """The first bytes of a segment."""
    head = MAGIC + FORMAT.to_bytes(4, "little")
    return head + crc32c(head).to_bytes(4, "little")


def encode_frame(batch: Batch, applied_index: int, applied_term: int, span: Span = NO_SPAN) -> list[bytes]:
    """One batch as a frame, in parts, so that big values are not copied."""
    writes = Writes.of(batch)
    keys, all_values, count = writes.keys, writes.values, len(batch)
    assert not keys or max(map(len, keys)) <= KEY_BYTES_MAX
    values = list(filter(None, all_values))
    value_bytes = sum(map(len, values))
    if span.notes:
        values.append(span.notes)
    head = encode_lengths(keys, all_values) + b"".join(keys)
    body_bytes, notes_bytes = len(head) + value_bytes + len(span.notes), len(span.notes)
    frame_head = _FRAME.pack(0, body_bytes, applied_index, applied_term, span.upto, count, notes_bytes)[4:] + head
    if value_bytes <= _JOIN_BYTES_MAX:
        frame = b"".join((frame_head, *values))
        return [crc32c(frame).to_bytes(4, "little"), frame]
    crc = crc32c(frame_head)
    for value in values:
        crc = crc32c(value, crc)
    return [crc.to_bytes(4, "little") + frame_head, *values]


def frame_bytes(data: bytes, at: int) -> int:
    """The size of the frame that begins at an offset. Requires: its header is there."""
    return FRAME_BYTES + int.from_bytes(data[at + 4 : at + 8], "little")


def frame_upto(frame: bytes) -> int:
    """The last change in a frame or before it; not checked."""
    return int.from_bytes(frame[_UPTO_AT : _UPTO_AT + 8], "little")


def decode_frame(path: str, offset: int, frame: bytes) -> tuple[Batch, int, bytes]:
    """A whole frame as its batch, its last change, and its notes.

    Args:
        path: The segment, for the error.
        offset: The offset of the frame in the segment, for the error.
        frame: The bytes of the frame.

    Raises:
        CorruptionError: The frame is damaged.
    """
    crc, _, _, _, upto, count, notes_bytes = _FRAME.unpack_from(frame)
    if crc32c(memoryview(frame)[4:]) != crc:
        raise CorruptionError(path, offset, "the checksum of a frame does not fit")
    keys_at, notes_at = FRAME_BYTES + _RECORD_BYTES * count, len(frame) - notes_bytes
    lengths_at = FRAME_BYTES + 2 * count
    keys = cut(frame, keys_at, frame[FRAME_BYTES:lengths_at], 2) if keys_at <= len(frame) else []
    at = keys_at + sum(map(len, keys))
    batch: list[tuple[bytes, bytes | None]] = []
    for key, length in zip(keys, little_endian("I", frame[lengths_at:keys_at]), strict=False):
        if length >= TOMBSTONE:
            batch.append((key, None))
            continue
        batch.append((key, frame[at : at + length]))
        at += length
    if len(batch) != count or at != notes_at:
        raise CorruptionError(path, offset, "the parts of a frame do not fit each other")
    return batch, upto, frame[notes_at:]


class ChangeSegment:
    """The change segment of one memtable, as it grows.

    Attributes:
        name: The file name of the segment.
        size_bytes: How many bytes were written; settled once ``complete``.
        complete: Whether the memtable takes no more writes, and all of them were written here.
    """

    __slots__ = (
        "_durable", "_file", "_fs", "_path", "_queue", "_queue_bytes", "_sealed", "complete", "name", "size_bytes",
    )  # fmt: skip

    def __init__(self, fs: FileSystem, directory: str, number: int, *, durable: bool = False) -> None:
        """Begins a segment; with ``durable`` it is synced once it is whole."""
        self._durable = durable
        self.name = change_name(number)
        self.size_bytes = 0
        self.complete = False
        self._fs = fs
        self._path = f"{directory}/{self.name}"
        self._file: WritableFile | None = None
        self._queue: list[_Change] = []
        self._queue_bytes = 0
        self._sealed = False

    def add(self, batch: Batch, applied_index: int, applied_term: int, size_bytes: int, span: Span = NO_SPAN) -> None:
        """Queues a batch of about this size, which must not change any more."""
        assert not self._sealed
        self._queue.append(_Change(applied_index, applied_term, batch, span))
        self._queue_bytes += size_bytes

    def seal(self) -> None:
        """Notes that no batch will be added."""
        self._sealed = True

    @property
    def due(self) -> bool:
        """Whether writing is worth a switch to another thread: there is enough, or no more will come.

        What waits takes no memory of its own: the memtable holds the same keys and values.
        """
        return self._queue_bytes >= _WRITE_BYTES or (self._sealed and not self.complete)

    def take(self) -> ChangeWrite | None:
        """The next piece to be written; None if it is not worth a switch to another thread."""
        if not self.due:
            return None
        queue, self._queue, self._queue_bytes = self._queue, [], 0
        return ChangeWrite(self, queue, self._sealed)

    def write(self, changes: list[_Change], last: bool) -> None:
        """Writes a piece, all or nothing as far as ``size_bytes`` tells. Blocking; see ``ChangeWrite.run``."""
        before = self.size_bytes
        try:
            self._write_all(changes)
        except DiskError as error:
            # There was no sync, and bytes behind the size do not count: the next try begins there again.
            self.size_bytes = before
            if not error.no_space:
                raise
            raise NoSpaceError(self._path) from error
        if last:
            if self._durable and self._file is not None:
                # The segment outlives its flush, after which the log may drop the same writes.
                self._file.sync_data()
            self.close()

    def _write_all(self, changes: list[_Change]) -> None:
        if self._file is None:
            self._file = self._fs.create(self._path)
        if self.size_bytes == 0:
            self._write([encode_file_header()])
        parts: list[bytes] = []
        size = 0
        for applied_index, applied_term, batch, span in changes:
            frame = encode_frame(batch, applied_index, applied_term, span)
            parts += frame
            size += sum(map(len, frame))
            if size >= _WRITE_BYTES:
                self._write(parts)
                parts, size = [], 0
        if parts:
            self._write(parts)

    def close(self) -> None:
        """Closes the file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, parts: list[bytes]) -> None:
        assert self._file is not None
        self._file.write_at(self.size_bytes, parts)
        self.size_bytes += sum(map(len, parts))


class ChangeWrite:
    """A piece of a change segment that is to be written."""

    __slots__ = ("_changes", "_last", "_segment")

    def __init__(self, segment: ChangeSegment, changes: list[_Change], last: bool) -> None:
        self._segment = segment
        self._changes = changes
        self._last = last

    @property
    def segment(self) -> ChangeSegment:
        """The segment to which the piece belongs."""
        return self._segment

    def run(self) -> None:
        """Writes the piece. Blocking; on any thread, but one piece at a time and in the order of ``take``.

        Raises:
            NoSpaceError: There is no room; the piece can be written again.
            DiskError: The disk failed.
        """
        self._segment.write(self._changes, self._last)

    def done(self) -> None:
        """Notes that the piece was written."""
        self._segment.complete = self._last


class Position(NamedTuple):
    """The place of a big value in a segment."""

    offset: int
    size: int
    crc: int


class ChangeReader:
    """The last write of each key in a segment; big values stay in the file.

    Attributes:
        entries: Key to value, None for a tombstone, or the place of a big value.
        applied_index: The last entry in the segment; 0 if there is none.
        applied_term: The term of that entry.
    """

    def __init__(self, fs: FileSystem, path: str, size: int) -> None:
        """Reads and checks a segment.

        Raises:
            CorruptionError: The segment is missing, damaged, or not of that size.
        """
        self.entries: dict[bytes, bytes | Position | None] = {}
        self.applied_index = 0
        self.applied_term = 0
        self._path = path
        try:
            self._file: ReadableFile = fs.open_for_read(path)
        except FileNotFoundError as error:
            raise CorruptionError(path, 0, "the change segment is missing") from error
        try:
            self._read(size)
        except CorruptionError:
            self._file.close()
            raise

    def value(self, key: bytes) -> bytes | None:
        """The last value of a key; reads a big one. Blocking."""
        value = self.entries[key]
        if not isinstance(value, Position):
            return value
        content = self._file.read_at(value.offset, value.size)
        if crc32c(content) != value.crc:
            raise CorruptionError(self._path, value.offset, "a value changed while it was flushed")
        return content

    def columns(self) -> Iterator[Columns]:
        """All records in key order, in pieces; a big value is a piece of its own. Blocking."""
        entries = self.entries
        keys = sorted(entries)
        for first in range(0, len(keys), _PIECE_KEYS):
            some = keys[first : first + _PIECE_KEYS]
            values = [entries[key] for key in some]
            if Position not in set(map(type, values)):
                yield Columns(some, cast("list[bytes | None]", values), True)
                continue
            for key in some:
                yield Columns((key,), (self.value(key),), True)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _read(self, size: int) -> None:
        if self._file.size != size:
            raise CorruptionError(self._path, self._file.size, f"a change segment of {size} bytes was expected")
        if self._file.read_at(0, FILE_HEADER_BYTES) != encode_file_header():
            raise CorruptionError(self._path, 0, "it does not begin like a change segment of a known format")
        for offset, frame in self._frames(size):
            self._take_frame(offset, frame)

    def _frames(self, size: int) -> Iterator[tuple[int, bytes]]:
        """The frames with their places, read in larger pieces."""
        offset = FILE_HEADER_BYTES
        piece, start = b"", 0
        while offset < size:
            position = offset - start
            if position + _FRAME.size > len(piece):
                piece, start, position = self._file.read_at(offset, _READ_BYTES), offset, 0
            if position + _FRAME.size > len(piece):
                raise CorruptionError(self._path, offset, "the segment ends within a frame")
            whole = frame_bytes(piece, position)
            if offset + whole > size:
                raise CorruptionError(self._path, offset, "the segment ends within a frame")
            if position + whole > len(piece):
                piece, start, position = self._file.read_at(offset, max(whole, _READ_BYTES)), offset, 0
            frame = piece[position : position + whole]
            if whole > _READ_BYTES:
                piece, start = b"", offset
            yield offset, frame
            offset += whole

    def _take_frame(self, offset: int, frame: bytes) -> None:
        crc, _, applied_index, applied_term, _, count, notes_bytes = _FRAME.unpack_from(frame)
        if crc32c(memoryview(frame)[4:]) != crc:
            raise CorruptionError(self._path, offset, "the checksum of a frame does not fit")
        keys_at = _FRAME.size + _RECORD_BYTES * count
        if keys_at > len(frame):
            raise CorruptionError(self._path, offset, "the parts of a frame do not fit each other")
        lengths_at = _FRAME.size + 2 * count
        keys = cut(frame, keys_at, frame[_FRAME.size : lengths_at], 2)
        values_at = keys_at + sum(map(len, keys))
        lengths_raw = frame[lengths_at:keys_at]
        if 0 <= same(lengths_raw, 4) <= _INLINE_BYTES_MAX:
            values = cut(frame, values_at, lengths_raw, 4)
            values_end = values_at + sum(map(len, values))
            fits = len(values) == count
            self.entries.update(zip(keys, values, strict=False))
        else:
            fits = True
            values_end = self._take_values(keys, frame, values_at, little_endian("I", lengths_raw), offset)
        values_end += notes_bytes
        if not fits or len(keys) != count or values_end != len(frame) or applied_index <= self.applied_index:
            raise CorruptionError(self._path, offset, "the parts of a frame do not fit each other")
        self.applied_index, self.applied_term = applied_index, applied_term

    def _take_values(self, keys: list[bytes], frame: bytes, at: int, lengths: array[int], offset: int) -> int:
        """Takes values of many sizes, the first one at ``at``; returns the end of the last one."""
        entries = self.entries
        for key, length in zip(keys, lengths, strict=False):
            if length >= TOMBSTONE:
                entries[key] = None
                continue
            value = frame[at : at + length]
            if length <= _INLINE_BYTES_MAX:
                entries[key] = value
            else:
                entries[key] = Position(offset + at, length, crc32c(value))
            at += length
        return at
