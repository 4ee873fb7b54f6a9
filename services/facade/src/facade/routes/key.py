"""Which key a request is for, and whether its answer is to be JSON. Pure functions on bytes.

Keys are bytes that must be UTF-8. They are read from the raw path, because frameworks replace bad bytes and lose the
difference between keys. Invariants: (1) nothing is ever replaced or normalised: dots, double slashes and composed
characters stay; (2) ``/`` and ``%2F`` are the same byte; (3) what is not understood is refused, never ignored.

Source: docs/api.md, Keys and values; RFC 3986; RFC 9110, 12.5.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from doug_wire.command import KEY_BYTES_MAX
from facade.errors import BadRequestError

KEY_PREFIX = b"/v1/kv"

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def unescape(raw: bytes, what: str) -> bytes:
    """Percent-decodes strictly.

    Raises:
        BadRequestError: A ``%`` is not followed by two hexadecimal digits.
    """
    if b"%" not in raw:
        return raw
    if _BAD_ESCAPE.search(raw):
        raise BadRequestError("bad_escape", f"In the {what}, a % is not followed by two hexadecimal digits.")
    return unquote_to_bytes(raw)


def key_of(raw_path: bytes) -> bytes:
    """The key in a raw path ``/v1/kv/...``.

    Raises:
        BadRequestError: The key is empty, too long, badly escaped, or not UTF-8.
    """
    key = raw_path[len(KEY_PREFIX) + 1 :]
    if b"%" in key:
        key = unescape(key, "key")
    if not key:
        raise BadRequestError("empty_key", "The key is empty.")
    if len(key) > KEY_BYTES_MAX:
        raise BadRequestError("key_too_long", f"The key has {len(key)} bytes; the limit is {KEY_BYTES_MAX}.")
    if not key.isascii():
        try:
            key.decode()
        except UnicodeDecodeError:
            raise BadRequestError("key_not_utf8", "The key, percent-decoded, is not valid UTF-8.") from None
    return key


def quality_of(parameters: Iterable[bytes]) -> float:
    """How much a media type is preferred, by the parameters behind it in Accept; 0 for a quality that is none."""
    for parameter in parameters:
        if parameter.startswith(b"q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                return 0.0
            return quality if 0.0 <= quality <= 1.0 else 0.0
    return 1.0


def wants_json(accept: bytes | None) -> bool:
    """Whether ``application/json`` is asked for by name, and nothing else is preferred to it."""
    if accept is None or b"json" not in accept.lower():
        return False
    json_quality, best = 0.0, 0.0
    for part in accept.lower().split(b","):
        media_type, *parameters = (piece.strip() for piece in part.split(b";"))
        quality = quality_of(parameters)
        best = max(best, quality)
        if media_type == b"application/json":
            json_quality = max(json_quality, quality)
    return 0.0 < json_quality >= best
