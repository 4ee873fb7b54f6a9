"""Entries of scans as JSON: one object for each, in the bytes in which it is sent.

Must not know where they come from. Invariant: what an object says gives the same bytes back: a key is ``key`` when it
is UTF-8 and ``key64`` (base64url) when not; a value says its ``encoding``.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson

from doug_wire.scan import PREFIX, ScanRecord
from facade.routes.durations import timestamp

DEFAULT_CONTENT_TYPE = "application/octet-stream"


def named(name: str, key: bytes) -> dict[str, Any]:
    """A key under a name, or under the name with ``64`` when it is not UTF-8."""
    try:
        return {name: key.decode()}
    except UnicodeDecodeError:
        return {name + "64": base64.urlsafe_b64encode(key).decode().rstrip("=")}


def entry_json(record: ScanRecord, *, keys_only: bool = False) -> bytes:
    """One entry."""
    _, key, revision, value, content_type, content_encoding, expires_at = record
    shown: dict[str, Any]
    try:
        shown = {"key": key.decode()}
    except UnicodeDecodeError:
        shown = named("key", key)
    if not keys_only:
        try:
            shown["value"], shown["encoding"] = value.decode(), "utf-8"
        except UnicodeDecodeError:
            shown["value"], shown["encoding"] = base64.b64encode(value).decode(), "base64"
    shown["revision"] = str(revision)
    shown["content_type"] = content_type.decode("ascii", "replace") if content_type else DEFAULT_CONTENT_TYPE
    if content_encoding:
        shown["content_encoding"] = content_encoding.decode("ascii", "replace")
    shown["expires_at"] = timestamp(expires_at) if expires_at else None
    return orjson.dumps(shown)


def prefix_json(prefix: bytes) -> bytes:
    """A common prefix, as it stands in a list: a string, or an object when it is not UTF-8."""
    try:
        return orjson.dumps(prefix.decode())
    except UnicodeDecodeError:
        return orjson.dumps(named("prefix", prefix))


def line(record: ScanRecord, *, keys_only: bool = False) -> bytes:
    """An entry or a common prefix as a line of its own, without the end of the line."""
    if record.kind == PREFIX:
        return orjson.dumps(named("prefix", record.key))
    return entry_json(record, keys_only=keys_only)
