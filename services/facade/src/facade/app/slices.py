"""How much of what has come on a connection is parsed at once: so few requests that one of them can be answered first.

A request that is parsed takes a hundred times its bytes of memory, and a thousand times as long as it takes to arrive;
what waits as bytes takes nothing. So the parser gets one head at a time, and what is behind it waits until it is known
whether the request begins. Within a body nobody knows here where the next head begins, so bodies come in larger pieces,
and in small ones where a head may be. Must not know what the bytes say.

Invariant: slices of any bytes are the bytes, and each is longer than nothing.

Source: RFC 9112, 2.1 (an empty line ends a head), 2.2 (empty lines before it are ignored) and 7.1 (and ends chunks).
"""

from __future__ import annotations

import re

SLICE_BYTES = 16 << 10
"""The bytes that are parsed at once at most."""
END_BYTES = 512
"""The bytes of a body that are parsed at once where it may end: at most a few requests come with them."""
_EMPTY_LINE = b"\r\n\r\n"
_BEFORE_HEAD = re.compile(rb"[\r\n]*")


def slice_end(data: bytes, at: int, *, in_body: bool) -> int:
    """Where the bytes end that are parsed at once.

    Args:
        data: What has come.
        at: Where they begin. Requires: this is within ``data``.
        in_body: Whether a body is arriving there; else a head is, or the empty lines before one.
    """
    most = min(len(data), at + SLICE_BYTES)
    if in_body:
        return min(most, at + END_BYTES) if data.find(_EMPTY_LINE, at, most) >= 0 else most
    begin = _BEFORE_HEAD.match(data, at, most)
    assert begin is not None
    end = data.find(_EMPTY_LINE, begin.end(), most)
    return end + len(_EMPTY_LINE) if end >= 0 else most
