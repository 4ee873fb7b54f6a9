"""One end of a connection on asyncio: it feeds the core, writes what the core packs, and wakes whoever waits.

It must not know what calls mean. Where grpc.aio has a name for something, it has the same here, so that what serves a
call need not know which of the two carries it.

Invariants:
    1. ``write`` returns once the message has left this process or lies, bounded, in front of the socket: it waits while
       the peer's window is closed or the socket is full.
    2. A peer that is silent for ``Keepalive.after_s`` is asked for a sign of life, and given up ``wait_s`` later. Of a
       server's peer taking what was written is a sign of life, too.
    3. When the connection is lost, every call ends.

Source: grpc.aio; RFC 9113, section 6.7.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc.aio
from google.protobuf.message import DecodeError

from doug_stream.codes import StatusCode
from doug_stream.connection import Connection
from doug_stream.errors import CallError
from doug_stream.events import CallEnded, Drained, Event, MessageReceived, Ready, Terminated
from doug_stream.headers import Metadata

_SOCKET_BYTES_MAX = 256 << 10
"""The bytes that may wait in front of a socket before writers wait."""

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


def address_text(peername: Any) -> str:
    """The address of a socket's other end as gRPC says it: ``ipv4:1.2.3.4:5`` or ``ipv6:[::1]:5``."""
    if not isinstance(peername, tuple):
        return "unknown"
    # A port of both families gives IPv4 addresses in the form of IPv6 addresses.
    host, port = str(peername[0]).removeprefix("::ffff:"), peername[1]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


@dataclass(frozen=True, slots=True)
class Keepalive:
    """When a silent peer is asked for a sign of life.

    Attributes:
        after_s: The seconds of silence after which the peer is asked.
        wait_s: How long it has for it.
    """

    after_s: float = 10.0
    wait_s: float = 3.0


