"""The client's end on asyncio: connecting, and bidirectional calls with the interface of grpc.aio.

Must not know who is called or what is said.

Invariant: ``connect`` returns a connection whose peer has spoken HTTP/2, so that what is written may really leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypedDict

from doug_stream.codes import StatusCode
from doug_stream.connection import Connection
from doug_stream.endpoint import Call, Decode, Encode, Endpoint, Keepalive
from doug_stream.errors import CallError
from doug_stream.handing import hand_over
from doug_stream.limits import Bucket, Limits
from doug_stream.names import names

ALPN = "h2"
OWN_ALPN = "doug-stream"
"""Offered beside it and never chosen: by this a server's front tells a client of this package (``front``)."""


def offer_alpn(context: ssl.SSLContext) -> None:
    """Has a client's context offer what servers speak, and what a front looks for."""
    context.set_alpn_protocols([ALPN, OWN_ALPN])


class ClientCall(Call):
    """A call as its client sees it.

    Attributes:
        endpoint: The connection that carries it.
    """

    _deadline: asyncio.TimerHandle | None = None
    _owns_connection = False

    def __init__(self, endpoint: ClientEndpoint, stream_id: int, encode: Encode, decode: Decode) -> None:
        """Joins a call of the core; see ``Call``."""
        super().__init__(endpoint, stream_id, encode, decode)
        self.endpoint = endpoint

    def cancel(self) -> bool:
        """Ends the call; False when it was over. A connection that was made for it ends too."""
        going = self._end is None
        if going:
            if self.endpoint.may_reset():
                self.endpoint.core.reset(self.stream_id)
                self.endpoint.flush()
            else:
                # A server takes so many resets and no more: it learns of this one with the end of the connection.
                self.endpoint.retire()
            self.ended(CallError(StatusCode.CANCELLED, "cancelled by this end"))
        if self._owns_connection:
            self.endpoint.close()
        return going

    async def done_writing(self) -> None:
        """Tells the server that no further message comes."""
        self.endpoint.core.end(self.stream_id)
        self.endpoint.flush()

    def ended(self, end: CallError) -> None:
        """See ``Call``."""
        self.endpoint.calls.pop(self.stream_id, None)
        if self._deadline is not None:
            self._deadline.cancel()
        super().ended(end)
        self.endpoint.rest()

    def own_connection(self) -> None:
        """From now on the connection ends with the call."""
        self._owns_connection = True

    def limit(self, timeout_s: float) -> None:
        """Ends the call in so many seconds at the latest."""
        self._deadline = self.endpoint.loop.call_later(timeout_s, self._expire)

    def _expire(self) -> None:
        self.broken(CallError(StatusCode.DEADLINE_EXCEEDED, "the deadline has passed"))


class ClientEndpoint(Endpoint):
    """A connection to a server."""

    def __init__(self, authority: str, scheme: str, limits: Limits, keepalive: Keepalive) -> None:
        """Waits for its connection; see ``connect``."""
        super().__init__(Connection(client=True, limits=limits, mark=True), keepalive)
        self._authority = authority
        self._scheme = scheme
        # Half of what servers of this package take, whose clocks run otherwise.
        self._resets = Bucket(limits.resets_burst // 2, limits.resets_per_s / 2)
        self._retired = False

    def may_reset(self) -> bool:
        """Whether another call may be reset now without the server taking it for an attack."""
        return self._resets.take(self.loop.time())

    def retire(self) -> None:
        """Begins no further call, and closes the connection once those that go on have ended."""
        self._retired = True
        self.rest()

    def rest(self) -> None:
        """Looks whether the connection is retired and has no call left."""
        if self._retired and not self.calls:
            self.close()

    def call(
        self,
        path: str,
        encode: Encode,
        decode: Decode,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        timeout_s: float | None = None,
    ) -> ClientCall:
        """Begins a call.

        Args:
            path: The method, as ``/package.Service/Method``.
            encode: Makes bytes of a request.
            decode: Makes an answer of bytes.
            metadata: The metadata that is sent with the call.
            timeout_s: How long the call may take; for ever if None.

        Raises:
            CallError: The connection takes no further call.
            ValueError: The metadata cannot be sent.
        """
        if self.closed.done() or self._retired:
            raise CallError(StatusCode.UNAVAILABLE, "the connection is closed")
        stream_id = self.core.request(path, self._authority, self._scheme, metadata, timeout_s)
        call = self.calls[stream_id] = ClientCall(self, stream_id, encode, decode)
        if timeout_s is not None:
            call.limit(timeout_s)
        self.flush()
        return call


async def connect(
    host: str,
    port: int,
    context: ssl.SSLContext | None = None,
    *,
    name: str = "",
    limits: Limits | None = None,
    keepalive: Keepalive | None = None,
    timeout_s: float = 5.0,
) -> ClientEndpoint:
    """Connects to a server.

    Args:
        host: A name or an address.
        port: The server's port.
        context: The TLS context; None for plaintext.
        name: The name that the server's certificate must carry, if it is not the host.
        limits: The bounds of what the server may do.
        keepalive: When it is asked for a sign of life.
        timeout_s: How long to try.

    Raises:
        CallError: There is no server that speaks HTTP/2, or it is not the right one.
    """
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    scheme = "http" if context is None else "https"
    factory = partial(ClientEndpoint, authority, scheme, limits or Limits(), keepalive or Keepalive())
    endpoint: ClientEndpoint | None = None
    try:
        async with asyncio.timeout(timeout_s):
            options: _Options = {} if context is None else {"ssl": context, "server_hostname": name or host}
            endpoint = await _reach(factory, host, port, options)
            if context is not None and endpoint.about("ssl_object").selected_alpn_protocol() != ALPN:
                raise CallError(StatusCode.UNAVAILABLE, f"{authority} does not speak HTTP/2")
            await asyncio.shield(endpoint.connected)
            connected, endpoint = endpoint, None
            return connected
    except TimeoutError as error:
        raise CallError(StatusCode.UNAVAILABLE, f"{authority} did not answer in {timeout_s} s") from error
    except OSError as error:
        # A certificate that is refused is one too (ssl.SSLError).
        raise CallError(StatusCode.UNAVAILABLE, f"{authority}: {error}") from error
    finally:
        if endpoint is not None:
            endpoint.abort("the connection was given up")


class _Options(TypedDict, total=False):
    ssl: ssl.SSLContext
    server_hostname: str


async def _reach(factory: Callable[[], ClientEndpoint], host: str, port: int, options: _Options) -> ClientEndpoint:
    """Connects to the first address of the host that answers.

    Raises:
        OSError: The host has no address, or none answers; of several the last one's reason.
    """
    loop = asyncio.get_running_loop()
    *others, last = await names().addresses(host, port)

    def dial(address: str) -> Awaitable[ClientEndpoint]:
        return hand_over(lambda make: loop.create_connection(make, address, port, **options), factory)

    for address in others:
        with contextlib.suppress(OSError):
            return await dial(address)
    return await dial(last)


async def open_call(
    host: str,
    port: int,
    path: str,
    encode: Encode,
    decode: Decode,
    context: ssl.SSLContext | None = None,
    *,
    name: str = "",
    timeout_s: float = 5.0,
) -> ClientCall:
    """One call over a connection of its own, which ends with ``cancel``. See ``connect`` and ``ClientEndpoint.call``.

    Raises:
        CallError: The server cannot be reached.
    """
    endpoint = await connect(host, port, context, name=name, timeout_s=timeout_s)
    call = endpoint.call(path, encode, decode)
    call.own_connection()
    return call
