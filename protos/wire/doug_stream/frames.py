"""Frames of HTTP/2: how they are packed, and how they are cut out of what arrives.

Must not know streams or what a frame means.

Source: RFC 9113, sections 4.1 and 6.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from doug_stream.codes import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    RST_STREAM,
    SETTINGS,
    WINDOW_MAX,
    WINDOW_UPDATE,
    ErrorCode,
)
from doug_stream.errors import ProtocolError

HEAD = Struct(">HBBBI")
"""Length (16 and 8 bits), type, flags, stream."""
HEAD_BYTES = 9
SETTING = Struct(">HI")
_WORD = Struct(">I")
_PAIR = Struct(">II")


Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""


class FrameReader:
    """Cuts frames out of what arrives. What is kept is at most one frame that is not complete."""

    def __init__(self, preface: bytes, frame_bytes_max: int) -> None:
        """Takes frames of up to ``frame_bytes_max``, behind ``preface``."""
        self._buffer = b""
        self._preface = preface
        self._frame_bytes_max = frame_bytes_max

    def feed(self, data: bytes) -> list[Frame]:
        """Takes the next bytes; gives the frames that they complete.

        Raises:
            ProtocolError: This is no HTTP/2, or a frame is too long.
        """
        if self._buffer:
            data = self._buffer + data
        at, end = 0, len(data)
        if self._preface:
            at = min(end, len(self._preface))
            if data[:at] != self._preface[:at]:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
            if at < len(self._preface):
                self._buffer = data
                return []
            self._preface = b""
        found = []
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, stream_id = HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > self._frame_bytes_max:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = at + HEAD_BYTES
            if end - start < size:
                break
            at = start + size
            found.append((kind, flags, stream_id & WINDOW_MAX, data[start:at]))
        self._buffer = data[at:]
        return found


def frame(kind: int, flags: int, stream_id: int, payload: bytes | memoryview = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*value) for value in values))


def window_update(stream_id: int, size: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW_UPDATE, 0, stream_id, _WORD.pack(size))


def reset(stream_id: int, code: int) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream_id, _WORD.pack(code))


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """GOAWAY."""
    return frame(GOAWAY, 0, 0, _PAIR.pack(last_stream_id, code) + debug)


def headers(stream_id: int, block: bytes, frame_bytes_max: int, *, end_stream: bool) -> bytes:
    """HEADERS, and as many CONTINUATIONs as the block needs."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= frame_bytes_max:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[at : at + frame_bytes_max] for at in range(0, len(block), frame_bytes_max)]
    packed = [frame(HEADERS, flags, stream_id, parts[0])]
    packed += [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    packed.append(frame(CONTINUATION, END_HEADERS, stream_id, parts[-1]))
    return b"".join(packed)


def word(payload: bytes, what: str) -> int:
    """The one number of a WINDOW_UPDATE or RST_STREAM.

    Raises:
        ProtocolError: The payload has another length.
    """
    if len(payload) != _WORD.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"{what} has {len(payload)} bytes")
    (value,) = _WORD.unpack(payload)
    return int(value)


def goaway_fields(payload: bytes) -> tuple[int, int, bytes]:
    """The last stream, the code and the debug data of a GOAWAY.

    Raises:
        ProtocolError: The payload is too short.
    """
    if len(payload) < _PAIR.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY that is too short")
    last, code = _PAIR.unpack_from(payload)
    return last & 0x7FFFFFFF, code, payload[_PAIR.size :]


def settings_fields(payload: bytes) -> list[tuple[int, int]]:
    """The parameters and values of a SETTINGS.

    Raises:
        ProtocolError: The payload has a length that no SETTINGS can have.
    """
    if len(payload) % SETTING.size:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    return list(SETTING.iter_unpack(payload))


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding.

    Raises:
        ProtocolError: The padding is longer than the frame.
    """
    if not flags & PADDED:
        return payload
    if not payload:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "padding without its length")
    end = len(payload) - payload[0]
    if end < 1:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1:end]


def check_priority(stream_id: int, payload: bytes) -> None:
    """Looks at the five bytes of a priority, which nobody uses any more.

    Raises:
        ProtocolError: They are not five, or the stream depends on itself.
    """
    if len(payload) != 5:
        raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a priority that is not five bytes")
    if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
