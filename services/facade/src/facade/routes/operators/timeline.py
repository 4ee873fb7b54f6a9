"""GET /v1/shards/{id}/events: the events of all nodes of a shard, merged into one timeline.

Must not know gRPC beyond the answers that the client hands out.

Invariant: the events of one start of a node stay in the order of their sequence, also when its wall clock was set back
in between; such an event is placed as if it had happened when the one before it did.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Query, Request

from doug.v1 import admin_pb2
from facade.client.node import Node
from facade.client.operators.cluster_status import ask_events
from facade.client.router import Router
from facade.errors import BadRequestError
from facade.models import EventSourceView, EventsView, EventView, Problem
from facade.routes.operators.shard_id import ShardId
from facade.routes.strict import JsonRoute

LIMIT_DEFAULT = 1000
LIMIT_MAX = 10_000
TIME_US_MAX = (1 << 63) - 1

Answers = Sequence[tuple[Node, admin_pb2.EventsResponse | None]]


def refuse_other_parameters(request: Request) -> None:
    """Refuses a query with another parameter than ``since`` and ``limit``, or with one of them twice.

    Raises:
        BadRequestError: The query is such a one.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in ("since", "limit"):
            raise BadRequestError("unknown_parameter", f"Unknown query parameter {name[:64]!r}; known: since, limit.")
        if names.count(name) > 1:
            raise BadRequestError("bad_request", f"The query names {name} twice.")


def event_view(node_id: str, start_id: str, event: admin_pb2.Event) -> EventView:
    """One event as the API shows it."""
    return EventView(
        node=node_id,
        start_id=start_id,
        sequence=event.sequence,
        time_us=event.time_us,
        monotonic_us=event.monotonic_us,
        term=event.term,
        name=event.name,
        details=orjson.loads(event.details or "{}"),
        count=event.count,
        last_time_us=event.last_time_us,
    )


def _in_order(node_id: str, answer: admin_pb2.EventsResponse) -> Iterator[tuple[int, str, int, EventView]]:
    time_us = 0
    for event in answer.events:
        time_us = max(time_us, event.time_us)
        yield time_us, node_id, event.sequence, event_view(node_id, answer.start_id, event)


def events_view(shard: int, answers: Answers, limit: int) -> EventsView:
    """Merges the answers of all nodes; keeps the newest ``limit`` events."""
    heard = [(node.id, answer) for node, answer in answers if answer is not None]
    merged = [event for *_, event in heapq.merge(*(_in_order(node_id, answer) for node_id, answer in heard))]
    return EventsView(
        shard=shard,
        events=merged[-limit:],
        nodes=[
            EventSourceView(id=node.id, reachable=False)
            if answer is None
            else EventSourceView(
                id=node.id,
                reachable=True,
                start_id=answer.start_id,
                clock_us=answer.clock_us,
                forgotten=answer.forgotten,
            )
            for node, answer in answers
        ],
        unreachable=[node.id for node, answer in answers if answer is None],
        cut=len(merged) > limit or any(answer.cut for _, answer in heard),
    )


def make_router(router: Router) -> APIRouter:
    """Makes the timeline's route."""
    routes = APIRouter(tags=["shards"], route_class=JsonRoute)

    @routes.get(
        "/v1/shards/{shard}/events",
        responses={400: {"model": Problem}, 404: {"model": Problem}},
        dependencies=[Depends(refuse_other_parameters)],
    )
    async def events(
        shard: ShardId,
        since: Annotated[
            int,
            Query(ge=0, le=TIME_US_MAX, description="Only events at or after this time, microseconds since the epoch"),
        ] = 0,
        limit: Annotated[
            int, Query(ge=1, le=LIMIT_MAX, description="How many events at most, the newest")
        ] = LIMIT_DEFAULT,
    ) -> EventsView:
        """Read the events of all nodes of a shard, oldest first. Every node is asked now, for 2 s at most."""
        if shard not in router.shards:
            raise BadRequestError("unknown_shard", f"There is no shard {shard}.", status=404)
        return events_view(shard, await ask_events(router.shards[shard], lambda node: since, limit), limit)

    return routes
