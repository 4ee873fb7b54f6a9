"""``dougctl timeline``: one order over nodes and shards, missing nodes named, and following."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.client import AsyncDougClient, DougClient
from dougdb.commands import common
from dougdb.commands import timeline as timelines
from dougdb.errors import RejectedError, ServerError

RUNNER = CliRunner()
NOW_S = 1_700_000_000


@pytest.fixture(autouse=True)
def _served_from_memory(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    transport = httpx.MockTransport(store.handle)
    monkeypatch.setattr(common, "DougClient", lambda url, **options: DougClient(url, **options, transport=transport))
    set_clock(monkeypatch, lambda seconds: None)


def set_clock(monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], None]) -> None:
    clock = SimpleNamespace(time_ns=lambda: NOW_S * 10**9, sleep=sleep)
    monkeypatch.setattr("dougdb.commands.timeline.time", clock)


def run(*arguments: str) -> Any:
    return RUNNER.invoke(app, ["timeline", *arguments])


def event(node: str, sequence: int, ms: int, name: str, **extra: Any) -> dict[str, Any]:
    time_us = NOW_S * 10**6 + ms * 1000
    return {
        "node": node, "start_id": "s", "sequence": sequence, "time_us": time_us, "monotonic_us": ms, "term": 3,
        "name": name, "details": {}, "count": 1, "last_time_us": time_us,
    } | extra  # fmt: skip


def answer(shard: int, *events: dict[str, Any], unreachable: tuple[str, ...] = (), cut: bool = False) -> httpx.Response:
    document = {"shard": shard, "events": events, "nodes": [], "unreachable": unreachable, "cut": cut}
    return httpx.Response(200, json=document)


def test_lines_of_one_shard(store: Any) -> None:
    store.script = [
        answer(
            1,
            event("shard-1-0", 4, 0, "follows", details={"leader": "shard-1-2", "why": "two\nlines"}),
            event("shard-1-2", 5, 100, "became_candidate", details={"asks": ["n0", "n 1"], "none": []}),
            event("shard-1-1", 9, 250, "became_pre_candidate", count=7, last_time_us=(NOW_S + 3) * 10**6),
            unreachable=("shard-1-3",),
        )
    ]
    result = run("--shard", "1", "--since", "2h")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 3, "a line break in a detail does not break the line"
    assert lines[0].startswith("2023-11-14T22:13:20.000Z  shard-1-0")
    assert lines[0].endswith('leader=shard-1-2 why="two\\nlines"')
    assert "term 3" in lines[0]
    assert lines[1].endswith('asks=n0,"n 1" none=-')
    assert lines[2].endswith("(7 times in 2.8 s)")
    assert "not reachable, so that their events are missing: shard-1-3" in result.stderr
    url = store.requests[0].url
    assert (url.path, url.params["since"]) == ("/v1/shards/1/events", str((NOW_S - 7200) * 10**6))


def test_all_shards_in_one_order(store: Any) -> None:
    store.script = [
        httpx.Response(200, json={"shards": [{"id": 0, "nodes": []}, {"id": 1, "nodes": []}]}),
        # The second event of shard 0 lies before the first by its clock; it keeps its place.
        answer(0, event("shard-0-0", 1, 100, "a"), event("shard-0-0", 2, 50, "b"), event("shard-0-1", 1, 300, "c")),
        answer(1, event("shard-1-0", 1, 70, "d"), event("shard-1-0", 2, 200, "e"), cut=True, unreachable=("x",)),
    ]
    result = run("--json")
    document = json.loads(result.stdout)
    assert [(found["shard"], found["name"]) for found in document["events"]] == [
        (1, "d"), (0, "a"), (0, "b"), (1, "e"), (0, "c"),
    ]  # fmt: skip
    assert (document["unreachable"], document["cut"]) == (["x"], True)


def test_older_events_that_were_left_out_are_mentioned(store: Any) -> None:
    store.script = [answer(0, event("shard-0-0", 1, 0, "a"), cut=True)]
    assert "left out" in run("--shard", "0", "--limit", "1").stderr
    assert store.requests[0].url.params["limit"] == "1"
    store.script = [
        httpx.Response(200, json={"shards": [{"id": 0, "nodes": []}, {"id": 1, "nodes": []}]}),
        *(answer(shard, event(f"shard-{shard}-0", 1, 0, "a"), cut=True) for shard in range(2)),
    ]
    assert run("--limit", "1").stderr.count("left out") == 1


def test_following_shows_each_event_once(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (event("shard-0-0", number, number * 60_000, f"e{number}") for number in (1, 2, 3))
    store.script = [
        answer(0, first),
        answer(0, first, second, unreachable=("shard-0-4",)),
        httpx.ConnectError("refused"),
        answer(0, second, {**third, "sequence": 1, "start_id": "another"}, unreachable=("shard-0-4",)),
    ]
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if not store.script:
            raise KeyboardInterrupt

    set_clock(monkeypatch, sleep)
    result = run("--shard", "0", "--follow", "--json")
    assert result.exit_code == 130
    assert [json.loads(line)["name"] for line in result.stdout.splitlines()] == ["e1", "e2", "e3"]
    assert sleeps == [1.0] * 4
    assert "trying again" in result.stderr
    assert "shard-0-4" in result.stderr
    assert store.requests[3].url.params["since"] == str((NOW_S + 110) * 10**6), "each look overlaps the last"


@pytest.mark.parametrize("since", ["10", "m", "-1m", "1.5h", "10 m", "ten"])
def test_a_wrong_duration_is_wrong_usage(since: str) -> None:
    result = run("--since", since)
    assert result.exit_code == 2
    assert "10m" in result.stderr


@pytest.mark.parametrize(("text", "expected_us"), [("5ms", 5_000), ("90s", 90_000_000), ("1d", 86_400_000_000)])
def test_durations(text: str, expected_us: int) -> None:
    assert timelines.duration_us(text) == expected_us


def test_an_unknown_shard_is_a_failure(store: Any, make_problem: Any) -> None:
    store.script = [make_problem(404, code="unknown_shard", detail="There is no shard 9.")]
    result = run("--shard", "9")
    assert result.exit_code == 1
    assert "There is no shard 9." in result.stderr


async def test_both_clients_read_a_timeline(store: Any) -> None:
    transport = httpx.MockTransport(store.handle)
    store.script = [answer(2, event("shard-2-0", 1, 5, "a", details={"leader": "x"})) for _ in range(2)]
    with DougClient("http://127.0.0.1:1", transport=transport) as client:
        found = client.events(2, since_us=5, limit=7)
    assert [(seen.shard, seen.name, seen.term, seen.details) for seen in found.events] == [
        ("2", "a", 3, {"leader": "x"})
    ]
    async with AsyncDougClient("http://127.0.0.1:1", transport=transport) as other:
        assert (await other.events("2", since_us=5, limit=7)).events == found.events
    assert {str(request.url.query, "ascii") for request in store.requests} == {"since=5&limit=7"}
    store.script = [httpx.Response(200, json={"shard": 2, "events": [{}]}), make_rejection()]
    with DougClient("http://127.0.0.1:1", transport=transport) as client:
        with pytest.raises(ServerError):
            client.events(2)
        with pytest.raises(RejectedError):
            client.events(2)


def make_rejection() -> httpx.Response:
    return httpx.Response(404, json={"code": "unknown_shard"})
