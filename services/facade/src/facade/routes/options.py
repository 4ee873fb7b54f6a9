"""The options of a request beside its key: one parsed ``RequestOptions`` for every route that reads or writes keys.

Must not know what the options do. Invariants: (1) what is not understood is refused, never ignored; (2) an option that
is given twice, in two ways, is refused.

Source: docs/api.md, Key routes; RFC 9110; draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import NamedTuple

from doug_wire.command import CONTENT_ENCODING_BYTES_MAX, CONTENT_TYPE_BYTES_MAX, KEY_BYTES_MAX, Condition
from doug_wire.idempotency import KEY_CHARACTERS_MAX, OPERATION_KEY_CHARACTERS_MAX
from doug_wire.validity import is_printable
from facade.client.modes import BOUNDED, LINEARIZABLE, READ_MODES, Freshness
from facade.errors import BadRequestError
from facade.routes.conditions import Tags, parse_tags, write_condition
from facade.routes.durations import UNITS_MS, ttl_ms
from facade.routes.key import unescape, wants_json

IDEMPOTENCY_KEY_MAX, OPERATION_KEY_MAX = KEY_CHARACTERS_MAX, OPERATION_KEY_CHARACTERS_MAX

_IDEMPOTENCY_KEY = re.compile(rb"[\x20-\x7e]+\Z")
_IDENTITY = b"identity"
_WAIT = re.compile(rb"([0-9]{1,9})(ms|s|m|)\Z")
WAIT_MS_MAX = 600_000
_REVISION_DIGITS = 18


_NAMES = (
    "accept",
    "consistency",
    "content_encoding",
    "content_length",
    "content_range",
    "content_type",
    "expect",
    "idempotency_key",
    "if_match",
    "if_none_match",
    "if_unmodified_since",
    "last_event_id",
    "session",
    "transfer_encoding",
)


class Headers:
    """The headers of a request that the routes of keys know; None for a header that is not there.

    Those that may be a list are joined; any other that comes twice must say the same twice.
    """

    __slots__ = _NAMES

    accept: bytes | None
    consistency: bytes | None
    content_encoding: bytes | None
    content_length: bytes | None
    content_range: bytes | None
    content_type: bytes | None
    expect: bytes | None
    idempotency_key: bytes | None
    last_event_id: bytes | None
    if_match: bytes | None
    if_none_match: bytes | None
    if_unmodified_since: bytes | None
    session: bytes | None
    transfer_encoding: bytes | None

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Reads the headers of a request, with names in lower case.

        Raises:
            BadRequestError: A header that has one value comes with two.
        """
        for slot in _NAMES:
            setattr(self, slot, None)
        for name, value in headers:
            slot = _SLOTS.get(name, "")
            if not slot:
                continue
            before = getattr(self, slot)
            if before is not None and before != value:
                if slot not in _LISTS:
                    code = "bad_consistency" if slot == "consistency" else "bad_request"
                    raise BadRequestError(code, f"The header {name.decode()} comes with two values.")
                value = before + b", " + value  # noqa: PLW2901
            setattr(self, slot, value)


_OURS = frozenset({"consistency", "session"})
_SLOTS = {(f"doug-{slot}" if slot in _OURS else slot.replace("_", "-")).encode(): slot for slot in _NAMES}
_LISTS = frozenset({"accept", "if_match", "if_none_match", "content_encoding", "expect", "transfer_encoding"})


FRESH = Freshness()
"""The freshness of a read that asks for none: linearizable."""

STALENESS_MS_MAX = 24 * 3_600_000


class Wait(NamedTuple):
    """A long poll: how long a read waits, and the revision that it knows: 0 for no key, None for the present one."""

    wait_ms: int
    after: int | None


class RequestOptions(NamedTuple):
    """The options of a request of keys.

    Attributes:
        asked: How fresh a read must be.
        condition: The condition of a write; None for none.
        only_if: The If-Match of a read.
        unless: The If-None-Match of a read.
        ttl: The time to live in milliseconds, ``KEEP``, or 0 if none was named.
        idempotency_key: The key that makes a write happen once; empty without one.
        as_json: Whether the JSON view is asked for.
        key: The key, if the query names it (``key64``).
        wait: How long a read waits for a change, and behind which revision; None if it does not wait.
        session: The session token; None without one.
    """

    asked: Freshness = FRESH
    condition: Condition | None = None
    only_if: Tags | None = None
    unless: Tags | None = None
    ttl: int = 0
    idempotency_key: str = ""
    as_json: bool = False
    key: bytes | None = None
    session: bytes | None = None
    wait: Wait | None = None


READ_PARAMETERS = frozenset({b"consistency", b"max_staleness", b"key64"})
WRITE_PARAMETERS = READ_PARAMETERS
GET_PARAMETERS = READ_PARAMETERS | {b"wait", b"after"}
EXPIRING_PARAMETERS = READ_PARAMETERS | {b"ttl"}


