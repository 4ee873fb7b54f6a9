"""The console's timeline: nodes are asked once for all, everybody is sent only what is new, and nothing is left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from turns import counted_turns

from doug.v1 import admin_pb2
from facade.console import timelines
from facade.console.timelines import SLACK_US

MakeFacade = Callable[..., Awaitable[Any]]
SECOND_US = 1_000_000


def event(sequence: int, time_us: int, name: str = "e", count: int = 1, details: str = "{}") -> admin_pb2.Event:
    return admin_pb2.Event(
        sequence=sequence, time_us=time_us, last_time_us=time_us, term=1, name=name, details=details, count=count
    )


@pytest.fixture
def each_look_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelines, "FRESH_S", 0.0)


class Tab:
    """Somebody who looks at the timelines of some shards, and keeps what they were told."""

    def __init__(self, facade: Any, *shards: int) -> None:
        self._facade = facade
        self._shards = shards
        self._cursors = [""] * len(shards)
        self.told: list[str] = []

    async def look(self) -> list[str]:
        """The names of the events that are told now, and by whom where that is not everything."""
        query = f"shards={','.join(map(str, self._shards))}&after={','.join(self._cursors)}"
        answer = await self._facade.http.get(f"/v1/console/events?{query}")
        assert answer.status_code == 200, answer.text
        told = answer.json()["shards"]
        assert [each["shard"] for each in told] == list(self._shards)
        self._cursors = [each["cursor"] for each in told]
        self.last = told
        return [found["name"] for each in told for found in each["events"]]


@pytest.mark.usefixtures("each_look_asks")
async def test_only_what_is_new_or_repeated_is_told_again(make_facade: MakeFacade) -> None:
    facade = await make_facade(shards=2, nodes=2)
    (one, other), (third, _) = facade.cluster.shards[0].nodes, facade.cluster.shards[1].nodes
    one.events = [event(1, 100, "a"), event(2, 300, "c")]
    other.events = [event(1, 200, "b")]
    tab, late = Tab(facade, 0, 1), Tab(facade, 0)
    assert await tab.look() == ["a", "b", "c"]
    assert [each["whole"] for each in tab.last] == [True, True]
    assert await tab.look() == []
    # Whoever was told everything before there was anything is told what came since.
    third.events = [event(1, 50, "z")]
    assert await tab.look() == ["z"]
    other.events = [event(1, 200, "b", count=7), event(2, 400, "d")]
    assert await tab.look() == ["b", "d"]
    assert tab.last[0]["events"][0]["count"] == 7
    assert await late.look() == ["a", "b", "c", "d"]
    assert await late.look() == []


async def test_nodes_are_asked_once_however_many_look(make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelines, "FRESH_S", 600.0)
    facade = await make_facade(nodes=1)
    node = facade.cluster.shards[0].nodes[0]
    node.events = [event(1, 100, "a")]
    tabs = [Tab(facade, 0) for _ in range(100)]
    assert await asyncio.gather(*(tab.look() for tab in tabs)) == [["a"]] * 100
    node.events.append(event(2, 200, "b"))
    assert await asyncio.gather(*(tab.look() for tab in tabs)) == [[]] * 100
    assert len(node.events_since) == 1, "what it told is fresh"


@pytest.mark.usefixtures("each_look_asks")
async def test_a_node_is_asked_for_what_is_new_by_its_own_clock(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    one, other = facade.cluster.shards[0].nodes
    hour_us = 3600 * SECOND_US
    one.clock_us, other.clock_us = hour_us, 2 * hour_us
    one.events, other.events = [event(1, hour_us, "a")], [event(1, 2 * hour_us, "b")]
    tab = Tab(facade, 0)
    await tab.look()
    await tab.look()
    assert (one.events_since, other.events_since) == ([0, hour_us - SLACK_US], [0, 2 * hour_us - SLACK_US])
    # Its clock is set back far, and something happens: it is asked for everything, and what is new is behind the rest.
    one.clock_us = SECOND_US
    one.events.append(event(2, SECOND_US, "c"))
    assert await tab.look() == []
    assert await tab.look() == ["c"]
    assert one.events_since[-1] == 0
    assert [each["name"] for each in (await fresh(facade))["events"]] == ["a", "c", "b"]
    one.events.append(event(3, 2 * SECOND_US, "d"))
    assert await tab.look() == ["d"]


async def fresh(facade: Any) -> dict[str, Any]:
    """Everything, as whoever comes now is told it."""
    told: dict[str, Any] = (await facade.http.get("/v1/console/events?shards=0")).json()["shards"][0]
    return told


@pytest.mark.usefixtures("each_look_asks")
async def test_what_a_node_did_before_it_was_killed_stays(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=2)
    one, other = facade.cluster.shards[0].nodes
    one.events, other.events = [event(1, 100, "became_leader")], [event(1, 150, "follows")]
    tab = Tab(facade, 0)
    assert await tab.look() == ["became_leader", "follows"]
    one.start_id, one.events = "another", [event(1, 200, "started")]
    assert await tab.look() == ["started"]
    assert [each["name"] for each in (await fresh(facade))["events"]] == ["became_leader", "follows", "started"]
    await other.stop()
    assert await tab.look() == []
    assert tab.last[0]["unreachable"] == [other.id]


@pytest.mark.usefixtures("each_look_asks")
async def test_the_newest_events_are_kept_and_that_there_were_more_is_told(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "EVENTS_MAX", 3)
    facade = await make_facade(nodes=2)
    one, other = facade.cluster.shards[0].nodes
    one.events, other.events = [event(n, 100 * n, f"a{n}") for n in (1, 2)], [event(1, 150, "b1")]
    tab = Tab(facade, 0)
    assert await tab.look() == ["a1", "b1", "a2"]
    assert not tab.last[0]["cut"]
    one.events.append(event(3, 300, "a3"))
    assert await tab.look() == ["a3"]
    assert tab.last[0]["cut"]
    assert await tab.look() == [], "what was given up does not come again, though the node tells it again"
    assert [each["name"] for each in (await fresh(facade))["events"]] == ["b1", "a2", "a3"]


@pytest.mark.usefixtures("each_look_asks")
async def test_the_cursor_of_another_log_gets_everything(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "SHARDS_MAX", 2)
    facade = await make_facade(shards=4, nodes=1)
    for shard in facade.cluster.shards:
        shard.nodes[0].events = [event(1, 100, f"s{shard.id}")]
    tab = Tab(facade, 0)
    assert await tab.look() == ["s0"]
    assert await tab.look() == []
    await Tab(facade, 1, 2, 3).look()
    assert await tab.look() == ["s0"], "its log was forgotten for those of others"
    assert tab.last[0]["whole"]
    kept = facade.application.console._data._timelines._kept
    assert sorted(kept) == [0, 3]


async def test_requests_are_let_in_while_many_events_are_taken(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "PIECE_EVENTS", 2)
    facade = await make_facade(nodes=1)
    answer = admin_pb2.EventsResponse(start_id="s", events=[event(n, n) for n in range(1, 101)])
    timeline = timelines.Timeline(facade.router.shards[0])
    async with counted_turns() as turns:
        await timeline._take("shard-0-0", answer)
    assert turns.count >= 50 - 1


async def test_numbers_that_a_browser_would_round_are_text(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    details = json.dumps({"incarnation": (1 << 63) - 25, "from": (1 << 53) - 1, "least": -(1 << 62), "name": "n"})
    facade.cluster.shards[0].nodes[0].events = [event(1, 1, details=details)]
    ((found,),) = [each["events"] for each in [await fresh(facade)]]
    assert found["details"] == {
        "incarnation": str((1 << 63) - 25), "from": (1 << 53) - 1, "least": str(-(1 << 62)), "name": "n",
    }  # fmt: skip
