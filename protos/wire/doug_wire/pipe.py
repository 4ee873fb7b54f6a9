"""The records inside ``Batch.records`` and ``BatchResult.results`` (docs/formats.md, Pipe).

All integers are little-endian. A blob is records one behind the other, nothing between, before or after them::

    write record    u64 id | u32 CRC32C of the command | u32 command bytes | command (doug_wire.command)
    read record     u64 id | u64 epoch | u16 key bytes | u8 flags | optional fields | key
    result record   u64 id | u8 status | u8 flags | u64 revision | u16 content-type bytes | u32 value bytes
                    | optional fields | type | value

    read flag 1     min index         u64: answer only with what was applied up to this entry at least
    read flag 2     token             u16 bytes | bytes: look up what became of this token, in the slot of the key
    read flag 4     max staleness     u32 milliseconds: answer only with all that was acknowledged longer ago
    result flag 1   expires at        u64 milliseconds since the epoch
    result flag 2   content encoding  u8 bytes | bytes
    result flag 4   replayed          no bytes: the outcome of an earlier command with the same token

``id`` is the sender's, unique on its stream. ``revision`` is that of the write, or of the value read; 0 otherwise. The
optional fields are there when their flags are set, in the order of the flags.

Invariant: one sequence of bytes stands for a record, and one record for a sequence of bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

WRITE = struct.Struct("<QII")
READ = struct.Struct("<QQHB")
RESULT = struct.Struct("<QBBQHI")
_FLAGS_AT, _NO_FLAGS = 9, b"\0"
_SIZES_AT, _NO_SIZES = 18, bytes(6)
_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")
_U16 = struct.Struct("<H")

_READ_MIN_INDEX = 1
_READ_TOKEN = 2
_READ_BOUND = 4
_RESULT_EXPIRES = 1
_RESULT_ENCODING = 2
_RESULT_REPLAYED = 4

BATCH_BYTES_MAX = 1 << 20
"""A batch or a result holds at most this many bytes of records, or one record."""

WINDOW_OPEN_MS = 50
"""A batch that is this old leaves its window, so that a slow record cannot hold the link up."""

GRPC_MESSAGE_BYTES_MAX = 8 << 20


class Status(IntEnum):
    """The outcomes of records. DO NOT CHANGE THESE VALUES."""

    OK = 0
    NOT_FOUND = 1
    NOT_LEADER = 2
    """Refused before it was proposed: certainly not applied."""
    WRONG_SHARD = 3
    """The slot is not this shard's, or the epoch is outdated: certainly not applied."""
    NOT_APPLIED = 4
    """Another leader's entry took the place of the write's in the log: certainly not applied."""
    OVERLOADED = 5
    """Refused before it was proposed, because too much is waiting: certainly not applied."""
    UNKNOWN = 6
    """The write was proposed, and this node cannot say whether it was applied."""
    INVALID = 7
    """The record is malformed: certainly not applied."""
    UNAVAILABLE = 8
    """A read that could not be served here now (no quorum, no leader, starting)."""
    DISK_FULL = 9
    """Refused before it was proposed, because a disk is full: certainly not applied."""
    PRECONDITION_FAILED = 10
    """The condition does not hold: nothing was changed. ``revision`` is the key's, 0 when there is no such key."""
    NOT_A_NUMBER = 11
    """An increment of a value that is no decimal integer of 64 bits: nothing was changed."""
    OVERFLOW = 12
    """An increment beyond 64 bits: nothing was changed."""
    TOKEN_REUSED = 13
    """Another request has used the token before: nothing was changed."""
    TOKENS_FULL = 14
    """The shard keeps as many tokens as it may: nothing was changed."""
    TOKEN_EXPIRED = 15
    """The token is older than tokens are kept: nothing was changed now, and its earlier outcome is forgotten."""
    RESULT_TOO_LARGE = 16
    """The results of a transaction or a batch take too much: nothing was changed."""
    NOT_FRESH = 17
    """A read that must see more than this replica has applied, or can prove that it has applied."""
    FORBIDDEN = 18
    """An operation of a batch that its caller may not do: it was not carried out. Never in the log, nor on a Pipe."""


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
"""The statuses that prove that a write left no trace, though another try may."""

