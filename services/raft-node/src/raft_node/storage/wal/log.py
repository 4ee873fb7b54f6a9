"""The write-ahead log, which is the Raft log: segments of frames, each frame one append (docs/formats.md, WAL segment).

Two threads may use a ``Wal``: one writer calls ``append``, and everybody else, on the event loop, calls ``publish``
and the readers. ``append`` touches nothing that readers use; ``publish`` hands its outcome over. A third may run
``prepare_next_segment`` or ``PrefixDrop.run``. This module must not know Raft's roles, nor what entries mean.

The log is cut off at its beginning in four steps, none of which syncs anything by itself: ``drop_prefix`` chooses the
segment that the log shall begin with; the next segment's header records it, and is durable before its first frame;
``take_drop`` hides the entries before it; ``PrefixDrop.run`` removes their files, in the background.

Invariants:

1. One append is one frame, one write and one fdatasync, so a crash leaves all of it or nothing.
2. A segment is zero-filled and synced before it is used (``raft_node.storage.wal.files``).
3. Before a segment's first frame, these are durable, in this order: all of the segment before it, the new one's name,
   and its header.
4. After a failed write or sync nothing is appended or read any more: what lies on disk is not known.
5. A segment is removed only once the header of a newer one, which is durable, names a later beginning of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from raft_node.entry import Entry
from raft_node.errors import DiskError
from raft_node.storage import record
from raft_node.storage.files import FileSystem, WritableFile
from raft_node.storage.options import WalOptions
from raft_node.storage.wal import recovery as wal_recovery
from raft_node.storage.wal import segment as wal_segment
from raft_node.storage.wal.files import SegmentFiles
from raft_node.storage.wal.index import Segment, Summary, WalIndex, positions_of, summarise
from raft_node.storage.wal.reader import WalReader
from raft_node.storage.wal.segment import SegmentHeader, WalHardState

__all__ = ["Appended", "PrefixDrop", "Wal", "WalHardState", "WalOptions"]


class Appended(NamedTuple):
    """The parts that one append or reset made durable; ``Wal.publish`` makes them visible."""

    hard_state: WalHardState | None
    truncate_from: int | None
    summary: Summary | None
    header: SegmentHeader | None = None
    """The header of the segment that was begun for it; None if none was."""


class PrefixDrop:
    """Segments that are no longer part of the log, and whose files can go."""

    def __init__(self, wal: Wal, segments: list[Segment]) -> None:
        """For ``Wal.take_drop`` alone."""
        self._wal = wal
        self._segments = segments

    @property
    def segment_count(self) -> int:
        """How many segments are to be removed."""
        return len(self._segments)

    def run(self) -> None:
        """Removes the files; BLOCKING, on any thread. Nothing is synced: segments that a crash brings back are ignored.

        Raises:
            DiskError: A removal failed; the node must stop.
        """
        self._wal._remove_segments(self._segments)


class Wal:
    """The log of one node. See the module for which thread may call what.

    Attributes:
        recovery_notes: The repairs that ``open`` made, for the operator's log.
        bytes_written: How many bytes appends wrote.
        syncs: How many fdatasync calls were made by appends.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        options: WalOptions,
        scanned: wal_recovery.Scanned,
        file: WritableFile | None,
        clock_s: Callable[[], float],
    ) -> None:
        """For ``open`` alone."""
        self._fs = fs
        self._clock_s = clock_s
        self._directory = directory
        self._options = options
        self.recovery_notes = scanned.notes
        self.bytes_written = 0
        self.syncs = 0
        self.last_sync_s = 0.0
        self._failure: DiskError | None = None
        # For readers.
        self._index = scanned.index
        self._hard_state = scanned.hard_state
        self._reader = WalReader(fs, directory)
        # The beginning of the log by the newest header, and segments that lie before it since a reset.
        self._durable_first_segment = scanned.first_segment
        self._cut_off: list[Segment] = []
        self._dropping: PrefixDrop | None = None
        # For the writer.
        self._terms = scanned.index.terms.copy()
        self._written_hard_state = scanned.hard_state
        self._written_first = scanned.index.segments[0] if scanned.index.segments else Segment(1, 0, 0, 0)
        self._begun: SegmentHeader | None = None
        self._next_sequence = scanned.next_sequence
        self._file = file
        self._segment_id, self._segment_bytes, self._position = 0, 0, 0
        newest = scanned.newest
        if newest is not None:
            self._segment_id = newest.header.segment_id
            self._segment_bytes = newest.header.segment_bytes
            self._position = newest.last_frame[1]
        self._framing = record.framing_of(self._segment_id)
        # The handover between the event loop and the writer: what the next header is to name as the beginning.
        self._chosen_first = self._written_first
        self._files = SegmentFiles(fs, directory, options.segment_bytes)

    @classmethod
    def open(
        cls, fs: FileSystem, directory: str, options: WalOptions, clock_s: Callable[[], float] = lambda: 0.0
    ) -> Wal:
        """Opens the log, or creates an empty one; BLOCKING: it reads and checks everything.

        Raises:
            CorruptionError: A file is not what was written. No file was changed.
            DiskError: Mending a torn tail, or creating the first segment, failed.
        """
        fs.make_directory(directory)
        scanned = wal_recovery.scan(fs, directory)
        file = wal_recovery.mend(fs, directory, scanned)
        wal = cls(fs, directory, options, scanned, file, clock_s)
        if file is None:
            wal._begin_segment(0)
            wal.publish(wal._appended(None, None, None))
        return wal

    @classmethod
    def open_for_read(cls, fs: FileSystem, directory: str) -> Wal:
        """Opens a log that is not in use for reading alone; changes nothing, a torn tail stays; BLOCKING.

        Raises:
            CorruptionError: A file is not what was written.
        """
        return cls(fs, directory, WalOptions(), wal_recovery.scan(fs, directory), None, lambda: 0.0)

    # Readers: the event loop's thread.

    @property
    def hard_state(self) -> WalHardState:
        """The hard state that was published last, or recovered."""
        return self._hard_state

    @property
    def first_index(self) -> int:
        """The first entry that the log holds; 1 before any compaction."""
        return self._index.first_index

    @property
    def segment_count(self) -> int:
        """How many segments the log consists of."""
        return len(self._index.segments)

    @property
    def size_bytes(self) -> int:
        """How many bytes the files of the log take, those that are about to be removed included."""
        dropping = self._dropping._segments if self._dropping is not None else []
        return sum([segment.segment_bytes for segment in (*self._index.segments, *self._cut_off, *dropping)])

    @property
    def last_index(self) -> int:
        """The last durable entry; ``first_index - 1`` when there is none."""
        return self._index.last_index

    @property
    def bytes_zeroed(self) -> int:
        """How many zeros were written to prepare segments."""
        return self._files.bytes_zeroed

    def term(self, index: int) -> int:
        """The term of an entry in ``[first_index - 1, last_index]``; 0 for index 0."""
        return self._index.terms.term(index)

    @property
    def configurations(self) -> Sequence[int]:
        """The indexes of all entries that change the members, in their order."""
        return self._index.configurations

    def entries(self, start: int, end: int, bytes_max: int) -> list[Entry]:
        """Reads the entries ``[start, end)``, cut after the one that passes ``bytes_max``.

        Raises:
            CorruptionError: An entry is not what was written any more.
            DiskError: A read failed, or an earlier append did.
        """
        self._require_sound()
        assert self.first_index <= start <= end <= self.last_index + 1, f"[{start}, {end}) is not in the log"
        return self._reader.entries(self._index, start, end, bytes_max)

    def publish(self, appended: Appended) -> None:
        """Makes an append or a reset visible to readers. Requires: appends and resets are published in their order."""
        if appended.header is not None:
            self._publish_segment(appended.header)
        if appended.truncate_from is not None:
            self._index.truncate(appended.truncate_from)
        if appended.summary is not None:
            self._index.extend(appended.summary)
        if appended.hard_state is not None:
            self._hard_state = appended.hard_state

    @property
    def wants_segment(self) -> bool:
        """Whether ``prepare_next_segment`` should be called now, on a thread of its own."""
        return self._files.wants_one and self._failure is None and self._position > self._segment_bytes // 2

    def first_index_within(self, bytes_max: int) -> int:
        """The smallest index for ``drop_prefix`` with which the files of the log take at most ``bytes_max``.

        The newest segment is never dropped, so the log may take more.
        """
        segments = self._index.segments
        size = segments[-1].segment_bytes
        chosen = segments[-1]
        for segment in segments[-2::-1]:
            size += segment.segment_bytes
            if size > bytes_max:
                break
            chosen = segment
        return max(self.first_index, min(chosen.previous_index, self.last_index) + 1)

    def drop_prefix(self, first_index: int) -> None:
        """Drops the entries below ``first_index``, as far as they fill whole segments.

        They can be read until ``take_drop``, which has files to give once the next segment was begun.

        Requires: all of them are committed, and part of a state that is durable elsewhere.
        """
        assert first_index <= self.last_index + 1, f"entry {first_index} is beyond the log"
        chosen = self._index.beginning(first_index)
        if chosen.segment_id > self._chosen_first.segment_id:
            self._chosen_first = chosen

    @property
    def wants_drop(self) -> bool:
        """Whether ``take_drop`` should be called, and its drop be run on a thread of its own."""
        return (
            self._dropping is None
            and self._failure is None
            and (bool(self._cut_off) or self._index.segments[0].segment_id < self._durable_first_segment)
        )

    def take_drop(self) -> PrefixDrop:
        """Hides the dropped entries, and returns the files to be removed. Requires: ``wants_drop``."""
        assert self.wants_drop, "nothing is to be dropped, or a drop is under way"
        dropped, self._cut_off = self._cut_off, []
        if self._index.segments[0].segment_id < self._durable_first_segment:
            dropped += self._index.drop_before(self._durable_first_segment)
        for segment in dropped:
            self._reader.forget(segment.segment_id)
        self._dropping = PrefixDrop(self, dropped)
        return self._dropping

    def drop_done(self, drop: PrefixDrop) -> None:
        """Notes that a drop which ``take_drop`` returned was run."""
        assert drop is self._dropping
        self._dropping = None

    def close(self) -> None:
        """Closes all files. Requires: no append, no preparation and no drop is under way."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._reader.close()

    # The writer: one thread.

    def append(self, hard_state: WalHardState | None, truncate_from: int | None, entries: Sequence[Entry]) -> Appended:
        """Makes a hard state, a truncation and the entries behind it durable, all or nothing; BLOCKING.

        Args:
            hard_state: The new hard state; None if it did not change.
            truncate_from: Entries from this index on are dropped first.
            entries: The entries to append. Requires: they continue the log.

        Returns:
            The parts that ``publish`` needs.

        Raises:
            NoSpaceError: There is no room for a new segment. Nothing was written: the call can be repeated.
            DiskError: A write or sync failed, now or before. What is durable is not known; the node must stop.
        """
        self._require_sound()
        assert self._file is not None, "the log is closed"
        if hard_state is None and truncate_from is None and not entries:
            return Appended(None, None, None)
        if truncate_from is not None:
            assert self._first().previous_index < truncate_from <= self._terms.last_index + 1, (
                "nothing is there to truncate"
            )
        if entries:
            first_index = self._terms.last_index + 1 if truncate_from is None else truncate_from
            assert entries[0].index == first_index, f"entry {entries[0].index} follows entry {first_index - 1}"
            assert entries[0].term >= self._terms.term(first_index - 1), "the terms fall"
        flags, payload, entries_start = wal_segment.encode_payload(hard_state, truncate_from, entries)
        try:
            summary = self._write_frame(flags, payload, entries_start, entries)
        except DiskError as error:
            self._failure = error
            raise
        if truncate_from is not None:
            self._terms.truncate(truncate_from)
        if summary is not None:
            self._terms.extend(summary)
        if hard_state is not None:
            self._written_hard_state = hard_state
        return self._appended(hard_state, truncate_from, summary)

    def reset(self, index: int, term: int, hard_state: WalHardState) -> Appended:
        """Lets the log go on behind a snapshot, which is durable; BLOCKING, all or nothing.

        If the log holds that entry with that term, it matches the snapshot, and stays with all that follows. Otherwise
        it is discarded, and an empty one begins behind the snapshot.

        Args:
            index: The last entry that the snapshot includes. Requires: at least ``first_index - 1``.
            term: The term of that entry.
            hard_state: The new hard state. Requires: its term is not less than that of the last one.

        Returns:
            The parts that ``publish`` needs. ``wants_drop`` tells afterwards that files are to be removed.

        Raises:
            NoSpaceError: As for ``append``.
            DiskError: A write or sync failed, now or before. What is durable is not known; the node must stop.
        """
        self._require_sound()
        assert self._file is not None, "the log is closed"
        assert hard_state.term >= self._written_hard_state.term, "the term falls"
        assert index >= self._terms.first_index - 1, f"entry {index} was compacted away"
        if index <= self._terms.last_index and self._terms.term(index) == term:
            return self.append(hard_state, None, ())
        try:
            self._begin_log(index, term, hard_state)
        except DiskError as error:
            self._failure = error
            raise
        return self._appended(hard_state, None, None)

    def _write_frame(
        self, flags: int, payload: list[bytes], entries_start: int, entries: Sequence[Entry]
    ) -> Summary | None:
        size = record.frame_bytes(sum(map(len, payload)))
        if self._position + size > self._segment_bytes:
            self._begin_segment(size)
        assert self._file is not None
        position = self._position
        summary = None
        if entries:
            start = position + record.HEADER_BYTES + entries_start
            summary = summarise(positions_of(entries, start), self._segment_id)
        frame = record.encode(self._framing, self._next_sequence, flags, payload, position)
        self._file.write_at(position, [frame])
        started_s = self._clock_s()
        self._file.sync_data()
        # Votes, acknowledgements and commits rest on this frame from here on.
        self.last_sync_s = self._clock_s() - started_s
        self._position = position + size
        self._next_sequence += 1
        self.bytes_written += size
        self.syncs += 1
        return summary

    def _begin_segment(self, frame_bytes: int) -> None:
        """Goes on in a new segment that has room for a frame of ``frame_bytes``."""
        segment_id = self._segment_id + 1
        path = wal_recovery.path_of(self._directory, segment_id)
        file, segment_bytes = self._files.take(path, wal_segment.HEADER_BYTES + frame_bytes)
        # The name must be durable before anything in the file is acknowledged.
        self._fs.sync_directory(self._directory)
        first = self._first()
        header = SegmentHeader(
            segment_id,
            segment_bytes,
            self._next_sequence,
            self._terms.last_index,
            self._terms.last_term,
            first.previous_index + 1,
            self._written_hard_state,
            first.segment_id,
        )
        file.write_at(0, [wal_segment.encode_header(header)])
        # Recovery takes a segment whose header is not whole for an unused one: hence no frame before this sync.
        file.sync_data()
        self._terms.drop_before(first.previous_index)
        self._written_first = first
        self._go_on_in(file, header)

    def _begin_log(self, index: int, term: int, hard_state: WalHardState) -> None:
        """Discards the log and begins an empty one behind an entry."""
        segment_id = self._segment_id + 1
        segment_bytes = self._options.segment_bytes
        temporary = f"{self._directory}/{wal_segment.RESET_NAME}"
        file = self._files.create(temporary, segment_bytes)
        header = SegmentHeader(
            segment_id, segment_bytes, self._next_sequence, index, term, index + 1, hard_state, segment_id
        )
        file.write_at(0, [wal_segment.encode_header(header)])
        # This header lets all segments before it count for nothing, so it must be whole before recovery can see it.
        file.sync_data()
        file.close()
        path = wal_recovery.path_of(self._directory, segment_id)
        self._fs.rename(temporary, path)
        # From here on the old log is gone, also after a crash.
        self._fs.sync_directory(self._directory)
        self._terms = WalIndex(index, term).terms
        self._written_first = Segment(segment_id, segment_bytes, index, term)
        self._written_hard_state = hard_state
        self._go_on_in(self._fs.open_for_write(path), header)

    def _go_on_in(self, file: WritableFile, header: SegmentHeader) -> None:
        if self._file is not None:
            self._file.close()
        self._file = file
        self._begun = header
        self._segment_id = header.segment_id
        self._segment_bytes = header.segment_bytes
        self._position = wal_segment.HEADER_BYTES
        self._framing = record.framing_of(header.segment_id)
        self.bytes_written += wal_segment.HEADER_BYTES
        self.syncs += 1

    def _first(self) -> Segment:
        """The segment that the next header is to name as the beginning of the log."""
        chosen, written = self._chosen_first, self._written_first
        # After a reset, an earlier choice does not count any more.
        return chosen if chosen.segment_id > written.segment_id else written

    def _appended(
        self, hard_state: WalHardState | None, truncate_from: int | None, summary: Summary | None
    ) -> Appended:
        begun, self._begun = self._begun, None
        return Appended(hard_state, truncate_from, summary, begun)

    # Preparing segments: any thread, one at a time.

    def prepare_next_segment(self) -> None:
        """Fills the file that the next segment will use with zeros; BLOCKING.

        Requires: ``wants_segment``, and no other call of this is under way.

        Raises:
            NoSpaceError: There is no room; the log goes on in the segment that it has.
            DiskError: A write or sync failed; the node must stop.
        """
        self._require_sound()
        try:
            self._files.prepare()
        except DiskError as error:
            self._failure = error
            raise

    # Dropping segments: any thread, one at a time.

    def _remove_segments(self, segments: list[Segment]) -> None:
        """For ``PrefixDrop.run``."""
        self._require_sound()
        try:
            self._files.remove(segments)
        except DiskError as error:
            self._failure = error
            raise

    def _publish_segment(self, header: SegmentHeader) -> None:
        if header.first_segment == header.segment_id:
            # An empty log, which begins with this segment.
            self._cut_off += self._index.segments
            self._index = WalIndex(header.previous_index, header.previous_term)
        self._index.begin_segment(header)
        self._durable_first_segment = header.first_segment

    def _require_sound(self) -> None:
        if self._failure is not None:
            raise self._failure
