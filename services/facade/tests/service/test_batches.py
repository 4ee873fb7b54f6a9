"""Batches and transactions against fake raft-nodes: what is promised in docs/api.md."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from doug_wire.command import VALUE_BYTES_MAX
from doug_wire.payload import BATCH_PART
from doug_wire.pipe import Status
from facade.client.fanout import READS_SAFE, RESULT_BYTES_MAX
from facade.routes.options import IDEMPOTENCY_KEY_MAX, OPERATION_KEY_MAX

MakeFacade = Callable[..., Awaitable[Any]]


def put(key: str, value: str = "v", **more: object) -> dict[str, object]:
    return {"op": "put", "key": key, "value": value, **more}


async def batch(facade: Any, operations: list[object], **headers: str) -> list[dict[str, Any]]:
    answer = await facade.http.post("/v1/batch", json={"operations": operations}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


async def test_every_operation_is_answered_as_if_alone(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    await facade.http.put("/v1/kv/text", content=b"abc", headers={"content-type": "text/plain"})
    results = await batch(
        facade,
        [
            put("a"),
            {"op": "get", "key": "text"},
            {"op": "get", "key": "none"},
            put("text", "x", if_absent=True),
            {"op": "delete", "key": "none"},
            {"op": "increment", "key": "n", "by": 7},
            {"op": "increment", "key": "text"},
            {"op": "touch", "key": "none", "ttl": "30s"},
            {"op": "put", "key": "bad", "value": 3},
            {"op": "move", "key": "bad"},
            {"op": "put", "key64": "_w", "value": "/w==", "encoding": "base64", "ttl": 60},
            put("", "x"),
        ],
    )
    assert [result["status"] for result in results] == [200, 200, 404, 412, 204, 200, 409, 404, 400, 400, 200, 400]
    assert results[1] == {
        "status": 200, "key": "text", "value": "abc", "encoding": "utf-8", "revision": results[1]["revision"],
        "content_type": "text/plain", "expires_at": None,
    }  # fmt: skip
    assert (results[3]["code"], results[3]["current_revision"], results[3]["outcome"]) == (
        "precondition_failed", results[1]["revision"], "not_applied",
    )  # fmt: skip
    assert (results[5]["value"], results[6]["code"], results[8]["code"]) == ("7", "not_a_number", "bad_operation")
    assert results[10]["expires_at"].endswith("Z")


async def test_a_batch_is_few_entries_of_each_shard(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    results = await batch(facade, [put(f"k{number}") for number in range(3000)])
    assert {result["status"] for result in results} == {200}
    written = [shard.store.entries for shard in facade.cluster.shards]
    assert sum(written) in (3000 // BATCH_PART, 3000 // BATCH_PART + 1), written
    revisions: dict[int | None, int] = {}
    for number, result in enumerate(results):
        shard = facade.router.shard_of(f"k{number}".encode())
        assert revisions.get(shard, 0) < int(result["revision"]), "in the order of the request"
        revisions[shard] = int(result["revision"])
    await batch(facade, [put(f"{{t}}{number}", "v" * 100_000) for number in range(30)])
    assert sum(shard.store.entries for shard in facade.cluster.shards) == sum(written) + 3


async def test_operations_on_one_key_happen_in_order(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    results = await batch(
        facade,
        [
            {"op": "get", "key": "k"}, put("k", "1"), {"op": "get", "key": "k"}, put("k", "2"), put("k", "3"),
            {"op": "get", "key": "k"}, {"op": "delete", "key": "k"}, {"op": "get", "key": "k"}, put("other"),
        ],
    )  # fmt: skip
    assert [result["status"] for result in results] == [404, 200, 200, 200, 200, 200, 204, 404, 200]
    assert (results[2]["value"], results[5]["value"]) == ("1", "3")


async def test_a_keyed_batch_happens_once(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    operations: list[object] = [{"op": "increment", "key": f"n{number}"} for number in range(20)]
    first = await batch(facade, operations, **{"idempotency-key": "b"})
    second = await batch(facade, operations, **{"idempotency-key": "b"})
    assert [result.pop("replayed") for result in second] == [True] * 20
    assert second == first
    operations[3] = {"op": "increment", "key": "n3", "by": 2}
    third = await batch(facade, operations, **{"idempotency-key": "b"})
    assert [result["status"] for result in third] == [200] * 3 + [422] + [200] * 16
    status = (await facade.http.get("/v1/ops/b/3?for=n3")).json()
    assert (status["state"], status["status"]) == ("applied", 200)


async def test_the_longest_key_of_a_batch_finds_each_of_its_writes(make_facade: MakeFacade) -> None:
    facade, key = await make_facade(), "k" * IDEMPOTENCY_KEY_MAX
    await batch(facade, [{"op": "increment", "key": f"n{number}"} for number in range(20)], **{"idempotency-key": key})
    assert (await facade.http.get(f"/v1/ops/{key}/19?for=n19")).json()["state"] == "applied"
    longest = f"{key}/{(1 << 63) - 1}"
    assert len(longest) == OPERATION_KEY_MAX
    assert (await facade.http.get(f"/v1/ops/{longest}?for=n1")).json()["state"] == "unknown"
    assert (await facade.http.get(f"/v1/ops/{longest}0?for=n1")).json()["code"] == "bad_idempotency_key"
    headers = {"idempotency-key": key + "k"}
    assert (await facade.http.put("/v1/kv/n1", content=b"1", headers=headers)).status_code == 400


async def test_a_shard_without_a_leader_fails_its_own_operations_alone(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, request_timeout_ms=1000)
    facade.cluster.shards[1].leader = None
    results = await batch(facade, [put(f"k{number}") for number in range(40)])
    for number, result in enumerate(results):
        if facade.router.shard_of(f"k{number}".encode()) == 0:
            assert result["status"] == 200
        else:
            assert (result["status"], result["code"], result["outcome"]) == (503, "no_leader", "not_applied")
    assert len({result["status"] for result in results}) == 2


async def test_a_batch_without_an_answer_is_unknown_and_a_keyed_one_is_sent_again(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    leader = facade.cluster.shards[0].nodes[0]
    leader.script.append(Status.UNKNOWN)
    results = await batch(facade, [put("a"), {"op": "get", "key": "b"}])
    assert (results[0]["status"], results[0]["outcome"]) == (504, "unknown")
    leader.script.clear()
    leader.break_on_batch = True
    results = await batch(facade, [{"op": "increment", "key": "n"}], **{"idempotency-key": "b"})
    assert (results[0]["status"], results[0]["value"]) == (200, "1")


async def test_a_batch_follows_slots_that_moved(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1)
    facade.cluster.set_map([(0, 1023, 1, 2)], epoch=2)
    results = await batch(facade, [put(f"k{number}") for number in range(40)])
    assert {result["status"] for result in results} == {200}
    assert [len(shard.data) for shard in facade.cluster.shards] == [0, 40]
    facade.cluster.set_map([(0, 511, 0, 3), (512, 1023, 1, 3)], epoch=3)
    results = await batch(facade, [put(f"k{number}") for number in range(40)])
    assert {result["status"] for result in results} == {200}


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "application/json", 400, "bad_json"),
        (b"{}", "application/json", 400, "bad_request"),
        (b"[]", "application/json", 400, "bad_request"),
        (b'{"operations": 3}', "application/json", 400, "bad_request"),
        (b'{"operations": [], "else": 1}', "application/json", 400, "bad_request"),
        (b'{"operations": [' + b"1," * 10_000 + b"1]}", "application/json", 413, "body_too_large"),
        (b'{"operations": []}', "text/plain", 415, "unsupported_media_type"),
    ],
)
async def test_what_is_no_batch(
    make_facade: MakeFacade, body: bytes, content_type: str, status: int, code: str
) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.post("/v1/batch", content=body, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["outcome"] == "not_applied"


async def test_the_head_of_a_batch_is_checked(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    json_type = {"content-type": "application/json"}
    request = facade.http.build_request("POST", "/v1/batch", headers=json_type)
    del request.headers["content-length"]
    assert (await facade.http.send(request)).status_code == 411
    for headers, status in (({"accept": "text/html"}, 406), ({"if-match": "*"}, 400), ({"idempotency-key": ""}, 400)):
        answer = await facade.http.post("/v1/batch", content=b'{"operations": []}', headers=json_type | headers)
        assert answer.status_code == status, headers
    assert (await facade.http.get("/v1/batch")).headers["allow"] == "POST"
    assert (await facade.http.post("/v1/batch?x=1", json={"operations": []})).json()["code"] == "unknown_parameter"
    assert await batch(facade, []) == []
    huge = {"content-type": "application/json", "content-length": str(17 << 20)}
    assert (await facade.http.post("/v1/batch", content=b"", headers=huge)).status_code == 413


async def test_lines_come_and_go_in_order(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    lines = [json.dumps(put(f"k{number}", str(number))) for number in range(5000)]
    lines[7] = "not json"
    lines[9] = ""
    lines += [json.dumps({"op": "get", "key": f"k{number}"}) for number in (1, 4999)]

    async def pieces() -> AsyncIterator[bytes]:
        text = "\n".join(lines).encode()
        for start in range(0, len(text), 7_001):
            yield text[start : start + 7_001]

    answer = await facade.http.post(
        "/v1/batch", content=pieces(), headers={"content-type": "application/x-ndjson", "idempotency-key": "s"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert len(results) == 5001, "an empty line is no operation"
    assert [number for number, result in enumerate(results) if result["status"] != 200] == [7]
    assert (results[7]["code"], results[-2]["value"], results[-1]["value"]) == ("bad_json", "1", "4999")
    assert (await facade.http.get("/v1/ops/s/8?for=k8")).json()["state"] == "applied"


async def test_a_stream_that_stands_still_says_so_and_keeps_what_was_done(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, body_timeout_ms=50)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"".join(json.dumps(put(f"k{number}")).encode() + b"\n" for number in range(2000))
        await asyncio.sleep(0.3)
        yield b"\n"

    answer = await facade.http.post("/v1/batch", content=pieces(), headers={"content-type": "application/x-ndjson"})
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [result["status"] for result in results] == [200] * 2000 + [408]
    assert results[-1]["code"] == "body_timeout"


async def test_transactions(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    await facade.http.put("/v1/kv/a", content=b"1")
    wanted = {
        "compare": [{"key": "a", "revision": "1"}, {"key": "b", "exists": False}, {"key": "a", "value": "1"},
                    {"key": "c", "absent": True}],
        "success": [put("a", "2"), put("b", "2", ttl="1h"), {"op": "get", "key": "a"}, {"op": "increment", "key": "n"}],
        "failure": [{"op": "get", "key": "a"}, {"op": "get", "key64": "_w"}],
    }  # fmt: skip
    answer = await facade.http.post("/v1/txn", json=wanted)
    assert answer.status_code == 200
    done = answer.json()
    assert (done["succeeded"], done["revision"]) == (True, "4")
    assert [result["status"] for result in done["results"]] == [200] * 4
    assert (done["results"][2]["value"], done["results"][3]["value"]) == ("2", "1")
    assert answer.headers["doug-shard"] == "0"
    failed = (await facade.http.post("/v1/txn", json=wanted)).json()
    assert (failed["succeeded"], [result["status"] for result in failed["results"]]) == (False, [200, 404])

    once = {"idempotency-key": "t"}
    adds = {"success": [{"op": "increment", "key": "n"}]}
    first = await facade.http.post("/v1/txn", json=adds, headers=once)
    second = await facade.http.post("/v1/txn", json=adds, headers=once)
    assert (second.content, second.headers["idempotency-replayed"]) == (first.content, "true")
    other = await facade.http.post("/v1/txn", json={"success": [put("n")]}, headers=once)
    assert other.status_code == 422


async def test_a_transaction_over_shards_names_the_slots(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    answer = await facade.http.post("/v1/txn", json={"success": [put(f"k{number}") for number in range(8)]})
    assert (answer.status_code, answer.json()["code"]) == (422, "cross_shard")
    assert {slot["shard"] for slot in answer.json()["slots"]} == {0, 1}
    assert [slot["key"] for slot in answer.json()["slots"]] == [f"k{number}" for number in range(8)]
    tagged = {"success": [put(f"{{t}}k{number}") for number in range(8)]}
    assert (await facade.http.post("/v1/txn", json=tagged)).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "bad_request"),
        ([], 400, "bad_request"),
        ({"then": []}, 400, "bad_request"),
        ({"compare": [{"key": "a"}]}, 400, "bad_operation"),
        ({"compare": [{"key": "a", "exists": True, "value": "1"}]}, 400, "bad_operation"),
        ({"compare": [{"key": "a", "exists": 1}]}, 400, "bad_operation"),
        ({"success": [{"op": "put", "key": "a"}]}, 400, "bad_operation"),
        ({"success": [put("k")] * 129}, 413, "body_too_large"),
        ({"success": [put(f"{{t}}{number}", "v" * 1_000_000) for number in range(3)]}, 413, "body_too_large"),
    ],
)
async def test_what_is_no_transaction(make_facade: MakeFacade, body: object, status: int, code: str) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.post("/v1/txn", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["outcome"]) == (status, code, "not_applied")


async def fill(facade: Any, keys: int) -> None:
    for key in range(keys):
        value = bytes([65 + key % 26]) * VALUE_BYTES_MAX
        await facade.http.put(f"/v1/kv/big{key:02}", content=value, headers={"content-type": "text/plain"})


async def test_the_values_that_a_batch_reads_are_bounded(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, request_timeout_ms=20_000)
    await fill(facade, 2)
    fanout = facade.application.batch.fanout
    most = 0
    keep = fanout.room

    def room() -> Any:
        nonlocal most
        made = keep()
        take = made.take

        def taken(size: int) -> Any:
            nonlocal most
            refused = take(size)
            most = max(most, fanout.values.held)
            return refused

        made.take = taken
        return made

    fanout.room = room
    gets: list[object] = [{"op": "get", "key": f"big{number % 2:02}"} for number in range(3 * READS_SAFE)]
    results = await batch(facade, [*gets, put("behind"), {"op": "get", "key": "behind"}])
    kept = [result for result in results if result["status"] == 200 and "value" in result]
    refused = [result for result in results if result["status"] == 422]
    assert len(kept) == READS_SAFE
    assert {result["code"] for result in refused} == {"result_too_large"}
    assert len(kept) + len(refused) == len(gets) + 1
    assert results[-2]["status"] == 200, "what needs no room goes on"
    assert most <= RESULT_BYTES_MAX
    assert fanout.values.held == 0
    assert not facade.router.registry._pending


async def test_so_many_reads_are_never_too_large(make_facade: MakeFacade) -> None:
    facade = await make_facade(request_timeout_ms=20_000)
    await fill(facade, 1)
    results = await batch(facade, [{"op": "get", "key": "big00"}] * READS_SAFE)
    assert {result["status"] for result in results} == {200}


async def test_a_stream_reads_any_number_of_large_values_in_order(make_facade: MakeFacade) -> None:
    """Also more than are held at a time: what was sent is not held any more."""
    facade = await make_facade(shards=2, request_timeout_ms=20_000, queue_bytes_max=2 << 20)
    assert facade.application.batch.fanout.values.held_max == 2 * RESULT_BYTES_MAX
    await fill(facade, 3)
    reads: list[dict[str, Any]] = [{"op": "get", "key": f"big{number % 3:02}"} for number in range(4 * READS_SAFE + 5)]
    operations: list[dict[str, Any]] = [*reads, put("big01", "new"), {"op": "get", "key": "big01"}, *reads[:4]]
    body = "\n".join(map(json.dumps, operations))
    answer = await facade.http.post("/v1/batch", content=body, headers={"content-type": "application/x-ndjson"})
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert {result["status"] for result in results} == {200}, [result for result in results if "code" in result]
    assert [result["key"] for result in results if "key" in result] == [
        each["key"] for each in operations if each["op"] == "get"
    ]
    for number, result in enumerate(results[: len(reads)]):
        assert result["value"] == chr(65 + number % 3) * VALUE_BYTES_MAX, number
    assert results[len(reads) + 1]["value"] == "new"
    assert [len(result["value"]) for result in results[-4:]] == [VALUE_BYTES_MAX, 3, VALUE_BYTES_MAX, VALUE_BYTES_MAX]
    assert facade.application.batch.fanout.values.held == 0


async def test_values_of_many_batches_are_bounded_together(make_facade: MakeFacade) -> None:
    facade = await make_facade(request_timeout_ms=20_000)
    await fill(facade, 1)
    values = facade.application.batch.fanout.values
    values.held = values.held_max - VALUE_BYTES_MAX
    results = await batch(facade, [{"op": "get", "key": "big00"}] * 2)
    assert sorted(result["status"] for result in results) == [200, 503]
    assert {result.get("code") for result in results} == {None, "overloaded"}
    assert values.held == values.held_max - VALUE_BYTES_MAX
