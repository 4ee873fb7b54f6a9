"""The front of a port: it looks at the first bytes of each connection and hands it to one of two servers.

Clients of this package go to the own server. Everyone else goes to grpcio's server, which listens on a port of the
loopback interface with the same certificates: their bytes are carried there and back as they are, TLS included, so that
every gRPC client reaches every service on the one port that is documented, and certificates are checked by whom they
always were.

How they are told apart: in plaintext by a parameter in the SETTINGS that every client sends first and that other
servers ignore; under TLS by a protocol in the list that the client offers before anything is encrypted. Nothing is
taken off the socket until it is clear who serves it.

Invariants:
    1. A connection that does not say in time what it is, is closed. ``connections_max`` bounds how many there are, and
       no address has more than three quarters of them.
    2. Whatever is not clearly for the own server is not.
    3. A crowd of handshakes leaves others each turn of the loop, and those of other networks their turns among it.

Must not know methods. Source: RFC 9113, 3.4 and 6.5.2; RFC 8446, 4.1.2; RFC 7301, 3.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import cast

from doug_stream.accepting import Pace, accepted, raise_error
from doug_stream.client import OWN_ALPN
from doug_stream.codes import PREFACE, Setting
from doug_stream.endpoint import address_text
from doug_stream.frames import HEAD, HEAD_BYTES, SETTING
from doug_stream.handing import hand_over
from doug_stream.server import Server, ServerEndpoint
from doug_wire.networks import network_of

_DECIDE_S = 10.0
"""How long a client may take to say what it is, and for the handshake behind it."""
_HANDSHAKES_OF_TURN = 4
"""How many handshakes the own server begins in a turn of the loop: some milliseconds, for Raft shares it."""
_HANDSHAKES_OF_NETWORK = 16
"""How many of one address, or network of IPv6, are under way: each may take the loop some 20 ms when it ends."""
_ACCEPTED_OF_TURN = 64
"""How many connections it accepts in a turn, all of which it looks at in the next one."""
_BACKLOG = 512
_PIECE_BYTES_MAX = 256 << 10
_RECORD_HEAD_BYTES = 5
_RECORD_BYTES_MAX = (16 << 10) + 256
_SETTINGS_BYTES_MAX = 1024
_ALPN_EXTENSION = 16
_TRY_AGAIN_S, _TRY_AGAIN_MAX_S = 0.02, 1.0
PART = 3 / 4
"""The part of all connections that one address may have, so that others find some."""

Contexts = Callable[[], ssl.SSLContext]


class Front:
    """Listens on a port.

    Attributes:
        connections: How many connections there are, those that have not said what they are included.
    """

    def __init__(
        self, server: Server, backend: tuple[str, int], context: Contexts | None, connections_max: int = 4096
    ) -> None:
        """Builds it; ``listen`` sets it going.

        Args:
            server: The own server.
            backend: The address at which grpcio's server listens.
            context: Gives the newest TLS context for the own server; plaintext without.
            connections_max: How many connections there may be; of one address, ``PART`` of them.
        """
        self._server = server
        self._backend = backend
        self._context = context
        self._connections_max = connections_max
        self._of_address = max(1, int(PART * connections_max))
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._deciding: set[asyncio.Task[None]] = set()
        self._pace = Pace(_HANDSHAKES_OF_TURN, _HANDSHAKES_OF_NETWORK)
        self._pipes: set[_Pipe] = set()
        self._of_network: dict[str, int] = {}
        self._callers: dict[int, str] = {}
        self.connections = 0

    def caller(self, peer: str) -> str:
        """The true address of a client of grpcio's server.

        Args:
            peer: Where it is as that server says it: an address of this machine, since its bytes are carried on. It is
                ``unknown`` if they are not, or not any more: nobody gets trust for an address that is only in between.
        """
        port = peer.rpartition(":")[2]
        return self._callers.get(int(port), "unknown") if port.isdecimal() else "unknown"

    @property
    def port(self) -> int:
        """The port, once it listens."""
        return int(self._listeners[0].getsockname()[1])

    async def listen(self, host: str, port: int) -> None:
        """Listens on all addresses of a host.

        Raises:
            OSError: The address cannot be used.
        """
        for family, address in await _addresses(host, port):
            self._listeners.append(_bind(family, address))
        for listener in self._listeners:
            task = asyncio.create_task(self._accept(listener))
            task.add_done_callback(raise_error)
            self._accepting.append(task)

    async def stop(self) -> None:
        """Listens no more, and drops those that have not said what they are. Connections go on."""
        tasks = [*self._accepting, *self._deciding]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()

    def cut_off(self) -> None:
        """Ends all connections to grpcio's server."""
        for pipe in list(self._pipes):
            pipe.cut()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for client, peer in await accepted(loop, listener, lambda: _ACCEPTED_OF_TURN):
                self._take(client, peer[0])

    def _take(self, client: socket.socket, host: str) -> None:
        network = network_of(host)
        over = self._begin(network)
        if over is None:
            client.close()
            return
        client.setblocking(False)
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(self._hand_over(client, network, over))
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)

    def _begin(self, network: str) -> Callable[[], None] | None:
        """Counts a connection of an address, or of a network of IPv6; gives what counts it no more, once it has ended.

        None if there is no room for it. This looks at no other connection: a crowd is taken in one turn of the loop.
        """
        if self.connections >= self._connections_max or self._of_network.get(network, 0) >= self._of_address:
            return None
        self.connections += 1
        self._of_network[network] = self._of_network.get(network, 0) + 1
        goes_on = True

        def over() -> None:
            nonlocal goes_on
            if goes_on:
                goes_on = False
                self._end(network)

        return over

    def _end(self, network: str) -> None:
        self.connections -= 1
        self._of_network[network] -= 1
        if not self._of_network[network]:
            del self._of_network[network]

    async def _hand_over(self, client: socket.socket, network: str, over: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        handed = goes_on = False
        try:
            async with asyncio.timeout(_DECIDE_S):
                look = is_own_plaintext if self._context is None else is_own_hello
                own = await _look(loop, client, look)
                if own is None:
                    return
                if own and self._context is not None:
                    await self._pace.turn(network)
                handed = True
                if own:
                    endpoint = await self._serve(loop, client, network)
                    endpoint.closed.add_done_callback(lambda _: over())
                else:
                    await self._join(loop, client, over)
                goes_on = True
        except (TimeoutError, OSError):
            # The client sent nothing, or left, or its certificate was refused; it sees the end of the connection.
            return
        finally:
            if not goes_on:
                over()
            if not handed:
                client.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop, client: socket.socket, network: str) -> ServerEndpoint:
        """Has the own server serve a client. Requires: under TLS, its turn has come."""
        if self._context is None:
            return await hand_over(lambda make: loop.connect_accepted_socket(make, client), self._server.endpoint)
        context, failed = self._context(), True
        try:
            endpoint = await hand_over(
                lambda make: loop.connect_accepted_socket(make, client, ssl=context), self._server.endpoint
            )
            failed = False
            return endpoint
        finally:
            self._pace.over(network, failed=failed)

    async def _join(self, loop: asyncio.AbstractEventLoop, client: socket.socket, over: Callable[[], None]) -> None:
        near, far = _Pipe(self._pipes), _Pipe(self._pipes)
        near.other, far.other = far, near
        joined = False
        try:
            await hand_over(lambda make: loop.create_connection(make, *self._backend), lambda: far)
            port = far.own_port()
            # This must be set before the first byte is passed on.
            self._callers[port] = address_text(client.getpeername())
            far.on_lost = lambda: self._callers.pop(port, None)
            near.on_lost = over
            await hand_over(lambda make: loop.connect_accepted_socket(make, client), lambda: near)
            joined = True
        finally:
            if not joined:
                far.cut()
                client.close()