DECIDED = frozenset(
    {
        Status.OK,
        Status.NOT_FOUND,
        Status.PRECONDITION_FAILED,
        Status.NOT_A_NUMBER,
        Status.OVERFLOW,
        Status.TOKEN_REUSED,
        Status.TOKENS_FULL,
        Status.TOKEN_EXPIRED,
        Status.RESULT_TOO_LARGE,
    }
)
"""The statuses of a write that was decided when its entry was applied: no other try is needed, nor would it help."""


class PipeError(ValueError):
    """A blob of records is malformed."""


class WriteRecord(NamedTuple):
    """One write."""

    id: int
    crc: int
    command: bytes


class ReadRecord(NamedTuple):
    """One read.

    Attributes:
        id: The number that the sender gave the record.
        epoch: The epoch of the key's slot as the sender knows it; 0 for no check.
        key: The key that is read.
        min_index: The entry up to which the replica must have applied its log, at least; 0 for no demand.
        token: The id of a token whose outcome is read instead of the key; empty for a plain read.
        bound_ms: The age from which on the read must see all that was acknowledged; 0 for no bound.
    """

    id: int
    epoch: int
    key: bytes
    min_index: int = 0
    token: bytes = b""
    bound_ms: int = 0


class ResultRecord(NamedTuple):
    """The result of one write or read.

    Attributes:
        id: The number that the sender gave the record.
        status: A ``Status``.
        revision: The revision of the write, or of the value read; 0 otherwise.
        content_type: The content type of the value.
        value: The value read; of an increment the number in decimal digits; of a transaction, a batch and a token see
            ``doug_wire.payload``.
        expires_at_ms: When the key expires, in milliseconds since the epoch; 0 for never.
        content_encoding: The content encoding of the value.
        replayed: Whether this is the outcome of an earlier command with the same token.
    """

    id: int
    status: int
    revision: int
    content_type: bytes
    value: bytes
    expires_at_ms: int = 0
    content_encoding: bytes = b""
    replayed: bool = False


def encode_write(record_id: int, crc: int, command: bytes) -> bytes:
    """Encodes a write record."""
    return WRITE.pack(record_id, crc, len(command)) + command


def encode_read(
    record_id: int, epoch: int, key: bytes, min_index: int = 0, token: bytes = b"", bound_ms: int = 0
) -> bytes:
    """Encodes a read record; see ``ReadRecord``."""
    if not min_index and not token and not bound_ms:
        return READ.pack(record_id, epoch, len(key), 0) + key
    flags, optional = 0, b""
    if min_index:
        flags = _READ_MIN_INDEX
        optional = _U64.pack(min_index)
    if token:
        flags |= _READ_TOKEN
        optional += _U16.pack(len(token)) + token
    if bound_ms:
        flags |= _READ_BOUND
        optional += _U32.pack(bound_ms)
    return READ.pack(record_id, epoch, len(key), flags) + optional + key


