"""What operators and documentation tools read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from turns import counted_turns

from doug.v1 import admin_pb2
from doug_wire.slots import SLOTS, slot_of
from facade import __version__
from facade.client.node import Clock, clock_between
from facade.routes.operators import cluster as cluster_routes

MakeFacade = Callable[..., Awaitable[Any]]


async def test_cluster_names_every_node_and_says_who_is_unreachable(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=3)
    dead = facade.cluster.shards[1].nodes[2]
    await dead.stop()
    answer = await facade.http.get("/v1/cluster")
    shards = answer.json()["shards"]
    assert [shard["id"] for shard in shards] == [0, 1]
    assert [node["role"] for node in shards[0]["nodes"]] == ["leader", "follower", "follower"]
    assert shards[0]["nodes"][0] == {
        "id": "shard-0-0", "address": facade.cluster.shards[0].nodes[0].address, "role": "leader", "term": 1,
        "commit_index": 7, "applied_index": 7, "last_log_index": 8, "admin": "127.0.0.1:27099",
    }  # fmt: skip
    gone = shards[1]["nodes"][2]
    assert (gone["id"], gone["address"], gone["role"], gone["term"]) == (dead.id, dead.address, "unreachable", 0)


async def test_cluster_tells_how_nodes_are_when_it_is_asked_for(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2, facade_id="f7")
    first, second = facade.cluster.shards[0].nodes
    first.vitals.CopyFrom(
        admin_pb2.Vitals(
            clock_us=time.time_ns() // 1000 + 60_000_000,
            syncs=4,
            sync_seconds=0.5,
            divergences=1,
            certificate_ends_s=1_900_000_000,
            volumes=[admin_pb2.Volume(name="wal", total_bytes=100, free_bytes=7)],
        )
    )
    await second.stop()
    document = (await facade.http.get("/v1/cluster?vitals=true")).json()
    assert (document["facade"]["id"], document["facade"]["map_epoch"]) == ("f7", 1)
    assert document["facade"]["certificate_ends_s"] is None
    there, gone = document["shards"][0]["nodes"]
    assert "vitals" not in gone
    vitals = there["vitals"]
    # The fake's clock was read before the question was asked.
    assert vitals["clock_ahead_ms"] + vitals["clock_error_ms"] > 30_000
    assert vitals["clock_ahead_ms"] <= 60_000
    assert (vitals["syncs"], vitals["sync_seconds"], vitals["divergences"]) == (4, 0.5, 1)
    assert vitals["certificate_ends_s"] == 1_900_000_000
    assert vitals["volumes"] == [{"name": "wal", "total_bytes": 100, "free_bytes": 7}]
    assert "facade" not in (await facade.http.get("/v1/cluster")).json()


async def test_how_the_facade_is_is_told_without_making_all_its_metrics(make_facade: MakeFacade) -> None:
    """Those of a thousand shards take long, and every console and every dougctl top asks again and again."""
    facade = await make_facade(nodes=1)
    made: list[bool] = []

    class Noticed(Collector):
        def collect(self) -> Iterator[Metric]:
            made.append(True)
            return iter(())

    facade.metrics.registry.register(Noticed())
    facade.metrics.tell_expiry(lambda: 1_900_000_000.5)
    made.clear()
    document = (await facade.http.get("/v1/cluster?vitals=true")).json()
    assert (document["facade"]["certificate_ends_s"], made) == (1_900_000_000, [])
    shown = (await facade.http.get("/metrics")).text
    assert "dougdb_tls_certificate_expiry_timestamp_seconds 1.9000000005e+09" in shown
    assert made == [True]


def test_the_way_to_a_clock_and_back_is_what_it_can_be_wrong_by() -> None:
    assert clock_between(1_000, 3_000, 5_000) == Clock(0.0, 2.0)
    assert clock_between(1_000, 9_000, 1_000) == Clock(8.0, 0.0)
    # One's own clock was put back meanwhile.
    assert clock_between(5_000, 4_000, 1_000) == Clock(-1.0, 0.0)


async def test_partitions_tell_how_often_slots_were_asked_for(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    for _ in range(3):
        await facade.http.put("/v1/kv/k", content=b"v")
    counts = (await facade.http.get("/v1/partitions?counts=true")).json()["counts"]
    assert (len(counts), counts[slot_of(b"k")]) == (SLOTS, 3)


async def test_cluster_does_not_wait_for_a_stopped_node(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    facade.cluster.shards[0].nodes[1].silent = True
    nodes = (await facade.http.get("/v1/cluster")).json()["shards"][0]["nodes"]
    assert [node["role"] for node in nodes] == ["leader", "unreachable"]
    facade.cluster.shards[0].nodes[1].silent = False


async def test_partitions_version_and_metrics(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1, facade_id="f7")
    assert (await facade.http.get("/v1/partitions")).json() == {
        "epoch": 1, "slots": [{"from": 0, "to": 511, "shard": 0}, {"from": 512, "to": 1023, "shard": 1}],
    }  # fmt: skip
    assert (await facade.http.get("/v1/version")).json() == {
        "name": "facade",
        "version": __version__,
        "facade_id": "f7",
    }
    await facade.http.put("/v1/kv/k", content=b"v")
    text = (await facade.http.get("/metrics")).text
    labels = 'code="200",consistency="linearizable",method="PUT",route="/v1/kv/{key}"'
    assert f"dougdb_facade_requests_total{{{labels}}} 1.0" in text
    assert 'dougdb_facade_leader_known{shard="1"} 1.0' in text
    assert 'dougdb_facade_pending_items{shard="0"} 0.0' in text
    assert "dougdb_facade_messages_sent_total 1.0" in text


async def test_openapi_describes_the_raw_routes(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    document = (await facade.http.get("/openapi.json")).json()
    key_routes = document["paths"]["/v1/kv/{key}"]
    assert {"get", "head", "put", "delete"} <= key_routes.keys()
    assert key_routes["put"]["requestBody"]["content"]["*/*"]["schema"]["format"] == "binary"
    assert "application/problem+json" in key_routes["get"]["responses"]["404"]["content"]
    headers = (await facade.http.put("/v1/kv/k", content=b"v")).headers
    for name in key_routes["put"]["responses"]["200"]["headers"]:
        assert name.lower() in headers or name in ("Idempotency-Replayed", "Doug-Expires-At")
    assert {"/v1/cluster", "/v1/partitions", "/v1/version", "/livez", "/readyz", "/metrics"} <= document["paths"].keys()
    assert "Problem" in document["components"]["schemas"]
    assert (await facade.http.get("/docs")).status_code == 200


async def test_however_many_look_at_the_cluster_its_nodes_are_asked_twice_a_second(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    facade = await make_facade(nodes=2)
    monkeypatch.setattr("facade.client.operators.cluster_status.FRESH_S", 60.0)
    asked = sum(node.statuses for node in facade.cluster.shards[0].nodes)
    answers = await asyncio.gather(*(facade.http.get("/v1/cluster") for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum(node.statuses for node in facade.cluster.shards[0].nodes) - asked <= 2 + 2, "one round, and the search"
    await facade.http.get("/v1/cluster")
    monkeypatch.setattr("facade.client.operators.cluster_status.FRESH_S", 0.0)
    asked = sum(node.statuses for node in facade.cluster.shards[0].nodes)
    await facade.http.get("/v1/cluster")
    assert sum(node.statuses for node in facade.cluster.shards[0].nodes) == asked + 2, "what is old is asked for again"


@pytest.mark.parametrize("query", ["", "?vitals=true"])
async def test_requests_are_let_in_between_the_pieces_of_an_answer_about_all_nodes(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    facade = await make_facade(nodes=1)
    few = (await facade.http.get(f"/v1/cluster{query}")).json()["shards"][0]["nodes"][0]
    (node,) = facade.router.shards[0].nodes.values()
    ((_, status),) = (await facade.router.cluster.read())[0]
    statuses = {shard: [(node, status)] * 5 for shard in range(1000)}

    async def read() -> Any:
        return statuses

    monkeypatch.setattr(facade.router.cluster, "read", read)
    made = 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal made
        made += 1
        return node_view(*given, **named)

    node_view = cluster_routes.node_view
    monkeypatch.setattr(cluster_routes, "node_view", counted)

    async with counted_turns() as turns:
        answers = await asyncio.gather(*(facade.http.get(f"/v1/cluster{query}") for _ in range(5)))
    assert turns.count >= 5000 / cluster_routes.PIECE_NODES
    assert made == 5000, "once for all who ask"
    shards = answers[0].json()["shards"]
    assert [shard["id"] for shard in shards] == list(range(1000))
    for each in (few, *shards[0]["nodes"]):
        each.get("vitals", {}).pop("uptime_ms", None)
    assert shards[0]["nodes"] == [few] * 5, "as for a few nodes"
    assert len({len(answer.json()["shards"]) for answer in answers}) == 1
