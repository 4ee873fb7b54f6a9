"""The files of a log's segments: made ahead, zero-filled, taken into use, and used again or removed.

Three threads may use a ``SegmentFiles``: the log's writer calls ``take`` and ``create``, another one ``prepare``, a
third ``remove``; each at most once at a time. One assignment hands each file over from one of them to the next. This
module must not know what a segment holds.

Invariant: a file is zero-filled and synced before it is used: overwriting written blocks makes fdatasync about twice as
fast as growing a file, and tells a torn frame from a damaged one.
"""

from __future__ import annotations

from collections.abc import Iterable

from raft_node.storage.files import FileSystem, WritableFile
from raft_node.storage.options import WAL_PAGE_BYTES
from raft_node.storage.wal import recovery as wal_recovery
from raft_node.storage.wal import segment as wal_segment
from raft_node.storage.wal.index import Segment


class SegmentFiles:
    """The files of one log.

    Attributes:
        bytes_zeroed: How many zeros were written.
    """

    def __init__(self, fs: FileSystem, directory: str, segment_bytes: int) -> None:
        """Starts without a prepared file.

        Args:
            fs: The file system of the log.
            directory: The directory of the log.
            segment_bytes: The size of a segment, unless a frame needs more.
        """
        self._fs = fs
        self._directory = directory
        self._segment_bytes = segment_bytes
        self.bytes_zeroed = 0
        # Set once the file is there.
        self._prepared_bytes = 0
        self._preparing = False
        self._recycled = False

    @property
    def wants_one(self) -> bool:
        """Whether no file is prepared, nor being prepared."""
        return not self._prepared_bytes and not self._preparing

    def prepare(self) -> None:
        """Fills the file that the next segment will use with zeros; BLOCKING. Requires: ``wants_one``.

        Raises:
            NoSpaceError: There is no room for the file.
            DiskError: A write or sync failed.
        """
        self._preparing = True
        try:
            if self._recycled:
                # Its blocks are there already, so that its zeros take less of the disk's time than those of a new file.
                self._fs.rename(f"{self._directory}/{wal_segment.RECYCLED_NAME}", self._prepared_path)
                self._recycled = False
                self._create(self._prepared_path, self._segment_bytes, recycled=True).close()
            else:
                self.create(self._prepared_path, self._segment_bytes).close()
        finally:
            self._preparing = False
        # This assignment hands the file over: the writer reads nothing else.
        self._prepared_bytes = self._segment_bytes

    def take(self, path: str, needed_bytes: int) -> tuple[WritableFile, int]:
        """Makes a file with enough room; returns it open, with its size; BLOCKING. Its name is not durable yet.

        Raises:
            NoSpaceError: There is no room for the file.
            DiskError: A write or sync failed.
        """
        prepared_bytes = self._prepared_bytes
        if prepared_bytes >= needed_bytes:
            self._fs.rename(self._prepared_path, path)
            self._prepared_bytes = 0
            return self._fs.open_for_write(path), prepared_bytes
        # No segment was prepared in time, or the frame is too large for it.
        size = max(self._segment_bytes, -(-needed_bytes // WAL_PAGE_BYTES) * WAL_PAGE_BYTES)
        return self.create(path, size), size

    def create(self, path: str, size: int) -> WritableFile:
        """A new file of that size, zero-filled and synced; BLOCKING.

        Raises:
            NoSpaceError: There is no room for the file.
            DiskError: A write or sync failed.
        """
        return self._create(path, size, recycled=False)

    def remove(self, segments: Iterable[Segment]) -> None:
        """Removes the files of segments that are no longer part of the log, or keeps one to be used again; BLOCKING.

        Raises:
            DiskError: A removal failed.
        """
        for segment in segments:
            path = wal_recovery.path_of(self._directory, segment.segment_id)
            if self._recycled or segment.segment_bytes != self._segment_bytes:
                self._fs.remove(path)
            else:
                self._fs.rename(path, f"{self._directory}/{wal_segment.RECYCLED_NAME}")
                # This assignment hands the file over to the thread that prepares the next segment.
                self._recycled = True

    @property
    def _prepared_path(self) -> str:
        return f"{self._directory}/{wal_segment.PREPARED_NAME}"

    def _create(self, path: str, size: int, *, recycled: bool) -> WritableFile:
        file = wal_recovery.zero_new(self._fs, path, size, recycled=recycled)
        self.bytes_zeroed += size
        return file
