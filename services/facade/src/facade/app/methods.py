"""``HEAD`` wherever ``GET`` is, and ``OPTIONS`` of every path: two methods of which the routes need to know nothing.

``HEAD`` runs the route as ``GET`` would, and sends the head of the answer alone; a stream ends with its first piece, as
if its client had gone. Must not know any route. Invariants: (1) the answer to a ``HEAD`` has no body, and the status
and headers of the answer to a ``GET``; (2) it is sent when the route has given back what it had taken.

Source: RFC 9110, 9.1, 9.3.2 and 9.3.7.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from facade.routes import problem
from facade.routes.body import DisconnectedError, Receive
from facade.routes.raw import REQUEST_ID, RawApp, Scope, Send, request_id_of

App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEAD, OPTIONS = "HEAD", "OPTIONS"


def has_head(app: object) -> bool:
    """Whether a route answers ``HEAD`` by itself."""
    return isinstance(app, RawApp) and HEAD in app.methods


def head_of_get(app: App) -> App:
    """An application that answers ``HEAD`` with what another one answers to ``GET``."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        head: MutableMapping[str, Any] | None = None

        async def keep_head(message: MutableMapping[str, Any]) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                head = message
            elif message.get("more_body"):
                raise DisconnectedError

        request_id_of(scope)  # So that the copy has the same id.
        try:
            await app({**scope, "method": "GET"}, receive, keep_head)
        except DisconnectedError:
            if head is None:
                raise
        if head is not None:
            await send(head)
            await send({"type": "http.response.body", "body": b""})

    return serve


async def tell_methods(methods: Iterable[str], scope: Scope, send: Send) -> None:
    """Answers ``OPTIONS`` of a path that has these methods."""
    headers = [problem.allow({*methods, OPTIONS}), (REQUEST_ID, request_id_of(scope))]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
