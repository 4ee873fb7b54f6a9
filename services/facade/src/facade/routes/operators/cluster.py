"""The routes that show the cluster to operators: /v1/cluster, /v1/partitions, /v1/version.

Must not know gRPC beyond the answers that the client hands out. Invariants: (1) however many nodes there are, requests
wait for an answer about all of them no longer than for a piece of it, of about ``PIECE_NODES``; (2) what the nodes said
is put into bytes once, however many ask.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Annotated, cast, get_args

from fastapi import APIRouter, Query, Response
from pydantic import TypeAdapter

from doug.v1 import admin_pb2
from facade import __version__
from facade.client.access import LOOKING, check_any, current
from facade.client.metrics import Metrics
from facade.client.node import Node
from facade.client.operators.cluster_status import Statuses
from facade.client.router import Router
from facade.errors import NotAppliedError
from facade.models import (
    ClusterView,
    FacadeView,
    NodeView,
    PartitionsView,
    Problem,
    Role,
    ShardView,
    SlotRangeView,
    VersionView,
    VitalsView,
    VolumeView,
)
from facade.routes.strict import JsonRoute
from facade.settings import Settings

PIECE_NODES = 48
"""So many nodes are put into bytes in one piece, about a millisecond; then whatever else waits has its turn."""

VitalsQuery = Annotated[bool, Query(description="Whether the health of every node and of this facade is told, too.")]
CountsQuery = Annotated[bool, Query(description="Whether the number of requests for each slot is told, too.")]


def vitals_view(node: Node, status: admin_pb2.StatusResponse) -> VitalsView | None:
    """A node's health; None if its status has none."""
    if not status.HasField("vitals"):
        return None
    vitals, clock = status.vitals, node.clock
    return VitalsView(
        version=status.version,
        clock_ahead_ms=None if clock is None else round(clock.ahead_ms, 1),
        clock_error_ms=None if clock is None else round(clock.error_ms, 1),
        uptime_ms=vitals.uptime_ms,
        memory_bytes=vitals.memory_bytes,
        leader_heard_ms=vitals.leader_heard_ms if vitals.HasField("leader_heard_ms") else None,
        log_bytes=vitals.log_bytes,
        table_bytes=vitals.table_bytes,
        compaction_pending_bytes=vitals.compaction_pending_bytes,
        proposals_pending=vitals.proposals_pending,
        syncs=vitals.syncs,
        sync_seconds=vitals.sync_seconds,
        commits=vitals.commits,
        commit_seconds=vitals.commit_seconds,
        disk_low=vitals.disk_low,
        stalled=vitals.stalled,
        draining=vitals.draining,
        divergences=vitals.divergences,
        certificate_ends_s=vitals.certificate_ends_s if vitals.HasField("certificate_ends_s") else None,
        volumes=[
            VolumeView(name=each.name, total_bytes=each.total_bytes, free_bytes=each.free_bytes)
            for each in vitals.volumes
        ],
    )


def node_view(node: Node, status: admin_pb2.StatusResponse | None, *, vitals: bool = False) -> NodeView:
    """One node as the API shows it; a pre-candidate is shown as a candidate."""
    if status is None:
        view = NodeView(id=node.id, address=node.address, role="unreachable", admin=node.admin)
    else:
        view = _answered(node, status)
    # Members that were not set are left out.
    told = {name: getattr(view, name) for name in NodeView.model_fields if name not in ("vitals", "trouble")}
    if vitals and status is not None:
        told["vitals"] = vitals_view(node, status)
    elif vitals and node.trouble is not None:
        told["trouble"] = node.trouble
    return NodeView(**told)


def _answered(node: Node, status: admin_pb2.StatusResponse) -> NodeView:
    role = status.role if status.role in get_args(Role) else "candidate"
    return NodeView(
        id=node.id,
        address=node.address,
        role=cast(Role, role),
        term=status.term,
        commit_index=status.commit_index,
        applied_index=status.applied_index,
        last_log_index=status.last_log_index,
        admin=status.admin_address or node.admin,
    )


