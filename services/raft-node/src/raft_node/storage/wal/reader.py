"""Reads entries of the log back from its segments, checked again.

For a follower that lags and for the replay at a start, so it reads many at once: adjacent extents come with one read of
the file. This module must not know which entries are in the log: the index says so.

Invariants:

1. Nothing that was read is kept: what lies behind the last extent at this moment is written later.
2. An entry is given only if its checksums fit and its index is the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from raft_node import entry
from raft_node.entry import Entry
from raft_node.errors import CorruptionError
from raft_node.storage.files import FileSystem, ReadableFile
from raft_node.storage.wal import recovery as wal_recovery
from raft_node.storage.wal.index import WalIndex

_SIZE_OFFSET = 8
_SIZE = Struct("<I")
OPEN_SEGMENTS_MAX = 8
_READ_BYTES = 256 << 10
"""The most bytes that are read at once."""


class WalReader:
    """The segments of one log, open for reading."""

    def __init__(self, fs: FileSystem, directory: str) -> None:
        """Begins without open segments."""
        self._fs = fs
        self._directory = directory
        self._files: dict[int, ReadableFile] = {}

    @property
    def open_segments(self) -> tuple[int, ...]:
        """The segments that are open."""
        return tuple(self._files)

    def entries(self, index: WalIndex, start: int, end: int, bytes_max: int) -> list[Entry]:
        """Reads the entries ``[start, end)``, cut after the one that passes ``bytes_max``.

        Requires: the index holds all of them.

        Raises:
            CorruptionError: An entry is not what was written any more.
            DiskError: A read failed.
        """
        entries: list[Entry] = []
        size = 0
        segment_id, base, blob = 0, 0, b""
        while start < end:
            extent, extent_end = index.locate(start)
            if extent.segment_id != segment_id or extent.offset + extent.size > base + len(blob):
                segment_id, base = extent.segment_id, extent.offset
                blob = self._file(segment_id).read_at(base, max(extent.size, min(bytes_max - size, _READ_BYTES)))
            position = extent.offset - base
            try:
                position = _skip(blob, position, start - extent.first_index)
                run = entry.decode_run(blob, position, min(end, extent_end) - start, bytes_max - size)
                _require_indexes(run.entries, start, position)
            except entry.EntryError as error:
                raise CorruptionError(self._file(segment_id).path, base + error.position, error.what) from error
            entries += run.entries
            size += run.size_bytes
            if size >= bytes_max:
                break
            start += len(run.entries)
        return entries

    def forget(self, segment_id: int) -> None:
        """Closes a segment that is about to be removed."""
        file = self._files.pop(segment_id, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Closes all segments."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file(self, segment_id: int) -> ReadableFile:
        file = self._files.get(segment_id)
        if file is None:
            path = wal_recovery.path_of(self._directory, segment_id)
            try:
                file = self._fs.open_for_read(path)
            except FileNotFoundError as error:
                raise CorruptionError(path, 0, "the segment is missing") from error
            if len(self._files) >= OPEN_SEGMENTS_MAX:
                self._files.pop(next(iter(self._files))).close()
            self._files[segment_id] = file
        return file


def _skip(blob: bytes, position: int, count: int) -> int:
    """The offset of the entry that lies ``count`` entries behind the one at ``position``."""
    for _ in range(count):
        if position + entry.HEADER_BYTES > len(blob):
            raise entry.EntryError(position, "the entry is shorter than its header")
        position += entry.HEADER_BYTES + _SIZE.unpack_from(blob, position + _SIZE_OFFSET)[0]
    return position


def _require_indexes(entries: Sequence[Entry], first_index: int, position: int) -> None:
    """Raises ``EntryError`` unless these have the indexes from the first one on; that one lies at ``position``."""
    if [read.index for read in entries] == list(range(first_index, first_index + len(entries))):
        return
    for index, read in enumerate(entries, first_index):
        if read.index != index:
            raise entry.EntryError(position, f"entry {read.index} stands where entry {index} belongs")
        position += len(read.data)
