"""The timeline of a shard: merged over its nodes, bounded, and honest about nodes that are missing."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from doug.v1 import admin_pb2

MakeFacade = Callable[..., Awaitable[Any]]


def event(sequence: int, time_us: int, name: str, term: int = 1, **details: object) -> admin_pb2.Event:
    return admin_pb2.Event(
        sequence=sequence,
        time_us=time_us,
        monotonic_us=time_us // 2,
        term=term,
        name=name,
        details=json.dumps(details),
        count=1,
        last_time_us=time_us,
    )


async def test_events_of_all_nodes_are_merged_by_time_then_node(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    nodes = facade.cluster.shards[0].nodes
    nodes[0].events = [event(1, 100, "became_candidate", 2), event(2, 300, "became_leader", 2)]
    nodes[1].events = [event(1, 300, "follows", 2, leader="shard-0-0")]
    nodes[2].events = [event(5, 200, "lost_leadership", 2)]
    answer = await facade.http.get("/v1/shards/0/events")
    assert answer.status_code == 200
    document = answer.json()
    assert [(e["node"], e["name"]) for e in document["events"]] == [
        ("shard-0-0", "became_candidate"),
        ("shard-0-2", "lost_leadership"),
        ("shard-0-0", "became_leader"),
        ("shard-0-1", "follows"),
    ]
    assert document["events"][3] == {
        "node": "shard-0-1", "start_id": "start-shard-0-1", "sequence": 1, "time_us": 300, "monotonic_us": 150,
        "term": 2, "name": "follows", "details": {"leader": "shard-0-0"}, "count": 1, "last_time_us": 300,
    }  # fmt: skip
    assert document["nodes"][0] == {
        "id": "shard-0-0", "reachable": True, "start_id": "start-shard-0-0", "clock_us": 1_000_000, "forgotten": 3,
    }  # fmt: skip
    assert (document["shard"], document["unreachable"], document["cut"]) == (0, [], False)


async def test_a_clock_that_was_set_back_does_not_turn_a_nodes_events_around(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    nodes = facade.cluster.shards[0].nodes
    nodes[0].events = [event(1, 500, "first"), event(2, 200, "second"), event(3, 600, "third")]
    nodes[1].events = [event(1, 300, "other"), event(2, 550, "later")]
    events = (await facade.http.get("/v1/shards/0/events")).json()["events"]
    assert [e["name"] for e in events] == ["other", "first", "second", "later", "third"]
    assert events[2]["time_us"] == 200


async def test_since_and_limit_keep_the_newest(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    nodes = facade.cluster.shards[0].nodes
    nodes[0].events = [event(number, number * 10, f"a{number}") for number in range(1, 6)]
    nodes[1].events = [event(number, number * 10 + 5, f"b{number}") for number in range(1, 6)]

    async def names(query: str) -> tuple[list[str], bool]:
        document = (await facade.http.get(f"/v1/shards/0/events{query}")).json()
        return [e["name"] for e in document["events"]], document["cut"]

    assert await names("?since=45") == (["b4", "a5", "b5"], False)
    assert await names("?limit=3") == (["b4", "a5", "b5"], True)
    assert await names("?since=50&limit=10000") == (["a5", "b5"], False)


async def test_a_node_that_is_gone_or_silent_is_named(make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facade.client.operators.cluster_status.EVENTS_TIMEOUT_S", 0.1)
    facade = await make_facade(nodes=3)
    nodes = facade.cluster.shards[0].nodes
    nodes[0].events = [event(1, 100, "became_leader")]
    await nodes[1].stop()
    nodes[2].silent = True
    document = (await facade.http.get("/v1/shards/0/events")).json()
    nodes[2].silent = False
    assert [e["name"] for e in document["events"]] == ["became_leader"]
    assert document["unreachable"] == ["shard-0-1", "shard-0-2"]
    assert document["nodes"][1] == {
        "id": "shard-0-1", "reachable": False, "start_id": None, "clock_us": None, "forgotten": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/shards/7/events", 404, "unknown_shard"),
        ("/v1/shards/-1/events", 400, "bad_request"),
        ("/v1/shards/first/events", 400, "bad_request"),
        ("/v1/shards/0/events?since=-1", 400, "bad_request"),
        ("/v1/shards/0/events?since=10m", 400, "bad_request"),
        ("/v1/shards/0/events?since=9223372036854775808", 400, "bad_request"),
        ("/v1/shards/0/events?limit=0", 400, "bad_request"),
        ("/v1/shards/0/events?limit=10001", 400, "bad_request"),
        ("/v1/shards/0/events?limit=", 400, "bad_request"),
        ("/v1/shards/0/events?limit=1&limit=2", 400, "bad_request"),
        ("/v1/shards/0/events?sinze=1", 400, "unknown_parameter"),
    ],
)
async def test_a_wrong_request_is_a_problem(make_facade: MakeFacade, path: str, status: int, code: str) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.get(path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["retryable"], answer.json()["outcome"]) == (False, "not_applied")


async def test_openapi_describes_the_timeline(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    document = (await facade.http.get("/openapi.json")).json()
    route = document["paths"]["/v1/shards/{shard}/events"]["get"]
    assert [parameter["name"] for parameter in route["parameters"]] == ["shard", "since", "limit"]
    assert {"200", "400", "404"} <= route["responses"].keys()