_SHARDS = TypeAdapter(list[ShardView])


def pieces(statuses: Statuses, *, vitals: bool) -> Iterator[bytes]:
    """What the nodes said as JSON, some shards at a time: the items of a list, without commas between the pieces."""
    piece: list[ShardView] = []
    nodes_in_piece = 0
    for shard, nodes in statuses.items():
        if nodes_in_piece and nodes_in_piece + len(nodes) > PIECE_NODES:
            yield _SHARDS.dump_json(piece, exclude_unset=True)[1:-1]
            piece, nodes_in_piece = [], 0
        piece.append(ShardView(id=shard, nodes=[node_view(node, status, vitals=vitals) for node, status in nodes]))
        nodes_in_piece += len(nodes)
    if piece:
        yield _SHARDS.dump_json(piece, exclude_unset=True)[1:-1]


class _Encoded:
    """What the nodes said as JSON, put into bytes once for all who ask while it is the newest."""

    def __init__(self) -> None:
        self._of: dict[bool, tuple[Statuses, asyncio.Task[bytes]]] = {}

    async def read(self, statuses: Statuses, *, vitals: bool) -> bytes:
        """The shards as a list."""
        known = self._of.get(vitals)
        if known is None or known[0] is not statuses:
            known = self._of[vitals] = statuses, asyncio.create_task(self._joined(statuses, vitals=vitals))
        # Whoever gives up does not end it for the others.
        return await asyncio.shield(known[1])

    @staticmethod
    async def _joined(statuses: Statuses, *, vitals: bool) -> bytes:
        encoded = []
        for piece in pieces(statuses, vitals=vitals):
            encoded.append(piece)
            await asyncio.sleep(0)
        return b"[%b]" % b",".join(encoded)


def make_router(router: Router, settings: Settings, metrics: Metrics) -> APIRouter:
    """Makes the routes."""
    routes = APIRouter(tags=["cluster"], route_class=JsonRoute)
    encoded = _Encoded()

    @routes.get("/v1/cluster", response_model=ClusterView)
    async def cluster(vitals: VitalsQuery = False) -> Response:
        """List every shard and node with role, term and log indexes, from answers at most half a second old."""
        shards = await encoded.read(await router.cluster.read(), vitals=vitals)
        if not vitals:
            return Response(b'{"shards":%b}' % shards, media_type="application/json")
        ends_s = metrics.certificate_ends_s
        facade = FacadeView(
            id=settings.facade_id,
            version=__version__,
            map_epoch=None if router.map is None else router.map.epoch,
            time_us=time.time_ns() // 1000,
            certificate_ends_s=None if ends_s is None else int(ends_s()),
        )
        content = b'{"shards":%b,"facade":%b}' % (shards, facade.model_dump_json().encode())
        return Response(content, media_type="application/json")

    @routes.get(
        "/v1/partitions",
        responses={403: {"model": Problem}, 503: {"model": Problem}},
        response_model_exclude_unset=True,
    )
    async def partitions(counts: CountsQuery = False) -> PartitionsView:
        """Read this facade's partition map: which shard owns which slots."""
        if counts and router.guarded:
            # The slots for which others ask reveal something of their keys.
            check_any(current.get(), LOOKING)
        if router.map is None:
            raise NotAppliedError("starting", "The partition map is not loaded yet.")
        slots = [
            SlotRangeView.model_validate({"from": r.first, "to": r.last, "shard": r.shard}) for r in router.map.ranges
        ]
        if not counts:
            return PartitionsView(epoch=router.map.epoch, slots=slots)
        return PartitionsView(epoch=router.map.epoch, slots=slots, counts=list(router.directory.slot_counts))

    @routes.get("/v1/version")
    async def version() -> VersionView:
        """Read the name and the version of this facade."""
        return VersionView(version=__version__, facade_id=settings.facade_id)

    return routes
