"""The parts of a log segment, a manifest or an SSTable, for people: read as far as it goes, damaged or not.

Each function yields ``Finding`` after ``Finding`` in the order of the file. Damage is a finding, after which the rest
is read where its place can still be told: behind a damaged frame the next valid one is looked for, a damaged data block
is passed over by the index. Nothing is changed, and nothing of it is used by a node: its own start is strict.

Invariant: what is shown as a part of the file had a valid checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import NamedTuple

from raft_node import entry
from raft_node.storage import record
from raft_node.storage.files import FileSystem
from raft_node.storage.tables.block import Block, BlockError, open_sealed
from raft_node.storage.tables.bloom import load_filter
from raft_node.storage.tables.manifest import RecordKind, decode_edit, encode_file_header, read_record, record_bytes
from raft_node.storage.tables.sstable import Layout, decode_footer, decode_index, decode_properties
from raft_node.storage.tables.sstable_writer import FOOTER_BYTES, TableProperties
from raft_node.storage.tables.version import VersionError
from raft_node.storage.wal import segment as wal_segment
from raft_node.storage.wal.segment import SegmentFormatError

Fields = dict[str, object]


class Finding(NamedTuple):
    """One part of a file, as an offline tool shows it.

    Attributes:
        offset: The offset in the file at which the part begins, in bytes.
        kind: The kind of the part; ``damaged`` if it is not what was written, ``torn`` for a last write that a crash
            cut.
        fields: The fields of the part, as names and plain values.
    """

    offset: int
    kind: str
    fields: Fields


def segment(fs: FileSystem, path: str) -> Iterator[Finding]:
    """The parts of a segment of the log: its header, its frames, and the entries in them.

    Raises:
        FileNotFoundError: There is no such file.
        DiskError: A read failed.
    """
    data = fs.read_file(path)
    try:
        header = wal_segment.decode_header(data)
    except SegmentFormatError as error:
        yield _damaged(error.position, error.what)
        return
    segment_id = wal_segment.id_of(path.rpartition("/")[2])
    sequence = 0
    if header is not None:
        yield Finding(0, "segment", header._asdict() | {"hard_state": header.hard_state._asdict()})
        sequence = header.first_sequence
        if header.segment_bytes - len(data) > wal_segment.MISSING_BYTES_MAX:
            yield _damaged(len(data), f"the segment is cut off: it should have {header.segment_bytes} bytes")
        else:
            data = data.ljust(header.segment_bytes, b"\0")
        if segment_id is not None and segment_id != header.segment_id:
            yield _damaged(0, f"the header belongs to segment {header.segment_id}")
        segment_id = header.segment_id
    elif segment_id is None:
        yield _damaged(0, "the header is damaged, and the file's name tells no segment: frames cannot be told")
        return
    else:
        yield _damaged(0, "the segment's header is damaged, or was never written")
    yield from _frames(data, record.framing_of(segment_id), sequence)


def _frames(data: bytes, framing: record.Framing, sequence: int) -> Iterator[Finding]:
    position = wal_segment.HEADER_BYTES
    while not record.is_zero(data, position):
        frame = record.decode_header(data, position, framing)
        if frame is not None and record.is_whole(data, position, frame, framing):
            if sequence and frame.sequence != sequence:
                yield _damaged(position, f"frame {frame.sequence} stands where frame {sequence} belongs")
            yield from _frame(data, position, frame)
            position, sequence = position + frame.frame_bytes, frame.sequence + 1
            continue
        damage = record.judge_tail(data, position, framing, sequence)
        if damage is None:
            yield Finding(position, "torn", {"bytes": len(data.rstrip(b"\0")) - position})
            return
        yield _damaged(*damage)
        following = record.find(data, position + 1, framing, sequence)
        if following is None:
            return
        position, sequence = following, 0


def _frame(data: bytes, position: int, frame: record.Frame) -> Iterator[Finding]:
    start = position + record.HEADER_BYTES
    end = start + frame.payload_bytes
    fields: Fields = {"sequence": frame.sequence, "bytes": frame.frame_bytes}
    try:
        payload = wal_segment.decode_payload(frame.flags, data, start, end)
        if payload.hard_state is not None:
            fields["hard_state"] = payload.hard_state._asdict()
        if payload.truncate_from is not None:
            fields["truncate_from"] = payload.truncate_from
        yield Finding(position, "frame", fields)
        for _, _, _, entry_start, _ in entry.scan(data, payload.entries_start, end):
            yield Finding(entry_start, "entry", {"entry": entry.decode(data, entry_start)})
    except (SegmentFormatError, entry.EntryError) as error:
        yield _damaged(error.position, error.what)


def manifest(fs: FileSystem, path: str) -> Iterator[Finding]:
    """The parts of a manifest: its edits and seals.

    Raises:
        FileNotFoundError: There is no such file.
        DiskError: A read failed.
    """
    data = fs.read_file(path)
    header = encode_file_header()
    if data[: len(header)] != header:
        yield _damaged(0, "it does not begin like a manifest of a known format")
    position, sequence = len(header), 0
    while position < len(data):
        found = read_record(data, position)
        if found is None:
            following = next((at for at in range(position + 1, len(data)) if read_record(data, at) is not None), None)
            if following is None:
                yield Finding(position, "torn", {"bytes": len(data) - position})
                return
            yield _damaged(position, f"record {sequence} is damaged")
            position = following
            continue
        if found.sequence != sequence:
            yield _damaged(position, f"record {found.sequence} stands where record {sequence} belongs")
        try:
            if found.kind == RecordKind.EDIT:
                yield Finding(position, "edit", {"sequence": found.sequence} | asdict(decode_edit(found.payload)))
            elif found.kind == RecordKind.SEAL and not found.payload:
                yield Finding(position, "seal", {"sequence": found.sequence})
            else:
                yield _damaged(position, f"record {found.sequence} is of the unknown kind {found.kind}")
        except VersionError as error:
            yield _damaged(position, f"record {found.sequence}: {error}")
        position, sequence = position + record_bytes(found), found.sequence + 1


def table(fs: FileSystem, path: str, *, records: bool) -> Iterator[Finding]:
    """The parts of an SSTable: its layout, properties, blocks and, if wanted, their records; all of it is checked.

    Raises:
        FileNotFoundError: There is no such file.
        DiskError: A read failed.
    """
    data = fs.read_file(path)
    start = len(data) - FOOTER_BYTES
    try:
        if start < 0:
            raise BlockError("the file is shorter than a footer")
        layout = decode_footer(data[start:], start)
    except BlockError as error:
        yield _damaged(max(start, 0), f"{error}; without it the blocks cannot be found")
        return
    filter_at, properties_at, index_at = layout.offsets
    fields: Fields = {"filter": filter_at, "properties": properties_at, "index": index_at, "bytes": len(data)}
    yield Finding(start, "footer", fields)
    yield from _Table(data, layout).read(records)


class _Table:
    """An SSTable while it is looked through."""

    def __init__(self, data: bytes, layout: Layout) -> None:
        self._data = data
        self._layout = layout
        self._entries = self._tombstones = 0
        self._last_key: bytes | None = None

    def read(self, records: bool) -> Iterator[Finding]:
        properties: TableProperties | None = None
        may_contain = None
        filter_at, properties_at, index_at = self._layout.offsets
        try:
            properties = decode_properties(self._part(1))
            yield Finding(properties_at, "properties", asdict(properties))
        except BlockError as error:
            yield _damaged(properties_at, f"properties: {error}")
        try:
            may_contain = load_filter(self._part(0))
        except BlockError as error:
            yield _damaged(filter_at, f"filter: {error}")
        try:
            last_keys, offsets = decode_index(self._part(2))
        except BlockError as error:
            yield _damaged(index_at, f"index: {error}; without it the blocks cannot be found")
            return
        if offsets[-1] != filter_at:
            yield _damaged(index_at, "index: its blocks do not end where the filter begins")
        whole = True
        for number, last_key in enumerate(last_keys):
            try:
                block = Block(open_sealed(self._data[offsets[number] : offsets[number + 1]]))
            except BlockError as error:
                whole = False
                yield _damaged(offsets[number], f"data block: {error}")
                continue
            yield Finding(offsets[number], "block", {"number": number, "records": len(block), "last_key": last_key})
            yield from self._check_block(block, offsets[number], last_key)
            for key, value in block.items(b"", None, reverse=False):
                if may_contain is not None and not may_contain(key):
                    yield _damaged(filter_at, f"the filter does not know the key {key!r}")
                if records:
                    yield Finding(offsets[number], "record", {"key": key, "value": value})
        if (
            whole
            and properties is not None
            and (self._entries, self._tombstones)
            != (
                properties.entries,
                properties.tombstones,
            )
        ):
            yield _damaged(properties_at, f"properties: the blocks hold {self._entries} records")

    def _part(self, number: int) -> bytes:
        start = self._layout.offsets[number]
        return open_sealed(self._data[start : start + self._layout.sizes[number]])

    def _check_block(self, block: Block, offset: int, last_key: bytes) -> Iterator[Finding]:
        if block.keys[-1] != last_key:
            yield _damaged(offset, "the data block is not the one that the index names")
        before = self._last_key
        for key in block.keys:
            if before is not None and key <= before:
                yield _damaged(offset, f"the key {key!r} is not behind the one before it")
            before = key
        self._last_key = before
        self._entries += len(block)
        self._tombstones += sum(value is None for _, value in block.items(b"", None, reverse=False))


def _damaged(offset: int, what: str) -> Finding:
    return Finding(offset, "damaged", {"what": what})