def encode_result(
    record_id: int,
    status: int,
    revision: int = 0,
    content_type: bytes = b"",
    value: bytes = b"",
    expires_at_ms: int = 0,
    content_encoding: bytes = b"",
    replayed: bool = False,
) -> bytes:
    """Encodes a result record; see ``ResultRecord``."""
    if not expires_at_ms and not content_encoding and not replayed:
        return RESULT.pack(record_id, status, 0, revision, len(content_type), len(value)) + content_type + value
    flags, optional = (_RESULT_REPLAYED if replayed else 0), b""
    if expires_at_ms:
        flags |= _RESULT_EXPIRES
        optional = _U64.pack(expires_at_ms)
    if content_encoding:
        flags |= _RESULT_ENCODING
        optional += bytes((len(content_encoding),)) + content_encoding
    header = RESULT.pack(record_id, status, flags, revision, len(content_type), len(value))
    return b"".join((header, optional, content_type, value))


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
        PipeError: A record reaches beyond the blob, or has unknown flags.
    """
    position, end, header = 0, len(blob), READ.size
    while position < end:
        start = position + header
        if start > end:
            raise PipeError("a read record is shorter than its header")
        record_id, epoch, size, flags = READ.unpack_from(blob, position)
        options: tuple[int, bytes, int] | None = None
        if flags:
            options, start = _decode_read_options(blob, start, flags)
        position = start + size
        if position > end:
            raise PipeError("a read record reaches beyond its batch")
        record = ReadRecord(record_id, epoch, blob[start:position])
        yield record if options is None else ReadRecord(*record[:3], *options)


def decode_results(blob: bytes) -> Iterator[ResultRecord]:
    """Yields the result records of a blob.

    Raises:
        PipeError: A record reaches beyond the blob, or has unknown flags.
    """
    plain_first = blob.startswith(_NO_FLAGS, _FLAGS_AT) and blob.startswith(_NO_SIZES, _SIZES_AT)
    if plain_first and not len(blob) % RESULT.size:
        # Perhaps all are like the first one: those of plain writes are nothing but headers, one behind the other.
        new, cls = tuple.__new__, ResultRecord
        plain = [
            new(cls, (record_id, status, revision, b"", b"", 0, b"", False))
            for record_id, status, flags, revision, type_bytes, value_bytes in RESULT.iter_unpack(blob)
            if not (flags or type_bytes or value_bytes)
        ]
        if len(plain) * RESULT.size == len(blob):
            return iter(plain)
    return _decode_each(blob)


def _decode_each(blob: bytes) -> Iterator[ResultRecord]:
    """Yields result records of any kind; raises what ``decode_results`` does."""
    position, end, header = 0, len(blob), RESULT.size
    while position < end:
        start = position + header
        if start > end:
            raise PipeError("a result record is shorter than its header")
        record_id, status, flags, revision, type_bytes, value_bytes = RESULT.unpack_from(blob, position)
        options: tuple[int, bytes, bool] | None = None
        if flags:
            options, start = _decode_result_options(blob, start, flags)
        value_start = start + type_bytes
        position = value_start + value_bytes
        if position > end:
            raise PipeError("a result record reaches beyond its blob")
        record = ResultRecord(record_id, status, revision, blob[start:value_start], blob[value_start:position])
        yield record if options is None else ResultRecord(*record[:5], *options)


def _decode_read_options(blob: bytes, position: int, flags: int) -> tuple[tuple[int, bytes, int], int]:
    """The optional fields of a read record, and the offset of their end."""
    if flags & ~(_READ_MIN_INDEX | _READ_TOKEN | _READ_BOUND):
        raise PipeError(f"unknown flags {flags:#x} of a read record")
    min_index, token, bound_ms = 0, b"", 0
    try:
        if flags & _READ_MIN_INDEX:
            (min_index,) = _U64.unpack_from(blob, position)
            position += _U64.size
        if flags & _READ_TOKEN:
            token_end = position + _U16.size + _U16.unpack_from(blob, position)[0]
            token = blob[position + _U16.size : token_end]
            position = token_end
        if flags & _READ_BOUND:
            (bound_ms,) = _U32.unpack_from(blob, position)
            position += _U32.size
    except struct.error:
        raise PipeError("a read record is shorter than its optional fields") from None
    empty = (flags & _READ_MIN_INDEX and not min_index) or (flags & _READ_TOKEN and not token)
    if empty or (flags & _READ_BOUND and not bound_ms):
        raise PipeError("an optional field of a read record is empty")
    return (min_index, token, bound_ms), position


def _decode_result_options(blob: bytes, position: int, flags: int) -> tuple[tuple[int, bytes, bool], int]:
    """The optional fields of a result record, and the offset of their end."""
    if flags & ~(_RESULT_EXPIRES | _RESULT_ENCODING | _RESULT_REPLAYED):
        raise PipeError(f"unknown flags {flags:#x} of a result record")
    expires_at_ms, content_encoding = 0, b""
    try:
        if flags & _RESULT_EXPIRES:
            (expires_at_ms,) = _U64.unpack_from(blob, position)
            position += _U64.size
        if flags & _RESULT_ENCODING:
            encoding_end = position + 1 + blob[position]
            content_encoding = blob[position + 1 : encoding_end]
            position = encoding_end
    except (struct.error, IndexError):
        raise PipeError("a result record is shorter than its optional fields") from None
    if (flags & _RESULT_EXPIRES and not expires_at_ms) or (flags & _RESULT_ENCODING and not content_encoding):
        raise PipeError("an optional field of a result record is empty")
    return (expires_at_ms, content_encoding, bool(flags & _RESULT_REPLAYED)), position
