"""The records inside ``ScanPage.records`` (docs/formats.md, Scan).

All integers are little-endian. A page is records one behind the other, nothing between, before or after them::

    u8 kind | u8 type bytes | u8 encoding bytes | u16 key bytes | u32 value bytes | u64 revision | u64 expires_at
    | key | content type | content encoding | value

``kind`` is ENTRY, or PREFIX for keys with a common beginning, which is the key then; a prefix has nothing else.
``expires_at`` is in milliseconds since the epoch, 0 for never.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

RECORD = struct.Struct("<BBBHIQQ")

ENTRY = 0
PREFIX = 1

PAGE_BYTES_MAX = 1 << 20
"""A page holds at most this many bytes of records, or one record."""

DELIMITER_BYTES_MAX = 64


class ScanError(ValueError):
    """A page is malformed."""


class ScanRecord(NamedTuple):
    """An entry, or the common prefix of some keys."""

    kind: int
    key: bytes
    revision: int = 0
    value: bytes = b""
    content_type: bytes = b""
    content_encoding: bytes = b""
    expires_at: int = 0


def encode_entry(
    key: bytes, revision: int, value: bytes, content_type: bytes, content_encoding: bytes = b"", expires_at: int = 0
) -> bytes:
    """Encodes an entry.

    Requires: the parts are within the limits of ``doug_wire.command``.
    """
    head = RECORD.pack(ENTRY, len(content_type), len(content_encoding), len(key), len(value), revision, expires_at)
    return b"".join((head, key, content_type, content_encoding, value))


def encode_prefix(prefix: bytes) -> bytes:
    """Encodes the common prefix of some keys."""
    return RECORD.pack(PREFIX, 0, 0, len(prefix), 0, 0, 0) + prefix


def decode_page(page: bytes) -> list[ScanRecord]:
    """Decodes the records of a page.

    Raises:
        ScanError: A record reaches beyond the page, is of an unknown kind, or is a prefix with a value.
    """
    records: list[ScanRecord] = []
    add, unpack, new, cls = records.append, RECORD.unpack_from, tuple.__new__, ScanRecord
    position, end, header = 0, len(page), RECORD.size
    while position < end:
        key_start = position + header
        if key_start > end:
            raise ScanError("a record is shorter than its header")
        kind, type_bytes, encoding_bytes, key_bytes, value_bytes, revision, expires_at = unpack(page, position)
        type_start = key_start + key_bytes
        encoding_start = type_start + type_bytes
        value_start = encoding_start + encoding_bytes
        position = value_start + value_bytes
        if position > end:
            raise ScanError("a record reaches beyond its page")
        if kind and (kind != PREFIX or position != type_start or revision or expires_at):
            raise ScanError(f"a record of the unknown kind {kind}, or a prefix with a value")
        key = page[key_start:type_start]
        content_type = page[type_start:encoding_start]
        encoding = page[encoding_start:value_start]
        value = page[value_start:position]
        # A scan makes millions of them.
        add(new(cls, (kind, key, revision, value, content_type, encoding, expires_at)))
    return records


def after_prefix(prefix: bytes) -> bytes | None:
    """The first key behind all keys with a prefix; None if there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else None
