"""Watches over HTTP, in front of fake nodes: each change once and in order, whatever breaks, for every client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from watching import Client, by_shard, put, told

from doug_wire.watch import Change, ChangeKind

MakeFacade = Callable[..., Awaitable[Any]]


async def test_changes_of_all_shards_come_once_and_in_order(make: MakeFacade) -> None:
    facade = await make(shards=2)
    client = await Client(facade).begun()
    keys = [f"k{number % 7}" for number in range(30)]
    await put(facade, *keys)
    await facade.http.delete("/v1/kv/k3")
    await client.has(31)
    assert by_shard(client.changes) == told(facade)
    assert client.headers["cache-control"] == "no-store" and client.headers["x-accel-buffering"] == "no"
    assert client.events[0]["event"] == "progress"
    put_event = next(each for each in client.events if each["event"] == "put")
    assert put_event["data"] == {
        "key": "k0", "value": "value of k0", "encoding": "utf-8", "revision": "1", "expires_at": None,
        "shard": put_event["data"]["shard"], "content_type": "application/octet-stream",
    }  # fmt: skip
    await client.close()


async def test_every_id_ever_sent_can_be_gone_on_behind(make: MakeFacade) -> None:
    facade = await make(shards=2, nodes=2)
    client = await Client(facade).begun()
    await put(facade, *[f"k{number}" for number in range(12)])
    await client.has(12)
    for place, event in enumerate(client.events):
        assert "id" in event
        again = await Client(facade, f"from={event['id']}").begun()
        rest = [each for each in client.events[place + 1 :] if each["event"] == "put"]
        await again.has(len(rest))
        assert by_shard(again.changes) == by_shard(
            [("put", each["data"]["key"], each["data"]["shard"], each["data"]["revision"]) for each in rest]
        )
        await again.close()
    await client.close()


async def test_a_transaction_can_be_gone_on_within(make: MakeFacade) -> None:
    facade = await make(shards=1)
    store = facade.cluster.shards[0].store
    client = await Client(facade).begun()
    store.revision = 5
    store.changes += [Change(ChangeKind.PUT, place == 2, place, b"k%d" % place, 5, b"v") for place in range(3)]
    await client.has(3)
    ids = [event["id"] for event in client.events if event["event"] == "put"]
    assert [each.rpartition(":")[2] for each in ids] == ["5.1", "5.2", "5"]
    for number, each in enumerate(ids):
        again = await Client(facade, f"from={each}").begun()
        await again.has(2 - number)
        assert [change[1] for change in again.changes] == ["k0", "k1", "k2"][number + 1 :]
        await again.close()
    await client.close()


async def test_server_sent_events(make: MakeFacade) -> None:
    facade = await make(shards=1)
    async with facade.http.stream("GET", "/v1/watch?prefix=a&values=false") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        first = [await anext(lines) for _ in range(6)]
        assert first[0].startswith("retry: ") and first[2] == "event: progress" and first[3].startswith("id: w1-")
        await put(facade, "b1", "a1")
        second = [await anext(lines) for _ in range(4)]
        assert second[0] == "event: put" and second[1].endswith("-0:2")
        assert json.loads(second[2].removeprefix("data: ")) == {
            "key": "a1", "revision": "2", "shard": 0, "content_type": "application/octet-stream", "expires_at": None,
        }  # fmt: skip
        assert second[3] == ""


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("key=a1", ["a1", "a1"]),
        ("prefix=a", ["a1", "a2", "a1"]),
        ("start=a2&end=c", ["b", "a2"]),
        ("key64=YTI", ["a2"]),
        ("prefix=a&events=delete", ["a1"]),
        ("events=put,expire", ["b", "a1", "a2"]),
        ("prefix=zz", []),
    ],
)
async def test_what_is_wanted_and_nothing_else(make: MakeFacade, query: str, expected: list[str]) -> None:
    facade = await make(shards=1)
    live = await Client(facade, query).begun()
    origin = live.ids[0]
    await put(facade, "b", "a1", "a2")
    await facade.http.delete("/v1/kv/a1")
    late = await Client(facade, f"{query}&from={origin}").begun()
    await live.has(len(expected))
    await late.has(len(expected))
    assert sorted(change[1] for change in live.changes) == sorted(expected)
    assert late.changes == live.changes
    await live.close()
    await late.close()


async def test_from_start_tells_what_is_there_and_then_what_changes(make: MakeFacade) -> None:
    facade = await make(shards=2)
    await put(facade, *[f"k{number}" for number in range(20)])
    client = await Client(facade, "from=start").begun()
    await put(facade, "k1", "new")
    await client.has(22)
    first = client.events[:20]
    assert [each["data"]["key"] for each in first] == sorted(f"k{number}" for number in range(20))
    assert not any("id" in each for each in first)
    assert client.events[20]["event"] == "progress" and "id" in client.events[20]
    assert {change[1] for change in client.changes[20:]} == {"k1", "new"}
    await client.close()


async def test_a_scan_that_breaks_leaves_no_gap_and_no_repeat(make: MakeFacade) -> None:
    facade = await make(shards=2)
    await put(facade, *[f"k{number:02d}" for number in range(30)])
    for shard in facade.cluster.shards:
        for node in shard.nodes:
            node.scan_pages_until_break = 2
    client = await Client(facade, "from=start").begun()
    await put(facade, *[f"k{number:02d}" for number in range(0, 30, 3)])
    await facade.until(lambda: client.ids, "the snapshot is over")
    await put(facade, "last")
    await facade.until(lambda: any(change[1] == "last" for change in client.changes), "the last one has come")
    found: dict[str, list[int]] = {}
    for _, key, _, revision in client.changes:
        found.setdefault(key, []).append(int(revision))
    for key, revisions in found.items():
        assert revisions == sorted(set(revisions)), f"{key} was told {revisions}"
        shard = next(shard for shard in facade.cluster.shards if key.encode() in shard.data)
        assert revisions[-1] == shard.data[key.encode()].revision
    assert len(found) == 31
    await client.close()


async def test_ids_that_cannot_be_are_refused(make: MakeFacade) -> None:
    facade = await make(shards=2)
    client = await Client(facade).begun()
    await put(facade, "a")
    await client.has(1)
    good = client.ids[-1]
    cluster = good.split("-")[1]
    for query, status, code in (
        ("from=nonsense", 400, "bad_watch_id"),
        (f"from=w1-{cluster}-1-0:1", 400, "bad_watch_id"),
        (f"from=w1-{cluster}-1-0:1000,1:0", 400, "future_watch_id"),
        (f"from=w1-{'0' * 16}-1-0:0,1:0", 409, "foreign_watch_id"),
        (f"from=w1-{cluster}-7-0:0,1:0", 410, "history_gone"),
        ("events=put,put", 400, "bad_parameter"),
        ("events=", 400, "bad_parameter"),
        ("values=no", 400, "bad_parameter"),
        ("key=a&prefix=b", 400, "bad_range"),
        ("start=b&end=a", 400, "bad_range"),
        ("what=ever", 400, "unknown_parameter"),
    ):
        refused = await Client(facade, query).begun()
        assert (refused.status, refused.problem["code"]) == (status, code), query
    twice = [("last-event-id", good), ("last-event-id", client.ids[0])]
    answer = await facade.http.get("/v1/watch", headers=twice)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), "neither is chosen in silence"
    assert (await facade.http.post("/v1/watch")).status_code == 405
    await client.close()


async def test_progress_on_demand_is_what_every_watch_is_promised_to_reach(make: MakeFacade) -> None:
    facade = await make(shards=2)
    client = await Client(facade).begun()
    await put(facade, "a", "b", "c")
    answer = await facade.http.post("/v1/watch:progress")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    asked = answer.json()
    assert asked["revisions"] == {str(shard.id): str(shard.revision) for shard in facade.cluster.shards}
    await facade.until(lambda: client.events[-1]["event"] == "progress", "progress has come")
    assert client.events[-1]["id"] == asked["id"] and len(client.changes) == 3
    await client.close()


async def test_many_who_ask_for_progress_share_a_round(make: MakeFacade) -> None:
    facade = await make(shards=1)
    client = await Client(facade).begun()
    feeds, rounds, gate = facade.router.feeds, 0, asyncio.Event()
    ask = feeds.heads

    async def count(*asked: Any) -> Any:
        nonlocal rounds
        rounds += 1
        await gate.wait()
        return await ask(*asked)

    feeds.heads = count
    asking = [asyncio.create_task(facade.http.post("/v1/watch:progress")) for _ in range(50)]
    await facade.until(lambda: facade.metrics.inflight == 50, "all ask")
    gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
    assert rounds <= 2, "whoever came while the first was under way shared the second"
    await put(facade, "a")
    later = (await facade.http.post("/v1/watch:progress")).json()
    assert later["revisions"] == {"0": "1"}, "no round counts that began before it was asked for"
    await client.close()


async def test_a_feed_that_fails_by_a_defect_ends_the_process(make: MakeFacade) -> None:
    facade = await make(shards=1)
    client = await Client(facade).begun()
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    facade.router.feeds.feed(0)._on_events = fail
    await put(facade, "a")
    await facade.until(lambda: told, "it is told")
    assert "handle" in told[0] and isinstance(told[0]["exception"], ZeroDivisionError), "as crashes.install wants it"
    await client.close()


async def test_many_clients_share_one_stream_and_one_encoding(make: MakeFacade) -> None:
    facade = await make(shards=1)
    shard = facade.cluster.shards[0]
    clients = [await Client(facade, "prefix=k" if number % 2 else "").begun() for number in range(20)]
    await put(facade, *[f"k{number}" for number in range(10)])
    for client in clients:
        await client.has(10)
        assert client.changes == told(facade)
    assert sum(node.watches_open for node in shard.nodes) == 1
    assert facade.metrics.inflight <= 1, "a watch is no request that is being answered"
    for client in clients:
        await client.close()
    await facade.until(lambda: not facade.application.audience.size, "all have left")


async def test_watches_are_bounded(make: MakeFacade) -> None:
    facade = await make(shards=1, watches_max=1)
    client = await Client(facade).begun()
    refused = await Client(facade).begun()
    assert refused.status == 503 and refused.problem["code"] == "overloaded"
    await client.close()


async def test_a_facade_that_stops_ends_its_watches_in_order(make: MakeFacade) -> None:
    facade = await make(shards=1)
    live = await Client(facade).begun()
    await facade.until(lambda: facade.application.audience.size == 1, "it is live")
    for _, state in facade._servers:
        for connection in list(state.connections):
            connection.shutdown()
    await facade.until(lambda: live.ended, "it has ended")
    assert isinstance(facade.http, httpx.AsyncClient)


async def test_a_read_waits_for_a_change(make: MakeFacade) -> None:
    """Consul's habit, for clients without streams."""
    facade = await make(shards=2)
    waiting = asyncio.create_task(facade.http.get("/v1/kv/k?wait=20s&after=0"))
    await facade.until(lambda: facade.application.audience._waits, "it waits")
    await put(facade, "other", "k")
    answer = await waiting
    assert (answer.status_code, answer.content) == (200, b"value of k")
    revision = answer.headers["etag"].strip('"')
    # What has changed already is told at once.
    await put(facade, "k")
    again = await facade.http.get(f"/v1/kv/k?wait=20s&after={revision}")
    assert again.status_code == 200 and again.headers["etag"] != answer.headers["etag"]
    # A deletion is a change, too.
    waiting = asyncio.create_task(facade.http.get("/v1/kv/k?wait=20s"))
    await facade.until(lambda: facade.application.audience._waits, "it waits")
    await facade.http.delete("/v1/kv/k")
    assert (await waiting).status_code == 404
    await put(facade, "k")
    unchanged = await facade.http.get("/v1/kv/k?wait=50ms")
    assert unchanged.status_code == 304 and unchanged.headers["etag"]
    missing = await facade.http.get("/v1/kv/nothing?wait=50ms&after=0")
    assert missing.status_code == 404
    for query in ("wait=11m", "wait=0", "wait=x", "after=1", "wait=1s&after=x", "wait=1s&after="):
        assert (await facade.http.get(f"/v1/kv/k?{query}")).status_code == 400, query
    assert (await facade.http.put("/v1/kv/k?wait=1s", content=b"x")).status_code == 400
    await facade.until(lambda: not facade.application.audience._waits, "nobody waits")
    assert facade.metrics.inflight == 0


