"""The errors of a connection or a call.

Exception
+-- ProtocolError     the peer broke the rules of HTTP/2: the connection ends
|   +-- StreamFault   it broke them within one stream: that stream ends
+-- CallError         a call ended otherwise than well, or cannot be used any more
"""

from __future__ import annotations

from doug_stream.codes import ErrorCode, StatusCode


class ProtocolError(Exception):
    """The peer broke the rules.

    Attributes:
        code: Why, for GOAWAY or RST_STREAM.
    """

    def __init__(self, code: ErrorCode, what: str) -> None:
        """Says what it did."""
        super().__init__(what)
        self.code = code


class StreamFault(ProtocolError):  # noqa: N818 - it is a fault of the peer's, not an error of a caller's
    """The peer broke the rules within one stream.

    Attributes:
        stream_id: Which one.
    """

    def __init__(self, stream_id: int, code: ErrorCode, what: str) -> None:
        """Says what it did."""
        super().__init__(code, what)
        self.stream_id = stream_id


class CallError(Exception):
    """A call is over and did not end well.

    Attributes:
        status: gRPC's code.
        details: The message beside it.
        trailers: The metadata at the end.
    """

    def __init__(
        self, status: StatusCode, details: str = "", trailers: tuple[tuple[str, str | bytes], ...] = ()
    ) -> None:
        """Keeps what is known."""
        super().__init__(f"{status.name}: {details}")
        self.status = status
        self.details = details
        self.trailers = trailers
