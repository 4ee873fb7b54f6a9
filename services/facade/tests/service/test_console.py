"""The console's routes: its files, its data, its stream."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from turns import counted_turns

from doug.v1 import admin_pb2
from facade.client.operators import cluster_status
from facade.console import app as console_app
from facade.console.assets import STATIC, load
from facade.console.collector import LIVE_S, MINUTE_S, Collector
from facade.console.history import STEP_S
from facade.console.view import PIECE_NODES

MakeFacade = Callable[..., Awaitable[Any]]

FIRST_VIEW_BYTES_MAX = 300_000


async def look(facade: Any) -> None:
    await facade.application.console.collector.look()


async def look_until(facade: Any, done: asyncio.Future[Any]) -> int:
    """Looks until something was seen: whoever gets a state misses those that come meanwhile. Returns how often."""
    looks = 0
    async with asyncio.timeout(60):
        while not done.done():
            await look(facade)
            looks += 1
            await asyncio.wait([done], timeout=0.005)
    return looks


async def test_browsers_are_led_to_the_console_and_programs_are_not(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    for path, headers in (("/", {"accept": "text/html,*/*"}), ("/ui", {})):
        answer = await facade.http.get(path, headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (307, "/ui/")
    for headers in ({}, {"accept": "application/json"}):
        assert (await facade.http.get("/", headers=headers)).status_code == 404


async def test_the_page_and_all_that_it_names_is_served(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    page = await facade.http.get("/ui/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["content-security-policy"].startswith("default-src 'self'; ")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert not re.search(r"<script>|<style>|\son\w+=|style=", page.text)
    links = re.findall(r'(?:src|href)="(/ui/[^"]+)"', page.text)
    assert len(links) >= 4
    first_view = len(page.content)
    for link in [*links, links[0].rsplit("/", 1)[0] + "/js/views/cluster.js"]:
        answer = await facade.http.get(link)
        assert answer.status_code == 200, link
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
        first_view += len(answer.content)
        head = await facade.http.head(link)
        assert (head.status_code, head.content, head.headers["content-length"]) == (
            200, b"", answer.headers["content-length"],
        )  # fmt: skip
    assert first_view < FIRST_VIEW_BYTES_MAX


def test_every_module_imports_files_that_are_there() -> None:
    for module in STATIC.rglob("*.js"):
        if module.parent.name == "vendor":
            continue
        for name in re.findall(r'(?:from|import\()[ ]*"([^"\n]+)"', module.read_text()):
            assert name.startswith("."), f"{module}: {name} is not from here"
            assert (module.parent / name).resolve().is_file(), f"{module}: {name}"


def test_what_changes_gets_another_address(tmp_path: Any) -> None:
    (tmp_path / "index.html").write_text("{{base}}a.js")
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "LICENSE").write_text("not served")
    version, served = load(tmp_path)
    assert set(served) == {b"/ui/", f"/ui/{version}/a.js".encode()}
    assert served[b"/ui/"].content == f"/ui/{version}/a.js".encode()
    (tmp_path / "a.js").write_text("2")
    assert load(tmp_path)[0] != version


async def test_nothing_but_the_files_is_served(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    version = facade.application.console._assets.version
    for path in (
        "x",
        "../console/app.py",
        f"{version}/../../app.py",
        f"{version}/%2e%2e/app.py",
        "index.html",
        version,
    ):
        answer = await facade.http.get(f"/ui/{path}")
        assert (answer.status_code, answer.json()["code"]) in ((404, "unknown_route"), (404, "http_error")), path
    answer = await facade.http.post("/ui/", content=b"x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_it_can_be_switched_off(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1, console_enabled=False)
    for path in ("/", "/ui", "/ui/", "/v1/console/state", "/v1/console/stream"):
        answer = await facade.http.get(path, headers={"accept": "text/html"})
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_route"), path


async def test_the_state_shows_every_node(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=3)
    await facade.cluster.shards[1].nodes[2].stop()
    answer = await facade.http.get("/v1/console/state")
    assert (answer.status_code, answer.json()["code"]) == (503, "starting")
    await look(facade)
    answer = await facade.http.get("/v1/console/state")
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert [[node["role"] for node in shard["nodes"]] for shard in document["shards"]] == [
        ["leader", "follower", "follower"],
        ["leader", "follower", "unreachable"],
    ]
    assert document["map"]["slots"] == [[0, 511, 0], [512, 1023, 1]]
    assert document["facade"]["ready"] is True
    assert (await facade.http.get("/v1/console/state?x=1")).json()["code"] == "unknown_parameter"


async def states_of(answer: httpx.Response, wanted: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == wanted:
                break
    return found


@pytest.fixture
def each_look_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer of the nodes is new enough to be used again, so that nobody has to wait until it is old."""
    monkeypatch.setattr(cluster_status, "FRESH_S", 0.0)