async def test_a_client_that_leaves_a_long_poll_is_forgotten(make: MakeFacade) -> None:
    facade = await make(shards=1)
    waiting = asyncio.create_task(facade.http.get("/v1/kv/k?wait=60s&after=0"))
    await facade.until(lambda: facade.application.audience._waits, "it waits")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await facade.until(lambda: not facade.application.audience._waits, "it is forgotten")


async def test_metrics_tell_of_watches_and_what_they_were_sent(make: MakeFacade) -> None:
    facade = await make()

    def value(name: str, **labels: str) -> float | None:
        facade.metrics.watches.sample()
        found: float | None = facade.metrics.registry.get_sample_value(f"dougdb_facade_{name}", labels)
        return found

    assert (value("watchers"), value("watch_events_total"), value("watch_resyncs_total")) == (0, 0, 0)
    assert value("watch_lag_entries", shard="0") == 0, "nobody watches"
    first, second = await Client(facade).begun(), await Client(facade, "prefix=other").begun()
    await facade.http.put("/v1/kv/a", content=b"v")
    await first.has(1)
    assert (value("watchers"), value("watch_events_total")) == (2, 1)
    # Some node was seen to have applied what no stream has told.
    shard = facade.router.shards[0]
    feed = facade.router.feeds.feed(0)
    told = feed.lag
    next(iter(shard.nodes.values())).applied_index += 1000
    assert value("watch_lag_entries", shard="0") == feed.lag > told
    await first.close()
    await second.close()
    await facade.until(lambda: value("watchers") == 0, "both watches to be over")


