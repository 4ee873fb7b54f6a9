"""Fixtures of the facade's tests: facades in front of fake clusters (``fake_nodes``)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from facade.client.metrics import Metrics
from facade.client.router import Router
from facade.client.tracing import OperationTracing
from facade.settings import Settings

if str(Path(__file__).parents[3]) not in sys.path:  # Of the repository's root, ``tools``.
    sys.path.insert(0, str(Path(__file__).parents[3]))
if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

from facade_under_test import Facade
from fake_nodes import FakeCluster


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
            task = asyncio.create_task(router.upkeep.run())
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


@pytest.fixture
def make(make_facade: Callable[..., Awaitable[Facade]]) -> Callable[..., Awaitable[Facade]]:
    """The same, but asked over sockets, as watches must be: an answer without an end needs a connection."""

    async def made(**settings: Any) -> Facade:
        facade = await make_facade(**settings)
        await facade.use_sockets()
        return facade

    return made
