"""Conditions, expiry, counters, exactly-once writes against fake raft-nodes: what is promised in docs/api.md."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from doug_wire.pipe import Status

MakeFacade = Callable[..., Awaitable[Any]]

KEY = "/v1/kv/k"


async def test_conditions_of_a_put(make_facade: MakeFacade) -> None:
    http = (await make_facade()).http
    absent = await http.put(KEY, content=b"0", headers={"if-match": "*"})
    assert (absent.status_code, absent.json()["code"], absent.json()["outcome"]) == (
        412, "precondition_failed", "not_applied",
    )  # fmt: skip
    assert (absent.json()["current_revision"], "etag" in absent.headers) == (None, False)
    assert (await http.put(KEY, content=b"1", headers={"if-none-match": "*"})).status_code == 200
    again = await http.put(KEY, content=b"2", headers={"if-none-match": "*"})
    assert (again.status_code, again.headers["etag"], again.json()["current_revision"]) == (412, '"1"', "1")
    assert (await http.put(KEY, content=b"2", headers={"if-match": again.headers["etag"]})).status_code == 200
    assert (await http.put(KEY, content=b"3", headers={"if-match": '"1"'})).status_code == 412
    assert (await http.put(KEY, content=b"3", headers={"if-match": "*"})).status_code == 200
    assert (await http.get(KEY)).content == b"3"
    assert (await http.delete(KEY, headers={"if-match": '"1"'})).status_code == 412
    assert (await http.delete(KEY, headers={"if-match": '"3"'})).status_code == 204
    assert (await http.delete(KEY)).status_code == 204


async def test_reads_with_conditions(make_facade: MakeFacade) -> None:
    http = (await make_facade()).http
    tag = (await http.put(KEY, content=b"1")).headers["etag"]
    for method in ("GET", "HEAD"):
        same = await http.request(method, KEY, headers={"if-none-match": f'"99", W/{tag}'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert same.headers["doug-shard"] == "0"
        assert (await http.request(method, KEY, headers={"if-none-match": '"99"'})).status_code == 200
        assert (await http.request(method, KEY, headers={"if-none-match": "*"})).status_code == 304
        assert (await http.request(method, KEY, headers={"if-match": tag})).status_code == 200
        assert (await http.request(method, KEY, headers={"if-match": '"99"'})).status_code == 412
        assert (await http.request(method, "/v1/kv/none", headers={"if-none-match": "*"})).status_code == 404
        assert (await http.request(method, "/v1/kv/none", headers={"if-match": "*"})).status_code == 412


async def test_a_key_expires_is_kept_touched_and_cleared(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    http, store = facade.http, facade.cluster.shards[0].store
    put = await http.put(KEY + "?ttl=1500ms", content=b"1")
    assert put.headers["doug-expires-at"] == "2023-11-14T22:13:21.500Z"
    view = await http.get(KEY, headers={"accept": "application/json"})
    assert (view.json()["expires_at"], view.headers["doug-expires-at"]) == (put.headers["doug-expires-at"],) * 2
    assert "doug-expires-at" in (await http.put(KEY + "?ttl=keep", content=b"2")).headers
    touched = await http.post(KEY + ":touch?ttl=1h", headers={"if-match": '"2"'})
    assert (touched.status_code, touched.json(), touched.headers["etag"]) == (200, {"revision": "3"}, '"3"')
    assert touched.headers["doug-expires-at"] == "2023-11-14T23:13:20.000Z"
    assert (await http.post(KEY + ":touch?ttl=1h", headers={"if-match": '"2"'})).status_code == 412
    assert "doug-expires-at" not in (await http.put(KEY, content=b"3")).headers
    await http.put(KEY + "?ttl=1", content=b"4")
    store.now_ms += 1000
    assert (await http.get(KEY)).status_code == 404
    assert (await http.post(KEY + ":touch?ttl=1")).status_code == 404
    assert (await http.put(KEY + "?ttl=1", content=b"5", headers={"if-none-match": "*"})).status_code == 200


async def test_counters(make_facade: MakeFacade) -> None:
    http = (await make_facade()).http
    first = await http.post(KEY + ":increment")
    assert (first.status_code, first.json(), first.headers["etag"]) == (200, {"value": "1", "revision": "1"}, '"1"')
    assert (await http.post(KEY + ":increment", json={"by": 41})).json()["value"] == "42"
    assert (await http.post(KEY + ":increment", json={"by": "-2"})).json()["value"] == "40"
    assert (await http.post("/v1/kv/n:increment?ttl=1m", json={"initial": 10})).json()["value"] == "11"
    assert "doug-expires-at" in (await http.post("/v1/kv/n:increment", json={})).headers, "an increment keeps it"
    over = await http.post(KEY + ":increment", json={"by": (1 << 63) - 1})
    assert (over.status_code, over.json()["code"], over.json()["outcome"]) == (409, "overflow", "not_applied")
    await http.put("/v1/kv/t", content=b"text")
    text = await http.post("/v1/kv/t:increment", json={"by": 1})
    assert (text.status_code, text.json()["code"]) == (409, "not_a_number")
    wrong: list[object] = [[], {"by": 1.5}, {"by": 1 << 63}, {"by": "1e3"}, {"by": True}, {"to": 1}, 3]
    for body in wrong:
        refused = await http.post(KEY + ":increment", json=body)
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_operation"), body
    form = await http.post(KEY + ":increment", data={"by": "1"})
    assert (form.status_code, form.json()["code"]) == (415, "unsupported_media_type")


async def test_an_action_is_part_of_the_key_for_every_method_but_post(make_facade: MakeFacade) -> None:
    http = (await make_facade()).http
    await http.put("/v1/kv/a:increment", content=b"7")
    assert (await http.get("/v1/kv/a:increment")).content == b"7"
    assert (await http.post("/v1/kv/a%3Aincrement:increment")).json()["value"] == "8"
    assert (await http.post("/v1/kv/a:increment:increment")).json()["value"] == "9"
    assert (await http.get("/v1/kv/a")).status_code == 404


async def test_keys_that_are_not_text(make_facade: MakeFacade) -> None:
    http = (await make_facade()).http
    binary = "/v1/kv?key64=_wA"
    assert (await http.put(binary, content=b"1")).status_code == 200
    assert (await http.get(binary)).content == b"1"
    view = (await http.get(binary, headers={"accept": "application/json"})).json()
    assert (view["key64"], "key" in view) == ("_wA", False)
    assert (await http.post("/v1/kv:increment?key64=_wA")).json()["value"] == "2"
    assert (await http.post("/v1/kv:touch?key64=_wA&ttl=1h")).status_code == 200
    assert (await http.delete(binary)).status_code == 204


async def test_a_content_encoding_is_kept_and_given_back(make_facade: MakeFacade) -> None:
    http = (await make_facade()).http
    await http.put(KEY, content=b"\x1f\x8b", headers={"content-encoding": "x-own", "content-type": "text/plain"})
    answer = await http.get(KEY)
    assert (answer.content, answer.headers["content-encoding"]) == (b"\x1f\x8b", "x-own")
    view = await http.get(KEY, headers={"accept": "application/json"})
    assert (view.json()["content_encoding"], "content-encoding" in view.headers) == ("x-own", False)
    await http.put(KEY, content=b"1", headers={"content-encoding": "identity"})
    assert "content-encoding" not in (await http.get(KEY)).headers


async def test_a_write_with_a_key_happens_once_and_answers_as_it_did(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    http = facade.http
    once = {"idempotency-key": '"018f-1"'}
    first = await http.post(KEY + ":increment", json={"by": 5}, headers=once)
    await http.post(KEY + ":increment", json={"by": 1})
    second = await http.post(KEY + ":increment", json={"by": 5}, headers={"idempotency-key": "018f-1"})
    assert (second.status_code, second.content, second.headers["etag"]) == (200, first.content, first.headers["etag"])
    assert (second.headers["idempotency-replayed"], "idempotency-replayed" in first.headers) == ("true", False)
    other = await http.post(KEY + ":increment", json={"by": 6}, headers=once)
    assert (other.status_code, other.json()["code"], other.json()["outcome"]) == (
        422, "idempotency_key_reused", "not_applied",
    )  # fmt: skip
    assert (await http.get(KEY)).content == b"6"

    # A refusal that the shard decided is remembered too, and comes before the condition.
    failed = {"idempotency-key": "c", "if-none-match": "*"}
    assert (await http.put(KEY, content=b"1", headers=failed)).status_code == 412
    await http.delete(KEY)
    replayed = await http.put(KEY, content=b"1", headers=failed)
    assert (replayed.status_code, replayed.headers["idempotency-replayed"]) == (412, "true")

    store = facade.cluster.shards[0].store
    store.tokens_max = 0
    full = await http.put(KEY, content=b"1", headers={"idempotency-key": "new"})
    assert (full.status_code, full.json()["code"], full.json()["retryable"]) == (507, "idempotency_full", True)
    store.expired_tokens.add(b"\0old")
    late = await http.put(KEY, content=b"1", headers={"idempotency-key": "old"})
    assert (late.status_code, late.json()["code"], late.json()["outcome"]) == (409, "idempotency_expired", "unknown")


async def test_what_became_of_a_write(make_facade: MakeFacade) -> None:
    http = (await make_facade(shards=2)).http
    await http.put("/v1/kv/a%2Fb", content=b"1", headers={"idempotency-key": "x/1"})
    for path in ("/v1/ops/x/1?for=a/b", "/v1/ops/x%2F1?for=a%2Fb", "/v1/ops/x/1?for64=YS9i"):
        answer = await http.get(path)
        assert answer.json() == {"key": "x/1", "state": "applied", "status": 200, "revision": "1"}, path
    answer = await http.get("/v1/ops/other?for=a/b")
    assert answer.json() == {"key": "other", "state": "unknown", "status": None, "revision": None}
    await http.put("/v1/kv/a%2Fb", content=b"1", headers={"idempotency-key": "y", "if-match": '"9"'})
    assert (await http.get("/v1/ops/y?for=a/b")).json()["status"] == 412
    for path in ("/v1/ops/x", "/v1/ops/x?for=", "/v1/ops/?for=a", "/v1/ops/x?for=a&for64=YQ", "/v1/ops/x?for=%ff"):
        assert (await http.get(path)).status_code == 400, path
    assert (await http.post("/v1/ops/x?for=a")).status_code == 405


@pytest.mark.parametrize("fault", ["unknown", "break", "silent"])
async def test_a_keyed_write_without_an_answer_is_sent_again_by_the_facade(make_facade: MakeFacade, fault: str) -> None:
    facade = await make_facade(nodes=2)
    shard = facade.cluster.shards[0]
    leader = shard.nodes[0]
    if fault == "unknown":
        leader.script.append(Status.UNKNOWN)
    elif fault == "break":
        leader.break_on_batch = True
    else:
        leader.silent = True
    sent = asyncio.create_task(facade.http.post(KEY + ":increment", headers={"idempotency-key": "once"}))
    if fault == "silent":
        await asyncio.sleep(0.1)
        shard.nodes[1].lead()
    answer = await sent
    assert (answer.status_code, answer.json()["value"]) == (200, "1")
    leader.silent = False
    plain = await facade.http.post(KEY + ":increment")
    assert plain.json()["value"] == "2", "what was sent twice was applied once"


async def test_a_keyed_write_that_may_be_applied_is_never_called_not_applied(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, request_timeout_ms=1000)
    leader = facade.cluster.shards[0].nodes[0]
    leader.script.extend([Status.UNKNOWN] + [Status.OVERLOADED] * 100)
    answer = await facade.http.put(KEY, content=b"1", headers={"idempotency-key": "once"})
    assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")


async def test_limits_are_told(make_facade: MakeFacade) -> None:
    limits = (await (await make_facade()).http.get("/v1/limits")).json()
    assert (limits["key_bytes"], limits["value_bytes"], limits["batch_operations"]) == (1024, 1 << 20, 10_000)
    assert (limits["batch_bytes"], limits["idempotency_key_characters"]) == (16 << 20, 255)


async def test_every_answer_names_its_request(make_facade: MakeFacade) -> None:
    http = (await make_facade()).http
    for method, path in (("GET", "/v1/kv/none"), ("PUT", KEY), ("GET", "/v1/cluster"), ("GET", "/nowhere"),
                         ("DELETE", "/v1/cluster"), ("POST", "/v1/txn"), ("PATCH", KEY)):  # fmt: skip
        answer = await http.request(method, path, headers={"x-request-id": "mine-1"})
        assert answer.headers["doug-request-id"] == "mine-1", (method, path)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert {"type", "title", "status", "detail", "code", "retryable", "outcome"} <= answer.json().keys()
