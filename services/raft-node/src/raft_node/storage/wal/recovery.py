"""Reads a whole WAL at start-up, checks every byte of it, and mends the tail that a crash may have torn.

The rule (docs/formats.md, Recovery): what a single torn write of the very last frame explains is zeroed and synced; it
was never acknowledged. The newest header that is whole says with which segment the log begins; what is left of
segments before that one is removed. Any other damage raises ``CorruptionError``, and no file is touched then: ``scan``
only reads, and ``mend`` begins only after everything was found sound. This module must not know who appends, nor when.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from raft_node import entry
from raft_node.errors import CorruptionError, DiskError, NoSpaceError
from raft_node.storage import record
from raft_node.storage.files import FileSystem, WritableFile
from raft_node.storage.wal import segment as wal_segment
from raft_node.storage.wal.index import WalIndex, summarise
from raft_node.storage.wal.segment import NO_HARD_STATE, SegmentFormatError, SegmentHeader, WalHardState

_ZEROS = bytes(1 << 20)


class Newest(NamedTuple):
    """The newest segment, in which appends go on, and the parts of it that have to be mended first."""

    header: SegmentHeader
    path: str
    last_frame: tuple[int, int]
    """The place of the last frame, ``[start, end)``; that of the segment's header if there is no frame."""
    last_frame_data: bytes


@dataclass
class Scanned:
    """The content of the log as it was read. Invariant: no part of it stems from a frame that is not whole."""

    index: WalIndex
    hard_state: WalHardState = NO_HARD_STATE
    next_sequence: int = 1
    segment_ids: list[int] = field(default_factory=list)
    newest: Newest | None = None
    headless_path: str = ""
    """A newest segment that a crash left without a header; it holds nothing."""
    stale_paths: list[str] = field(default_factory=list)
    """Segments before the beginning of the log, which a crash brought back or left."""
    first_segment: int = 1
    """The segment that the log begins with, as of the header read last."""
    first_index: int = 1
    """The first entry of the log, by that header."""
    notes: list[str] = field(default_factory=list)


def path_of(directory: str, segment_id: int) -> str:
    """The path of a segment."""
    return f"{directory}/{wal_segment.name_of(segment_id)}"


def fill_with_zeros(file: WritableFile, start: int, end: int) -> None:
    """Writes zeros to ``[start, end)``, a piece at a time; not synced."""
    while start < end:
        piece = min(len(_ZEROS), end - start)
        file.write_at(start, [_ZEROS if piece == len(_ZEROS) else _ZEROS[:piece]])
        start += piece


def zero_new(fs: FileSystem, path: str, size: int, *, recycled: bool = False) -> WritableFile:
    """Makes a file of zeros, durably, which nothing refers to yet; BLOCKING.

    Args:
        fs: The file system.
        path: The path of the file; the name is not synced.
        size: The size of the file.
        recycled: Whether the file is there already, so that its blocks are used again.

    Raises:
        NoSpaceError: There is no room for the file, which was removed.
        DiskError: The disk failed.
    """
    try:
        file = fs.open_for_write(path) if recycled else fs.create(path)
        try:
            fill_with_zeros(file, 0, size)
        except DiskError:
            file.close()
            raise
    except DiskError as error:
        if not error.no_space:
            raise
        fs.remove(path)
        raise NoSpaceError(path) from error
    # Blocks that are written and durable are what makes the appends' fdatasync fast, and torn frames tellable.
    file.sync_data()
    return file


def scan(fs: FileSystem, directory: str) -> Scanned:
    """Reads and checks all segments; changes nothing.

    Raises:
        CorruptionError: A segment holds, or lacks, what no torn write explains.
    """
    segment_ids = _segment_ids(fs, directory)
    scanned = Scanned(WalIndex(0, 0))
    if not segment_ids:
        return scanned
    first_segment = _first_segment(fs, directory, segment_ids)
    scanned.stale_paths = [path_of(directory, segment_id) for segment_id in segment_ids if segment_id < first_segment]
    newest = segment_ids[-1]
    for segment_id in range(first_segment, newest + 1):
        # Any part of a prefix may be missing, since its removals are not synced; nothing else may.
        if segment_id not in segment_ids:
            raise CorruptionError(path_of(directory, segment_id), 0, "the segment is missing")
    for segment_id in range(first_segment, newest + 1):
        _Segment(fs, directory, segment_id, first_segment, segment_id == newest).scan_into(scanned)
    if scanned.segment_ids and (scanned.first_segment, scanned.first_index) != (
        first_segment,
        scanned.index.first_index,
    ):
        what = f"the log begins with entry {scanned.index.first_index}, and should with {scanned.first_index}"
        raise CorruptionError(path_of(directory, first_segment), 0, what)
    return scanned


