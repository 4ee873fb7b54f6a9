"""What operators ask: /v1/cluster, /v1/partitions, /v1/version.

Must not know gRPC beyond the answers that the client hands out.
"""

from __future__ import annotations

from typing import cast, get_args

from fastapi import APIRouter

from doug.v1 import admin_pb2
from facade import __version__
from facade.client.node import Node
from facade.client.router import Router
from facade.errors import NotAppliedError
from facade.models import ClusterView, NodeView, PartitionsView, Problem, Role, ShardView, SlotRangeView, VersionView
from facade.routes.strict import StrictRoute
from facade.settings import Settings


def node_view(node: Node, status: admin_pb2.StatusResponse | None) -> NodeView:
    """One node as the API shows it. A pre-candidate is a candidate that has not disturbed anybody yet."""
    if status is None:
        return NodeView(id=node.id, address=node.address, role="unreachable", admin=node.admin)
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


def make_router(router: Router, settings: Settings) -> APIRouter:
    """The operators' routes."""
    routes = APIRouter(tags=["cluster"], route_class=StrictRoute)

    @routes.get("/v1/cluster")
    async def cluster() -> ClusterView:
        """Every shard and node: role, term, how far its log is; as the nodes said less than half a second ago."""
        statuses = await router.cluster.read()
        return ClusterView(
            shards=[
                ShardView(id=shard, nodes=[node_view(node, status) for node, status in nodes])
                for shard, nodes in statuses.items()
            ]
        )

    @routes.get("/v1/partitions", responses={503: {"model": Problem}})
    async def partitions() -> PartitionsView:
        """Which shard owns which slots, as this facade knows it."""
        if router.map is None:
            raise NotAppliedError("starting", "The partition map is not loaded yet.")
        return PartitionsView(
            epoch=router.map.epoch,
            slots=[
                SlotRangeView.model_validate({"from": r.first, "to": r.last, "shard": r.shard})
                for r in router.map.ranges
            ],
        )

    @routes.get("/v1/version")
    async def version() -> VersionView:
        """What is running here."""
        return VersionView(version=__version__, facade_id=settings.facade_id)

    return routes