def parse_query(query: bytes, known: frozenset[bytes]) -> dict[bytes, bytes]:
    """Reads a query whose parameters come once each.

    Raises:
        BadRequestError: A parameter is not known, comes twice with two values, or is badly escaped.
    """
    found: dict[bytes, bytes] = {}
    for part in query.split(b"&") if query else ():
        if not part:
            continue
        raw_name, _, raw_value = part.partition(b"=")
        name = unescape(raw_name.replace(b"+", b" "), "query")
        if name not in known:
            shown = name.decode("utf-8", "backslashreplace")[:64]
            names = ", ".join(sorted(each.decode() for each in known)) or "none"
            raise BadRequestError("unknown_parameter", f"Unknown query parameter {shown!r}; known: {names}.")
        value = unescape(raw_value.replace(b"+", b" "), "query")
        if found.setdefault(name, value) != value:
            code = "bad_consistency" if name == b"consistency" else "bad_request"
            raise BadRequestError(code, f"The query names {name.decode()} twice.")
    return found


def freshness_of(named: bytes | None, staleness: bytes | None, header: bytes | None) -> Freshness:
    """The freshness that a read asks for, by the query and the header Doug-Consistency.

    Args:
        named: The query's ``consistency``.
        staleness: The query's ``max_staleness``.
        header: The header; ``bounded; max_staleness=2s`` names both.

    Raises:
        BadRequestError: The consistency is unknown, makes no sense, or is named in two ways.
    """
    if named is None and staleness is None and header is None:
        return FRESH
    if header is not None:
        by_header, *parameters = (part.strip() for part in header.split(b";"))
        named = _one("consistency", named, by_header)
        for parameter in parameters:
            name, _, value = parameter.partition(b"=")
            if name.strip().replace(b"-", b"_") != b"max_staleness":
                raise BadRequestError("bad_consistency", "Doug-Consistency has no parameter but max_staleness.")
            staleness = _one("max_staleness", staleness, value.strip())
    mode = LINEARIZABLE if named is None else READ_MODES.get(named)
    if mode is None:
        shown = (named or b"").decode("utf-8", "backslashreplace")[:64]
        known = ", ".join(name.decode() for name in READ_MODES)
        raise BadRequestError("bad_consistency", f"Unknown consistency {shown!r}; known: {known}.")
    if (mode is BOUNDED) is not (staleness is not None):
        raise BadRequestError("bad_consistency", "max_staleness goes with bounded, and bounded with max_staleness.")
    return Freshness(mode, 0 if staleness is None else _staleness_ms(staleness))


def _one(what: str, first: bytes | None, second: bytes) -> bytes:
    if first is not None and first != second:
        raise BadRequestError("bad_consistency", f"Query and header Doug-Consistency name two of {what}.")
    return second


def _staleness_ms(text: bytes) -> int:
    try:
        found = ttl_ms(text, may_keep=False)
    except BadRequestError:
        found = 0
    if not 0 < found <= STALENESS_MS_MAX:
        shown = text.decode("utf-8", "backslashreplace")[:64]
        raise BadRequestError("bad_consistency", f"max_staleness {shown!r} is no time as 500ms or 2s of up to a day.")
    return found


def decode64(name: str, text: bytes, code: str) -> bytes:
    """Decodes base64url, with or without its padding.

    Args:
        name: The name of the parameter.
        text: The value of the parameter.
        code: The code of the problem.

    Raises:
        BadRequestError: The value is none of these.
    """
    padded = text.rstrip(b"=")
    try:
        if b"+" in text or b"/" in text or len(text) - len(padded) > 2:
            raise binascii.Error
        found = base64.b64decode(padded + b"=" * (-len(padded) % 4), altchars=b"-_", validate=True)
        if base64.urlsafe_b64encode(found).rstrip(b"=") != padded:
            raise binascii.Error  # Bits are left over: a second spelling of the same key.
        return found
    except binascii.Error:
        raise BadRequestError(code, f"{name} is not base64url (RFC 4648, 5).") from None


def decode_key64(text: bytes) -> bytes:
    """Decodes a key of any bytes in base64url.

    Raises:
        BadRequestError: The text is no base64url, or the bytes are no key.
    """
    return check_key(decode64("key64", text, "bad_key64"))


def check_key(key: bytes) -> bytes:
    """Refuses bytes that are no key.

    Raises:
        BadRequestError: The key is empty or too long.
    """
    if not key:
        raise BadRequestError("empty_key", "The key is empty.")
    if len(key) > KEY_BYTES_MAX:
        raise BadRequestError("key_too_long", f"The key has {len(key)} bytes; the limit is {KEY_BYTES_MAX}.")
    return key


