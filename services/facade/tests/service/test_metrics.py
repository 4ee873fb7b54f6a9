"""What the facade counts: requests by route template, how batches fare, and what it knows of shards and the map."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from facade import __version__
from facade.client.metrics import ShardState

MakeFacade = Callable[..., Awaitable[Any]]

KEY = "/v1/kv/{key}"


def requests(facade: Any, **labels: str) -> float:
    value: float | None = facade.metrics.registry.get_sample_value(
        "dougdb_facade_requests_total", {"consistency": "none", **labels}
    )
    return value or 0.0


async def test_a_key_is_never_a_label(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    await facade.http.put("/v1/kv/secret-key", content=b"v")
    await facade.http.get("/v1/kv/secret-key?consistency=eventual")
    await facade.http.get("/v1/kv/")
    text = (await facade.http.get("/metrics")).text
    assert "secret" not in text
    assert requests(facade, route=KEY, method="PUT", code="200", consistency="linearizable") == 1
    assert requests(facade, route=KEY, method="GET", code="200", consistency="eventual") == 1
    assert requests(facade, route=KEY, method="GET", code="400") == 1


@pytest.mark.parametrize(
    ("method", "path", "route", "code"),
    [
        ("GET", "/v1/cluster", "/v1/cluster", "200"),
        ("GET", "/v1/shards/77/events", "/v1/shards/{shard}/events", "404"),
        ("GET", "/v1/nothing/here", "unmatched", "404"),
        ("GET", "/", "unmatched", "404"),
        ("BREW", "/livez", "/livez", "405"),
    ],
)
async def test_other_routes_are_counted_by_their_template(
    make_facade: MakeFacade, method: str, path: str, route: str, code: str
) -> None:
    facade = await make_facade(nodes=1)
    await facade.http.request(method, path)
    shown = [
        {name: sample.labels[name] for name in ("route", "method", "code")}
        for family in facade.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "dougdb_facade_requests_total"
    ]
    assert shown == [{"route": route, "method": "other" if method == "BREW" else method, "code": code}]


async def test_shards_and_the_map_are_shown(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1)
    await facade.http.put("/v1/kv/k", content=b"v")
    text = (await facade.http.get("/metrics")).text
    value = facade.metrics.registry.get_sample_value
    for shard in ("0", "1"):
        assert value("dougdb_facade_shard_reachable", {"shard": shard}) == 1
        age_s = value("dougdb_facade_leader_cache_age_seconds", {"shard": shard})
        assert age_s is not None
        assert age_s >= 0
    assert value("dougdb_partition_map_version") == value("dougdb_facade_map_epoch") == 1
    assert value("dougdb_partition_map_updates_total", {"source": "leader"}) == 1
    assert "dougdb_partition_map_age_seconds " in text
    # The scrape itself is the one request under way.
    assert "dougdb_facade_inflight_requests 1.0" in text
    batches = sum(
        value("dougdb_facade_upstream_duration_seconds_count", {"shard": shard, "rpc": "write"}) or 0
        for shard in ("0", "1")
    )
    assert batches == 1
    assert f'dougdb_build_info{{commit="",version="{__version__}"}} 1.0' in text


async def test_the_latency_keeps_its_old_name_too(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    await facade.http.put("/v1/kv/k", content=b"v")
    await facade.http.get("/v1/version")
    text = (await facade.http.get("/metrics")).text
    assert 'dougdb_facade_request_seconds_count{consistency="linearizable",method="PUT"} 1.0' in text
    assert 'dougdb_facade_request_seconds_bucket{consistency="linearizable",le="+Inf",method="PUT"} 1.0' in text
    assert text.count("dougdb_facade_request_seconds_count{") == 1


class NeedsTheLoop(Collector):
    """A metric that nobody can tell who holds the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def describe(self) -> list[Metric]:
        return [GaugeMetricFamily("needs_the_loop", "Whether the event loop turned meanwhile")]

    def collect(self) -> Iterator[Metric]:
        turned = threading.Event()
        self._loop.call_soon_threadsafe(turned.set)
        yield GaugeMetricFamily("needs_the_loop", "Whether the event loop turned meanwhile", value=turned.wait(10))


async def test_requests_are_answered_while_metrics_are_made_into_text(make_facade: MakeFacade) -> None:
    """With a thousand shards that takes some 400 ms."""
    facade = await make_facade(nodes=1)
    facade.metrics.registry.register(NeedsTheLoop(asyncio.get_running_loop()))
    asked: list[threading.Thread] = []

    def lags() -> dict[int, int]:
        asked.append(threading.current_thread())
        return {0: 7}

    facade.metrics.watches.lags = lags
    text = (await facade.http.get("/metrics")).text
    assert "needs_the_loop 1.0" in text
    assert 'dougdb_facade_watch_lag_entries{shard="0"} 7.0' in text
    assert asked == [threading.main_thread()], "what only the event loop may read is read on it"


async def test_the_age_of_a_leader_goes_with_the_leader(make_facade: MakeFacade) -> None:
    metrics = (await make_facade(nodes=1)).metrics
    value = metrics.registry.get_sample_value
    for age_s in (3.0, None, None, 4.0):
        metrics.shard(7, ShardState(0, 0, True, age_s))
        assert value("dougdb_facade_leader_cache_age_seconds", {"shard": "7"}) == age_s