@pytest.mark.usefixtures("each_look_asks")
async def test_the_stream_tells_what_is_new_and_ends_with_the_facade(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    await facade.use_sockets()
    collector = facade.application.console.collector
    await look(facade)
    async with facade.http.stream("GET", "/v1/console/stream") as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = answer.aiter_lines()

        async def next_state() -> dict[str, Any]:
            async for line in lines:
                if line.startswith("data: "):
                    return dict(json.loads(line.removeprefix("data: ")))
            raise AssertionError("the stream ended")

        assert (await next_state())["shards"][0]["nodes"][0]["role"] == "leader"
        assert (collector.watchers, facade.metrics.inflight) == (1, 0)
        facade.cluster.shards[0].nodes[1].lead()
        newer = asyncio.create_task(next_state())
        await look_until(facade, newer)
        assert newer.result()["shards"][0]["nodes"][1]["role"] == "leader"
        collector.close()
        assert [line async for line in lines if line.startswith("data: ")] == []
    await facade.until(lambda: collector.watchers == 0, "nobody looks any more")


async def test_one_client_leaves_consoles_to_others(make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets all states, which count for no rate: whoever may look could open any number."""
    monkeypatch.setattr(console_app, "STREAMS_MAX", 4)
    facade = await make_facade(nodes=1)
    await facade.use_sockets()
    async with AsyncExitStack() as streams:
        for _ in range(3):
            answer = await streams.enter_async_context(facade.http.stream("GET", "/v1/console/stream"))
            assert answer.status_code == 200
        refused = await facade.http.get("/v1/console/stream")
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert "retry-after" in refused.headers
    await facade.until(lambda: facade.application.console.collector.watchers == 0, "nobody looks any more")
    async with facade.http.stream("GET", "/v1/console/stream") as answer:
        assert answer.status_code == 200


@pytest.mark.usefixtures("each_look_asks")
async def test_a_hundred_consoles_ask_the_nodes_as_often_as_one(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    await facade.use_sockets()
    collector = facade.application.console.collector
    node = facade.cluster.shards[0].nodes[0]
    await look(facade)
    before = node.statuses
    async with httpx.AsyncClient(base_url=str(facade.http.base_url), limits=httpx.Limits(max_connections=None)) as http:

        async def follow() -> list[dict[str, Any]]:
            async with http.stream("GET", "/v1/console/stream") as answer:
                return await states_of(answer, 2)

        streams = [asyncio.create_task(follow()) for _ in range(100)]
        await facade.until(lambda: collector.watchers == 100, "all look")
        told = asyncio.gather(*streams)
        looks = await look_until(facade, told)
        assert all(len(states) == 2 for states in told.result())
    # Whoever is slow is asked a few times more, by the facade itself.
    assert looks <= node.statuses - before < looks + 50
    await facade.until(lambda: collector.watchers == 0, "nobody looks any more")


async def test_it_asks_often_only_while_somebody_looks(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    collector = facade.application.console.collector
    assert await collector.look() > 1
    collector.enter()
    assert await collector.look() <= LIVE_S
    collector.leave()
    assert await collector.look() > 1


async def test_however_large_a_state_is_no_browser_takes_the_stream_for_broken(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    facade = await make_facade(nodes=1)
    collector = facade.application.console.collector
    collector.enter()
    # As of a thousand shards of five nodes, each with its peers and volumes, and more.
    large = "x" * (8 << 20)
    monkeypatch.setattr(Collector, "_document", lambda *_: {"large": large})
    silent_ms = re.search(r"SILENT_MS = (\d+);", (STATIC / "js/lib/live.js").read_text())
    assert silent_ms is not None
    assert 1.0 < await collector.look() < int(silent_ms[1]) / 1000 / 2


async def test_requests_are_let_in_between_the_pieces_of_a_look(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    facade = await make_facade(nodes=1)
    (node,) = facade.router.shards[0].nodes.values()
    status = admin_pb2.StatusResponse(role="leader", commit_index=7)

    async def read() -> Any:
        return {shard: [(node, status)] * 5 for shard in range(1000)}

    monkeypatch.setattr(facade.router.cluster, "read", read)
    async with counted_turns() as turns:
        await look(facade)
    # Both for browsers and for the last hour, which has 64 of the shards.
    assert turns.count >= (5000 + 64 * 5) / PIECE_NODES
    assert len(json.loads(facade.application.console.collector.state)["shards"]) == 1000


async def test_many_nodes_are_asked_some_at_a_time() -> None:
    begun: list[int] = []
    async with counted_turns() as turns:

        async def call(number: int) -> int:
            begun.append(turns.count)
            await asyncio.sleep(0)
            return number

        assert await cluster_status._all_of(call(number) for number in range(1000)) == list(range(1000))
    assert max(Counter(begun).values()) <= cluster_status.BEGUN_AT_ONCE


async def test_a_node_that_does_not_answer_puts_the_next_look_not_off(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    collector = facade.application.console.collector
    collector.enter()
    facade.cluster.shards[0].nodes[2].silent = True
    # A node is waited for as long as from one look to the next: a change is seen after one such time, not after two.
    assert await collector.look() <= LIVE_S - 0.9 * cluster_status.STATUS_TIMEOUT_S
    roles = [node["role"] for node in json.loads(collector.state)["shards"][0]["nodes"]]
    assert roles == ["leader", "follower", "unreachable"]


async def test_the_members_are_asked_for_once_however_many_look(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=3)
    leader = facade.cluster.shards[0].nodes[0]
    before = leader.asked_for_members
    answers = await asyncio.gather(*(facade.http.get("/v1/console/members?shard=0") for _ in range(100)))
    told = (await facade.http.get("/v1/shards/0/members")).json()
    assert all(answer.json() == told for answer in answers)
    assert leader.asked_for_members - before == 2, "once for all consoles, and once for whoever asks the API"


async def test_slots_are_counted(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=1)
    located = (await facade.http.get("/v1/console/locate?key64=aw")).json()
    assert located == {"slot": located["slot"], "shard": int(located["slot"] >= 512)}
    for _ in range(3):
        await facade.http.put("/v1/kv/k", content=b"v")
    await facade.http.get("/v1/kv/k")
    assert facade.router.directory.slot_counts[located["slot"]] == sum(facade.router.directory.slot_counts) == 4
    document = (await facade.http.get("/v1/console/slots")).json()
    assert (document["minutes_ago"], document["minutes_kept"], len(document["rates"])) == (0, 0, 1024)
    assert (await facade.http.get("/v1/console/slots?minutes_ago=3")).json()["rates"] is None


async def test_a_minute_of_slots_is_as_long_as_it_was(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    collector = facade.application.console.collector
    # It is counted every five seconds or so, and a node that does not answer puts that off.
    facade.router.directory.slot_counts[7] += 660
    collector._count_slots(collector._minute_s + 1.1 * MINUTE_S)
    assert collector.slots(1)["rates"][7] == 10.0


async def test_the_history_has_what_was_answered(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    await facade.http.put("/v1/kv/k", content=b"v")
    await look(facade)
    document = (await facade.http.get("/v1/console/history?shards=0")).json()
    assert len(document["times"]) == 1
    assert document["facade"]["requests"][0] > 0
    assert (document["shards"]["0"]["term"], document["shards"]["0"]["up"]) == ([1.0], [1.0])
    assert document["facade"]["errors"] == [0.0]


async def test_a_sample_is_of_all_that_was_since_the_one_before(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    facade = await make_facade(nodes=1)
    collector = facade.application.console.collector
    (node,) = facade.router.shards[0].nodes.values()
    began_s = collector._loop.time() + 60.0
    looks = 0
    monkeypatch.setattr(collector._loop, "time", lambda: began_s + looks * LIVE_S)
    together = round(STEP_S / LIVE_S)

    async def read() -> Any:
        """A hundred entries come between two samples, all of them between two looks."""
        status = admin_pb2.StatusResponse(role="leader", commit_index=100 * ((looks + together // 2) // together))
        status.vitals.uptime_ms = 1000 + looks
        return {0: [(node, status)]}

    monkeypatch.setattr(facade.router.cluster, "read", read)
    while looks < 6 * together:
        await collector.look()
        looks += 1
    told = collector.history.document([0])["shards"]["0"]["commits"]
    assert len(told) == 6
    assert told[1:] == pytest.approx([100 / (together * LIVE_S)] * 5, rel=0.01)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("events", 400, "bad_parameter"),
        ("events?shards=x", 400, "bad_parameter"),
        ("events?shards=-1", 400, "bad_parameter"),
        ("events?shards=0,0,0,0,0,0,0,0,0", 400, "bad_parameter"),
        ("events?shards=0,7", 404, "unknown_shard"),
        ("events?shards=0&x=1", 400, "unknown_parameter"),
        ("events?shards=0&after=x", 400, "bad_parameter"),
        ("events?shards=0&after=,", 400, "bad_parameter"),
        ("members", 400, "bad_parameter"),
        ("members?shard=7", 404, "unknown_shard"),
        ("members?shard=0&since=1", 400, "unknown_parameter"),
        ("history?shards=a", 400, "bad_parameter"),
        ("history?shards=" + ",".join(map(str, range(65))), 400, "bad_parameter"),
        ("slots?minutes_ago=61", 400, "bad_parameter"),
        ("locate", 400, "empty_key"),
        ("nothing", 404, "unknown_route"),
    ],
)
async def test_a_wrong_request_is_a_problem(make_facade: MakeFacade, path: str, status: int, code: str) -> None:
    facade = await make_facade(nodes=1)
    answer = await facade.http.get(f"/v1/console/{path}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
