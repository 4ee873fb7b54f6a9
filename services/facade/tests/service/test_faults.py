"""What the facade does when raft-nodes refuse, lie silent, die or disagree."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from free_ports import free_port

from doug_wire.pipe import Status

pytestmark = [pytest.mark.seconds, pytest.mark.parametrize("make_facade", ["asgi", "sockets"], indirect=True)]

MakeFacade = Callable[..., Awaitable[Any]]

READ_LOCAL = 3


def retries(facade: Any, reason: str) -> float:
    return facade.metrics.registry.get_sample_value("dougdb_facade_retries_total", {"reason": reason}) or 0.0


async def test_follows_the_hint_to_a_new_leader(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    shard = facade.cluster.shards[0]
    await facade.http.put("/v1/kv/k", content=b"1")
    shard.nodes[2].lead()
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, "shard-0-2")
    # None where the machine was so slow that the facade heard of the new leader before it asked the old one.
    assert retries(facade, "no_leader") <= 1
    assert (await facade.http.get("/v1/kv/k")).content == b"2"


async def test_finds_the_leader_without_hints(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    shard = facade.cluster.shards[0]
    for node in shard.nodes:
        node.hints = False
    shard.nodes[1].lead()
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, "shard-0-1")


async def test_a_hint_may_name_a_node_that_is_not_configured(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    shard = facade.cluster.shards[0]
    other = type(shard.nodes[0])(shard, 9, free_port())
    shard.nodes.append(other)
    await other.start()
    other.lead()
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, "shard-0-9")
    cluster = (await facade.http.get("/v1/cluster")).json()
    assert [node["id"] for node in cluster["shards"][0]["nodes"]] == ["shard-0-0", "shard-0-1", "shard-0-9"]


async def test_a_dead_leader_is_replaced(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    shard = facade.cluster.shards[0]
    await facade.http.put("/v1/kv/k", content=b"1")
    await shard.nodes[0].stop()
    # Until the facade knows, a write may still leave on the dying stream, and would rightly be unknown.
    await facade.until(lambda: facade.router.shards[0].leader is None, "the facade knows")
    write = asyncio.create_task(facade.http.put("/v1/kv/k", content=b"2"))
    await asyncio.sleep(0.1)
    shard.nodes[1].lead()
    answer = await write
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, "shard-0-1")


async def test_a_stream_that_breaks_leaves_writes_unknown_and_reads_repeated(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    leader = facade.cluster.shards[0].nodes[0]
    leader.break_on_batch = True
    answer = await facade.http.put("/v1/kv/k", content=b"1")
    assert answer.status_code == 504
    body = answer.json()
    assert (body["outcome"], body["code"], body["retryable"], body["shard"]) == (
        "unknown", "outcome_unknown", False, 0,
    )  # fmt: skip
    leader.break_on_batch = True
    answer = await facade.http.get("/v1/kv/k")
    assert (answer.status_code, answer.content) == (200, b"1")
    assert retries(facade, "stream_broken") == 1
    assert sum(items for kind, items in leader.batches if kind == 1) == 1, "a write is never sent twice"


async def test_a_stopped_leader_is_given_up_for_a_newer_one(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3, request_timeout_ms=4000)
    shard = facade.cluster.shards[0]
    await facade.http.put("/v1/kv/k", content=b"1")
    shard.nodes[0].silent = True
    link = facade.router.shards[0].nodes[shard.nodes[0].id].link
    lost = asyncio.create_task(facade.http.put("/v1/kv/lost", content=b"1"))
    read = asyncio.create_task(facade.http.get("/v1/kv/k"))
    await facade.until(lambda: len(link.in_flight) == 2, "both are under way")
    shard.nodes[1].lead()
    answer = await read
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, "shard-0-1")
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, "shard-0-1")
    answer = await lost
    assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")
    shard.nodes[0].silent = False


async def test_a_silent_node_does_not_hide_who_takes_over(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its question is never answered; the others are asked again meanwhile."""
    monkeypatch.setattr("facade.client.leader_search.STATUS_TIMEOUT_S", 600.0)
    facade = await make_facade(nodes=3)
    nodes = facade.cluster.shards[0].nodes
    await facade.http.put("/v1/kv/k", content=b"1")
    nodes[2].silent = True
    await nodes[0].stop()
    await facade.until(lambda: facade.router.shards[0].leader is None, "the facade knows")
    write = asyncio.create_task(facade.http.put("/v1/kv/k", content=b"2"))
    await asyncio.sleep(0.1)
    nodes[1].lead()
    answer = await write
    nodes[2].silent = False
    assert (answer.status_code, answer.headers["doug-served-by"]) == (200, "shard-0-1")


