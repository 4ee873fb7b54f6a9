"""POST /v1/shards/{id}/leader: an operator moves the leadership of a shard.

Must not know gRPC. A request that is not understood in full is refused before any node is asked.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import ValidationError

from facade.client.operators.leadership import move_leadership
from facade.client.router import Router
from facade.errors import BadRequestError
from facade.models import LeaderRequest, LeaderView, Problem
from facade.routes import body as bodies
from facade.routes.operators.shard_id import ShardId
from facade.routes.raw import SCOPE_ASKED
from facade.routes.strict import JsonRoute
from facade.settings import Settings

BODY_BYTES_MAX = 4096

_PROBLEMS = (400, 404, 409, 422, 503, 504)
_BODY = {
    "requestBody": {
        "required": False,
        "content": {"application/json": {"schema": LeaderRequest.model_json_schema()}},
    }
}


async def _wanted(request: Request, timeout_s: float) -> LeaderRequest:
    """Reads the body; an empty one asks for any other leader.

    Raises:
        BadRequestError: The body is too large, too slow, or not what is documented.
    """
    for name in request.query_params:
        raise BadRequestError("unknown_parameter", f"Unknown query parameter {name[:64]!r}; there are none.")
    try:
        body = await bodies.read(request.receive, BODY_BYTES_MAX, timeout_s)
    except bodies.DisconnectedError:
        raise BadRequestError("bad_request", "The client went away before its body was here.") from None
    if not body.strip():
        return LeaderRequest()
    document = bodies.parse_named(body)
    try:
        return LeaderRequest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise BadRequestError("bad_request", f"{where}: {first['msg']}.") from None


def make_router(router: Router, settings: Settings) -> APIRouter:
    """Makes the route."""
    routes = APIRouter(tags=["shards"], route_class=JsonRoute)

    @routes.post(
        "/v1/shards/{shard}/leader",
        responses={status: {"model": Problem} for status in _PROBLEMS},
        openapi_extra=_BODY,
    )
    async def move_leader(shard: ShardId, request: Request) -> LeaderView:
        """Hand the leadership of a shard over, and wait until another node leads; 5 s at most."""
        wanted = await _wanted(request, settings.body_timeout_ms / 1000)
        request.scope[SCOPE_ASKED] = {"to": wanted.to or ""}
        known = router.shards.get(shard)
        if known is None:
            raise BadRequestError("unknown_shard", f"There is no shard {shard}.", status=404)
        moved = await move_leadership(known, wanted.to or "")
        return LeaderView(shard=shard, leader=moved.leader, term=moved.term, previous=moved.previous)

    return routes