def _first_segment(fs: FileSystem, directory: str, segment_ids: list[int]) -> int:
    """The segment that the log begins with, by the newest header that is whole; 1 when there is none."""
    # A crash may have left the newest segment without a header; the one before it was durable by then.
    for segment_id in segment_ids[-1:-3:-1]:
        file = fs.open_for_read(path_of(directory, segment_id))
        try:
            header = wal_segment.decode_header(file.read_at(0, wal_segment.HEADER_BYTES))
        except SegmentFormatError as error:
            raise CorruptionError(file.path, error.position, error.what) from error
        finally:
            file.close()
        if header is not None and header.segment_id == segment_id:
            return header.first_segment
    return 1


def _segment_ids(fs: FileSystem, directory: str) -> list[int]:
    segment_ids: list[int] = []
    for name in fs.list_directory(directory):
        if not name.endswith(wal_segment.SUFFIX):
            continue
        segment_id = wal_segment.id_of(name)
        if segment_id is None:
            raise CorruptionError(f"{directory}/{name}", 0, "this is no segment's name")
        segment_ids.append(segment_id)
    return segment_ids


class _Segment:
    """One segment while it is read."""

    def __init__(self, fs: FileSystem, directory: str, segment_id: int, first_segment: int, is_newest: bool) -> None:
        self._first_segment = first_segment
        self._path = path_of(directory, segment_id)
        self._directory = directory
        self._segment_id = segment_id
        self._is_newest = is_newest
        self._framing = record.framing_of(segment_id)
        file = fs.open_for_read(self._path)
        try:
            self._data = file.read_at(0, file.size)
        finally:
            file.close()
        self._file_bytes = len(self._data)

    def scan_into(self, scanned: Scanned) -> None:
        """Checks the segment and takes its frames in."""
        try:
            header = wal_segment.decode_header(self._data)
        except SegmentFormatError as error:
            raise self._damaged(error.position, error.what) from error
        if header is None:
            self._accept_headless(scanned)
            return
        self._check_header(header, scanned)
        self._pad(header)
        scanned.segment_ids.append(self._segment_id)
        position = previous = wal_segment.HEADER_BYTES
        while (frame := self._frame_at(position, scanned.next_sequence)) is not None:
            self._take(frame, position, scanned)
            previous, position = position, position + frame.frame_bytes
        self._judge_end(position, scanned)
        if not record.is_zero(self._data, position):
            size = len(self._data.rstrip(b"\0")) - position
            scanned.notes.append(f"{self._path}: zeroed a torn write of {size} bytes at offset {position}")
        start = 0 if position == wal_segment.HEADER_BYTES else previous
        last_frame_data = self._data[start:position]
        scanned.newest = Newest(header, self._path, (start, position), last_frame_data)

    def _damaged(self, offset: int, what: str) -> CorruptionError:
        return CorruptionError(self._path, offset, what)

    def _accept_headless(self, scanned: Scanned) -> None:
        expected = self._expected_header(scanned)
        if not self._is_newest or not wal_segment.is_torn_header(self._data, expected):
            raise self._damaged(0, "the segment's header is damaged")
        scanned.headless_path = self._path
        scanned.notes.append(f"{self._path}: removed a segment that was not yet in use")

    def _expected_header(self, scanned: Scanned) -> SegmentHeader:
        """The header that this segment must have, but for its size, and for where the log begins from then on."""
        terms = scanned.index.terms
        return SegmentHeader(
            self._segment_id,
            0,
            scanned.next_sequence,
            terms.last_index,
            terms.last_term,
            scanned.first_index,
            scanned.hard_state,
            scanned.first_segment,
        )

    def _check_header(self, header: SegmentHeader, scanned: Scanned) -> None:
        if header.segment_id != self._segment_id:
            raise self._damaged(0, f"the header belongs to segment {header.segment_id}")
        if scanned.segment_ids:
            self._check_continues(header, scanned)
        elif self._segment_id == 1 and header.previous_index:
            raise self._damaged(0, f"the first segment of all begins behind entry {header.previous_index}")
        else:
            scanned.index = WalIndex(header.previous_index, header.previous_term)
            scanned.hard_state = header.hard_state
            scanned.next_sequence = header.first_sequence
        scanned.first_segment, scanned.first_index = header.first_segment, header.first_index
        scanned.index.begin_segment(header)

    def _check_continues(self, header: SegmentHeader, scanned: Scanned) -> None:
        expected = self._expected_header(scanned)
        if scanned.first_segment < header.first_segment <= self._first_segment:
            # The log was compacted meanwhile. That the last such step fits, ``scan`` sees at its end.
            expected = expected._replace(first_segment=header.first_segment)
            if header.first_index > scanned.first_index:
                expected = expected._replace(first_index=header.first_index)
        if header._replace(segment_bytes=0) != expected:
            raise self._damaged(0, "the header does not continue the segment before; frames are missing there")

    def _pad(self, header: SegmentHeader) -> None:
        """Fills a newest segment that was cut off up to its size, in memory alone."""
        missing = header.segment_bytes - self._file_bytes
        if missing < 0:
            raise self._damaged(header.segment_bytes, "the segment is longer than its header says")
        if missing and (not self._is_newest or missing > wal_segment.MISSING_BYTES_MAX):
            raise self._damaged(self._file_bytes, "the segment is cut off")
        if missing:
            self._data += bytes(missing)

    def _frame_at(self, position: int, sequence: int) -> record.Frame | None:
        frame = record.decode_header(self._data, position, self._framing)
        if (
            frame is None
            or frame.sequence != sequence
            or not record.is_whole(self._data, position, frame, self._framing)
        ):
            return None
        return frame

    def _take(self, frame: record.Frame, position: int, scanned: Scanned) -> None:
        start = position + record.HEADER_BYTES
        end = start + frame.payload_bytes
        index = scanned.index
        try:
            payload = wal_segment.decode_payload(frame.flags, self._data, start, end)
            if payload.truncate_from is not None:
                if not index.first_index <= payload.truncate_from <= index.last_index + 1:
                    raise self._damaged(start, f"a truncation from {payload.truncate_from} lies outside the log")
                index.truncate(payload.truncate_from)
            if frame.flags & wal_segment.FLAG_ENTRIES:
                summary = summarise(entry.scan(self._data, payload.entries_start, end), self._segment_id)
                first_index, first_term = summary.runs[0]
                if first_index != index.last_index + 1:
                    raise self._damaged(start, f"entry {first_index} follows entry {index.last_index}")
                if first_term < index.terms.last_term:
                    raise self._damaged(start, f"entry {first_index} has a smaller term than the one before")
                index.extend(summary)
            if payload.hard_state is not None:
                scanned.hard_state = payload.hard_state
        except (SegmentFormatError, entry.EntryError) as error:
            raise self._damaged(error.position, error.what) from error
        except ValueError as error:
            raise self._damaged(start, str(error)) from error
        scanned.next_sequence += 1

    def _judge_end(self, position: int, scanned: Scanned) -> None:
        if not self._is_newest:
            rest = self._data[position:].lstrip(b"\0")
            if rest:
                raise self._damaged(len(self._data) - len(rest), "this segment was complete, and here it is damaged")
            return
        damage = record.judge_tail(self._data, position, self._framing, scanned.next_sequence)
        if damage is not None:
            raise self._damaged(*damage)


