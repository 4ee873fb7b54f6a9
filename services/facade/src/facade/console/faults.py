"""The faults that a page may cause in a cluster for trying things: kill a node, pause it, cut it off, slow its disk.

Only a facade of ``dougctl dev`` can: its supervisor owns the processes and listens at a socket in its data folder,
which the settings name. Everywhere else the route is not there. Must not know processes.

Invariant: what is asked for comes from this machine and from no page of another origin, whatever
``DOUGDB_CORS_ORIGINS`` allows otherwise.

Source: docs/console.md, Try it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import structlog

from facade.client.metrics import Metrics
from facade.errors import BadRequestError, NotAppliedError, UnexpectedError
from facade.routes import body as bodies
from facade.routes.options import parse_query
from facade.routes.raw import JSON_TYPE, RawApp, RawRequest, Scope, Send, check_media_type
from facade.settings import is_loopback

ACTIONS = ("kill", "pause", "cut", "slow", "resume")
NAME_CHARACTERS_MAX = 253
BODY_BYTES_MAX = 4096
BODY_TIMEOUT_S = 5.0
ANSWER_S = 5.0

log = structlog.get_logger()


class FaultsApp(RawApp):
    """``POST /v1/console/faults`` with ``{"node", "do"}``."""

    route = "/v1/console/faults"
    methods = frozenset({"POST"})

    def __init__(self, metrics: Metrics, socket: str) -> None:
        """Takes the path of the supervisor's ``socket``; empty where there is no supervisor."""
        super().__init__(metrics)
        self._socket = socket

    async def __call__(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        """Serves one request, if it comes from this machine."""
        if scope["method"] in self.methods and self._socket:
            try:
                _check_sender(scope)
            except BadRequestError as error:
                await RawRequest(scope, receive, send).refuse(error)
                return
        await super().__call__(scope, receive, send)

    async def serve(self, request: RawRequest) -> None:
        """See ``RawApp``."""
        if not self._socket:
            detail = "Faults are caused from here in a cluster of `dougctl dev` alone."
            raise BadRequestError("unknown_route", detail, status=404)
        parse_query(request.query, frozenset())
        headers = dict(request.raw_headers)
        check_media_type(headers.get(b"content-type"), (JSON_TYPE,))
        asked = _asked(bodies.parse_named(await bodies.read(request.receive, BODY_BYTES_MAX, BODY_TIMEOUT_S)))
        request.tell_asked(asked)
        answer = await self._ask(asked)
        refused = answer.get("error")
        if isinstance(refused, str):
            raise BadRequestError("fault_refused", refused, status=409)
        log.warning("console.fault", **asked)
        await request.answer_json(200, orjson.dumps(asked), ((b"cache-control", b"no-store"),))

    async def _ask(self, asked: dict[str, str]) -> dict[str, Any]:
        """The supervisor's answer to a request."""
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(orjson.dumps(asked) + b"\n")
                    await writer.drain()
                    line = await reader.readline()
                finally:
                    writer.close()
        except OSError as error:
            raise NotAppliedError("unavailable", "The supervisor of this cluster does not answer.") from error
        answer = orjson.loads(line) if line else {"error": "The supervisor of this cluster stops."}
        if not isinstance(answer, dict):
            raise UnexpectedError
        return answer


def _asked(document: object) -> dict[str, str]:
    """Reads the node and the fault of a request.

    Raises:
        BadRequestError: The request makes no sense.
    """
    if not isinstance(document, dict) or set(document) != {"node", "do"}:
        raise BadRequestError("bad_request", "The body is an object with node and do.")
    node, act = document["node"], document["do"]
    if not isinstance(node, str) or not 0 < len(node) <= NAME_CHARACTERS_MAX or act not in ACTIONS:
        raise BadRequestError("bad_request", f"node is the name of a node, and do is one of {', '.join(ACTIONS)}.")
    return {"node": node, "do": act}


def _check_sender(scope: Scope) -> None:
    """Refuses senders that are not on this machine, and pages of other origins.

    Raises:
        BadRequestError: 403; the sender is one of these.
    """
    headers = dict(scope["headers"])
    near = is_loopback(scope["client"][0] if scope.get("client") else "")
    origin = headers.get(b"origin")
    own = origin is None or origin.partition(b"://")[2].lower() == headers.get(b"host", b"").lower()
    if not near or not own or headers.get(b"sec-fetch-site", b"same-origin") != b"same-origin":
        detail = "Faults are caused from this machine, and by the console's own pages alone."
        raise BadRequestError("cross_origin", detail, status=403)
