"""Fixtures of the facade's tests: facades in front of fake clusters (``fake_nodes``)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from ssl import SSLContext
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from facade.app.application import Application
from facade.app.protocol import LimitedProtocol
from facade.app.server import make_gate
from facade.client.metrics import Metrics
from facade.client.router import Router
from facade.client.tracing import OperationTracing
from facade.settings import Settings

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

from fake_nodes import FakeCluster


class Facade:
    """A facade in front of a fake cluster; without a socket until it is to listen."""

    def __init__(self, cluster: FakeCluster, router: Router, metrics: Metrics, settings: Settings) -> None:
        self.cluster = cluster
        self.router = router
        self.metrics = metrics
        self.settings = settings
        self.state, self.gate = make_gate(settings, metrics, router)
        self.application = Application(router, metrics, settings, self.state, self.gate)
        self._servers: list[tuple[asyncio.Server, ServerState]] = []
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.application),
            base_url="http://facade",
            timeout=30.0,
            headers={"doug-client": "tests"},
        )

    async def use_sockets(self) -> None:
        """Has ``http`` ask through a socket, where plain requests take the short way."""
        await self.http.aclose()
        self.http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None)),
            base_url=f"http://localhost:{await self.listen()}",
            timeout=30.0,
            headers={"doug-client": "tests"},
        )

    async def listen(self, ssl: SSLContext | None = None, *, hot: bool = True) -> int:
        """Serves on a loopback port of the system's choice, as the process does, and returns it."""
        lane = self.application.hot if hot else None
        config = uvicorn.Config(self.application, interface="asgi3", proxy_headers=False, ws="none", log_config=None)
        config.load()
        state, front = ServerState(), self.application.front
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: LimitedProtocol(config, state, {}, front=front, hot=lane), "127.0.0.1", 0, ssl=ssl
        )
        self._servers.append((server, state))
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        await self.http.aclose()
        for server, state in self._servers:
            server.close()
            for connection in tuple(state.connections):
                connection.transport.abort()
            await server.wait_closed()

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)
        assert condition(), what


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def make_facade(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Awaitable[Facade]]]:
    """Starts facades on fake clusters: ``await make_facade(shards=2, nodes=3, request_timeout_ms=500)``.

    Its parameter says how they are asked: ``asgi`` (without one) or ``sockets``, which tells the short way too.
    """
    async with AsyncExitStack() as stack:

        async def make(
            shards: int = 1,
            nodes: int = 3,
            *,
            ready: bool = True,
            led: bool = True,
            tracing: OperationTracing | None = None,
            **settings: Any,
        ) -> Facade:
            cluster = FakeCluster(shards, nodes)
            for shard in () if led else cluster.shards:
                shard.leader = None
            await cluster.start()
            stack.push_async_callback(cluster.stop)
            values = Settings(nodes=cluster.addresses(), **settings)
            metrics = Metrics()
            router = Router(values, metrics, tracing=tracing)
            task = asyncio.create_task(router.run())
            stack.push_async_callback(_stop, task)
            facade = Facade(cluster, router, metrics, values)
            if facade.gate is not None:
                stack.push_async_callback(_stop, asyncio.create_task(facade.gate.run()))
            stack.push_async_callback(facade.close)
            if getattr(request, "param", "asgi") == "sockets":
                await facade.use_sockets()
            if ready:
                await facade.until(lambda: router.ready, "the facade became ready")
            return facade

        yield make


@pytest.fixture
async def make_cluster() -> AsyncIterator[Callable[..., Awaitable[FakeCluster]]]:
    """Starts fake clusters without a facade."""
    async with AsyncExitStack() as stack:

        async def make(shards: int = 1, nodes: int = 3) -> FakeCluster:
            cluster = FakeCluster(shards, nodes)
            await cluster.start()
            stack.push_async_callback(cluster.stop)
            return cluster

        yield make
