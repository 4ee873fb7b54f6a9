"""The base of the raw ASGI routes: one request with its answer, its count, and problems instead of errors.

Must not know any route. Invariants: (1) every request is answered once, a refused one with a problem document; (2)
every answer names its request (``Doug-Request-Id``).

Source: RFC 9457.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import perf_counter
from typing import Any

from facade.client.metrics import Metrics
from facade.errors import BadRequestError, ProblemError
from facade.routes import body as bodies
from facade.routes import problem

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_TYPE = b"application/json"
NDJSON_TYPE = b"application/x-ndjson"
CLOSE = (b"connection", b"close")
CLIENT_WENT_AWAY = 499
"""The status under which a request is counted whose client is gone, as nginx does."""

REQUEST_ID = b"doug-request-id"
SCOPE_REQUEST_ID = "dougdb.request_id"
SCOPE_EXCHANGE = "dougdb.exchange"
SCOPE_ASKED = "dougdb.asked"
"""The key in a request's scope under which a route of operators says what it is asked for, as names and texts."""

_REFUSED = re.compile(rb"q=0(\.0{0,3})?\Z")
_SANE_ID = re.compile(rb"[0-9A-Za-z._:/+=@-]{1,128}\Z")
_numbers = itertools.count(1)
_START = secrets.token_hex(6).encode()


def request_id(asked: bytes | None) -> bytes:
    """The id of a request: the one that its client has named if it is sane, else a new one."""
    if asked is not None and _SANE_ID.match(asked):
        return asked
    return b"%b-%x" % (_START, next(_numbers))


def request_id_of(scope: Scope) -> bytes:
    """The id of a request: the client's ``X-Request-Id`` if it is sane, else a new one."""
    known: bytes | None = scope.get(SCOPE_REQUEST_ID)
    if known is not None:
        return known
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.match(value):
            found: bytes = value
            break
    else:
        found = request_id(None)
    scope[SCOPE_REQUEST_ID] = found
    return found


def named(scope: Scope, send: Send) -> Send:
    """Wraps ``send`` so that every answer names its request."""

    async def send_named(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id_of(scope))]
        await send(message)

    return send_named


class RawRequest:
    """One request.

    Attributes:
        method: The request's method.
        raw_path: The path as it was sent.
        query: The raw query.
        raw_headers: The headers: names in lower case, and values.
        receive: Gives the body of the request.
        label: The consistency under which the request is counted.
        status: The status of the answer; 0 before there is one.
    """

    __slots__ = ("_scope", "_send", "label", "method", "query", "raw_headers", "raw_path", "receive", "status")

    def __init__(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        self._scope = scope
        self._send = send
        self.receive = receive
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self.raw_headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.label = "none"
        self.status = 0

    @property
    def exchange(self) -> Any:
        """The connection's side of this request (``facade.app.exchange``), to send without waiting for the client."""
        return self._scope[SCOPE_EXCHANGE]

    @property
    def stopping(self) -> bool:
        """Whether the facade is stopping; always False without a connection of its own."""
        exchange = self._scope.get(SCOPE_EXCHANGE)
        return exchange is not None and bool(exchange.stopping)

    def tell_asked(self, asked: dict[str, str]) -> None:
        """Says for the audit log what is asked for."""
        self._scope[SCOPE_ASKED] = asked

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begins the answer."""
        self.status = status
        shown = [*headers, (REQUEST_ID, request_id_of(self._scope))]
        await self._send({"type": "http.response.start", "status": status, "headers": shown})

    async def send(self, body: bytes, *, more: bool = False) -> None:
        """Sends a piece of the answer's body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def answer(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """Sends a whole answer."""
        await self.start(status, headers)
        await self.send(body)

    async def answer_json(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Sends a whole answer of JSON."""
        fixed = ((b"content-type", JSON_TYPE), (b"content-length", b"%d" % len(body)))
        await self.answer(status, (*fixed, *headers), body)

    async def refuse(self, error: ProblemError) -> None:
        """Answers with a problem document."""
        content = problem.document(error)
        headers = problem.headers(error, content)
        if CLOSE not in headers and any(name == b"expect" for name, _ in self.raw_headers):
            headers.append(CLOSE)  # The body may still come, and could be taken for the next request.
        await self.answer(error.status, headers, content)


class RawApp:
    """The handler of one route, or of several of one kind."""

    route = ""
    """The template of the route, for the metrics."""

    methods: frozenset[str] = frozenset()

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def methods_at(self, raw_path: bytes) -> frozenset[str]:
        """The methods that the route has at a path."""
        return self.methods

    async def serve(self, request: RawRequest) -> None:
        """Answers a request whose method is one of ``methods``.

        Raises:
            ProblemError: The request is refused.
        """
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        """Serves one request and counts it."""
        started_s = perf_counter()
        request = RawRequest(scope, receive, send)
        method = request.method
        try:
            if method not in self.methods:
                allow = (problem.allow(self.methods_at(request.raw_path)),)
                method = "other"
                detail = f"There is no {request.method} here."
                raise BadRequestError("method_not_allowed", detail, status=405, headers=allow)
            await self.serve(request)
        except ProblemError as error:
            await request.refuse(error)
        except bodies.DisconnectedError:
            request.status = CLIENT_WENT_AWAY
        self._metrics.request(method, request.status, request.label, perf_counter() - started_s, self.route)


def media_type(content_type: bytes | None) -> bytes:
    """The media type of a Content-Type, in lower case and without parameters."""
    return (content_type or b"").split(b";", 1)[0].strip().lower()


def check_media_type(content_type: bytes | None, allowed: tuple[bytes, ...]) -> bytes:
    """The media type of a body, if it is one of those that can be read here.

    Raises:
        BadRequestError: 415; the media type is another one.
    """
    found = media_type(content_type)
    if found not in allowed:
        names = " or ".join(each.decode() for each in allowed)
        shown = found.decode("latin-1")[:64] or "nothing"
        detail = f"The body is {names}, and its Content-Type says {shown}."
        raise BadRequestError("unsupported_media_type", detail, status=415)
    return found


def check_acceptable(accept: bytes | None, *offered: bytes) -> None:
    """Refuses a request whose Accept allows none of the media types that the answer can have.

    Raises:
        BadRequestError: 406; none of them is allowed.
    """
    if accept is None or not accept.strip():
        return
    allowed: dict[bytes, bool] = {}
    for part in accept.lower().split(b","):
        name, *parameters = (piece.strip() for piece in part.split(b";"))
        allowed[name] = not any(_REFUSED.match(parameter) for parameter in parameters)
    for each in offered:
        # What is said of the type itself counts more than what is said of all types (RFC 9110, 12.5.1).
        ranges = (each, each.split(b"/", 1)[0] + b"/*", b"*/*")
        if next((allowed[name] for name in ranges if name in allowed), False):
            return
    raise BadRequestError("not_acceptable", f"Here is {b' or '.join(offered).decode()} alone.", status=406)


def check_length(content_length: bytes | None, transfer_encoding: bytes | None) -> int:
    """The announced length of a body; 0 if it is not announced.

    Raises:
        BadRequestError: 411; a body is needed, and there is none.
    """
    if content_length is None and transfer_encoding is None:
        raise BadRequestError(
            "length_required", "The body is missing: send Content-Length, or Transfer-Encoding: chunked.", status=411
        )
    return int(content_length) if content_length is not None else 0
