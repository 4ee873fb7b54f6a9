"""The key routes against fake raft-nodes: what is promised in docs/api.md."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

MakeFacade = Callable[..., Awaitable[Any]]


async def test_put_get_head_delete(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    answer = await facade.http.put("/v1/kv/hello", content=b"world", headers={"content-type": "text/plain"})
    assert answer.status_code == 200
    assert answer.json() == {"revision": "1"}
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["doug-shard"] in {"0", "1"}
    assert answer.headers["doug-served-by"] == f"shard-{answer.headers['doug-shard']}-0"
    assert answer.headers["doug-consistency-used"] == "linearizable"
    assert answer.headers["doug-term"] == "1"
    assert answer.headers["doug-applied-index"] == "7"

    for consistency in ("linearizable", "eventual"):
        answer = await facade.http.get("/v1/kv/hello", params={"consistency": consistency})
        assert (answer.status_code, answer.content) == (200, b"world")
        assert answer.headers["content-type"] == "text/plain"
        assert answer.headers["etag"] == '"1"'
        assert answer.headers["doug-consistency-used"] == consistency

    answer = await facade.http.head("/v1/kv/hello")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "5")

    for _ in range(2):
        answer = await facade.http.delete("/v1/kv/hello")
        assert (answer.status_code, answer.content) == (204, b"")
    answer = await facade.http.get("/v1/kv/hello")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"
    assert (await facade.http.head("/v1/kv/hello")).status_code == 404


async def test_json_view(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    await facade.http.put("/v1/kv/text", content="grün".encode())
    await facade.http.put("/v1/kv/a%2Fb", content=b"\xff\x00", headers={"content-type": "image/png"})
    answer = await facade.http.get("/v1/kv/text", headers={"accept": "application/json"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "key": "text",
        "value": "grün",
        "encoding": "utf-8",
        "revision": "1",
        "content_type": "application/octet-stream",
    }
    answer = await facade.http.get("/v1/kv/a/b", headers={"accept": "application/json"})
    assert answer.json() == {
        "key": "a/b",
        "value": "/wA=",
        "encoding": "base64",
        "revision": "2",
        "content_type": "image/png",
    }


async def test_many_at_once_travel_in_few_batches(make_facade: MakeFacade) -> None:
    import asyncio

    facade = await make_facade()
    answers = await asyncio.gather(*(facade.http.put(f"/v1/kv/k{i}", content=b"v") for i in range(200)))
    assert {answer.status_code for answer in answers} == {200}
    leader = facade.cluster.shards[0].nodes[0]
    assert sum(items for _, items in leader.batches) == 200
    assert len(leader.batches) < 40


async def test_eventual_reads_are_spread_over_all_replicas(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    await facade.http.put("/v1/kv/k", content=b"v")
    served = [(await facade.http.get("/v1/kv/k?consistency=eventual")).headers["doug-served-by"] for _ in range(30)]
    counts = {node: served.count(node) for node in set(served)}
    assert len(counts) == 3, counts
    assert min(counts.values()) >= 5, counts


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/v1/kv/", 400, "empty_key"),
        ("PUT", "/v1/kv", 400, "empty_key"),
        ("PUT", "/v1/kv/" + "k" * 1025, 400, "key_too_long"),
        ("PUT", "/v1/kv/" + "%41" * 1025, 400, "key_too_long"),
        ("PUT", "/v1/kv/%zz", 400, "bad_escape"),
        ("GET", "/v1/kv/a%2", 400, "bad_escape"),
        ("PUT", "/v1/kv/%ff", 400, "key_not_utf8"),
        ("GET", "/v1/kv/%ed%a0%80", 400, "key_not_utf8"),
        ("GET", "/v1/kv/a?consistency=strong", 400, "bad_consistency"),
        ("GET", "/v1/kv/a?consistency=", 400, "bad_consistency"),
        ("GET", "/v1/kv/a?consistency=eventual&consistency=linearizable", 400, "bad_consistency"),
        ("GET", "/v1/kv/a?ttl=3", 400, "unknown_parameter"),
        ("PUT", "/v1/kv/a?ttl=3", 400, "unknown_parameter"),
        ("DELETE", "/v1/kv/a?x", 400, "unknown_parameter"),
        ("GET", "/v1/kv/a?%zz=1", 400, "bad_escape"),
        ("POST", "/v1/kv/a", 405, "method_not_allowed"),
        ("PATCH", "/v1/kv/a", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "unknown_route"),
        ("POST", "/v1/cluster", 405, "method_not_allowed"),
        ("GET", "/v1/cluster/", 404, "unknown_route"),
    ],
)
async def test_bad_requests(make_facade: MakeFacade, method: str, target: str, status: int, code: str) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.request(method, target, content=b"x" if method == "PUT" else None)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] == code
    assert body["status"] == status
    assert body["outcome"] == "not_applied"
    assert {"type", "title", "detail", "retryable"} <= body.keys()
    assert not facade.cluster.shards[0].data
    if status == 405:
        assert "GET" in answer.headers["allow"]