async def test_how_far_watches_are_behind_is_counted_in_entries_also_after_a_recovery(make: MakeFacade) -> None:
    """A recovery lets revisions jump beyond all indexes, and not every entry has a revision."""
    for revision in (0, 1 << 40):
        facade = await make(shards=1, nodes=1)
        shard = facade.cluster.shards[0]
        shard.store.revision, shard.nodes[0].log_index = revision, 500
        client = await Client(facade).begun()
        await put(facade, "a")
        await client.has(1)
        feed, node = facade.router.feeds.feed(0), next(iter(facade.router.shards[0].nodes.values()))
        assert (node.applied_index, feed.lag) == (500, 0)
        node.applied_index += 40
        assert feed.lag == 40
        # What a node that is gone had applied may be lost.
        node.up = False
        assert feed.lag == 0
        await client.close()


async def test_a_facade_that_stops_ends_a_watch_that_cannot_begin(make: MakeFacade) -> None:
    """What is there at the beginning cannot be read, and is tried again and again."""
    facade = await make(shards=1, nodes=1)
    await put(facade, *[f"k{number:02d}" for number in range(30)])
    facade.cluster.shards[0].nodes[0].scan_code = "UNAVAILABLE"
    client = Client(facade, "from=start")
    await facade.until(lambda: client.status == 200, "the answer has begun")
    for _, state in facade._servers:
        for connection in list(state.connections):
            connection.shutdown()
    await facade.until(lambda: client.ended, "it has ended")
    assert not [each for each in client.events if each["event"] == "progress"], "it has not told everything"
