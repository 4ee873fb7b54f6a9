"""Request bodies: read with a limit on bytes and time, and JSON read strictly.

Must not know what the bytes are for. Invariants: (1) no more than the limit is ever held, whatever Content-Length says;
(2) nothing waits for a body longer than its time; (3) what JSON becomes takes memory within bounds, too.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from facade.errors import BadRequestError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

DRAINED_BYTES_MAX = 64 << 20
"""The longest refused body that is read to its end, so that its sender sees the answer; else the connection ends."""

PARTS_MAX = 1 << 19
"""How many values and members JSON may have: one of three bytes takes seventy, and several times as many as any request
needs make some 50 MiB."""
_AT_ONCE = 1024
_PARTS = re.compile(
    rb'(?:(?:[^"\[{,]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+[\[{,]){%d}' % _AT_ONCE,
    re.DOTALL,
)
"""So many parts: what stands within strings is none. Nothing is read twice, whatever it is."""


class DisconnectedError(Exception):
    """The client went away before its body was here. No answer can reach it."""


def too_large(limit: int, announced: int = 0, *, close: bool = False) -> BadRequestError:
    """The error for a body over the limit."""
    close = close or announced > DRAINED_BYTES_MAX
    return BadRequestError(
        "value_too_large",
        f"The value is larger than {limit} bytes.",
        status=413,
        headers=((b"connection", b"close"),) if close else (),
    )


async def read(receive: Receive, limit: int, timeout_s: float) -> bytes:
    """Reads a whole body.

    Raises:
        BadRequestError: The body is too large (413) or too slow (408).
        DisconnectedError: The client went away.
    """
    try:
        async with asyncio.timeout(timeout_s):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            body: bytes = message.get("body", b"")
            if not message.get("more_body", False):
                if len(body) > limit:
                    raise too_large(limit)
                return body
            chunks, size = [body], len(body)
            while message.get("more_body", False):
                if size > limit:
                    raise too_large(limit)
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise DisconnectedError
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
            if size > limit:
                raise too_large(limit)
            return b"".join(chunks)
    except TimeoutError:
        raise BadRequestError(
            "body_timeout",
            f"The body did not arrive within {timeout_s:g} s.",
            status=408,
            headers=((b"connection", b"close"),),
        ) from None


def parse_json(body: bytes) -> Any:
    """Reads a JSON body strictly: UTF-8, no NaN, nothing behind it.

    Raises:
        BadRequestError: The body is not JSON, or has too many parts (413).
    """
    # Each part takes at least a byte, and nearly all bodies have few such bytes even within strings.
    if len(body) > PARTS_MAX and sum(map(body.count, (b",", b"{", b"["))) > PARTS_MAX and _has_too_many(body):
        detail = f"The JSON has more than {PARTS_MAX} values and members."
        raise BadRequestError("body_too_large", detail, status=413)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequestError("bad_json", f"The body is not JSON: {error}.") from None


def _has_too_many(body: bytes) -> bool:
    """Whether JSON has more than ``PARTS_MAX`` values and members."""
    count = at = 0
    while count <= PARTS_MAX and (found := _PARTS.match(body, at)):
        count, at = count + _AT_ONCE, found.end()
    return count > PARTS_MAX


def parse_named(body: bytes) -> Any:
    """Reads a JSON body as ``parse_json`` does, for a route on which no two readers may understand it differently.

    Of two members of one name some programs take the first and others the last, so that whoever looked a request
    through would not see what is done. It takes some times as long as ``parse_json``.

    Raises:
        BadRequestError: The body is not JSON, or names a member of an object twice.
    """
    document = parse_json(body)
    try:
        # The numbers do not count here, and Python refuses long ones.
        json.loads(body, object_pairs_hook=_check_names, parse_int=str, parse_float=str)
    except RecursionError:
        raise BadRequestError("bad_json", "The body is nested too deeply.") from None
    return document


def _check_names(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise BadRequestError("bad_json", f"The body names {name[:64]!r} twice in one object.")
        names.add(name)
