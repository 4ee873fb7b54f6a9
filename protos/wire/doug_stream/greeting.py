"""The first frames of either end of a connection: what it asks of the other one, and room for it to send.

Source: RFC 9113, 3.4 and 6.5.2.
"""

from __future__ import annotations

from doug_stream import frames
from doug_stream.codes import PREFACE, WINDOW_DEFAULT, Setting
from doug_stream.limits import Limits


def first_frames(limits: Limits, window_bytes: int, *, client: bool, mark: bool) -> bytes:
    """The bytes that an end sends before anything else.

    Args:
        limits: The bounds of what the peer may do.
        window_bytes: How much the peer may send on all streams together before it is told of more room.
        client: Whether this end opens the streams.
        mark: Whether to tell the server that this is a client of this package.
    """
    values = [(Setting.MARK, 1)] if mark else []
    values.append((Setting.INITIAL_WINDOW_SIZE, limits.window_bytes))
    values.append((Setting.MAX_FRAME_SIZE, limits.frame_bytes_max))
    values.append((Setting.MAX_HEADER_LIST_SIZE, limits.header_bytes_max))
    values.append((Setting.ENABLE_PUSH, 0) if client else (Setting.MAX_CONCURRENT_STREAMS, limits.streams_max))
    preface = PREFACE if client else b""
    return preface + frames.settings(values) + frames.window_update(0, window_bytes - WINDOW_DEFAULT)