class _Pipe(asyncio.Protocol):
    """One end of a connection that is carried on: what comes in here goes out there."""

    def __init__(self, pipes: set[_Pipe]) -> None:
        self.other = self
        self._pipes = pipes
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._over = False
        self.ended = False
        self.on_lost: Callable[[], object] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_PIECE_BYTES_MAX)
        self._pipes.add(self)
        if self._over:
            self._transport.close()
            return
        for piece in self._early:
            self._transport.write(piece)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        self.other.write(data)

    def write(self, data: bytes) -> None:
        """Sends what came in at the other end."""
        if self._transport is not None:
            self._transport.write(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool:
        self.ended = True
        self.other.write_eof()
        # Each direction may go on without the other; when both have ended, so has the connection.
        return not self.other.ended

    def write_eof(self) -> None:
        """Sends the end of what came in at the other end."""
        if self._transport is not None and self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def pause_writing(self) -> None:
        self.other.pause_reading()

    def resume_writing(self) -> None:
        self.other.resume_reading()

    def pause_reading(self) -> None:
        """The other end takes no more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The other end takes more again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pipes.discard(self)
        self._over = True
        self._transport = None
        self.on_lost()
        self.other.close()

    def close(self) -> None:
        """The other end is closed: this one follows behind what was written."""
        self._over = True
        if self._transport is not None:
            self._transport.close()

    def own_port(self) -> int:
        """The port of this end. Requires: it is connected."""
        assert self._transport is not None
        return int(self._transport.get_extra_info("sockname")[1])

    def cut(self) -> None:
        """Ends both ends now."""
        if self._transport is not None:
            self._transport.abort()


async def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The addresses at which to listen for a host, none of them twice."""
    if _is_wildcard(host):
        # As gRPC does: all addresses of both families by one socket.
        if _has_ipv6():
            return [(socket.AF_INET6, ("::", port))]
        # The settings ask for all addresses.
        return [(socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104  # nosec B104
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((info[0], (str(info[4][0]), int(info[4][1]))) for info in found))


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _has_ipv6() -> bool:
    if not socket.has_dualstack_ipv6():
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return True
    return False


def _bind(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def _look(
    loop: asyncio.AbstractEventLoop, client: socket.socket, look: Callable[[bytes], bool | int]
) -> bool | None:
    """Looks at what a client has sent, and waits for more of it, until it is clear; None if it went away before.

    ``look`` says so, or how many bytes it needs.
    """
    needed, before, pause_s = 1, 0, _TRY_AGAIN_S
    while True:
        # The kernel wakes this up only once this many bytes are there.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
        await _readable(loop, client)
        try:
            seen = client.recv(_RECORD_BYTES_MAX + _RECORD_HEAD_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not seen:
            return None
        found = look(seen)
        if isinstance(found, bool):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return found
        if len(seen) < needed:
            # It was woken for fewer: the client has sent its last bytes, or this system ignores the option. Thousands
            # of clients that send a byte and the end must not keep this end busy.
            pause_s = _TRY_AGAIN_S if len(seen) > before else min(2 * pause_s, _TRY_AGAIN_MAX_S)
            await asyncio.sleep(pause_s)
        needed, before = found, len(seen)


async def _readable(loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(client, wake)
    try:
        await ready
    finally:
        loop.remove_reader(client)


def is_own_plaintext(seen: bytes) -> bool | int:
    """Whether a connection begins as this package's do, or how many bytes are needed to tell."""
    if seen[: len(PREFACE)] != PREFACE[: len(seen)]:
        return False
    head_end = len(PREFACE) + HEAD_BYTES
    if len(seen) < head_end:
        return head_end
    high, low, kind, flags, stream_id = HEAD.unpack_from(seen, len(PREFACE))
    size = int(high << 8 | low)
    if (kind, flags, stream_id) != (4, 0, 0) or size > _SETTINGS_BYTES_MAX or size % SETTING.size:
        return False
    end = head_end + size
    if len(seen) < end:
        return end
    names: list[int] = [name for name, _ in SETTING.iter_unpack(seen[head_end:end])]
    return Setting.MARK in names


def is_own_hello(seen: bytes) -> bool | int:
    """Whether a TLS connection begins as this package's do, or how many bytes are needed to tell."""
    if len(seen) < _RECORD_HEAD_BYTES:
        return _RECORD_HEAD_BYTES
    size = int.from_bytes(seen[3:5], "big")
    if seen[0] != 22 or size > _RECORD_BYTES_MAX:
        return False
    if len(seen) < _RECORD_HEAD_BYTES + size:
        return _RECORD_HEAD_BYTES + size
    try:
        return OWN_ALPN.encode() in _offered(seen[_RECORD_HEAD_BYTES : _RECORD_HEAD_BYTES + size])
    except ValueError:
        return False


def _offered(hello: bytes) -> list[bytes]:
    """The protocols that a ClientHello offers.

    Raises:
        ValueError: The bytes are no ClientHello, or cut off.
    """
    reader = _Reader(hello)
    if reader.number(1) != 1:
        raise ValueError("no ClientHello")
    body = _Reader(reader.vector(3))
    body.take(2 + 32)
    body.vector(1)
    body.vector(2)
    body.vector(1)
    extensions = _Reader(body.vector(2))
    while extensions.left:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == _ALPN_EXTENSION:
            return list(_names(_Reader(_Reader(content).vector(2))))
    return []


def _names(reader: _Reader) -> Iterator[bytes]:
    while reader.left:
        yield reader.vector(1)


class _Reader:
    """Reads numbers and vectors of TLS."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError("cut off")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))
