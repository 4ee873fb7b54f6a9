"""The route classes of FastAPI's routes: a JSON body is bounded in bytes and time, and read strictly.

FastAPI by itself takes a body of any length and lets NaN pass. Must not know what a body is for. Invariant: what is
refused here is refused before the route's own function is called, with a problem document.

Source: docs/api.md, Errors.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from facade.routes.body import parse_named, read
from facade.routes.raw import JSON_TYPE, check_acceptable

JSON_BYTES_MAX = 1 << 20
JSON_TIMEOUT_S = 30.0


class StrictRequest(Request):
    """A request whose body is read with limits."""

    _content: bytes | None = None

    async def body(self) -> bytes:
        """The whole body."""
        if self._content is None:
            self._content = await read(self.receive, JSON_BYTES_MAX, JSON_TIMEOUT_S)
        return self._content

    async def json(self) -> Any:
        """The whole body as JSON."""
        return parse_named(await self.body())


class StrictRoute(APIRoute):
    """A route whose requests are strict ones: ``APIRouter(route_class=StrictRoute)``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with the request replaced."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            self.check(request)
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly

    def check(self, request: Request) -> None:
        """Raises a ``ProblemError`` for a request that is refused whatever its body is."""


class JsonRoute(StrictRoute):
    """A strict route whose answer is JSON: a client that takes no JSON is refused before anything is done for it."""

    def check(self, request: Request) -> None:
        """See ``StrictRoute``."""
        check_acceptable(b", ".join(v for name, v in request.scope["headers"] if name == b"accept"), JSON_TYPE)
