"""The bytes of a WAL segment: its name, its header, and what its frames carry (docs/formats.md, WAL segment).

This module encodes and decodes, and must not touch files.

Invariants:

1. A segment's header is durable before its first frame is written, and the segment before it is complete and durable
   before that. So a header that is not whole has no frames behind it, and says nothing that is not known already.
2. A header repeats what a reader would know who had read all segments before it, so that those can be dropped later.
3. A header names the segment with which the log begins. Only what lies before that one may be missing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from crc32c import crc32c

from raft_node.entry import Entry

# DO NOT CHANGE: this is in every log. docs/formats.md and a golden-bytes test fix it.
_HEADER = struct.Struct("<8sHHIQQQQQQQQQ")
_FIRST_SEGMENT_MAX = (1 << 32) - 1
_HARD_STATE = struct.Struct("<QQQH")
_INDEX = struct.Struct("<Q")
_CRC = struct.Struct("<I")
MAGIC = b"DougWAL\0"
VERSION = 1
HEADER_BYTES = 512
NAME_BYTES_MAX = 255
MISSING_BYTES_MAX = 1 << 30
"""The most bytes that a cut-off segment may lack: the largest size of segments, whatever its header says."""
FLAG_HARD_STATE = 1
FLAG_TRUNCATE = 2
FLAG_ENTRIES = 4
_FLAGS_KNOWN = FLAG_HARD_STATE | FLAG_TRUNCATE | FLAG_ENTRIES
_FIRST_SEGMENT_FIELD = slice(12, 16)
_SIZE_FIELD = slice(24, 32)
_FIRST_INDEX_FIELD = slice(56, 64)

SUFFIX = ".wal"
PREPARED_NAME = "prepared.tmp"
RECYCLED_NAME = "recycled.tmp"
RESET_NAME = "reset.tmp"
TEMPORARY_NAMES = (PREPARED_NAME, RECYCLED_NAME, RESET_NAME)
"""The names of files without content that counts; a start removes them."""
_ID_DIGITS = 20


class WalHardState(NamedTuple):
    """The state that Raft must find again after a restart. An empty name means that there was no vote."""

    term: int
    voted_for_name: str
    voted_for_incarnation: int
    commit_index: int


NO_HARD_STATE = WalHardState(0, "", 0, 0)


class SegmentHeader(NamedTuple):
    """The facts of the log at the moment before the segment's first frame was written."""

    segment_id: int
    segment_bytes: int
    """The size of the file."""
    first_sequence: int
    """The sequence of the first frame."""
    previous_index: int
    """The last entry before this segment."""
    previous_term: int
    first_index: int
    """The first entry of the log that had not been compacted away."""
    hard_state: WalHardState
    first_segment: int = 1
    """The segment with which the log begins, which holds that entry first. Segments before it do not count."""


class SegmentFormatError(ValueError):
    """The bytes are not what they should be from the offset ``position`` on."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(f"at byte {position}: {what}")
        self.position = position
        self.what = what


class Payload(NamedTuple):
    """The payload of a frame. Entries fill it from ``entries_start`` to its end."""

    hard_state: WalHardState | None
    truncate_from: int | None
    entries_start: int


def name_of(segment_id: int) -> str:
    """The file name of a segment."""
    return f"{segment_id:0{_ID_DIGITS}d}{SUFFIX}"


def id_of(name: str) -> int | None:
    """The segment that has that file name; None when it is no segment's name."""
    digits = name.removesuffix(SUFFIX)
    if len(digits) != _ID_DIGITS or digits == name or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)


def encode_header(header: SegmentHeader) -> bytes:
    """The first ``HEADER_BYTES`` of a segment."""
    hard_state = header.hard_state
    name = hard_state.voted_for_name.encode()
    assert len(name) <= NAME_BYTES_MAX
    assert 1 <= header.first_segment <= min(header.segment_id, _FIRST_SEGMENT_MAX)
    fixed = _HEADER.pack(
        MAGIC,
        VERSION,
        len(name),
        # A log that was never compacted has a zero there.
        header.first_segment if header.first_segment > 1 else 0,
        header.segment_id,
        header.segment_bytes,
        header.first_sequence,
        header.previous_index,
        header.previous_term,
        header.first_index,
        hard_state.term,
        hard_state.commit_index,
        hard_state.voted_for_incarnation,
    )
    body = (fixed + name).ljust(HEADER_BYTES - _CRC.size, b"\0")
    return body + _CRC.pack(crc32c(body))


