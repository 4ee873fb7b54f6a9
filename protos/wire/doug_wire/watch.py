"""The records inside ``WatchBatch.records`` (docs/formats.md, Watch).

All integers are little-endian. A batch is records one behind the other, nothing between, before or after them::

    u8 kind | u8 last | u16 place | u8 type bytes | u8 encoding bytes | u16 key bytes | u32 value bytes
    | u64 revision | u64 expires_at | key | content type | content encoding | value

The changes of one transaction have one revision; ``place`` counts them from 0, and ``last`` is 1 for the last of them,
which every other change is by itself. ``expires_at`` is in milliseconds since the epoch, 0 for never. A change that
takes a key away has neither types, value nor expiry.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

RECORD = struct.Struct("<BBHBBHIQQ")

PLACE_MAX = (1 << 16) - 1


class ChangeKind(enum.IntEnum):
    """The kinds of changes of a key. DO NOT CHANGE the numbers: they are in change segments and on the wire."""

    PUT = 1
    DELETE = 2
    EXPIRE = 3


_PUT, _EXPIRE = int(ChangeKind.PUT), int(ChangeKind.EXPIRE)


class WatchError(ValueError):
    """A batch is malformed."""


class Change(NamedTuple):
    """One change of one key.

    Attributes:
        kind: A ``ChangeKind``.
        last: Whether the change is the last one of its revision.
        place: The place of the change among those of its revision.
        key: The key.
        revision: The revision.
        value: The value after the change; empty if the key is gone.
        content_type: The value's content type.
        content_encoding: The value's content encoding.
        expires_at: When the value expires, in milliseconds since the epoch; 0 for never.
    """

    kind: int
    last: bool
    place: int
    key: bytes
    revision: int
    value: bytes = b""
    content_type: bytes = b""
    content_encoding: bytes = b""
    expires_at: int = 0


def encode_change(change: Change) -> bytes:
    """Encodes a change.

    Requires: the parts are within the limits of ``doug_wire.command``.
    """
    kind, last, place, key, revision, value, content_type, content_encoding, expires_at = change
    head = RECORD.pack(
        kind, last, place, len(content_type), len(content_encoding), len(key), len(value), revision, expires_at
    )
    return b"".join((head, key, content_type, content_encoding, value))


def decode_changes(records: bytes) -> list[Change]:
    """Decodes the records of a batch.

    Raises:
        WatchError: A record reaches beyond the batch, is of an unknown kind, or takes a key away and has a value.
    """
    changes: list[Change] = []
    add, unpack, new, cls = changes.append, RECORD.unpack_from, tuple.__new__, Change
    position, end, header = 0, len(records), RECORD.size
    while position < end:
        key_start = position + header
        if key_start > end:
            raise WatchError("a record is shorter than its header")
        kind, last, place, type_bytes, encoding_bytes, key_bytes, value_bytes, revision, expires_at = unpack(
            records, position
        )
        type_start = key_start + key_bytes
        encoding_start = type_start + type_bytes
        value_start = encoding_start + encoding_bytes
        position = value_start + value_bytes
        if position > end:
            raise WatchError("a record reaches beyond its batch")
        if not _PUT <= kind <= _EXPIRE or last > 1:
            raise WatchError(f"a record of the unknown kind {kind}, or with the flag {last}")
        if kind != _PUT and (position != type_start or expires_at):
            raise WatchError("a removal with a value")
        add(
            new(
                cls,
                (
                    kind,
                    last == 1,
                    place,
                    records[key_start:type_start],
                    revision,
                    records[value_start:position],
                    records[type_start:encoding_start],
                    records[encoding_start:value_start],
                    expires_at,
                ),
            )
        )
    return changes
