"""The gRPC health service of a node: it serves, or it does not."""

from __future__ import annotations

from collections.abc import Iterable

from grpc_health.v1 import health, health_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Readiness:
    """The health service of one node: ``""`` and ``readiness``, ``startup``, ``liveness``.

    Attributes:
        servicer: The service to be added to gRPC servers.
    """

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()

    async def begin(self) -> None:
        """Shows that the process lives, and that nothing else is ready yet."""
        await self._show(False, ("", "readiness", "startup"))
        await self._show(True, ("liveness",))

    async def started(self) -> None:
        """Shows that the log was read, and that Raft runs."""
        await self._show(True, ("startup",))

    async def show(self, ready: bool) -> None:
        """Shows whether the node is ready."""
        await self._show(ready, ("", "readiness"))

    async def show_readiness(self, ready: bool) -> None:
        """Shows whether new connections should come here; a node that drains still serves those that it has."""
        await self._show(ready, ("readiness",))

    async def stop(self) -> None:
        """Shows for good that nothing is ready any more."""
        await self.servicer.enter_graceful_shutdown()

    async def _show(self, serving: bool, services: Iterable[str]) -> None:
        for service in services:
            await self.servicer.set(service, _SERVING if serving else _NOT_SERVING)
