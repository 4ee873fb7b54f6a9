"""The outgoing half of a connection: packing frames, and keeping to the windows of the peer.

Must not know what comes in, but for the peer's windows and settings.

Invariants:
    1. No frame is longer, and no stream's or connection's DATA more, than the peer allows.
    2. The tail of a stream leaves behind its last message.
    3. Whoever waits for its own window costs nothing while that of the connection grows.

Source: RFC 9113, sections 5.2, 6.5.2 and 6.9.
"""

from __future__ import annotations

import hpack

from doug_stream import frames
from doug_stream.codes import (
    ACK,
    DATA,
    END_STREAM,
    FRAME_BYTES_DEFAULT,
    FRAME_BYTES_MAX,
    SETTINGS,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    ErrorCode,
    Setting,
)
from doug_stream.errors import ProtocolError, StreamFault
from doug_stream.headers import Fields
from doug_stream.messages import prefix
from doug_stream.streams import Stream

_TABLE_BYTES_MAX = 4096
_WINDOWS_OF_FRAME = 2
"""For how many growing windows a frame of content is a reason: the stream's, and the connection's."""
_WINDOWS_MAX = 512
"""How many growing windows what was sent explains at most: of peers that have much to take, several come together."""


class Sender:
    """Packs what goes out.

    Attributes:
        initial_window: The bytes that the peer takes of each new stream.
        streams_max: How many streams the peer takes at a time.
    """

    def __init__(self) -> None:
        """Knows what holds before the peer's SETTINGS."""
        self._out: list[bytes] = []
        self._encoder = hpack.Encoder()
        self._window = WINDOW_DEFAULT
        self._frame_bytes_max = FRAME_BYTES_DEFAULT
        self._blocked: dict[int, Stream] = {}
        self._narrow: dict[int, Stream] = {}
        self._windows = 0
        self.initial_window = WINDOW_DEFAULT
        self.streams_max = WINDOW_MAX

    @property
    def waits(self) -> bool:
        """Whether messages wait for a window."""
        return bool(self._blocked or self._narrow)

    def explains_window(self) -> bool:
        """Whether what was sent is a reason for a window of the peer to grow once more."""
        if not self._windows:
            return False
        self._windows -= 1
        return True

    def put(self, packed: bytes) -> None:
        """Adds a finished frame."""
        self._out.append(packed)

    def take(self) -> bytes:
        """Takes what is to be written now."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def headers(self, stream: Stream, fields: Fields, *, end_stream: bool = False) -> None:
        """Sends a header block."""
        stream.head_sent = True
        block = self._encoder.encode(fields)
        self._out.append(frames.headers(stream.id, block, self._frame_bytes_max, end_stream=end_stream))

    def message(self, stream: Stream, message: bytes) -> bool:
        """Sends a message; False when some of it has to wait."""
        size = len(message) + 5
        if size <= self._frame_bytes_max and size <= self._window and size <= stream.send_window and not stream.pending:
            stream.send_window -= size
            self._window -= size
            head = frames.HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream.id)
            self._out.append(b"".join((head, prefix(size - 5), message)))
            if self._windows < _WINDOWS_MAX:
                self._windows += _WINDOWS_OF_FRAME
            return True
        stream.pending.append(prefix(size - 5) + message)
        return self._pump(stream)

    def end(self, stream: Stream, tail: Fields | None) -> bool:
        """Ends this direction behind what waits, with trailers or without; says whether that has gone."""
        stream.end_sent = True
        stream.tail = tail
        if stream.pending:
            return False
        self._send_tail(stream)
        return True

    def forget(self, stream: Stream) -> None:
        """Sends no more of what waits."""
        stream.pending.clear()
        self._blocked.pop(stream.id, None)
        self._narrow.pop(stream.id, None)

    def grow_connection(self, size: int) -> list[Stream]:
        """The peer takes more on the connection; gives the streams whose messages have all gone now.

        Raises:
            ProtocolError: More than a window can be.
        """
        self._window += size
        if self._window > WINDOW_MAX:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond its limit")
        return self._pump_all()

    def grow_stream(self, stream: Stream, size: int) -> bool:
        """The peer takes more on a stream; says whether that sent the last of what waited.

        Raises:
            StreamFault: More than a window can be.
        """
        stream.send_window += size
        if stream.send_window > WINDOW_MAX:
            raise StreamFault(stream.id, ErrorCode.FLOW_CONTROL_ERROR, "a window beyond its limit")
        return bool(stream.pending) and self._pump(stream)

    def apply(self, values: list[tuple[int, int]], streams: list[Stream]) -> list[Stream]:
        """Takes the peer's SETTINGS over and says so; gives the streams whose messages have all gone now.

        Raises:
            ProtocolError: A value cannot be.
        """
        for name, value in values:
            if name == Setting.HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, _TABLE_BYTES_MAX)
            elif name == Setting.ENABLE_PUSH and value > 1:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
            elif name == Setting.MAX_CONCURRENT_STREAMS:
                self.streams_max = value
            elif name == Setting.INITIAL_WINDOW_SIZE:
                self._resize(value, streams)
            elif name == Setting.MAX_FRAME_SIZE:
                if not FRAME_BYTES_DEFAULT <= value <= FRAME_BYTES_MAX:
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
                self._frame_bytes_max = value
        sizes = self._encoder.table_size_changes
        if len(sizes) > 2:
            # The next block names the least size and the last one (RFC 7541, 4.2); it may be long in coming.
            sizes[:] = [min(sizes), sizes[-1]]
        # Sent before any frame that uses the new values: the peer keeps to the old ones until it reads this.
        self._out.append(frames.frame(SETTINGS, ACK, 0))
        # Those that waited for their own windows go on, or wait with the others for that of the connection now.
        return [*self._pump_all(), *[stream for stream in list(self._narrow.values()) if self._pump(stream)]]

    def _resize(self, value: int, streams: list[Stream]) -> None:
        if value > WINDOW_MAX:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
        # Windows of open streams move along, below zero if need be (RFC 9113, 6.9.2).
        change, self.initial_window = value - self.initial_window, value
        for stream in streams:
            stream.send_window += change
            if stream.send_window > WINDOW_MAX:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond its limit")

    def _pump_all(self) -> list[Stream]:
        """Goes on with the streams that wait for the connection's window; the others have nothing to gain by it."""
        sent = []
        for stream in list(self._blocked.values()):
            if self._window <= 0:
                break
            if self._pump(stream):
                sent.append(stream)
        return sent

    def _pump(self, stream: Stream) -> bool:
        """Sends what waits, as far as the windows allow; says whether nothing waits any more."""
        while stream.pending:
            size = min(self._frame_bytes_max, stream.send_window, self._window)
            if size <= 0:
                self._wait(stream)
                return False
            part = stream.cut(size)
            stream.send_window -= len(part)
            self._window -= len(part)
            self._windows = min(_WINDOWS_MAX, self._windows + _WINDOWS_OF_FRAME)
            self._out.append(frames.frame(DATA, 0, stream.id, part))
        self._blocked.pop(stream.id, None)
        self._narrow.pop(stream.id, None)
        if stream.end_sent:
            self._send_tail(stream)
        return True

    def _wait(self, stream: Stream) -> None:
        """Has a stream wait for its own window, or behind the other streams that wait for the connection's."""
        self._blocked.pop(stream.id, None)
        self._narrow.pop(stream.id, None)
        waiting = self._narrow if stream.send_window <= 0 else self._blocked
        waiting[stream.id] = stream

    def _send_tail(self, stream: Stream) -> None:
        # Trailers are packed only now: blocks share a table, so that they are packed in the order of their sending.
        if stream.tail is None:
            self._out.append(frames.frame(DATA, END_STREAM, stream.id))
        else:
            self.headers(stream, stream.tail, end_stream=True)