def mend(fs: FileSystem, directory: str, scanned: Scanned) -> WritableFile | None:
    """Makes the log durable as it was read, and the rest of the newest segment zero.

    Returns:
        The newest segment, open for appends; None when there is none.
    """
    for name in wal_segment.TEMPORARY_NAMES:
        fs.remove(f"{directory}/{name}")
    if scanned.headless_path:
        fs.remove(scanned.headless_path)
    newest = scanned.newest
    if newest is None:
        fs.sync_directory(directory)
        return None
    file = fs.open_for_write(newest.path)
    start, end = newest.last_frame
    # A process that was killed, or whose fsync failed, leaves bytes that can be read and are not durable. That may be
    # the last frame, and the zeros by which an earlier start mended a torn one. Writing them again makes the syncs
    # count for them, before anybody is told of an entry, and before a newer segment declares this one complete.
    _zero_tail(file, end, newest.header.segment_bytes)
    file.write_at(start, [newest.last_frame_data])
    # From here on, all bytes that were read are durable.
    file.sync_data()
    # The same holds for the segment's name.
    fs.sync_directory(directory)
    # Only now: the header that says that these do not count may have been read before it was durable.
    for path in scanned.stale_paths:
        fs.remove(path)
    return file


def _zero_tail(file: WritableFile, start: int, end: int) -> None:
    """Zeroes from far to near, so that a crash in between leaves what ``judge_tail`` calls torn.

    The last step, of one byte, is left to the caller's sync.
    """
    sector = min((start // record.SECTOR_BYTES + 1) * record.SECTOR_BYTES, end)
    header_end = min(start + record.HEADER_BYTES, end)
    for step_start, step_end in ((sector, end), (header_end, sector), (start + 1, header_end)):
        if step_start < step_end:
            fill_with_zeros(file, step_start, step_end)
            file.sync_data()
    fill_with_zeros(file, start, min(start + 1, end))
