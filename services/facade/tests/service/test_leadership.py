"""POST /v1/shards/{id}/leader: leadership moves, the facade follows at once, and every refusal is a problem."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

MakeFacade = Callable[..., Awaitable[Any]]


async def test_leadership_moves_to_the_node_that_is_named(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    nodes = facade.cluster.shards[0].nodes
    answer = await facade.http.post("/v1/shards/0/leader", json={"to": "shard-0-2"})
    assert answer.status_code == 200
    assert answer.json() == {"shard": 0, "leader": "shard-0-2", "term": 2, "previous": "shard-0-0"}
    shard = facade.router.shards[0]
    assert (shard.leader.id, shard.leader_term) == ("shard-0-2", 2), "no write has to find it out"
    assert (await facade.http.put("/v1/kv/k", content=b"v")).status_code == 200
    assert nodes[0].batches == [], "nothing was sent to the old leader"


@pytest.mark.parametrize("body", [b"", b"{}", b" ", b'{"to": null}', b'{"to": ""}'])
async def test_without_a_name_any_other_node_takes_over(make_facade: MakeFacade, body: bytes) -> None:
    facade = await make_facade(nodes=3)
    answer = await facade.http.post("/v1/shards/0/leader", content=body)
    assert (answer.status_code, answer.json()["leader"]) == (200, "shard-0-1")
    assert facade.cluster.shards[0].nodes[0].transfers == [""]


async def test_the_leader_is_found_first(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    nodes = facade.cluster.shards[0].nodes
    nodes[1].lead()
    answer = await facade.http.post("/v1/shards/0/leader", json={"to": "shard-0-2"})
    assert answer.json() == {"shard": 0, "leader": "shard-0-2", "term": 3, "previous": "shard-0-1"}


async def test_an_answer_that_is_lost_is_asked_for_again(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    facade.cluster.shards[0].nodes[0].transfer_breaks = True
    answer = await facade.http.post("/v1/shards/0/leader", json={"to": "shard-0-1"})
    assert (answer.status_code, answer.json()["leader"]) == (200, "shard-0-1")


@pytest.mark.parametrize(
    ("code", "status", "problem", "outcome"),
    [
        ("TRANSFER_REFUSED", 409, "transfer_refused", "not_applied"),
        ("TRANSFER_FAILED", 504, "transfer_failed", "unknown"),
        ("ALREADY_LEADER", 409, "already_leader", "not_applied"),
    ],
)
async def test_what_the_leader_refuses(
    make_facade: MakeFacade, code: str, status: int, problem: str, outcome: str
) -> None:
    facade = await make_facade(nodes=2)
    facade.cluster.shards[0].nodes[0].transfer_code = code
    answer = await facade.http.post("/v1/shards/0/leader", json={})
    document = answer.json()
    assert (answer.status_code, document["code"], document["outcome"]) == (status, problem, outcome)
    assert (document["shard"], document["detail"]) == (0, "it is so.")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_shard_without_a_leader_is_unavailable(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facade.client.operators.leadership.TIMEOUT_S", 0.3)
    facade = await make_facade(nodes=2)
    shard = facade.cluster.shards[0]
    shard.leader = None
    answer = await facade.http.post("/v1/shards/0/leader")
    assert (answer.status_code, answer.json()["code"]) == (503, "no_leader")
    assert answer.headers["retry-after"] == "1"


async def test_a_leader_that_is_silent_is_too_late(make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facade.client.operators.leadership.TIMEOUT_S", 0.2)
    facade = await make_facade(nodes=2)
    leader = facade.cluster.shards[0].nodes[0]
    leader.silent = True
    answer = await facade.http.post("/v1/shards/0/leader")
    leader.silent = False
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert answer.json()["outcome"] == "unknown"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/shards/9/leader", b"", 404, "unknown_shard"),
        ("/v1/shards/x/leader", b"", 400, "bad_request"),
        ("/v1/shards/0/leader?force=1", b"", 400, "unknown_parameter"),
        ("/v1/shards/0/leader", b'{"to": "shard-0-9"}', 422, "unknown_target"),
        ("/v1/shards/0/leader", b'{"to": "shard-0-0"}', 409, "already_leader"),
        ("/v1/shards/0/leader", b'{"to": 7}', 400, "bad_request"),
        ("/v1/shards/0/leader", b'{"target": "shard-0-1"}', 400, "bad_request"),
        ("/v1/shards/0/leader", b"[]", 400, "bad_request"),
        ("/v1/shards/0/leader", b'{"to": ', 400, "bad_json"),
        ("/v1/shards/0/leader", b" " * 5000, 413, "value_too_large"),
    ],
)
async def test_a_wrong_request_is_a_problem(
    make_facade: MakeFacade, path: str, body: bytes, status: int, code: str
) -> None:
    facade = await make_facade(nodes=2)
    answer = await facade.http.post(path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert facade.cluster.shards[0].leader is facade.cluster.shards[0].nodes[0]


async def test_only_post(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.get("/v1/shards/0/leader")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, "method_not_allowed", "POST")


async def test_openapi_describes_it(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    route = (await facade.http.get("/openapi.json")).json()["paths"]["/v1/shards/{shard}/leader"]["post"]
    assert {"200", "400", "404", "409", "422", "503", "504"} <= set(route["responses"])
    assert route["requestBody"]["content"]["application/json"]["schema"]["properties"].keys() == {"to"}
