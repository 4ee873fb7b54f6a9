"""Times as clients write them: how long a key is to live, and when it expires.

Must not know what they are for. Invariant: what is not understood in full is refused; nothing is rounded.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from doug_wire.command import KEEP, TTL_MS_MAX
from facade.errors import BadRequestError

UNITS_MS = {b"ms": 1, b"": 1000, b"s": 1000, b"m": 60_000, b"h": 3_600_000, b"d": 86_400_000}
_TTL = re.compile(rb"([0-9]{1,15})(ms|s|m|h|d|)\Z")


def ttl_ms(text: bytes, *, may_keep: bool) -> int:
    """Reads ``30``, ``30s``, ``500ms``, ``5m``, ``2h``, ``7d``, and where that makes sense ``keep``.

    Returns:
        Milliseconds, or ``KEEP``.

    Raises:
        BadRequestError: The text is none of these, or not between 1 ms and a hundred years.
    """
    if text == b"keep" and may_keep:
        return KEEP
    match = _TTL.match(text)
    found = int(match[1]) * UNITS_MS[match[2]] if match else 0
    if not 0 < found <= TTL_MS_MAX:
        shown = text.decode("utf-8", "backslashreplace")[:64]
        forms = "30, 30s, 500ms, 5m, 2h, 7d" + (", keep" if may_keep else "")
        raise BadRequestError("bad_ttl", f"The ttl {shown!r} is none of {forms}, or longer than a hundred years.")
    return found


def timestamp(time_ms: int) -> str:
    """A time in milliseconds since the epoch as RFC 3339 has it, in UTC."""
    seconds, millis = divmod(time_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{millis:03d}Z"
