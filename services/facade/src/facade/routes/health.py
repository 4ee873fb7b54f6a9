"""Health and metrics: /livez, /readyz, /metrics.

Invariant: once ready, always ready. A shard that loses its leader must not take the other shards' facade away.
"""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from facade.client.metrics import Metrics
from facade.client.router import Router
from facade.errors import NotAppliedError
from facade.models import HealthView, Problem
from facade.routes.strict import StrictRoute


def make_router(router: Router, metrics: Metrics) -> APIRouter:
    """Makes the health routes."""
    routes = APIRouter(tags=["health"], route_class=StrictRoute)

    @routes.get("/livez")
    async def livez() -> HealthView:
        """Check that the process answers."""
        return HealthView()

    @routes.get("/readyz", responses={503: {"model": Problem}})
    async def readyz() -> HealthView:
        """Check that the partition map was loaded, and that every shard has had a leader."""
        if not router.ready and router.guarded:
            # The sender is not authenticated here, so the answer tells nothing of nodes.
            raise NotAppliedError("starting", "The facade is not ready yet.")
        if not router.ready:
            raise NotAppliedError("starting", f"Missing: {'; '.join(router.directory.missing())}.")
        return HealthView()

    @routes.get("/metrics", response_class=Response)
    async def read_metrics() -> Response:
        """Read the metrics of this facade, for Prometheus."""
        await router.upkeep.sample_metrics()
        return Response(await metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return routes
