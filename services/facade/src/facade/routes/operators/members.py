"""/v1/shards/{id}/members: lists the members of a shard, and changes them for an operator.

Must not know gRPC. A request that is not understood in full is refused before any node is asked.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError

from doug.v1 import admin_pb2
from facade.client.operators.membership import add_member, list_members, remove_member, replace_member
from facade.client.router import Router
from facade.client.shard import Shard
from facade.errors import BadRequestError
from facade.models import (
    AddMemberRequest,
    MemberChangeView,
    MemberRole,
    MemberState,
    MembersView,
    MemberView,
    Problem,
    ReplaceMemberRequest,
)
from facade.routes import body as bodies
from facade.routes.operators.shard_id import ShardId
from facade.routes.raw import SCOPE_ASKED
from facade.routes.strict import JsonRoute
from facade.settings import Settings

BODY_BYTES_MAX = 4096

Wanted = TypeVar("Wanted", bound=BaseModel)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in statuses}


def _described(model: type[BaseModel], *, required: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": required, "content": content}}


_FORCE = {
    "parameters": [
        {
            "name": "force",
            "in": "query",
            "description": "Also when the others cannot form a healthy quorum now",
            "schema": {"type": "boolean", "default": False},
        }
    ]
}


def _forced(request: Request) -> bool:
    """Reads ``force``, the only query parameter; False if it is left out.

    Raises:
        BadRequestError: There is another parameter, or ``force`` twice, or it is neither true nor false.
    """
    values = request.query_params.getlist("force")
    for name in request.query_params:
        if name != "force":
            raise BadRequestError("unknown_parameter", f"Unknown query parameter {name[:64]!r}; there is `force`.")
    if len(values) > 1 or any(value not in ("true", "false") for value in values):
        raise BadRequestError("bad_request", "force is true or false, once.")
    return values == ["true"]


def _no_parameters(request: Request) -> None:
    for name in request.query_params:
        raise BadRequestError("unknown_parameter", f"Unknown query parameter {name[:64]!r}; there are none.")


async def _wanted(request: Request, model: type[Wanted], timeout_s: float) -> Wanted:
    """Reads the body; an empty one counts as ``{}``.

    Raises:
        BadRequestError: The body is too large, too slow, or not what is documented.
    """
    try:
        body = await bodies.read(request.receive, BODY_BYTES_MAX, timeout_s)
    except bodies.DisconnectedError:
        raise BadRequestError("bad_request", "The client went away before its body was here.") from None
    try:
        return model.model_validate(bodies.parse_named(body) if body.strip() else {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise BadRequestError("bad_request", f"{where}: {first['msg']}.") from None


def members_view(shard: int, answer: admin_pb2.MembersResponse) -> MembersView:
    """The members as the API shows them."""
    return MembersView(
        shard=shard,
        term=answer.term,
        commit_index=answer.commit_index,
        last_log_index=answer.last_log_index,
        changing=answer.changing,
        members=[
            MemberView(
                name=member.name,
                incarnation=str(member.incarnation),
                role=cast(MemberRole, member.role),
                leader=member.leader,
                address=member.address or None,
                client_address=member.client_address or None,
                match_index=member.match_index,
                lag=member.lag,
                state=cast(MemberState, member.state) if member.state else None,
                healthy=member.healthy,
            )
            for member in answer.members
        ],
    )


def _change_view(shard: int, answer: admin_pb2.ChangeMembersResponse) -> MemberChangeView:
    return MemberChangeView(
        shard=shard,
        name=answer.name,
        incarnation=str(answer.incarnation),
        removed_incarnation=str(answer.removed_incarnation) if answer.removed_incarnation else None,
        index=answer.index,
        term=answer.term,
    )


def make_router(router: Router, settings: Settings) -> APIRouter:
    """Makes the routes."""
    routes = APIRouter(tags=["shards"], route_class=JsonRoute)
    timeout_s = settings.body_timeout_ms / 1000
    path = "/v1/shards/{shard}/members"

    def known(shard: int) -> Shard:
        found = router.shards.get(shard)
        if found is None:
            raise BadRequestError("unknown_shard", f"There is no shard {shard}.", status=404)
        return found

    @routes.get(path, responses=_problems(400, 404, 503))
    async def members(shard: ShardId, request: Request) -> MembersView:
        """List the members of a shard, as its leader sees them now."""
        _no_parameters(request)
        found = known(shard)
        answer = await list_members(found)
        found.learn_members(answer)
        return members_view(shard, answer)

    @routes.post(
        path, responses=_problems(400, 404, 409, 503, 504), openapi_extra=_described(AddMemberRequest, required=True)
    )
    async def add(shard: ShardId, request: Request) -> MemberChangeView:
        """Admit a running node as a learner; it becomes a voter by itself once it has caught up."""
        _no_parameters(request)
        wanted = await _wanted(request, AddMemberRequest, timeout_s)
        request.scope[SCOPE_ASKED] = {"name": wanted.name, "address": wanted.address}
        incarnation = int(wanted.incarnation or 0)
        return _change_view(shard, await add_member(known(shard), wanted.name, wanted.address, incarnation))

    @routes.delete(path + "/{name}", responses=_problems(400, 404, 409, 503, 504), openapi_extra=_FORCE)
    async def remove(shard: ShardId, name: str, request: Request) -> MemberChangeView:
        """Remove a member."""
        force = _forced(request)
        request.scope[SCOPE_ASKED] = {"force": "true" if force else ""}
        return _change_view(shard, await remove_member(known(shard), name, force=force))

    @routes.post(
        path + "/{name}/replace",
        responses=_problems(400, 404, 409, 503, 504),
        openapi_extra=_FORCE | _described(ReplaceMemberRequest, required=False),
    )
    async def replace(shard: ShardId, name: str, request: Request) -> MemberChangeView:
        """Admit a node whose disk was wiped or replaced as a learner, and remove its old incarnation."""
        force = _forced(request)
        wanted = await _wanted(request, ReplaceMemberRequest, timeout_s)
        address, incarnation = wanted.address or "", int(wanted.incarnation or 0)
        request.scope[SCOPE_ASKED] = {"address": address, "force": "true" if force else ""}
        return _change_view(shard, await replace_member(known(shard), name, address, incarnation, force=force))

    return routes
