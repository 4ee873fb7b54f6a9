"""The state of one stream of a connection: the bytes still to be sent, and the bytes that may still come in.

Must not know frames other than the bytes that it hands out.

Invariants:
    1. ``send_window`` covers what was sent and never what waits; messages leave in the order in which they came.
    2. What is not read yet and what may still come in are together at most the window, beside one message that is not
       complete (``messages.Assembler``).

Source: RFC 9113, sections 5.1, 5.2, 6.9 and 8.1.1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from doug_stream.codes import ErrorCode, StatusCode
from doug_stream.errors import CallError, ProtocolError, StreamFault
from doug_stream.headers import Fields
from doug_stream.limits import Limits
from doug_stream.messages import Assembler

CONNECTION_WINDOW = 64 << 20
"""The windows of the streams are what bounds; one stream must not hold up the others by this one."""
LITTLE_BYTES = 256
"""The size below which content that completes no message, and the growth of a window, are not worth their frame: peers
that mean well send such frames only where a window of theirs or ours ends."""
MESSAGE_BYTES = 256
"""What a message takes beside its bytes, while nobody has taken it."""


class Arrivals:
    """What may still come in on a connection, whatever its stream."""

    __slots__ = ("_credit", "_window")

    def __init__(self) -> None:
        """Begins with a whole window."""
        self._window, self._credit = CONNECTION_WINDOW, 0

    def count(self, size: int) -> int:
        """Counts what came in; says by how much the window shall grow now, 0 for not yet.

        Raises:
            ProtocolError: It is more than this end allowed.
        """
        self._window -= size
        if self._window < 0:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window")
        self._credit += size
        if self._credit < CONNECTION_WINDOW >> 1:
            return 0
        grown, self._credit = self._credit, 0
        self._window += grown
        return grown


class Stream:
    """One stream.

    Attributes:
        id: The stream's number.
        send_window: How much the peer takes.
        pending: What waits for that.
        tail: The trailers that follow, if any.
        length_left: How many bytes of content are still to come by the peer's ``content-length``; None if it said none.
        head_sent: Whether this end's headers have gone.
        end_sent: Whether this end sends nothing more but what waits, and ``tail``.
        head_received: Whether the peer's headers are here.
        end_received: Whether the peer sends nothing more.
        assembler: Makes messages of what comes in.
    """

    __slots__ = (
        "_credit",
        "_early",
        "_receive_window",
        "_unread",
        "_window",
        "assembler",
        "end_received",
        "end_sent",
        "head_received",
        "head_sent",
        "id",
        "length_left",
        "pending",
        "send_window",
        "tail",
    )

    def __init__(self, stream_id: int, send_window: int, window: int, message_bytes_max: int) -> None:
        """Begins with nothing sent."""
        self.id = stream_id
        self.send_window = send_window
        self.pending: deque[bytes | memoryview] = deque()
        self.tail: Fields | None = None
        self.length_left: int | None = None
        self.head_sent = self.end_sent = self.head_received = self.end_received = False
        self.assembler = Assembler(message_bytes_max)
        self._window = window
        self._receive_window = window
        self._credit = 0
        self._unread = 0
        self._early = 0

    def arrived(self, size: int) -> bool:
        """Counts what came in, padding included; False when it is more than this end allowed."""
        self._receive_window -= size
        return self._receive_window >= 0

    def count(self, size: int, *, last: bool) -> None:
        """Counts content, without padding, against what was announced.

        Args:
            size: The bytes of content that came.
            last: Whether the peer sends nothing more.

        Raises:
            StreamFault: It is more than that, or ends before (RFC 9113, 8.1.1).
        """
        if self.length_left is not None:
            self.length_left -= size
            if self.length_left < 0 or (last and self.length_left):
                raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR, "content-length says otherwise")

    @property
    def unread_bytes(self) -> int:
        """How many bytes wait until somebody takes them."""
        return self._window - self._receive_window - self._credit + self._unread * MESSAGE_BYTES

    def owed(self, message: bytes) -> int:
        """The bytes of the window to give back to the peer once the next message was taken."""
        owed = len(message) + 5 - self._early
        self._early = 0
        self._unread += 1
        return owed

    def give_back(self, size: int, *, taken: bool = False) -> int:
        """Counts what the peer may send again; says by how much the window shall grow now, 0 for not yet.

        Args:
            size: Of padding, or of what a message owed.
            taken: Whether a message was taken.
        """
        self._credit += size
        if taken:
            self._unread -= 1
        if not self._unread:
            # No message waits, so the rest of a message that is longer than the window is allowed.
            self._credit += self.assembler.waiting_bytes - self._early
            self._early = self.assembler.waiting_bytes
        if self.end_received or self._credit < self._window >> 1:
            return 0
        grown, self._credit = self._credit, 0
        self._receive_window += grown
        return grown

    def cut(self, size: int) -> bytes | memoryview:
        """Takes up to ``size`` bytes off the front of what waits. Requires: something waits."""
        first = self.pending[0]
        if len(first) <= size:
            return self.pending.popleft()
        # A view: a peer that opens its window byte by byte must not have the rest copied each time.
        first = memoryview(first)
        self.pending[0] = first[size:]
        return first[:size]


def check_kept(stream: Stream, streams: Collection[Stream], limits: Limits, *, client: bool) -> None:
    """Refuses content that has come, if the connection has too much of it that is not complete, or not taken.

    Streams with little enough are not added up; with them it may be twice as much.

    Args:
        stream: The stream of the content.
        streams: All streams of the connection.
        limits: How much may wait.
        client: Whether this end has asked for what comes: then the windows of its calls bound what nobody takes.

    Raises:
        CallError: It is more.
    """
    count, most, what = len(streams), limits.unfinished_bytes_max, "of messages that are not complete"
    beyond = stream.assembler.waiting_bytes * count > most and sum(_unfinished(streams)) > most
    if not beyond and not client:
        most, what = limits.unread_bytes_max, "that nobody has taken yet"
        beyond = stream.unread_bytes * count > most and sum(each.unread_bytes for each in streams) > most
    if beyond:
        raise CallError(StatusCode.RESOURCE_EXHAUSTED, f"more than {most} bytes {what}")


def _unfinished(streams: Collection[Stream]) -> Iterator[int]:
    return (each.assembler.waiting_bytes for each in streams)