async def test_a_stopped_replica_is_left_out_of_eventual_reads(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    stopped = facade.cluster.shards[0].nodes[1]
    await facade.http.put("/v1/kv/k", content=b"v")
    await asyncio.gather(*(facade.http.get("/v1/kv/k?consistency=eventual") for _ in range(9)))
    stopped.silent = True
    answers = [await facade.http.get("/v1/kv/k?consistency=eventual") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert "shard-0-1" not in {answer.headers["doug-served-by"] for answer in answers}
    # One on a machine that goes on; where it stands still, others are found to be slow, too.
    assert retries(facade, "silent") <= len(answers) // 2, "only one read had to find it out"
    stopped.silent = False
    await facade.until(lambda: not facade.router.shards[0].nodes["shard-0-1"].suspect, "it was heard again")
    async with asyncio.timeout(60):
        while True:
            answer = await facade.http.get("/v1/kv/k?consistency=eventual")
            if answer.headers["doug-served-by"] == "shard-0-1":
                break


async def test_no_leader_is_503_within_the_deadline_and_eventual_reads_go_on(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3, request_timeout_ms=1000)
    shard = facade.cluster.shards[0]
    await facade.http.put("/v1/kv/k", content=b"v")
    shard.leader = None
    write, read, eventual = await asyncio.gather(
        facade.http.put("/v1/kv/k", content=b"2"),
        facade.http.get("/v1/kv/k"),
        facade.http.get("/v1/kv/k?consistency=eventual"),
    )
    for answer in (write, read):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() | {"detail": ""} == {
            "type": "urn:dougdb:problem:no_leader", "title": "The shard has no leader", "status": 503, "detail": "",
            "code": "no_leader", "retryable": True, "outcome": "not_applied", "shard": 0,
        }  # fmt: skip
    assert (eventual.status_code, eventual.content) == (200, b"v")
    assert (await facade.http.get("/readyz")).status_code == 200, "ready once, ready always"
    load = facade.router.registry.load(0)
    assert load.items == load.size == 0
    shard.nodes[1].lead()
    assert (await facade.http.put("/v1/kv/k", content=b"2")).status_code == 200, "it recovers by itself"


async def test_a_write_without_an_answer_is_504_unknown_at_its_deadline(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, request_timeout_ms=1000)
    leader = facade.cluster.shards[0].nodes[0]
    leader.silent = True
    write, read = await asyncio.gather(facade.http.put("/v1/kv/k", content=b"2"), facade.http.get("/v1/kv/k"))
    assert (write.status_code, write.json()["outcome"], write.json()["code"]) == (504, "unknown", "deadline_exceeded")
    assert (read.status_code, read.json()["outcome"], read.json()["code"]) == (
        504, "not_applied", "deadline_exceeded",
    )  # fmt: skip
    leader.silent = False


async def test_unknown_is_504_at_once_and_never_repeated(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    leader = facade.cluster.shards[0].nodes[0]
    leader.script.append(Status.UNKNOWN)
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.json()["outcome"]) == (504, "unknown")
    assert leader.batches == [(1, 1)]


async def test_what_is_proven_not_applied_is_tried_again(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    leader = facade.cluster.shards[0].nodes[0]
    leader.script.extend([Status.OVERLOADED, Status.NOT_APPLIED])
    assert (await facade.http.put("/v1/kv/k", content=b"2")).status_code == 200
    leader.script.extend([Status.UNAVAILABLE, Status.UNKNOWN, Status.OVERLOADED])
    assert (await facade.http.get("/v1/kv/k")).content == b"2"
    assert (retries(facade, "overloaded"), retries(facade, "superseded"), retries(facade, "unavailable")) == (2, 1, 2)


async def test_overload_without_end_is_503_overloaded(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, request_timeout_ms=1000)
    facade.cluster.shards[0].nodes[0].script.extend([Status.OVERLOADED] * 100)
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.json()["code"], answer.json()["outcome"]) == (503, "overloaded", "not_applied")
    assert "retry-after" in answer.headers


async def test_a_full_disk_without_end_is_507_before_the_deadline(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    leader = facade.cluster.shards[0].nodes[0]
    leader.script.extend([Status.DISK_FULL] * 100)
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.json()["code"], answer.json()["outcome"]) == (507, "disk_full", "not_applied")
    assert answer.json()["retryable"] and "retry-after" in answer.headers
    leader.script.clear()
    assert (await facade.http.put("/v1/kv/k", content=b"2")).status_code == 200


async def test_a_full_disk_that_gets_room_in_time_is_not_told(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    facade.cluster.shards[0].nodes[0].script.extend([Status.DISK_FULL] * 3)
    assert (await facade.http.put("/v1/kv/k", content=b"2")).status_code == 200
    assert retries(facade, "disk_full") == 3


async def test_an_invalid_record_is_500_and_not_repeated(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    facade.cluster.shards[0].nodes[0].script.append(Status.INVALID)
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.json()["code"], answer.json()["outcome"]) == (
        500, "invalid_record", "not_applied",
    )  # fmt: skip


async def test_a_moved_slot_is_followed_with_its_new_epoch(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1)
    first, second = facade.cluster.shards
    facade.cluster.set_map([(0, 1023, 1, 2)], epoch=2)
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.headers["doug-shard"]) == (200, "1")
    assert (list(first.data), list(second.data)) == ([], [b"k"])
    assert (await facade.http.get("/v1/kv/k")).content == b"2"
    assert (await facade.http.get("/v1/partitions")).json() == {
        "epoch": 2, "slots": [{"from": 0, "to": 1023, "shard": 1}],
    }  # fmt: skip
    loads = [facade.router.registry.load(shard) for shard in facade.router.shards]
    assert [(load.items, load.size) for load in loads] == [(0, 0), (0, 0)]


async def test_a_key_that_no_shard_owns_is_503_after_bounded_tries(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    shard = facade.cluster.shards[0]
    shard.owns = lambda key, epoch: False
    answer = await facade.http.put("/v1/kv/k", content=b"2")
    assert (answer.status_code, answer.json()["code"], answer.json()["outcome"]) == (503, "wrong_shard", "not_applied")
    assert len(shard.nodes[0].batches) <= 22


async def test_queues_are_bounded(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, request_timeout_ms=1000, queue_items_max=5)
    facade.cluster.shards[0].nodes[0].silent = True
    answers = await asyncio.gather(*(facade.http.put(f"/v1/kv/{i}", content=b"v") for i in range(8)))
    codes = sorted((answer.status_code, answer.json()["code"]) for answer in answers)
    assert [code for code in codes if code[0] == 503] == [(503, "overloaded")] * 3
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    facade.cluster.shards[0].nodes[0].silent = False


async def test_queued_bytes_are_bounded(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, request_timeout_ms=1000, queue_bytes_max=2 << 20)
    facade.cluster.shards[0].nodes[0].silent = True
    answers = await asyncio.gather(*(facade.http.put(f"/v1/kv/{i}", content=b"v" * 800_000) for i in range(4)))
    assert sorted(answer.status_code for answer in answers) == [503, 503, 504, 504]
    facade.cluster.shards[0].nodes[0].silent = False


async def test_not_ready_until_map_and_leaders_are_known(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1, ready=False, led=False)
    answer = await facade.http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "starting")
    answer = await facade.http.put("/v1/kv/k", content=b"v")
    assert (answer.status_code, answer.json()["outcome"]) == (503, "not_applied")
    assert (await facade.http.get("/v1/partitions")).status_code == 503
    assert (await facade.http.get("/livez")).status_code == 200
    facade.cluster.shards[0].nodes[0].lead()
    await facade.until(lambda: facade.router.map is not None, "the map was loaded")
    answer = await facade.http.get("/readyz")
    address = facade.cluster.shards[1].nodes[0].address
    assert answer.status_code == 503
    assert answer.json()["detail"] in {
        "Missing: a leader of shard 1 (all nodes answer).",
        f"Missing: a leader of shard 1 (no answer from shard-1-0 at {address}).",
    }
    facade.cluster.shards[1].nodes[0].lead()
    await facade.until(lambda: facade.router.ready, "it became ready")
    assert (await facade.http.get("/readyz")).json() == {"status": "ok"}
