"""Ranges of keys against fake raft-nodes: pages, cursors, streams, counts, deletions, and what breaks within them."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from fake_store import Entry

from doug_wire.slots import SLOTS, slot_of
from facade.routes.ranges.request import DELETE_PARAMETERS, GET_PARAMETERS

MakeFacade = Callable[..., Awaitable[Any]]
LINES = {"accept": "application/x-ndjson"}


def fill(facade: Any, *keys: bytes, value: bytes = b"v") -> None:
    """Gives every shard the keys that are its own."""
    for key in keys:
        (shard,) = (shard for shard in facade.cluster.shards if shard.owns(key, 0))
        shard.store.revision += 1
        shard.data[key] = Entry(value, b"text/plain", shard.revision)


def numbered(count: int) -> list[bytes]:
    return [b"k%04d" % number for number in range(count)]


async def get(facade: Any, expected: int = 200, **asked: Any) -> Any:
    answer = await facade.http.get("/v1/kv", params=asked)
    assert answer.status_code == expected, answer.text
    return answer.json()


def keys_of(page: Any) -> list[bytes]:
    return [
        item["key"].encode() if "key" in item else base64.urlsafe_b64decode(item["key64"] + "==")
        for item in page["items"]
    ]


async def pages(facade: Any, **asked: Any) -> list[Any]:
    found = [await get(facade, **asked)]
    while found[-1]["next_cursor"] is not None:
        assert not found[-1]["complete"]
        found.append(await get(facade, **asked, cursor=found[-1]["next_cursor"]))
    assert found[-1]["complete"]
    return found


async def test_a_bound_may_look_like_the_name_of_a_key(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=1)
    fill(facade, b"a.key64=b", b"key64=")
    assert keys_of((await facade.http.get("/v1/kv?prefix=a.key64=b")).json()) == [b"a.key64=b"]
    assert keys_of((await facade.http.get("/v1/kv?limit=1&start=key64=")).json()) == [b"key64="]


async def lines(facade: Any, **asked: Any) -> tuple[list[Any], Any]:
    """The lines of a stream, and its trailer."""
    answer = await facade.http.get("/v1/kv", params=asked, headers=LINES)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    *found, trailer = [json.loads(text) for text in answer.text.splitlines()]
    return found, trailer


async def test_a_page_is_merged_over_all_shards_in_the_order_of_the_keys(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=3)
    fill(facade, b"b", b"a", b"\xff\x00")
    page = await get(facade)
    revisions = {str(shard.id): str(shard.revision) for shard in facade.cluster.shards}
    revision = {key: str(shard.data[key][2]) for shard in facade.cluster.shards for key in shard.data}
    rest = {"content_type": "text/plain", "expires_at": None}
    assert page == {
        "items": [
            {"key": "a", "value": "v", "encoding": "utf-8", "revision": revision[b"a"], **rest},
            {"key": "b", "value": "v", "encoding": "utf-8", "revision": revision[b"b"], **rest},
            {
                "key64": "_wA",
                "value": "v",
                "encoding": "utf-8",
                "revision": revision[b"\xff\x00"],
                **rest,
            },
        ],
        "prefixes": [],
        "next_cursor": None,
        "complete": True,
        "revisions": revisions,
    }
    assert (await get(facade, keys_only="true"))["items"][0] == {
        "key": "a",
        "revision": revision[b"a"],
        **rest,
    }


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 39, 40, 41])
async def test_pages_follow_each_other_without_a_gap(make_facade: MakeFacade, reverse: bool, limit: int) -> None:
    facade = await make_facade(shards=3)
    keys = numbered(40)
    fill(facade, *keys)
    asked = {"limit": limit, "reverse": str(reverse).lower()}
    found = await pages(facade, **asked)
    assert [key for page in found for key in keys_of(page)] == (keys[::-1] if reverse else keys)
    assert [len(page["items"]) for page in found[:-1]] == [limit] * (len(found) - 1)
    assert found[-1]["items"], "no page is empty but that of an empty range"


async def test_ranges_are_named_by_prefix_or_bounds_also_binary_ones(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    fill(facade, b"a", b"b/1", b"b/2", b"c", b"\xff", b"\xff\x01")
    cases: Sequence[tuple[dict[str, Any], list[bytes]]] = (
        ({"prefix": "b/"}, [b"b/1", b"b/2"]),
        ({"prefix": ""}, [b"a", b"b/1", b"b/2", b"c", b"\xff", b"\xff\x01"]),
        ({"start": "b", "end": "c"}, [b"b/1", b"b/2"]),
        ({"start": "c"}, [b"c", b"\xff", b"\xff\x01"]),
        ({"end": "b"}, [b"a"]),
        ({"start": "c", "end": "b"}, []),
        ({"prefix64": "_w"}, [b"\xff", b"\xff\x01"]),
        ({"start64": "_wE", "reverse": "true"}, [b"\xff\x01"]),
        ({"end64": "_w==", "start64": "Yg"}, [b"b/1", b"b/2", b"c"]),
    )
    for asked, keys in cases:
        assert keys_of(await get(facade, **asked)) == keys, asked


async def test_a_delimiter_gives_common_prefixes_once_though_shards_share_them(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=3)
    fill(facade, *(b"d/%d/%d" % (folder, number) for folder in range(5) for number in range(9)), b"d/file", b"e")
    page = await get(facade, prefix="d/", delimiter="/")
    assert (keys_of(page), page["prefixes"]) == ([b"d/file"], [f"d/{folder}/" for folder in range(5)])
    assert (await get(facade, delimiter="/"))["prefixes"] == ["d/"]
    assert (await get(facade, prefix="d/", delimiter="/", count_only="true"))["count"] == 6
    for reverse in ("false", "true"):
        found = await pages(facade, prefix="d/", delimiter="/", limit=2, reverse=reverse)
        assert [len(each["items"]) + len(each["prefixes"]) for each in found] == [2, 2, 2]
        assert sorted(prefix for each in found for prefix in each["prefixes"]) == page["prefixes"]
    found, trailer = await lines(facade, prefix="d/", delimiter="/")
    assert found[:2] == [{"prefix": "d/0/"}, {"prefix": "d/1/"}]
    assert trailer["count"] == 6


async def test_the_keys_of_a_slot_come_from_its_owner_alone(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1)
    tagged = [b"{k0000}/%d" % number for number in range(7)]
    fill(facade, *numbered(50), *tagged)
    slot = slot_of(b"k0000")
    wanted = sorted(key for key in (*numbered(50), *tagged) if slot_of(key) == slot)
    nodes = [node for shard in facade.cluster.shards for node in shard.nodes]
    found = [key for page in await pages(facade, slot=slot, limit=3) for key in keys_of(page)]
    assert found == wanted
    assert sorted(len(node.scans) > 0 for node in nodes) == [False, True]
    assert (await get(facade, slot=slot, count_only="true"))["count"] == len(wanted)
    assert keys_of(await get(facade, slot=slot, prefix="{", reverse="true")) == tagged[::-1]
    told, trailer = await lines(facade, slot=slot, keys_only="true")
    assert ([line["key"].encode() for line in told], trailer["complete"]) == (wanted, True)
    used = {slot_of(key) for key in (*numbered(50), *tagged)}
    assert keys_of(await get(facade, slot=next(each for each in range(SLOTS) if each not in used))) == []


async def test_a_slot_is_refused_where_it_makes_no_sense_or_nobody_knows_how(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=1, nodes=1)
    fill(facade, *numbered(9))
    for wrong in ("1024", "-1", "x", "", "00001"):
        assert (await get(facade, 400, slot=wrong))["code"] == "bad_parameter", wrong
    assert (await get(facade, 400, slot=1, delimiter="/"))["code"] == "bad_range"
    cursor = (await get(facade, limit=1))["next_cursor"]
    assert (await get(facade, 400, slot=1, cursor=cursor))["code"] == "bad_cursor"
    (node,) = facade.cluster.shards[0].nodes
    node.no_slots = True
    for asked in ({}, {"count_only": "true"}):
        assert (await get(facade, 501, slot=slot_of(b"k0000"), **asked))["code"] == "not_implemented"


async def test_counts(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    fill(facade, *numbered(50))
    page = await get(facade, count_only="true", prefix="k000")
    assert (page["count"], page["items"], page["next_cursor"], page["complete"]) == (10, [], None, True)
    first = await get(facade, count_only="true", limit=30)
    assert (first["count"], first["complete"]) == (30, False)
    assert (await get(facade, count_only="true", limit=30, cursor=first["next_cursor"]))["count"] == 20


async def test_a_page_is_bounded_in_bytes(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    fill(facade, *numbered(7), value=b"v" * 900_000)
    answer = await facade.http.get("/v1/kv")
    assert len(answer.content) < 4 << 20
    found = await pages(facade)
    assert [key for page in found for key in keys_of(page)] == numbered(7)
    assert all(page["items"] for page in found)


async def test_a_stream_of_lines_ends_with_a_line_that_says_that_it_is_complete(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=3)
    keys = numbered(100)
    fill(facade, *keys)
    found, trailer = await lines(facade)
    assert [item["key"].encode() for item in found] == keys
    revisions = {str(shard.id): str(shard.revision) for shard in facade.cluster.shards}
    assert facade.router.directory.sessions.read(trailer.pop("session").encode()).indexes == {0: 7, 1: 7, 2: 7}
    assert trailer == {
        "complete": True,
        "next_cursor": None,
        "count": 100,
        "cut_changed": False,
        "revisions": revisions,
    }
    found, trailer = await lines(facade, limit=30)
    assert (len(found), trailer["complete"], trailer["count"]) == (30, False, 30)
    found, trailer = await lines(facade, cursor=trailer["next_cursor"])
    assert ([item["key"].encode() for item in found], trailer["complete"]) == (keys[30:], True)
    found, trailer = await lines(facade, limit=100)
    assert (len(found), trailer["complete"]) == (100, True)
    assert await lines(facade, start="b", end="a") == (
        [],
        {"complete": True, "next_cursor": None, "count": 0, "cut_changed": False, "revisions": {}},
    )


async def test_a_stream_goes_on_behind_its_last_line_and_says_that_its_points_in_the_logs_changed(
    make_facade: MakeFacade,
) -> None:
    facade = await make_facade(shards=2)
    keys = numbered(100)
    fill(facade, *keys)
    facade.cluster.shards[1].leader.scan_pages_until_break = 4
    answer = await facade.http.get("/v1/kv", headers=LINES)
    *found, trailer = [json.loads(text) for text in answer.text.splitlines()]
    assert [item["key"].encode() for item in found] == keys
    assert (trailer["complete"], trailer["cut_changed"]) == (True, True)
    # Whoever goes on with the session sees no older state of a key than the stream has shown.
    read = facade.router.directory.sessions.read
    assert read(answer.headers["doug-session"].encode()).indexes == {0: 7, 1: 7}
    assert read(trailer["session"].encode()).indexes == {0: 7, 1: 10}


async def test_within_a_page_a_change_of_leader_is_not_seen(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    fill(facade, *numbered(60))
    shard = facade.cluster.shards[0]
    shard.leader.scan_pages_until_break = 3
    shard.nodes[2].lead()
    assert keys_of(await get(facade)) == numbered(60)
    assert shard.nodes[2].scans


async def test_a_node_that_stops_serving_is_left_for_the_one_that_leads_now(make_facade: MakeFacade) -> None:
    facade = await make_facade(request_timeout_ms=8000)
    fill(facade, *numbered(10))
    shard = facade.cluster.shards[0]
    await shard.nodes[0].stop()
    shard.nodes[1].lead()
    assert keys_of(await get(facade)) == numbered(10)


async def test_an_eventual_range_needs_no_leader(make_facade: MakeFacade) -> None:
    facade = await make_facade(request_timeout_ms=1000)
    fill(facade, *numbered(10))
    facade.cluster.shards[0].leader = None
    answer = await facade.http.get("/v1/kv", params={"consistency": "eventual"})
    assert keys_of(answer.json()) == numbered(10)
    assert answer.headers["doug-consistency-used"] == "eventual"
    problem = await get(facade, 503)
    assert (problem["code"], problem["retryable"], problem["outcome"]) == ("no_leader", True, "not_applied")
    answer = await facade.http.get("/v1/kv", headers=LINES)
    assert (answer.status_code, answer.json()["code"]) == (503, "no_leader")


@pytest.mark.parametrize(
    ("code", "told"), [("OVERLOADED", "overloaded"), ("UNAVAILABLE", "unavailable"), ("SCAN_EXPIRED", "unavailable")]
)
async def test_what_keeps_a_shard_from_serving_is_told(make_facade: MakeFacade, code: str, told: str) -> None:
    facade = await make_facade(request_timeout_ms=1000)
    facade.cluster.shards[0].leader.scan_code = code
    assert (await get(facade, 503))["code"] == told


async def test_a_record_that_makes_no_sense_is_our_error(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    facade.cluster.shards[0].leader.scan_code = "INVALID"
    assert (await get(facade, 500))["code"] == "invalid_record"


async def test_a_stream_that_cannot_go_on_says_what_is_missing(make_facade: MakeFacade) -> None:
    facade = await make_facade(request_timeout_ms=1000)
    fill(facade, *numbered(20))
    node = facade.cluster.shards[0].leader
    node.scan_pages_until_break = 2
    reading = asyncio.create_task(lines(facade))
    await facade.until(lambda: node.scan_pages == 2, "two pages were sent")
    node.scan_code = "UNAVAILABLE"
    found, trailer = await reading
    assert [item["key"].encode() for item in found] == numbered(6)
    assert (trailer["complete"], trailer["count"], trailer["error"]["code"]) == (False, 6, "unavailable")
    node.scan_code = ""
    found, trailer = await lines(facade, cursor=trailer["next_cursor"])
    assert [item["key"].encode() for item in found] == numbered(20)[6:]


async def test_while_slots_move_nothing_is_told_rather_than_too_little(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, request_timeout_ms=1000)
    fill(facade, *numbered(20))
    first, _ = facade.cluster.shards
    ranges = first.ranges
    # The source has let a slot go, and the target does not have it yet; then both believe to own it.
    for own in ([(0, 400, 0, 1)], [(0, 600, 0, 1)]):
        first.ranges = [*own, (own[0][1] + 1, SLOTS - 1, 1, 1)]
        assert (await get(facade, 503))["code"] == "wrong_shard"
    first.ranges = ranges
    assert keys_of(await get(facade)) == numbered(20)


async def test_keys_that_are_there_all_along_come_once_while_others_come_and_go(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    kept = numbered(200)
    fill(facade, *kept)
    stop = asyncio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key = f"/v1/kv/k{number % 200:04d}x"
            await facade.http.put(key, content=b"new")
            if number % 3:
                await facade.http.delete(f"/v1/kv/k{(number - 7) % 200:04d}x")

    writer = asyncio.create_task(write())
    for reverse in ("false", "true"):
        found = [key for page in await pages(facade, limit=17, reverse=reverse) for key in keys_of(page)]
        assert len(set(found)) == len(found)
        assert found == sorted(found, reverse=reverse == "true")
        assert sorted(key for key in found if not key.endswith(b"x")) == kept
    told, _ = await lines(facade)
    assert [item["key"].encode() for item in told if not item["key"].endswith("x")] == kept
    stop.set()
    await writer


async def test_a_client_that_reads_nothing_makes_nobody_work_and_its_answer_ends(make_facade: MakeFacade) -> None:
    facade = await make_facade(scan_idle_ms=300)
    fill(facade, *numbered(2000), value=bytes(10_000))
    node = facade.cluster.shards[0].leader
    sent: list[int] = []

    async def send(message: Any) -> None:
        sent.append(len(message.get("body", b"")))
        if len(sent) > 3:
            await asyncio.Event().wait()

    async def receive() -> Any:
        return await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "raw_path": b"/v1/kv", "query_string": b"", "headers": _raw(LINES)}
    await asyncio.wait_for(facade.application(scope, receive, send), 60)
    assert node.scan_pages < 50, "2,000 values are in hundreds of pages"
    assert facade.metrics.inflight == 0


async def test_nothing_more_is_made_for_a_client_that_is_gone(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    fill(facade, *numbered(3000))
    node = facade.cluster.shards[0].leader
    gone = asyncio.Event()

    async def send(message: Any) -> None:
        if message.get("body"):
            gone.set()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "raw_path": b"/v1/kv", "query_string": b"", "headers": _raw(LINES)}
    await asyncio.wait_for(facade.application(scope, receive, send), 60)
    assert node.scan_pages < 500, "there are a thousand"


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def test_answers_are_bounded_in_number(make_facade: MakeFacade) -> None:
    facade = await make_facade(scans_max=1, request_timeout_ms=60_000)
    fill(facade, b"a")
    facade.cluster.shards[0].leader.silent = True
    first = asyncio.create_task(facade.http.get("/v1/kv"))
    await facade.until(lambda: facade.cluster.shards[0].leader.scans, "the first one is under way")
    lines = await facade.http.get("/v1/kv", headers={"accept": "application/x-ndjson"})
    assert (lines.status_code, lines.json()["code"]) == (503, "overloaded")
    facade.cluster.shards[0].leader.silent = False
    assert (await first).status_code == 200


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"limit": "0"}, "bad_parameter"),
        ({"limit": "10001"}, "bad_parameter"),
        ({"limit": "x"}, "bad_parameter"),
        ({"reverse": "yes"}, "bad_parameter"),
        ({"delimiter": ""}, "bad_parameter"),
        ({"prefix": "a", "start": "b"}, "bad_range"),
        ({"start": "a", "start64": "YQ"}, "bad_range"),
        ({"start64": "!"}, "bad_parameter"),
        ({"prefix": "a" * 1025}, "key_too_long"),
        ({"cursor": "x"}, "bad_cursor"),
        ({"cursor": "ü"}, "bad_cursor"),
        ({"consistency": "other"}, "bad_consistency"),
        ({"all": "true"}, "unknown_parameter"),
    ],
)
async def test_what_makes_no_sense_is_refused(make_facade: MakeFacade, asked: dict[str, str], code: str) -> None:
    facade = await make_facade()
    assert (await get(facade, 400, **asked))["code"] == code
    assert not facade.cluster.shards[0].leader.scans


async def test_a_cursor_of_another_range_direction_or_method_is_refused(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    fill(facade, *numbered(10))
    cursor = (await get(facade, limit=3, prefix="k"))["next_cursor"]
    for asked in ({}, {"prefix": "k0"}, {"prefix": "k", "reverse": "true"}, {"prefix": "k", "delimiter": "/"}):
        assert (await get(facade, 400, **asked, cursor=cursor))["code"] == "bad_cursor"
    answer = await facade.http.delete("/v1/kv", params={"prefix": "k", "cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")
    for place in range(len(cursor)):
        damaged = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        assert (await get(facade, 400, prefix="k", cursor=damaged))["code"] == "bad_cursor"
    assert keys_of(await get(facade, prefix="k", cursor=cursor, keys_only="true")) == numbered(10)[3:]


async def test_other_methods_are_refused_and_an_empty_key_is_no_range(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    answer = await facade.http.put("/v1/kv", content=b"v")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, HEAD")
    answer = await facade.http.get("/v1/kv/")
    assert (answer.status_code, answer.json()["code"]) == (400, "empty_key")


async def test_openapi_describes_what_is_taken(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    document = (await facade.http.get("/openapi.json")).json()
    route = document["paths"]["/v1/kv"]
    for method, known in (("get", GET_PARAMETERS), ("delete", DELETE_PARAMETERS)):
        named = {each["name"] for each in route[method]["parameters"] if each["in"] == "query"}
        assert named == known
    fill(facade, b"a")
    for answer, view in ((await get(facade), "RangeView"), (await delete(facade, all="true"), "RangeDeletedView")):
        described = document["components"]["schemas"][view]["properties"].keys()
        assert answer.keys() <= described


# Deletions.


async def delete(facade: Any, expected: int = 200, **asked: Any) -> Any:
    answer = await facade.http.delete("/v1/kv", params=asked)
    assert answer.status_code == expected, answer.text
    return answer.json()


def left(facade: Any) -> list[bytes]:
    return sorted(key for shard in facade.cluster.shards for key in shard.data)


async def test_a_range_is_counted_and_then_deleted(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    fill(facade, *numbered(30), b"other")
    counted = await delete(facade, prefix="k", dry_run="true")
    assert (counted["found"], counted["deleted"], counted["dry_run"], counted["complete"]) == (30, 0, True, True)
    assert len(left(facade)) == 31
    gone = await delete(facade, prefix="k")
    assert (gone["deleted"], gone["dry_run"], gone["complete"], gone["next_cursor"]) == (30, False, True, None)
    assert left(facade) == [b"other"]


async def test_a_deletion_goes_in_steps(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2)
    fill(facade, *numbered(30))
    counted = await delete(facade, prefix="k", limit=20, dry_run="true")
    assert (counted["found"], counted["complete"]) == (20, False)
    first = await delete(facade, prefix="k", limit=20)
    assert (first["deleted"], first["complete"], left(facade)) == (20, False, numbered(30)[20:])
    fill(facade, b"k0000")
    second = await delete(facade, prefix="k", limit=20, cursor=first["next_cursor"])
    assert (second["deleted"], second["complete"], left(facade)) == (10, True, [b"k0000"])


async def test_many_keys_go_by_one_entry_of_each_shards_log(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facade.routes.ranges.deletion.SLICE", 100)
    facade = await make_facade(shards=2)
    fill(facade, *numbered(250))
    counted = await delete(facade, prefix="k", limit=220, dry_run="true")
    assert (counted["found"], counted["complete"], len(left(facade))) == (220, False, 250)
    gone = await delete(facade, prefix="k")
    assert (gone["deleted"], gone["complete"], left(facade)) == (250, True, [])
    assert sum(shard.store.entries for shard in facade.cluster.shards) == 6


@pytest.mark.parametrize("header", ["If-Match", "If-None-Match", "Idempotency-Key"])
async def test_what_a_deletion_cannot_keep_is_refused(make_facade: MakeFacade, header: str) -> None:
    facade = await make_facade()
    fill(facade, *numbered(3))
    answer = await facade.http.delete("/v1/kv", params={"prefix": "k"}, headers={header: "*"})
    assert answer.status_code == 400
    assert len(left(facade)) == 3


@pytest.mark.parametrize("asked", [{}, {"prefix": ""}, {"start": ""}, {"all": "false"}, {"all": "true", "start": "a"}])
async def test_everything_goes_only_when_that_is_said(make_facade: MakeFacade, asked: dict[str, str]) -> None:
    facade = await make_facade()
    fill(facade, *numbered(3))
    assert (await delete(facade, 400, **asked))["code"] == "bad_range"
    assert len(left(facade)) == 3
    assert (await delete(facade, all="true"))["deleted"] == 3


async def test_a_deletion_whose_write_is_lost_says_so(make_facade: MakeFacade) -> None:
    facade = await make_facade()
    fill(facade, *numbered(3))
    facade.cluster.shards[0].leader.break_on_batch = True
    problem = await delete(facade, 504, prefix="k")
    assert (problem["code"], problem["outcome"]) == ("outcome_unknown", "unknown")


def test_the_helpers_of_these_tests_see_keys_of_any_bytes() -> None:
    items: Sequence[dict[str, str]] = [{"key": "a"}, {"key64": "_w"}]
    assert keys_of({"items": items}) == [b"a", b"\xff"]
