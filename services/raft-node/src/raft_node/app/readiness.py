"""What the gRPC health service answers: it serves, or it does not."""

from __future__ import annotations

from collections.abc import Iterable

from grpc_health.v1 import health, health_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Readiness:
    """The health service of one node: ``""`` and ``readiness``, ``startup``, ``liveness``.

    Attributes:
        servicer: What a gRPC server is given.
    """

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def begin(self) -> None:
        """The process lives, and nothing else is ready yet."""
        await self._show(False, ("", "readiness", "startup"))
        await self._show(True, ("liveness",))

    async def started(self) -> None:
        """The log was read, and Raft runs."""
        await self._show(True, ("startup",))

    async def show(self, ready: bool) -> None:
        """Whether the node is ready."""
        await self._show(ready, ("", "readiness"))

    async def show_readiness(self, ready: bool) -> None:
        """Whether new connections shall come here; a node that drains still serves those that it has."""
        await self._show(ready, ("readiness",))

    async def stop(self) -> None:
        """Nothing is ready any more, for good."""
        await self.servicer.enter_graceful_shutdown()

    async def _show(self, serving: bool, services: Iterable[str]) -> None:
        for service in services:
            await self.servicer.set(service, _SERVING if serving else _NOT_SERVING)
