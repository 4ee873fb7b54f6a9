"""One request and its answer, on the way through ASGI: uvicorn's, with an end for a body that broke off.

Must not know routes. Invariants: (1) a request whose body broke off is told so only if it was not answered otherwise,
for then no route has had its body and nothing was proposed; (2) once its body is here, waiting for the client to go
away does not read its next requests.

Source: RFC 9112, 2.2 and 9.3; uvicorn.protocols.http.httptools_impl.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import perf_counter
from typing import Any, NamedTuple, Self

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from doug_wire.networks import network_of
from facade.app import heads
from facade.app.front import Front, too_much_unread
from facade.app.outgoing import HIGH_WATER_BYTES
from facade.client.receipts import SERVER_TIMING
from facade.errors import BadRequestError, NotAppliedError, OutcomeUnknownError, ProblemError
from facade.routes import problem
from facade.routes.body import DisconnectedError
from facade.routes.raw import REQUEST_ID, SCOPE_EXCHANGE, request_id, request_id_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

CLOSE = (b"connection", b"close")
DATA_PREFIX = b"/v1/"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = structlog.get_logger()


class Exchange(RequestResponseCycle):
    """One request and its answer.

    Attributes:
        broken: Why the rest of the request's body cannot be read; None while it can.
        stopping: Whether the facade is stopping.
    """

    broken: ProblemError | None = None

    def __init__(self, front: Front, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._front = front
        self._started_s = perf_counter()
        self._replaced = False
        self.stopping = False
        scope: Any = self.scope
        scope[SCOPE_EXCHANGE] = self

    @classmethod
    def of(cls, connection: Any, front: Front, *, keep_alive: bool) -> Self:
        """The exchange of the request whose head a connection has just read.

        Args:
            connection: The connection, a ``LimitedProtocol``, which has the methods of a transport that are used here.
            front: What all connections share.
            keep_alive: Whether the connection goes on behind the answer.
        """
        expects = any(name == b"expect" for name, _ in connection.headers)
        return cls(
            front,
            scope=connection.scope,
            transport=connection,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=connection.access_log,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects and connection.scope["http_version"] != "1.0",
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )

    def stop(self) -> None:
        """Tells the request that the facade stops, so that an answer without an end finds one."""
        self.stopping = True
        self.message_event.set()

    def push(self, data: bytes) -> int:
        """Sends bytes of the answer's body, framed already, without waiting; returns how many now wait for the client.

        Requires: the answer has begun, has no known length, and no other part of it is being sent at the same time.
        """
        if self._over:
            return 0
        self.transport.write(data)
        unread: int = self.transport.get_write_buffer_size()
        return unread

    @property
    def too_much_unread(self) -> bool:
        """Whether clients, or those of this client's address alone, leave too many bytes unread."""
        client: Any = self.scope["client"]
        return self._front.unread.full_for(network_of(client[0]) if client else "")

    async def drained(self) -> None:
        """Waits until the client has taken most of what was written, or is gone."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    def break_off(self, error: ProblemError) -> None:
        """Notes that the rest of the request's body will not come, and why."""
        self.broken = error
        self.keep_alive = False
        self.message_event.set()

    async def run_asgi(self, app: App) -> None:  # type: ignore[override]  # uvicorn's types of scopes are narrower.
        """Has an ASGI application answer the request."""

        async def answer(scope: Message, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except DisconnectedError:
                if self.broken is None and not self.disconnected:
                    raise
            except asyncio.CancelledError:
                # The time that requests have when the facade stops is over; the client of this one is told.
                if not self.stopping or self.response_started:
                    raise
                self.keep_alive = False
                await refusal(_stopped(self.scope["method"]))(scope, receive, send)
                return
            if self.broken is not None and not self.response_started:
                await refusal(self.broken)(scope, receive, send)

        try:
            await super().run_asgi(answer)  # type: ignore[arg-type]
        finally:
            # Each refers to the other, and such cycles are not collected soon.
            scope: Any = self.scope
            scope.pop(SCOPE_EXCHANGE, None)

    async def receive(self) -> Any:
        """The next ASGI message of the request: a piece of its body, or that the client is gone."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(CONTINUE)
            self.waiting_for_100_continue = False
        if not self._over:
            if self.more_body:
                # Otherwise the whole body is here, and further bytes are the client's next request.
                self.flow.resume_reading()
            await self.message_event.wait()
            self.message_event.clear()
        if self._over:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Sends a part of the answer. A large one is replaced by 503 while clients leave too much unread."""
        if self._replaced:
            return
        unread = self._front.unread
        starts = message["type"] == "http.response.start"
        if starts and unread.full and self.too_much_unread and self._may_be_replaced(message):
            unread.refused += 1
            scope: Any = self.scope
            for part in problem_messages(too_much_unread(), scope):
                await self._send(part)
            self._replaced = True
            return
        await self._send(message)

    async def _send(self, message: Any) -> None:
        if self._front.timed and message["type"] == "http.response.start":
            message["headers"] = timed(message.get("headers", ()), perf_counter() - self._started_s)
        await super().send(message)

    def _may_be_replaced(self, message: Message) -> bool:
        """Whether an answer may be left out: its request changed nothing, and it is large enough to matter."""
        if self.scope["method"] != "GET" or not self.scope["raw_path"].startswith(DATA_PREFIX):
            return False
        sizes = [int(value) for name, value in message["headers"] if name == b"content-length"]
        return bool(sizes) and sizes[0] > HIGH_WATER_BYTES

    @property
    def _over(self) -> bool:
        return self.disconnected or self.response_complete or self.broken is not None


def timed(headers: Iterable[tuple[bytes, bytes]], duration_s: float) -> list[tuple[bytes, bytes]]:
    """An answer's headers with the facade's time in ``Server-Timing``, in front of the times that are there already."""
    kept = [header for header in headers if header[0] != SERVER_TIMING]
    rest = [value for name, value in headers if name == SERVER_TIMING]
    return [*kept, (SERVER_TIMING, b", ".join([b"facade;dur=%.2f" % (1000 * duration_s), *rest]))]


def problem_messages(error: ProblemError, scope: Message) -> tuple[Any, Any]:
    """The ASGI messages that tell an error and end the connection."""
    content = problem.document(error)
    headers = [*problem.headers(error, content), (REQUEST_ID, request_id_of(scope))]
    if CLOSE not in headers:
        headers.append(CLOSE)
    start = {"type": "http.response.start", "status": error.status, "headers": headers}
    return start, {"type": "http.response.body", "body": content}


def refusal(error: ProblemError) -> App:
    """An application that tells an error, whatever is asked, and ends the connection."""

    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        for part in problem_messages(error, scope):
            await send(part)

    return refuse


def last_word(error: ProblemError, defaults: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The whole answer that tells an error and ends the connection, for a request that no application is asked for."""
    body = problem.document(error)
    head = [STATUS_LINE[error.status]]
    for name, value in (*defaults, *problem.headers(error, body), (REQUEST_ID, request_id(None))):
        if name != b"connection":
            head.extend((name, b": ", value, b"\r\n"))
    return b"".join((*head, b"connection: close\r\n\r\n", body))


class Target(NamedTuple):
    """The target of a request, in its parts; the host only where the target names one."""

    path: str
    raw_path: bytes
    query: bytes
    host: bytes | None

    @classmethod
    def of(cls, raw: bytes) -> Self:
        """Takes a target apart, which the parser has found to be one."""
        url = httptools.parse_url(raw)
        path = (url.path or b"").decode("ascii")
        return cls(urllib.parse.unquote(path) if "%" in path else path, url.path or b"", url.query or b"", url.host)

    def scope(self, connection: Any, version: str, state: dict[str, Any]) -> dict[str, Any]:
        """The ASGI scope of the request whose head a connection has just read.

        Args:
            connection: See ``Exchange.of``.
            version: The request's version of HTTP.
            state: What the application is told of the connection.
        """
        return {
            "type": "http",
            "asgi": {"version": connection.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": connection.parser.get_method().decode("ascii"),
            "server": connection.server,
            "client": connection.client,
            "scheme": connection.scheme or "http",
            "root_path": "",
            "path": self.path,
            "raw_path": self.raw_path,
            "query_string": self.query,
            "headers": connection.headers,
            "state": state,
        }


def wrong_with(scope: Message, host: bytes | None, front: Front, *, guest: bool) -> ProblemError | None:
    """Why a request is refused whose head shows where it ends, or for which there is no room; None if it is not.

    Args:
        scope: The request.
        host: The host that its target names, if it does.
        front: What all connections share.
        guest: Whether its connection is beyond the limit.
    """
    try:
        heads.check(scope["http_version"], scope["headers"])
        hosts = [*heads.hosts_of(scope["headers"]), *(() if host is None else (host,))]
        front.check(scope, hosts, guest=guest)
    except (BadRequestError, NotAppliedError) as error:
        return error
    return None


def _stopped(method: str) -> ProblemError:
    if method in ("GET", "HEAD"):
        return NotAppliedError("unavailable", "The facade stopped before the request was answered.")
    detail = "The facade stopped while the request was under way."
    return OutcomeUnknownError("deadline_exceeded", detail)