def decode_header(data: bytes) -> SegmentHeader | None:
    """The header at the start of a segment, or None when its checksum does not fit.

    Raises:
        SegmentFormatError: The header is whole, but of a format that this program does not know.
    """
    if len(data) < HEADER_BYTES:
        return None
    body_end = HEADER_BYTES - _CRC.size
    if crc32c(data[:body_end]) != _CRC.unpack_from(data, body_end)[0]:
        return None
    magic, version, name_bytes, first_segment, segment_id, size, sequence, index, index_term, first, *state = (
        _HEADER.unpack_from(data)
    )
    term, commit, incarnation = state
    if magic != MAGIC or version != VERSION:
        raise SegmentFormatError(0, f"the segment has format {magic!r} {version}, not {MAGIC!r} {VERSION}")
    name = _decode_name(data, _HEADER.size, name_bytes)
    hard_state = WalHardState(term, name, incarnation, commit)
    if first_segment > segment_id:
        raise SegmentFormatError(0, f"segment {segment_id} says that the log begins with segment {first_segment}")
    return SegmentHeader(segment_id, size, sequence, index, index_term, first, hard_state, first_segment or 1)


def _decode_name(data: bytes, start: int, size: int) -> str:
    """The name of the node that was voted for."""
    if size > NAME_BYTES_MAX:
        raise SegmentFormatError(start, f"a name of {size} bytes")
    try:
        return data[start : start + size].decode()
    except UnicodeDecodeError as error:
        raise SegmentFormatError(start, "a name that is not UTF-8") from error


def is_torn_header(data: bytes, expected: SegmentHeader) -> bool:
    """Whether a write of ``expected`` that was cut short explains a segment without a valid header."""
    if data[HEADER_BYTES:].strip(b"\0"):
        return False
    whole = bytearray(encode_header(expected))
    seen = bytearray(data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"))
    checksum = slice(HEADER_BYTES - _CRC.size, HEADER_BYTES)
    for part in (_FIRST_SEGMENT_FIELD, _SIZE_FIELD, _FIRST_INDEX_FIELD, checksum):
        # Not known in advance: the file's size, for it follows a setting, and where the log was to begin from then on.
        whole[part] = seen[part]
    return all(byte in (0, known) for byte, known in zip(seen, whole, strict=True))


def encode_payload(
    hard_state: WalHardState | None, truncate_from: int | None, entries: Sequence[Entry]
) -> tuple[int, list[bytes], int]:
    """Encodes the payload of one append.

    Returns:
        The frame's flags, the parts of its payload, and where in the payload the entries begin.
    """
    flags, start = 0, 0
    parts: list[bytes] = []
    if hard_state is not None:
        name = hard_state.voted_for_name.encode()
        assert len(name) <= NAME_BYTES_MAX
        flags |= FLAG_HARD_STATE
        term, _, incarnation, commit_index = hard_state
        parts += (_HARD_STATE.pack(term, commit_index, incarnation, len(name)), name)
        start = _HARD_STATE.size + len(name)
    if truncate_from is not None:
        flags |= FLAG_TRUNCATE
        parts.append(_INDEX.pack(truncate_from))
        start += _INDEX.size
    if entries:
        flags |= FLAG_ENTRIES
        parts += [entry.data for entry in entries]
    return flags, parts, start


def decode_payload(flags: int, data: bytes, start: int, end: int) -> Payload:
    """Decodes the payload ``[start, end)`` of a frame; its entries are left to ``entry.scan``.

    Raises:
        SegmentFormatError: The payload is not what ``encode_payload`` makes.
    """
    if not flags or flags & ~_FLAGS_KNOWN:
        raise SegmentFormatError(start, f"unknown frame flags {flags:#x}")
    hard_state, truncate_from = None, None
    position = start
    if flags & FLAG_HARD_STATE:
        name_start = position + _HARD_STATE.size
        if name_start > end:
            raise SegmentFormatError(position, "the hard state is cut off")
        term, commit_index, incarnation, name_bytes = _HARD_STATE.unpack_from(data, position)
        position = name_start + name_bytes
        if position > end:
            raise SegmentFormatError(name_start, "the hard state is cut off")
        hard_state = WalHardState(term, _decode_name(data, name_start, name_bytes), incarnation, commit_index)
    if flags & FLAG_TRUNCATE:
        if position + _INDEX.size > end:
            raise SegmentFormatError(position, "the truncation is cut off")
        truncate_from = _INDEX.unpack_from(data, position)[0]
        position += _INDEX.size
    if (position < end) != bool(flags & FLAG_ENTRIES):
        raise SegmentFormatError(position, "the flags and the bytes of a frame disagree on whether it has entries")
    return Payload(hard_state, truncate_from, position)