class Call:
    """The common part of both ends of a call."""

    def __init__(self, endpoint: Endpoint, stream_id: int, encode: Encode, decode: Decode) -> None:
        """Joins a call of the core.

        Args:
            endpoint: The end of the connection that the call belongs to.
            stream_id: The id of the call's stream.
            encode: Makes bytes of a message that goes out.
            decode: Makes a message of the bytes that came in.
        """
        self.stream_id = stream_id
        self._endpoint = endpoint
        self._encode = encode
        self._decode = decode
        self._messages: deque[MessageReceived] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._waiting = False
        self._at_end = False
        self._end: CallError | None = None

    async def read(self) -> Any:
        """The next message, or ``grpc.aio.EOF`` when the other end sends no more.

        Raises:
            CallError: The call ended otherwise than well.
        """
        while not self._messages:
            if self._end is not None and self._end.status != StatusCode.OK:
                raise self._end
            if self._at_end:
                return grpc.aio.EOF
            self._reader = self._endpoint.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        received = self._messages.popleft()
        endpoint = self._endpoint
        endpoint.core.consumed(self.stream_id, received.owed)
        endpoint.flush()
        try:
            return self._decode(received.message)
        except DecodeError as error:
            raise self.broken(CallError(StatusCode.INTERNAL, "a message that cannot be decoded")) from error

    async def write(self, message: Any) -> None:
        """Sends a message.

        Raises:
            CallError: The call is over.
        """
        if self._end is not None:
            raise CallError(StatusCode.UNAVAILABLE, "the call is over")
        endpoint = self._endpoint
        self._waiting = not endpoint.core.send(self.stream_id, self._encode(message)) or self._waiting
        endpoint.flush()
        while self._waiting or endpoint.paused:
            if self._writer is None:
                self._writer = endpoint.loop.create_future()
            await asyncio.shield(self._writer)
            if self._end is not None:
                raise CallError(StatusCode.UNAVAILABLE, "the call is over")

    def broken(self, error: CallError) -> CallError:
        """Ends the call from this end, because what came in cannot be used."""
        self._endpoint.core.reset(self.stream_id)
        self._endpoint.flush()
        self.ended(error)
        return error

    def received(self, event: MessageReceived) -> None:
        """A message came."""
        self._messages.append(event)
        self._wake_reader()

    def half_closed(self) -> None:
        """No further message will come."""
        self._at_end = True
        self._wake_reader()

    def drained(self) -> None:
        """All messages have gone."""
        self._waiting = False
        self.wake_writer()

    def ended(self, end: CallError) -> None:
        """The call is over."""
        if self._end is None:
            self._end = end
            self._at_end = True
            self._wake_reader()
            self.wake_writer()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def wake_writer(self) -> None:
        """Lets whoever waits for room look again."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.set_result(None)


class Endpoint(asyncio.Protocol):
    """One end of a connection.

    Attributes:
        core: The HTTP/2 core of the connection.
        loop: The event loop.
        calls: The calls that go on, by stream.
        paused: Whether the socket takes no more.
        connected: Done once the peer's SETTINGS are here; fails when the connection is lost before.
        closed: Done once the connection is lost.
    """

    def __init__(self, core: Connection, keepalive: Keepalive) -> None:
        """Waits for its connection. Requires: a running event loop."""
        self.core = core
        self.loop = asyncio.get_running_loop()
        self.calls: dict[int, Call] = {}
        self.paused = False
        self.connected: asyncio.Future[None] = self.loop.create_future()
        self.closed: asyncio.Future[None] = self.loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._keepalive = keepalive
        self._heard_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._why = "the connection was lost"

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_SOCKET_BYTES_MAX)
        self._heard_s = self.loop.time()
        self._timer = self.loop.call_later(self._keepalive.after_s, self._check, False)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._heard_s = now_s = self.loop.time()
        for event in self.core.receive(data, now_s):
            if type(event) is MessageReceived:
                call = self.calls.get(event.stream_id)
                if call is not None:
                    call.received(event)
            else:
                self.handle(event)
        self.flush()

    def eof_received(self) -> None:
        """See ``asyncio.Protocol``: the connection is closed, since HTTP/2 has no half-closed ones."""

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self.paused = True

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self.paused = False
        for call in list(self.calls.values()):
            call.wake_writer()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self.paused = False
        details = self._why if exc is None else f"{self._why}: {exc}"
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.ended(CallError(StatusCode.UNAVAILABLE, details))
        if not self.connected.done():
            self.connected.set_exception(CallError(StatusCode.UNAVAILABLE, details))
            self.connected.exception()  # Marks it as retrieved: no caller waits for it.
        if not self.closed.done():
            self.closed.set_result(None)

    # The owner's side.

    def flush(self) -> None:
        """Writes what the core has packed."""
        data = self.core.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Closes the connection behind what was written."""
        if self._transport is not None:
            self.core.go_away()
            self.flush()
            self._transport.close()

    def abort(self, why: str) -> None:
        """Cuts the connection off."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()

    def about(self, name: str) -> Any:
        """The facts that asyncio knows about the connection."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    def handle(self, event: Event) -> None:
        """Does what an event asks for."""
        match event:
            case Ready():
                if not self.connected.done():
                    self.connected.set_result(None)
            case Drained(stream_id):
                call = self.calls.get(stream_id)
                if call is not None:
                    call.drained()
            case CallEnded(stream_id, status, details, trailers):
                self.end_call(stream_id, status, details, trailers)
            case Terminated(code, details):
                self._why = f"the peer broke the rules ({code}): {details}"
                self.flush()
                if self._transport is not None:
                    self._transport.close()
            case _:
                pass

    def end_call(self, stream_id: int, status: StatusCode, details: str, trailers: Metadata) -> None:
        """A call is over."""
        call = self.calls.pop(stream_id, None)
        if call is not None:
            call.ended(CallError(status, details, trailers))

    def _check(self, asked: bool) -> None:
        silent_s = self.loop.time() - self._heard_s
        after_s, wait_s = self._keepalive.after_s, self._keepalive.wait_s
        if silent_s < after_s:
            self._timer = self.loop.call_later(after_s - silent_s, self._check, False)
        elif asked and silent_s >= after_s + wait_s:
            self.abort(f"the peer was silent for {silent_s:.1f} s")
        else:
            if not asked:
                self.core.ping()
                self.flush()
            self._timer = self.loop.call_later(wait_s, self._check, True)
