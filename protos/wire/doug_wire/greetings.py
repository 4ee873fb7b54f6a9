"""What a client may send before a TLS handshake is done: no more than clients have to say.

A client that is asked for a certificate may send a chain of hundreds, of a hundred kibibytes: each takes a quarter of a
millisecond to be read, before it is known that nobody here has signed it. Forty such clients a second, strangers to the
authority, kept an event loop from everything else. OpenSSL has a bound for it, which Python's ssl does not reach; the
bytes are counted here as they are handed to it. Must not know who the client is, nor sockets.

Invariants:
    1. Once a handshake is done, nothing here is called any more.
    2. What came behind a handshake that is done in time is not lost, however much it is.

Source: SSLContext.sslobject_class; RFC 8446, 4.4.2; SSL_CTX_set_max_cert_list(3).
"""

from __future__ import annotations

import ssl
from typing import Any

GREETING_BYTES_MAX = 16 << 10
"""So many bytes at least may a client send: several times a chain of three certificates of the longest keys in use."""


class Greeting(ssl.SSLObject):
    """The server's end of a connection."""

    _incoming: ssl.MemoryBIO
    _left: int

    def bound(self, incoming: ssl.MemoryBIO, most: int) -> None:
        """Lets the client send ``most`` bytes, which come in by ``incoming``, before the handshake is done."""
        self._incoming, self._left = incoming, most

    def do_handshake(self) -> None:
        """See ``ssl.SSLObject``.

        Raises:
            ssl.SSLError: The handshake fails, or more bytes have come than there may be.
        """
        incoming, behind = self._incoming, b""
        arrived = incoming.pending
        if arrived > self._left:
            data = incoming.read()
            incoming.write(data[: self._left])
            arrived, behind = self._left, data[self._left :]
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            if behind:
                raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the client sends too much before it is known") from None
            self._left -= arrived - incoming.pending
            raise
        if behind:
            incoming.write(behind)


class ServerContext(ssl.SSLContext):
    """A server's context whose clients are bounded.

    Attributes:
        greeting_bytes_max: How many bytes each client may send before its handshake is done.
    """

    sslobject_class = Greeting
    greeting_bytes_max = GREETING_BYTES_MAX

    def wrap_bio(self, incoming: ssl.MemoryBIO, *arguments: Any, **options: Any) -> Greeting:
        """See ``ssl.SSLContext``."""
        found = super().wrap_bio(incoming, *arguments, **options)
        assert isinstance(found, Greeting)
        found.bound(incoming, self.greeting_bytes_max)
        return found
