"""Reads requests for watches, ``GET /v1/watch``. Pure functions on bytes.

Invariant: what is not understood is refused, never ignored.

Source: docs/api.md, Watches.
"""

from __future__ import annotations

from typing import NamedTuple

from doug_wire.command import KEY_BYTES_MAX
from doug_wire.watch import ChangeKind
from facade.errors import BadRequestError
from facade.routes.options import decode64
from facade.routes.ranges.request import bounds_of, flag_of, parameters_of, wants_lines
from facade.routes.watch import ids as watch_ids
from facade.routes.watch.ids import WatchId, WatchIdError

EVENTS = {b"put": int(ChangeKind.PUT), b"delete": int(ChangeKind.DELETE), b"expire": int(ChangeKind.EXPIRE)}
PARAMETERS = frozenset(
    ("key", "key64", "prefix", "prefix64", "start", "start64", "end", "end64", "from", "events", "values")
)
EVENT_STREAM = b"text/event-stream"
ALL_KINDS = frozenset(EVENTS.values())


class Selection(NamedTuple):
    """The changes that a watch wants.

    Attributes:
        start: The first key.
        end: The first key behind it that is not wanted; None for no end.
        kinds: The kinds of changes that are wanted.
        key: The only key that is wanted; None if there may be more.
        prefix: The prefix of all wanted keys; None if they are named otherwise.
    """

    start: bytes = b""
    end: bytes | None = None
    kinds: frozenset[int] = ALL_KINDS
    key: bytes | None = None
    prefix: bytes | None = None

    def wants(self, kind: int, key: bytes) -> bool:
        """Whether a change is wanted."""
        return key >= self.start and (self.end is None or key < self.end) and kind in self.kinds


class Form(NamedTuple):
    """How changes are shown: with their values or without, as lines of JSON or as server-sent events."""

    values: bool = True
    lines: bool = False


class WatchAsked(NamedTuple):
    """A request for a watch.

    Attributes:
        selection: Which changes.
        form: How they are shown.
        origin: Behind what: an id, or None for ``now`` and ``start``.
        snapshot: Whether what is there comes first: ``start``.
    """

    selection: Selection
    form: Form
    origin: WatchId | None
    snapshot: bool


def watch_of(query: bytes, accept: bytes | None, last_event_id: bytes | None) -> WatchAsked:
    """Reads the query and the headers of a request for a watch.

    Args:
        query: The query string.
        accept: The header Accept.
        last_event_id: The header Last-Event-ID, which goes before ``from``: a browser sends it when it comes again.

    Raises:
        BadRequestError: The request makes no sense.
    """
    given = parameters_of(query, PARAMETERS)
    form = Form(values=flag_of(given, "values", default=True), lines=wants_lines(accept, EVENT_STREAM))
    text = last_event_id or given.get("from", b"now")
    if text in (b"now", b"start"):
        return WatchAsked(_selection(given), form, None, text == b"start")
    try:
        origin = watch_ids.decode(text.decode("ascii", "replace"))
    except WatchIdError as error:
        detail = f"This is none of now, start, and the id of an event: {error}."
        raise BadRequestError("bad_watch_id", detail) from None
    return WatchAsked(_selection(given), form, origin, snapshot=False)


def _selection(given: dict[str, bytes]) -> Selection:
    kinds = _kinds(given.get("events"))
    key = _key(given)
    if key is not None:
        if any(name in given for name in ("prefix", "start", "end", "prefix64", "start64", "end64")):
            raise BadRequestError("bad_range", "A watch names a key, or a prefix, or start and end.")
        return Selection(key, key + b"\0", kinds, key=key)
    start, end, prefix = bounds_of(given)
    if end is not None and end <= start:
        raise BadRequestError("bad_range", "No key lies between start and end.")
    return Selection(start, end, kinds, prefix=prefix if "prefix" in given or "prefix64" in given else None)


def _key(given: dict[str, bytes]) -> bytes | None:
    plain, encoded = given.get("key"), given.get("key64")
    if plain is not None and encoded is not None:
        raise BadRequestError("bad_range", "key and key64 are two names of one key.")
    if encoded is not None:
        plain = decode64("key64", encoded, "bad_parameter")
    elif plain is not None:
        try:
            plain.decode()
        except UnicodeDecodeError:
            raise BadRequestError("key_not_utf8", "The key is not valid UTF-8; key64 takes any bytes.") from None
    if plain is not None and not 0 < len(plain) <= KEY_BYTES_MAX:
        raise BadRequestError("bad_key", f"A key has 1 to {KEY_BYTES_MAX} bytes, not {len(plain)}.")
    return plain


def _kinds(text: bytes | None) -> frozenset[int]:
    if text is None:
        return ALL_KINDS
    names = text.split(b",")
    if not all(name in EVENTS for name in names) or len(set(names)) != len(names):
        raise BadRequestError("bad_parameter", "events is a list of put, delete and expire, each once.")
    return frozenset(EVENTS[name] for name in names)
