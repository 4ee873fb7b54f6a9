"""The records inside ``Batch.records`` and ``BatchResult.results`` (docs/formats.md, Pipe).

All integers are little-endian. A blob is records one behind the other, nothing between, before or after them::

    write record    u64 id | u32 CRC32C of the command | u32 command bytes | command (doug_wire.command)
    read record     u64 id | u64 epoch | u16 key bytes | key
    result record   u64 id | u8 status | u64 revision | u16 content-type bytes | u32 value bytes | type | value

``id`` is the sender's, unique on its stream. ``revision`` is that of the write, or of the value read; 0 otherwise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

WRITE = struct.Struct("<QII")
READ = struct.Struct("<QQH")
RESULT = struct.Struct("<QBQHI")

BATCH_BYTES_MAX = 1 << 20
"""A batch or a result holds at most this many bytes of records, or one record."""

WINDOW_OPEN_MS = 50
"""A batch that is this old leaves its window, so that a slow record cannot hold the link up."""

GRPC_MESSAGE_BYTES_MAX = 8 << 20


class Status(IntEnum):
    """What became of one record. DO NOT CHANGE THESE VALUES."""

    OK = 0
    NOT_FOUND = 1
    NOT_LEADER = 2
    """Refused before it was proposed: certainly not applied."""
    WRONG_SHARD = 3
    """The slot is not this shard's, or the epoch is outdated: certainly not applied."""
    NOT_APPLIED = 4
    """Another leader's entry took its place in the log: certainly not applied."""
    OVERLOADED = 5
    """Refused before it was proposed, because too much is waiting: certainly not applied."""
    UNKNOWN = 6
    """It was proposed, and this node cannot say what became of it."""
    INVALID = 7
    """The record is malformed: certainly not applied."""
    UNAVAILABLE = 8
    """A read that could not be served here now (no quorum, no leader, starting)."""
    DISK_FULL = 9
    """Refused before it was proposed, because a disk is full: certainly not applied."""


NOT_APPLIED = frozenset(
    {
        Status.NOT_LEADER,
        Status.WRONG_SHARD,
        Status.NOT_APPLIED,
        Status.OVERLOADED,
        Status.INVALID,
        Status.DISK_FULL,
    }
)
"""The statuses that prove that a write left no trace."""


class PipeError(ValueError):
    """A blob of records is malformed."""


class WriteRecord(NamedTuple):
    """One write."""

    id: int
    crc: int
    command: bytes


class ReadRecord(NamedTuple):
    """One read."""

    id: int
    epoch: int
    key: bytes


class ResultRecord(NamedTuple):
    """What became of one write or read."""

    id: int
    status: int
    revision: int
    content_type: bytes
    value: bytes


def encode_write(record_id: int, crc: int, command: bytes) -> bytes:
    """Encodes a write record."""
    return WRITE.pack(record_id, crc, len(command)) + command


def encode_read(record_id: int, epoch: int, key: bytes) -> bytes:
    """Encodes a read record."""
    return READ.pack(record_id, epoch, len(key)) + key


def encode_result(
    record_id: int, status: int, revision: int = 0, content_type: bytes = b"", value: bytes = b""
) -> bytes:
    """Encodes a result record."""
    return RESULT.pack(record_id, status, revision, len(content_type), len(value)) + content_type + value


def decode_writes(blob: bytes) -> Iterator[WriteRecord]:
    """Yields the write records of a blob.

    Raises:
        PipeError: A record reaches beyond the blob.
    """
    position, end, header = 0, len(blob), WRITE.size
    while position < end:
        start = position + header
        if start > end:
            raise PipeError("a write record is shorter than its header")
        record_id, crc, size = WRITE.unpack_from(blob, position)
        position = start + size
        if position > end:
            raise PipeError("a write record reaches beyond its batch")
        yield WriteRecord(record_id, crc, blob[start:position])


def decode_reads(blob: bytes) -> Iterator[ReadRecord]:
    """Yields the read records of a blob.

    Raises:
        PipeError: A record reaches beyond the blob.
    """
    position, end, header = 0, len(blob), READ.size
    while position < end:
        start = position + header
        if start > end:
            raise PipeError("a read record is shorter than its header")
        record_id, epoch, size = READ.unpack_from(blob, position)
        position = start + size
        if position > end:
            raise PipeError("a read record reaches beyond its batch")
        yield ReadRecord(record_id, epoch, blob[start:position])


def decode_results(blob: bytes) -> Iterator[ResultRecord]:
    """Yields the result records of a blob.

    Raises:
        PipeError: A record reaches beyond the blob.
    """
    position, end, header = 0, len(blob), RESULT.size
    while position < end:
        start = position + header
        if start > end:
            raise PipeError("a result record is shorter than its header")
        record_id, status, revision, type_bytes, value_bytes = RESULT.unpack_from(blob, position)
        value_start = start + type_bytes
        position = value_start + value_bytes
        if position > end:
            raise PipeError("a result record reaches beyond its blob")
        yield ResultRecord(record_id, status, revision, blob[start:value_start], blob[value_start:position])
