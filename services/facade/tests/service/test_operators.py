"""What operators and documentation tools read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

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
    assert (await facade.http.get("/v1/version")).json() == {"name": "facade", "version": "0.1.0", "facade_id": "f7"}
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
    monkeypatch.setattr("facade.client.cluster_status.FRESH_S", 60.0)
    asked = sum(node.statuses for node in facade.cluster.shards[0].nodes)
    answers = await asyncio.gather(*(facade.http.get("/v1/cluster") for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum(node.statuses for node in facade.cluster.shards[0].nodes) - asked <= 2 + 2, "one round, and the search"
    await facade.http.get("/v1/cluster")
    monkeypatch.setattr("facade.client.cluster_status.FRESH_S", 0.0)
    asked = sum(node.statuses for node in facade.cluster.shards[0].nodes)
    await facade.http.get("/v1/cluster")
    assert sum(node.statuses for node in facade.cluster.shards[0].nodes) == asked + 2, "what is old is asked for again"
