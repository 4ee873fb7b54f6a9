"""A node is made ready to be stopped: leadership moves, and what it had proposed is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from doug_wire.pipe import Status
from raft_node.raft.messages import (
    Heartbeat,
)
from raft_node.raft.types import NodeId
from raft_node.runtime.leadership.drain import drain
from raft_testing.driver_rig import ALL, ME, OTHER, ListSink, Rig


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = Rig(monkeypatch)
    await made.elect()
    return made


async def drained(rig: Rig, sleep: Callable[[float], Awaitable[None]]) -> NodeId | None:
    """Drains as ``Node.run`` does; the hold is never ended by the caller."""
    return await drain(rig.driver, rig.driver.hold(), 3.0, 0.3, sleep)


async def test_draining_moves_leadership_and_answers_what_was_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()
    sink = ListSink()
    rig.put(sink, 1)
    await rig.finish_writes()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        rig.driver.receive(Heartbeat(OTHER, ME, rig.core.term, rig.core.last_index, 0))
        await rig.settle()

    draining = asyncio.create_task(drained(rig, sleep))
    await rig.settle()
    rig.put(sink, 2)
    # The target has the entry, and is elected before this node hears that it is committed.
    await rig.let_lead(OTHER)
    assert await draining == OTHER
    assert sorted(sink.results) == [(1, Status.OK), (2, Status.NOT_LEADER)]
    assert slept, "it waited for the commit index"


async def test_draining_gives_up_soon_when_all_nodes_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()
    sink = ListSink()
    rig.put(sink, 1)
    began_s = rig.now_s

    async def sleep(seconds: float) -> None:
        await rig.advance(rig.now_s + seconds)

    draining = asyncio.create_task(drained(rig, sleep))
    while not draining.done():
        await rig.finish_writes()
        await rig.advance(rig.now_s + 0.01)
    assert await draining is None
    assert rig.now_s - began_s < 2.5
    rig.driver.stop()
    assert sink.results == [(1, Status.UNKNOWN)]


async def test_draining_a_shard_of_one_node_answers_and_holds_the_rest(rig: Rig) -> None:
    sink = ListSink()
    rig.put(sink, 1)
    await rig.settle()

    async def sleep(seconds: float) -> None:
        await rig.finish_writes()

    draining = asyncio.create_task(drained(rig, sleep))
    await rig.settle()
    rig.put(sink, 2)
    assert await draining is None
    assert sink.results == [(1, Status.OK)]
    rig.driver.stop()
    assert sink.results == [(1, Status.OK), (2, Status.NOT_LEADER)]


async def test_draining_a_follower_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    rig.driver.receive(Heartbeat(OTHER, ME, 1, 0, 0))
    await rig.settle()

    async def sleep(seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")

    assert await drained(rig, sleep) == OTHER
    assert not rig.driver.holding


async def test_a_node_that_is_elected_again_while_it_drains_releases_each_hold_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two drains overlap then, and each ends its own hold only."""
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()

    async def sleep(seconds: float) -> None:
        raise AssertionError("nothing is pending")

    first, second = rig.driver.hold(), rig.driver.hold()
    draining = asyncio.create_task(drain(rig.driver, first, 3.0, 0.3, sleep))
    await rig.let_lead(OTHER)
    assert await draining == OTHER
    assert rig.driver.holding, "the second one goes on"
    first.release()
    first.release()
    assert rig.driver.holding
    second.release()
    assert not rig.driver.holding
