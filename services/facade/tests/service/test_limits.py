"""What one client may ask for, over the facade: shares under load, rates, connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.seconds

MakeFacade = Callable[..., Awaitable[Any]]


def client_at(facade: Any, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(facade.application, client=(address, 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://facade", timeout=60.0)


@pytest.mark.parametrize("window", [64, 0])
async def test_a_greedy_client_leaves_a_polite_one_at_least_half_of_its_share(
    make_facade: MakeFacade, window: int
) -> None:
    """One asks ten times as much as the other; of what is served first, half of its share is a quarter."""
    facade = await make_facade(nodes=1, fair_window_items=window)
    node = facade.cluster.shards[0].nodes[0]
    served: list[str] = []

    async def ask(name: str, client: httpx.AsyncClient) -> None:
        response = await client.put("/v1/kv/k", content=b"v")
        assert response.status_code == 200
        served.append(name)

    async with client_at(facade, "10.0.0.1") as greedy, client_at(facade, "10.0.0.2") as polite:
        node.silent = True
        async with asyncio.TaskGroup() as group:
            for number in range(352):
                name, client = ("greedy", greedy) if number % 11 else ("polite", polite)
                group.create_task(ask(name, client))
            await facade.until(lambda: facade.router.registry.load(0).items == 352, "all is asked for")
            node.silent = False
    assert len(served) == 352, "and nobody is refused"
    part = served[:96].count("polite") / 96
    assert part >= 0.25 if window else part < 0.15


async def test_rates_are_refused_before_anything_is_proposed_and_probes_and_operators_get_through(
    make_facade: MakeFacade,
) -> None:
    facade = await make_facade(nodes=1, address_requests_per_s=5)
    await facade.use_sockets()
    answers = [await facade.http.put("/v1/kv/k", content=b"v") for _ in range(8)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) >= 1 and [answer.status_code for answer in answers[:5]] == [200] * 5
    told = refused[0].json()
    assert (told["code"], told["outcome"], told["retryable"]) == ("too_many_requests", "not_applied", True)
    assert int(refused[0].headers["retry-after"]) >= 1
    # The other way, and the routes beside the keys: of what comes at once, the last is one too many.
    batches = await asyncio.gather(*(facade.http.get("/v1/kv?limit=1") for _ in range(10)))
    assert 429 in {answer.status_code for answer in batches}
    for path in ("/livez", "/readyz", "/metrics", "/v1/cluster", "/v1/limits"):
        assert (await facade.http.get(path)).status_code == 200, path
    facade.application.front.look(1)
    count = facade.metrics.registry.get_sample_value("dougdb_facade_limited_total", {"reason": "rate"})
    assert count >= len(refused) + 1
    store = facade.cluster.shards[0].store
    assert store.revision == 8 - len(refused), "what was refused has left no trace"


async def test_an_address_that_has_too_many_connections_is_told_so(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, address_connections_max=1)
    port = await facade.listen()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    second, other = await asyncio.open_connection("127.0.0.1", port)
    whole = await second.read()
    assert whole.startswith(b"HTTP/1.1 429") and b"too_many_requests" in whole
    other.close()
    writer.close()
    await facade.until(lambda: not facade.application.front.quotas._connections, "the connections are forgotten")
