"""Cursors: where the next page of a scan begins, as an opaque word in an answer.

A cursor carries a bound in the key space and a hash of what it is a cursor of, so that one of another range, direction
or cluster is refused and never quietly taken for a place in this one. It holds no state of the server: it stays good
for as long as the cluster does. Layout (docs/formats.md, Cursor), little-endian, in base64url without padding::

    u8 version (1) | u64 XXH3_64 of what it belongs to | u32 CRC32C of all but this field | bound

Must not know HTTP. Invariant: ``decode(encode(bound, scope), scope) == bound``, and nothing else is a cursor.
"""

from __future__ import annotations

import base64
import binascii
import struct

from crc32c import crc32c
from xxhash import xxh3_64_intdigest

from doug_wire.command import KEY_BYTES_MAX

VERSION = 1
_HEAD = struct.Struct("<BQ")
_CRC = struct.Struct("<I")
_BOUND_AT = _HEAD.size + _CRC.size
_BOUND_BYTES_MAX = KEY_BYTES_MAX + 1


class CursorError(ValueError):
    """The text is no cursor, or none of this scan."""


def scope_of(*parts: bytes) -> int:
    """The scope of a cursor, as a number: scans of the same scope share cursors.

    Args:
        *parts: All that two scans must have in common to share cursors, in a fixed order.
    """
    return xxh3_64_intdigest(b"".join(struct.pack("<I", len(part)) + part for part in parts))


def encode(bound: bytes, scope: int) -> str:
    """The cursor of a bound: the first key of what is left, or in reverse the first key that is not."""
    head = _HEAD.pack(VERSION, scope)
    raw = head + _CRC.pack(crc32c(head + bound)) + bound
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(text: str, scope: int) -> bytes:
    """The bound of a cursor.

    Raises:
        CursorError: The cursor is damaged, of an unknown version, or of another scan.
    """
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise CursorError("it is not base64url") from None
    if not _BOUND_AT <= len(raw) <= _BOUND_AT + _BOUND_BYTES_MAX:
        raise CursorError("it has another length than a cursor")
    version, found = _HEAD.unpack_from(raw)
    bound = raw[_BOUND_AT:]
    if version != VERSION:
        raise CursorError(f"it is of version {version}, which is not known here")
    if _CRC.unpack_from(raw, _HEAD.size)[0] != crc32c(raw[: _HEAD.size] + bound):
        raise CursorError("its checksum does not fit")
    if encode(bound, found) != text:
        raise CursorError("it is not written as a cursor is")
    if found != scope:
        raise CursorError("it is of another range, direction, delimiter or cluster")
    return bound
