"""The key routes against fake raft-nodes: what is promised in docs/api.md."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fake_store import Entry

pytestmark = pytest.mark.parametrize("make_facade", ["asgi", "sockets"], indirect=True)

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
        "expires_at": None,
    }
    answer = await facade.http.get("/v1/kv/a/b", headers={"accept": "application/json"})
    assert answer.json() == {
        "key": "a/b",
        "value": "/wA=",
        "encoding": "base64",
        "revision": "2",
        "content_type": "image/png",
        "expires_at": None,
    }


async def test_many_at_once_travel_in_few_batches(make_facade: MakeFacade) -> None:
    facade = await make_facade(request_timeout_ms=60_000)
    answers = await asyncio.gather(*(facade.http.put(f"/v1/kv/k{i}", content=b"v") for i in range(200)))
    assert {answer.status_code for answer in answers} == {200}
    leader = facade.cluster.shards[0].nodes[0]
    assert sum(items for _, items in leader.batches) == 200
    # How many arrive together is up to the client and the machine; without batches there would be 200.
    assert len(leader.batches) < 100


async def test_a_client_that_gives_up_leaves_the_others_of_its_batch_alone(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    puts = [asyncio.ensure_future(facade.http.put(f"/v1/kv/k{i}", content=b"v")) for i in range(60)]
    # One gives up before its batch leaves, others while it is under way.
    for number, put in enumerate(puts):
        if number % 7 == 0:
            put.cancel()
            await asyncio.sleep(0)
    await asyncio.wait(puts)
    for number, put in enumerate(puts):
        assert (number % 7 == 0 and put.cancelled()) or put.result().status_code == 200
    assert (await facade.http.put("/v1/kv/k", content=b"v")).status_code == 200


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
        ("PUT", "/v1/kv", 405, "method_not_allowed"),
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
        ("DELETE", "/v1/kv/a?ttl=3", 400, "unknown_parameter"),
        ("PUT", "/v1/kv/a?ttl=3w", 400, "bad_ttl"),
        ("PUT", "/v1/kv/a?ttl=3&ttl=4", 400, "bad_request"),
        ("PUT", "/v1/kv/a?key64=YQ", 400, "bad_key64"),
        ("GET", "/v1/kv?key64=+", 400, "bad_key64"),
        ("POST", "/v1/kv/a:touch", 400, "bad_ttl"),
        ("POST", "/v1/kv/a:touch?ttl=keep", 400, "bad_ttl"),
        ("POST", "/v1/kv/a%3Atouch?ttl=3", 405, "method_not_allowed"),
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


async def test_errors_are_told_in_our_words(make_facade: MakeFacade) -> None:
    """Not in those of the libraries that found them."""
    facade = await make_facade(nodes=1)
    for method, target, said in (
        ("GET", "/v1/nothing", "There is nothing at this path; GET /docs shows what there is."),
        ("POST", "/v1/cluster", "There is no POST here."),
        ("GET", "/v1/shards/00/members", "path.shard: a shard is a decimal number without"),
    ):
        answer = await facade.http.request(method, target)
        assert answer.json()["detail"].startswith(said), answer.text


async def test_consistency_by_header_and_by_both(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    await facade.http.put("/v1/kv/k", content=b"v")
    answer = await facade.http.get("/v1/kv/k", headers={"doug-consistency": "eventual"})
    assert answer.headers["doug-consistency-used"] == "eventual"
    answer = await facade.http.get("/v1/kv/k?consistency=eventual", headers={"doug-consistency": "eventual"})
    assert answer.status_code == 200
    answer = await facade.http.get("/v1/kv/k?consistency=linearizable", headers={"doug-consistency": "eventual"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_consistency")
    answer = await facade.http.get("/v1/kv/k", headers={"doug-consistency": "lease"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_consistency")


async def test_slash_and_escaped_slash_are_the_same_byte_and_nothing_else_is_normalised(
    make_facade: MakeFacade,
) -> None:
    facade = await make_facade(nodes=1)
    stored = facade.cluster.shards[0].data
    composed, decomposed = b"\xc3\xa9", b"e\xcc\x81"
    for target, key in {
        "a/b": b"a/b",
        "a%2Fb": b"a/b",
        "a%2fb": b"a/b",
        "//x": b"//x",
        "x/": b"x/",
        "%2e%2e/x": b"../x",
        "%00": b"\0",
        "e%CC%81": decomposed,
        "%C3%A9": composed,
        "%25": b"%",
        "a+b": b"a+b",
        "%EF%BF%BD": b"\xef\xbf\xbd",
    }.items():
        stored.clear()
        answer = await facade.http.put(f"/v1/kv/{target}", content=b"v")
        assert (answer.status_code, list(stored)) == (200, [key]), target


async def test_value_limit(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)

    async def chunks(count: int) -> Any:
        for _ in range(count):
            yield b"x" * 65536

    largest = b"x" * (1 << 20)
    assert (await facade.http.put("/v1/kv/k", content=largest)).status_code == 200
    assert (await facade.http.get("/v1/kv/k")).content == largest
    assert (await facade.http.put("/v1/kv/k", content=chunks(16))).status_code == 200
    stored = dict(facade.cluster.shards[0].data)
    for content in (largest + b"x", chunks(17), chunks(100)):
        answer = await facade.http.put("/v1/kv/k", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "value_too_large")
        assert "1048576" in answer.json()["detail"]
    assert facade.cluster.shards[0].data == stored


async def test_key_of_exactly_one_kibibyte_and_a_long_content_type(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    assert (await facade.http.put("/v1/kv/" + "%C3%A9" * 512, content=b"v")).status_code == 200
    answer = await facade.http.put("/v1/kv/k", content=b"v", headers={"content-type": "x" * 256})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_content_type")


async def test_what_cannot_be_kept_is_refused_instead_of_ignored(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    refused = (
        ({"if-unmodified-since": "Sat, 29 Oct 1994 19:43:31 GMT"}, 501),
        ({"if-none-match": '"1"'}, 400),
        ({"if-match": 'W/"1"'}, 400),
        ({"if-match": '"1", "2"'}, 400),
        ({"idempotency-key": "k" * 256}, 400),
    )
    for header, status in refused:
        for method in ("PUT", "DELETE"):
            answer = await facade.http.request(method, "/v1/kv/k", headers=header)
            assert (answer.status_code, answer.json()["outcome"]) == (status, "not_applied"), header
    partly = await facade.http.put("/v1/kv/k", content=b"v", headers={"content-range": "bytes 0-0/2"})
    assert (partly.status_code, partly.json()["outcome"]) == (400, "not_applied")
    assert not facade.cluster.shards[0].data


async def test_a_stored_line_break_never_becomes_a_header(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    facade.cluster.shards[0].data[b"k"] = Entry(b"v", b"text/plain\r\nset-cookie: x", 1)
    answer = await facade.http.get("/v1/kv/k")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "set-cookie" not in answer.headers