def parse_idempotency_key(text: bytes | None, most: int = IDEMPOTENCY_KEY_MAX) -> str:
    """The idempotency key; empty for none. A string in quotes, as the draft has it, or the bare text.

    Raises:
        BadRequestError: The idempotency key is empty, too long, or not printable ASCII.
    """
    if text is None:
        return ""
    bare = text.strip(b" \t")
    if len(bare) >= 2 and bare[:1] == bare[-1:] == b'"':
        inner = bare[1:-1]
        bare = re.sub(rb"\\([\"\\])", rb"\1", inner)
    if len(bare) > most or not _IDEMPOTENCY_KEY.match(bare):
        raise BadRequestError("bad_idempotency_key", f"Idempotency-Key has 1 to {most} printable ASCII characters.")
    return bare.decode()


def parse_read(query: bytes, headers: Headers) -> RequestOptions:
    """The options of GET and HEAD.

    Raises:
        BadRequestError: The options make no sense.
    """
    if not query and headers.consistency is None and headers.if_none_match is None and headers.if_match is None:
        return RequestOptions(as_json=wants_json(headers.accept), session=headers.session)
    found = parse_query(query, GET_PARAMETERS)
    return RequestOptions(
        wait=parse_wait(found.get(b"wait"), found.get(b"after")),
        asked=freshness_of(found.get(b"consistency"), found.get(b"max_staleness"), headers.consistency),
        session=headers.session,
        only_if=None if headers.if_match is None else parse_tags("If-Match", headers.if_match, weak=False),
        unless=None if headers.if_none_match is None else parse_tags("If-None-Match", headers.if_none_match, weak=True),
        as_json=wants_json(headers.accept),
        key=None if (key64 := found.get(b"key64")) is None else decode_key64(key64),
    )


def parse_wait(wait: bytes | None, after: bytes | None) -> Wait | None:
    """How long a read waits for a change, and behind which revision; None if it does not wait.

    Raises:
        BadRequestError: The options make no sense.
    """
    if wait is None:
        if after is not None:
            raise BadRequestError("bad_parameter", "after is for a read that waits: wait=30s.")
        return None
    match = _WAIT.match(wait)
    wait_ms = int(match[1]) * UNITS_MS[match[2]] if match else 0
    if not 0 < wait_ms <= WAIT_MS_MAX:
        raise BadRequestError("bad_parameter", "wait is a time such as 30s, of at most 10m.")
    if after is not None and not (after.isdigit() and len(after) <= _REVISION_DIGITS):
        raise BadRequestError("bad_parameter", "after is the revision that is known, or 0 for none.")
    return Wait(wait_ms, None if after is None else int(after))


def parse_write(
    query: bytes, headers: Headers, parameters: frozenset[bytes] = WRITE_PARAMETERS, *, may_keep: bool = True
) -> RequestOptions:
    """The options of a write.

    Args:
        query: The raw query.
        headers: The headers.
        parameters: The query parameters that the route knows.
        may_keep: Whether ``ttl=keep`` makes sense.

    Raises:
        BadRequestError: The options make no sense.
    """
    if headers.if_unmodified_since is not None:
        detail = "If-Unmodified-Since is not kept, for values have no dates: use If-Match with the ETag."
        raise BadRequestError("not_implemented", detail, status=501)
    found = parse_query(query, parameters) if query else {}
    ttl = found.get(b"ttl")
    # Writes are linearizable whatever is asked for, but what is asked for must make sense.
    asked = freshness_of(found.get(b"consistency"), found.get(b"max_staleness"), headers.consistency)
    return RequestOptions(
        asked=asked,
        session=headers.session,
        condition=write_condition(headers.if_match, headers.if_none_match),
        ttl=0 if ttl is None else ttl_ms(ttl, may_keep=may_keep),
        idempotency_key=parse_idempotency_key(headers.idempotency_key),
        key=None if (key64 := found.get(b"key64")) is None else decode_key64(key64),
    )


def check_content(content_type: bytes | None, content_encoding: bytes | None) -> tuple[bytes, bytes]:
    """The content type and encoding that are kept with a value; the encoding ``identity`` is none.

    Raises:
        BadRequestError: One of them cannot be kept.
    """
    content_type = content_type or b""
    content_encoding = content_encoding or b""
    if len(content_type) > CONTENT_TYPE_BYTES_MAX or not is_printable(content_type):
        raise BadRequestError(
            "bad_content_type", f"The content type is not printable ASCII of at most {CONTENT_TYPE_BYTES_MAX} bytes."
        )
    if content_encoding.lower() == _IDENTITY:
        content_encoding = b""
    if len(content_encoding) > CONTENT_ENCODING_BYTES_MAX or not is_printable(content_encoding):
        raise BadRequestError(
            "bad_content_encoding",
            f"The content encoding is not printable ASCII of at most {CONTENT_ENCODING_BYTES_MAX} bytes.",
        )
    return content_type, content_encoding
