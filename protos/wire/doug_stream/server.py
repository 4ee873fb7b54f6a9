"""The server's end on asyncio: methods that serve bidirectional calls, with the interface of ``grpc.aio``'s servicers.

Must not know what the methods do.

Invariants:
    1. A method's task ends with its call: it is cancelled when the client cuts the call off or its deadline passes.
    2. Whatever a method does, its call ends with a status.
    3. A client that takes no answers is not heard until it does: nobody makes this end write without end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio

from doug_stream.codes import StatusCode
from doug_stream.connection import Connection
from doug_stream.endpoint import Call, Decode, Encode, Endpoint, Keepalive, address_text
from doug_stream.errors import CallError
from doug_stream.events import Event, GoingAway, HalfClosed, RequestReceived
from doug_stream.headers import Metadata
from doug_stream.limits import STRANGERS, Limits

_OF_HOSTS = ("DNS", "IP Address")


class Method(NamedTuple):
    """A bidirectional method: what serves it, and how its messages are read and written.

    ``behaviour`` is called with None and the call, as ``grpc.aio`` calls a servicer's method.
    """

    behaviour: Callable[[Any, Any], Awaitable[Any]]
    decode: Decode
    encode: Encode


class ServerCall(Call):
    """A call as its method sees it: the part of ``grpc.aio.ServicerContext`` that bidirectional methods need."""

    def __init__(self, endpoint: Endpoint, request: RequestReceived, method: Method) -> None:
        """Begins it; see ``Call``."""
        super().__init__(endpoint, request.stream_id, method.encode, method.decode)
        self._metadata = request.metadata
        self._outcome: tuple[grpc.StatusCode, str, Metadata] | None = None
        self.task: asyncio.Task[None] | None = None
        self.deadline: asyncio.TimerHandle | None = None

    async def write(self, message: Any) -> None:
        """See ``Call``."""
        self._endpoint.core.respond(self.stream_id)
        await super().write(message)

    async def send_initial_metadata(self, initial_metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Sends the head of the answer before its first message."""
        self._endpoint.core.respond(self.stream_id, initial_metadata)
        self._endpoint.flush()

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """Ends the call with a status.

        Raises:
            grpc.aio.AbortError: Always, so that the method ends too.
        """
        self._outcome = (code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError(details)

    def invocation_metadata(self) -> Metadata:
        """The metadata that the client sent with the call."""
        return self._metadata

    def code(self) -> grpc.StatusCode | None:
        """With what the method has ended the call, if it has."""
        return None if self._outcome is None else self._outcome[0]

    def peer(self) -> str:
        """The address of the client."""
        return address_text(self._endpoint.about("peername"))

    def auth_context(self) -> Mapping[str, list[bytes]]:
        """The names of hosts in the client's certificate, under gRPC's keys; empty in plaintext."""
        certificate = self._endpoint.about("peercert")
        if not certificate:
            return {}
        names = [name.encode() for name in _hosts_in(certificate)]
        common = [str(v).encode() for part in certificate.get("subject", ()) for k, v in part if k == "commonName"]
        return {
            "transport_security_type": [b"ssl"],
            "x509_subject_alternative_name": names,
            "x509_common_name": common,
        }

    def outcome(self) -> tuple[StatusCode, str, Metadata]:
        """With what the call ends."""
        if self._outcome is None:
            return StatusCode.OK, "", ()
        code, details, trailers = self._outcome
        return StatusCode(code.value[0]), details, trailers

    def ended(self, end: CallError) -> None:
        """See ``Call``; the method's task ends too."""
        super().ended(end)
        if self.task is not None:
            self.task.cancel()


def _hosts_in(certificate: Mapping[str, Any]) -> list[str]:
    """The names of hosts and addresses in a certificate, as ``ssl`` shows it."""
    return [str(value) for kind, value in certificate.get("subjectAltName", ()) if kind in _OF_HOSTS]


class ServerEndpoint(Endpoint):
    """A client's connection."""

    def __init__(self, server: Server) -> None:
        """Waits for its connection."""
        super().__init__(Connection(client=False, limits=server.limits), server.keepalive)
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._server.endpoints.add(self)
        certificate = transport.get_extra_info("peercert")
        if certificate and not self._server.knows(_hosts_in(certificate)):
            # Nothing was sent yet, so the client learns of these bounds first.
            self.core = Connection(client=False, limits=STRANGERS)
        super().connection_made(transport)
        if self._server.stopping:
            self.close()

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``. Clients never stop reading, so that neither end waits for the other for ever."""
        super().pause_writing()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._heard_s = self.loop.time()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._server.endpoints.discard(self)
        super().connection_lost(exc)

    def handle(self, event: Event) -> None:
        """See ``Endpoint``."""
        match event:
            case RequestReceived():
                self._begin(event)
            case HalfClosed(stream_id):
                call = self.calls.get(stream_id)
                if call is not None:
                    call.half_closed()
            case GoingAway():
                pass  # The client opens no further calls; those that go on may end.
            case _:
                super().handle(event)

    def _begin(self, request: RequestReceived) -> None:
        method = self._server.methods.get(request.path)
        if method is None:
            self.core.finish(request.stream_id, StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        call = ServerCall(self, request, method)
        self.calls[request.stream_id] = call
        call.task = self.loop.create_task(self._serve(method, call))
        call.task.add_done_callback(lambda task: self._finish(call, task))
        self._server.tasks.add(call.task)
        call.task.add_done_callback(self._server.tasks.discard)
        if request.timeout_s is not None:
            call.deadline = self.loop.call_later(request.timeout_s, self._expire, call)

    @staticmethod
    async def _serve(method: Method, call: ServerCall) -> None:
        try:
            await method.behaviour(None, call)
        except grpc.aio.AbortError:
            # The call keeps the error with which it is to end.
            return

    def _expire(self, call: ServerCall) -> None:
        self.core.finish(call.stream_id, StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        self.flush()
        self.end_call(call.stream_id, StatusCode.DEADLINE_EXCEEDED, "the deadline has passed", ())

    def _finish(self, call: ServerCall, task: asyncio.Task[None]) -> None:
        if call.deadline is not None:
            call.deadline.cancel()
        self.calls.pop(call.stream_id, None)
        if task.cancelled():
            outcome: tuple[StatusCode, str, Metadata] = (StatusCode.CANCELLED, "", ())
        elif (error := task.exception()) is not None:
            # As in grpc.aio: the client learns the kind of the defect, the log all of it.
            outcome = (StatusCode.UNKNOWN, f"Unexpected {type(error)}", ())
            self.loop.call_exception_handler({"message": "a method failed", "exception": error, "task": task})
        else:
            outcome = call.outcome()
        self.core.finish(call.stream_id, *outcome)
        self.flush()


class Server:
    """The common part of all connections of a port.

    Attributes:
        methods: By path.
        limits: The bounds of what each client may do that is known; ``STRANGERS`` are those of the others.
        keepalive: When it is asked for a sign of life.
        endpoints: The connections that are open.
        tasks: The methods that run.
        stopping: Whether no further call is taken.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        limits: Limits | None = None,
        keepalive: Keepalive | None = None,
        known: Collection[str] | None = None,
    ) -> None:
        """Serves whatever ``endpoint`` is joined to.

        Args:
            methods: See the attribute.
            limits: See the attribute.
            keepalive: See the attribute.
            known: The names in certificates by which a client is known; None to know everybody.
        """
        self.methods = dict(methods)
        self.limits = limits or Limits()
        self.keepalive = keepalive or Keepalive()
        self._known = None if known is None else frozenset(name.lower() for name in known)
        self.endpoints: set[ServerEndpoint] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopping = False

    def endpoint(self) -> ServerEndpoint:
        """For a new connection."""
        return ServerEndpoint(self)

    def knows(self, names: Collection[str]) -> bool:
        """Whether a client with these names in its certificate is known."""
        return self._known is None or not self._known.isdisjoint(name.lower() for name in names)

    async def stop(self, grace_s: float) -> None:
        """Takes no further calls, gives those that go on some time, then cuts them off."""
        self.stopping = True
        for endpoint in list(self.endpoints):
            endpoint.core.go_away()
            endpoint.flush()
        if self.tasks:
            await asyncio.wait(set(self.tasks), timeout=grace_s)
        endpoints = list(self.endpoints)
        for endpoint in endpoints:
            endpoint.close()
        if endpoints:
            await asyncio.wait([endpoint.closed for endpoint in endpoints], timeout=grace_s)
        for endpoint in list(self.endpoints):
            endpoint.abort("the server stops")
        if self.tasks:
            await asyncio.gather(*self.tasks, return_exceptions=True)
