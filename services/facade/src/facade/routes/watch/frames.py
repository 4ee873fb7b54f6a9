"""Events of a watch in the bytes in which they are sent: server-sent events, or lines of JSON; in chunks of HTTP/1.1.

What an event says of its change is made once, whoever watches; the id beside it says how far a watch has come. Must not
know who watches.

Source: docs/api.md, Watches; the HTML standard, server-sent events; RFC 9112, 7.1.
"""

from __future__ import annotations

import base64
from typing import Any

import orjson

from doug_wire.watch import Change, ChangeKind
from facade.client.watches.feed import Event
from facade.routes.durations import timestamp
from facade.routes.ranges.entries import DEFAULT_CONTENT_TYPE, named
from facade.routes.watch.request import Form

NAMES = {ChangeKind.PUT: b"put", ChangeKind.DELETE: b"delete", ChangeKind.EXPIRE: b"expire"}
RETRY_MS = 1000
COMMENT = b": here\n\n"
RETRY = b"retry: %d\n\n" % RETRY_MS

_PUT = int(ChangeKind.PUT)


def chunk(content: bytes) -> bytes:
    """A piece of an answer, as it goes over the connection."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def data_of(shard: int, change: Change, *, values: bool) -> bytes:
    """The line of JSON that tells a change."""
    try:
        shown: dict[str, Any] = {"key": change.key.decode()}
    except UnicodeDecodeError:
        shown = named("key", change.key)
    put = change.kind == _PUT
    if put and values:
        try:
            shown["value"], shown["encoding"] = change.value.decode(), "utf-8"
        except UnicodeDecodeError:
            shown["value"], shown["encoding"] = base64.b64encode(change.value).decode(), "base64"
    shown["revision"] = str(change.revision)
    shown["shard"] = shard
    if put:
        content_type = change.content_type
        shown["content_type"] = content_type.decode("ascii", "replace") if content_type else DEFAULT_CONTENT_TYPE
        if change.content_encoding:
            shown["content_encoding"] = change.content_encoding.decode("ascii", "replace")
        shown["expires_at"] = timestamp(change.expires_at) if change.expires_at else None
    return orjson.dumps(shown)


def shown(event: Event, form: Form) -> bytes:
    """The line of JSON that tells an event's change, which is made once."""
    known = event.shown.get(form.values)
    if known is None:
        known = event.shown[form.values] = data_of(event.shard, event.change, values=form.values)
    return known


def frame(name: bytes, identity: bytes, data: bytes, form: Form) -> bytes:
    """An event; one without an identity is nothing that can be gone on behind."""
    if form.lines:
        told = b',"id":"%b"' % identity if identity else b""
        return b'{"event":"%b"%b,"data":%b}\n' % (name, told, data)
    told = b"id: %b\n" % identity if identity else b""
    return b"event: %b\n%bdata: %b\n\n" % (name, told, data)


def change_frame(event: Event, identity: bytes, form: Form) -> bytes:
    """The event of a change."""
    return frame(NAMES[ChangeKind(event.change.kind)], identity, shown(event, form), form)


def resync_frame(shard: int, oldest: int, form: Form) -> bytes:
    """The event that changes are gone."""
    return frame(b"resync", b"", b'{"shard":%d,"oldest":"%d"}' % (shard, oldest), form)
