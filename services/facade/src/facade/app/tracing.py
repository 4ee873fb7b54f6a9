"""Traces of requests: a span for each that is sampled, around the whole application, when tracing is on.

Off, this module's application is not there at all. A caller's ``traceparent`` says whose trace a request belongs to and
whether it is sampled; without one the configured ratio decides. What cannot be read is ignored, as W3C Trace Context
demands. Must not know gRPC. A span names a route's template, a status, a shard: never a path, a key or a value.

Source: W3C Trace Context, level 1, 3.2 and 4; OpenTelemetry's conventions for HTTP; docs/tracing.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import orjson

from doug_wire.trace_context import TRACEPARENT, TRACESTATE, TraceContext, parse_traceparent
from doug_wire.tracing import Span, Tracing, TracingUnavailableError, open_tracing
from facade import __version__
from facade.app.application import METHODS, Application
from facade.client.metrics import KEY_ROUTE, UNMATCHED
from facade.client.tracing import current_request
from facade.errors import SettingsError
from facade.routes.body import Receive
from facade.routes.key import KEY_PREFIX
from facade.routes.problem import MEDIA_TYPE
from facade.routes.raw import Scope, Send
from facade.settings import PREFIX, Settings

TRACE_ID_HEADER = b"doug-trace-id"
SERVER_ERROR = 500
_TRACEPARENT, _TRACESTATE = TRACEPARENT.encode(), TRACESTATE.encode()
_UNASKED = frozenset({b"/livez", b"/readyz", b"/metrics"})
"""The paths that machines ask for every few seconds, which begin no trace."""


def load(settings: Settings) -> Tracing | None:
    """Loads the library that makes spans; None while tracing is off.

    Raises:
        SettingsError: Tracing is on, and the packages that it needs are not installed.
    """
    if not settings.tracing_enabled:
        return None
    try:
        return open_tracing(
            "dougdb-facade",
            settings.facade_id,
            __version__,
            endpoint=settings.tracing_endpoint,
            roots=True,
            attributes={"dougdb.facade": settings.facade_id},
        )
    except TracingUnavailableError as error:
        raise SettingsError(f"{PREFIX}TRACING_ENABLED", str(error)) from error


def caller(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """The span that a request belongs to, if its headers say so in a way that can be understood."""
    parents, states = list[bytes](), list[bytes]()
    for name, value in headers:
        if name == _TRACEPARENT:
            parents.append(value)
        elif name == _TRACESTATE:
            states.append(value)
    # Two headers do not tell which one is meant.
    return parse_traceparent(parents[0], b",".join(states).decode("latin-1")) if len(parents) == 1 else None


class TracedApplication:
    """The application, with a span around each request that is sampled."""

    def __init__(
        self, application: Application, tracing: Tracing, ratio: float, draw: Callable[[], float] = random.random
    ) -> None:
        """Wraps an application.

        Args:
            application: The application that serves the requests.
            tracing: The library that makes spans.
            ratio: The part of the requests without a trace that begin one, from 0 to 1.
            draw: Gives numbers from 0 to 1, without the 1.
        """
        self._application = application
        self._tracing = tracing
        self._ratio = ratio
        self._draw = draw

    def _begins(self, raw_path: bytes) -> bool:
        return self._draw() < self._ratio and raw_path not in _UNASKED

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        parent = caller(scope["headers"])
        # Decided here, because the SDK takes twenty times as long for a span that nobody will see.
        if not (self._begins(scope["raw_path"]) if parent is None else parent.sampled):
            await self._application(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        attributes = {"http.request.method": method, "url.scheme": scope["scheme"]}
        span = self._tracing.start(method, "server", () if parent is None else (parent,), attributes, remote=True)
        if not span.recording:  # As with OTEL_SDK_DISABLED.
            await self._application(scope, receive, send)
            return
        answer = _Answer(send, span)
        token = current_request.set(span)
        try:
            await self._application(scope, receive, answer.send)
        finally:
            current_request.reset(token)
            route = _route(scope)
            span.rename(f"{method} {route}")
            span.set("http.route", route)
            answer.conclude()
            span.end()


def _route(scope: Scope) -> str:
    """The template of the route that has served a request."""
    raw_path: bytes = scope["raw_path"]
    if raw_path.startswith(KEY_PREFIX + b"/") or raw_path == KEY_PREFIX:
        return KEY_ROUTE
    found: str = getattr(scope.get("route"), "path", UNMATCHED)
    return found


class _Answer:
    """Reads the status of an answer on its way out, and adds the trace's id to its headers."""

    def __init__(self, send: Send, span: Span) -> None:
        self._send = send
        self._span = span
        self._status = 0
        self._problem: bytearray | None = None

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Passes a message of the answer on."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = list(message.get("headers", ()))
            for name, value in headers:
                if name == b"doug-shard":
                    self._span.set("dougdb.shard", int(value))
                elif name == b"doug-served-by":
                    self._span.set("dougdb.node", value.decode())
                elif name == b"doug-consistency-used":
                    self._span.set("dougdb.consistency", value.decode())
                elif name == b"content-type" and value == MEDIA_TYPE.encode():
                    self._problem = bytearray()
            message["headers"] = [*headers, (TRACE_ID_HEADER, b"%032x" % self._span.context.trace_id)]
        elif self._problem is not None:
            self._problem += message.get("body", b"")
        await self._send(message)

    def conclude(self) -> None:
        """Notes on the span how the request ended."""
        span = self._span
        if not self._status:
            span.fail("unanswered")  # The client left, or the request was cancelled.
            return
        span.set("http.response.status_code", self._status)
        code = "problem"
        if self._problem:
            try:
                found = orjson.loads(self._problem)
            except orjson.JSONDecodeError:
                found = {}  # The client left before the answer was complete.
            code = found.get("code", code)
            span.set("dougdb.code", code)
            span.set("dougdb.outcome", found.get("outcome", "unknown"))
        if self._status >= SERVER_ERROR:
            span.fail(code)
