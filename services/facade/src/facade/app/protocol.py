"""uvicorn's HTTP/1.1 protocol with the limits that it lacks: on the size of a request's head, and on its time.

Must not know routes. Invariants: (1) a head is bounded in bytes; (2) a connection that sends its head slower than
allowed is closed; (3) a request that cannot be parsed is told so with a problem document.

Source: reliability.md, part 5.
"""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from facade.errors import BadRequestError
from facade.routes import problem

HEAD_BYTES_MAX = 32 << 10

_LATE = BadRequestError("head_timeout", "The head of the request did not arrive in time.", status=408)
_LARGE = BadRequestError("head_too_large", f"The head of the request exceeds {HEAD_BYTES_MAX} bytes.", status=431)
_MALFORMED = BadRequestError("bad_request", "This is not well-formed HTTP/1.1; paths are percent-encoded ASCII.")
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        head_since_s: Since when the head of a request is awaited; None while none is.
    """

    head_since_s: float | None = None
    _head_bytes = 0

    def connection_made(self, transport: object) -> None:
        """A connection that never says anything is late too."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.head_since_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Parses, and bounds a head that does not end."""
        super().data_received(data)
        if self.head_since_s is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self._refuse(_LARGE)

    def on_message_begin(self) -> None:
        """The head begins."""
        super().on_message_begin()
        self._head_bytes = 0
        if self.head_since_s is None:
            self.head_since_s = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Refuses a fragment, which would cut the key silently."""
        if b"#" in url:
            raise httptools.HttpParserInvalidURLError("a fragment in the request target")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts."""
        self._head_bytes += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is here."""
        self.head_since_s = None
        if self._head_bytes > HEAD_BYTES_MAX:
            raise httptools.HttpParserError("the head is too large")
        super().on_headers_complete()

    def check_time(self, before_s: float) -> None:
        """Closes the connection if its head has been awaited since before ``before_s``."""
        if self.head_since_s is not None and self.head_since_s < before_s and not self.transport.is_closing():
            self._refuse(_LATE)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for a request that it cannot parse."""
        self._refuse(_LARGE if self._head_bytes > HEAD_BYTES_MAX else _MALFORMED)

    def _refuse(self, error: BadRequestError) -> None:
        body = problem.document(error)
        lines = [b"HTTP/1.1 %d %s" % (error.status, _REASONS[error.status])]
        lines.extend(b"%s: %s" % header for header in problem.headers(error, body))
        lines.append(b"connection: close")
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.transport.close()
