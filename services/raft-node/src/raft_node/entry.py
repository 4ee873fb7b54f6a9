"""A log entry in its final bytes (docs/formats.md, Entry).

An entry gets its bytes once, at the leader. Followers check and append the same bytes, the log stores them, and nobody
encodes them again. Layout, little-endian, 48 bytes of header::

    u32 header CRC32C | u32 command CRC32C | u32 command bytes | u8 kind | u8 format | u16 zero
    u64 index | u64 term | u64 timestamp_us | u64 zero (reserved) | command

The header CRC covers everything behind itself up to the command, hence the command's CRC too: whoever trusts the header
can trust the command after one more check. This module knows neither log files nor the protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

# DO NOT CHANGE: this is in every log. docs/formats.md and a golden-bytes test fix it.
_CRC = struct.Struct("<I")
_BODY = struct.Struct("<IIBBHQQQQ")
_HEADER = struct.Struct("<IIIBBHQQQQ")
HEADER_BYTES = 48
FORMAT = 1


class EntryKind(IntEnum):
    """The kinds of entries. DO NOT CHANGE THESE VALUES. Zero is reserved for preallocated files."""

    NOOP = 1
    """The first entry of a new leader's term."""
    COMMAND = 2
    """A change of the replicated state (doug_wire.command)."""
    CONFIGURATION = 3
    """The members of the shard (raft_node.raft.configuration)."""
    CLOCK = 4
    """Moves the log time on without a change."""
    STATE_HASH = 5
    """Has replicas compare their states (raft_node.kv.state_hash)."""


class Entry(NamedTuple):
    """One log entry. Invariant: ``data`` is the encoding of all other fields, checked."""

    index: int  # type: ignore[assignment]  # Nobody searches an entry with tuple.index.
    term: int
    kind: int
    timestamp_us: int
    data: bytes

    @property
    def command(self) -> bytes:
        """The bytes behind the header."""
        return self.data[HEADER_BYTES:]


class EntryError(ValueError):
    """The bytes are not an entry. ``position`` is the offset in the blob at which the bad entry begins."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(f"at byte {position}: {what}")
        self.position = position
        self.what = what


def encode(
    index: int, term: int, kind: int, timestamp_us: int, command: bytes = b"", command_crc: int | None = None
) -> Entry:
    """Gives an entry its final bytes.

    Args:
        index: The entry's place in the log, from 1.
        term: The leader's term.
        kind: An ``EntryKind``.
        timestamp_us: The log time in microseconds since the epoch, never less than the entry before.
        command: The bytes that the entry carries.
        command_crc: The CRC32C that came with the command; computed when there is none.
    """
    if command_crc is None:
        command_crc = crc32c(command)
    body = _BODY.pack(command_crc, len(command), kind, FORMAT, 0, index, term, timestamp_us, 0)
    return Entry(index, term, kind, timestamp_us, _CRC.pack(crc32c(body)) + body + command)


def decode(blob: bytes, start: int = 0) -> Entry:
    """Decodes and checks the entry at ``start``; it ends at ``start + len(entry.data)``.

    Raises:
        EntryError: The entry is cut off, or a checksum does not fit.
    """
    body_end = start + HEADER_BYTES
    if body_end > len(blob):
        raise EntryError(start, "the entry is shorter than its header")
    header_crc, command_crc, size, kind, form, zero, index, term, timestamp_us, reserved = _HEADER.unpack_from(
        blob, start
    )
    if crc32c(blob[start + 4 : body_end]) != header_crc:
        raise EntryError(start, "the header's checksum does not fit")
    end = body_end + size
    if end > len(blob):
        raise EntryError(start, "the entry is cut off")
    if form != FORMAT or zero or reserved:
        raise EntryError(start, f"unknown entry format {form}")
    if crc32c(blob[body_end:end]) != command_crc:
        raise EntryError(start, "the command's checksum does not fit")
    return Entry(index, term, kind, timestamp_us, blob[start:end])


def scan(blob: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Walks over entries that fill ``[start, end)`` and checks their headers, but not their commands.

    For whoever has checked the blob as a whole and wants no copy of it.

    Yields:
        ``(index, term, kind, position of the entry, position behind it)`` of each.

    Raises:
        EntryError: A header is damaged, or the last entry is cut off.
    """
    position = start
    unpack, checksum = _HEADER.unpack_from, crc32c
    while position < end:
        body_end = position + HEADER_BYTES
        if body_end > end:
            raise EntryError(position, "the entry is shorter than its header")
        header_crc, _, size, kind, form, zero, index, term, _, reserved = unpack(blob, position)
        if checksum(blob[position + 4 : body_end]) != header_crc:
            raise EntryError(position, "the header's checksum does not fit")
        if form != FORMAT or zero or reserved:
            raise EntryError(position, f"unknown entry format {form}")
        next_position = body_end + size
        if next_position > end:
            raise EntryError(position, "the entry is cut off")
        yield index, term, kind, position, next_position
        position = next_position


class Run(NamedTuple):
    """Entries that lie one behind the other, and how many bytes they fill."""

    entries: list[Entry]
    size_bytes: int


def decode_run(blob: bytes, start: int, count: int | None, bytes_max: int) -> Run:
    """Decodes and checks entries as ``decode`` does each.

    Args:
        blob: The bytes with the entries.
        start: The offset of the first entry.
        count: How many entries to decode; None for as many as fill the blob.
        bytes_max: The run is cut behind the entry with which it reaches this size.

    Raises:
        EntryError: An entry is cut off, or a checksum does not fit; or the blob holds fewer than ``count``.
    """
    # A start decodes hundreds of thousands: no call of Python's own, no look-up by name and no view for each of them.
    unpack, checksum, new, cls = _HEADER.unpack_from, crc32c, tuple.__new__, Entry
    header_bytes, known_format = HEADER_BYTES, FORMAT
    entries: list[Entry] = []
    append = entries.append
    position, end, limit = start, len(blob), start + bytes_max
    for _ in range(end if count is None else count):
        body = position + header_bytes
        if body > end:
            break
        header_crc, command_crc, size, kind, form, zero, index, term, timestamp_us, reserved = unpack(blob, position)
        behind = body + size
        if (
            checksum(blob[position + 4 : body]) != header_crc
            or behind > end
            or checksum(blob[body:behind]) != command_crc
            or form != known_format
            or zero
            or reserved
        ):
            # It raises the exact error, by the same checks.
            decode(blob, position)
        append(new(cls, (index, term, kind, timestamp_us, blob[position:behind])))
        position = behind
        if position >= limit:
            return Run(entries, position - start)
    if position < end if count is None else len(entries) < count:
        decode(blob, position)
    return Run(entries, position - start)


def decode_all(blob: bytes) -> list[Entry]:
    """Decodes and checks entries that lie one behind the other and fill the blob.

    Raises:
        EntryError: An entry is damaged.
    """
    return decode_run(blob, 0, None, len(blob)).entries


def join(entries: Iterable[Entry]) -> bytes:
    """The bytes of entries, one behind the other."""
    return b"".join([entry.data for entry in entries])
