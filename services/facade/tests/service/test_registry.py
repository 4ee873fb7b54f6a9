"""Deadlines of operations that come when their time is over, or their tick was looked at: facade.client.registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from doug_wire.command import Opcode
from doug_wire.pipe import ResultRecord, Status
from facade.client import registry as registry_module
from facade.client.modes import LINEARIZABLE
from facade.client.registry import ABANDONED_S, TICK_S
from facade.client.turns import SHARE_MIN
from facade.errors import NotAppliedError, ProblemError, ReadTimeoutError

MakeFacade = Callable[..., Awaitable[Any]]


class Frozen:
    """The clock of a loop, which stands."""

    def __init__(self, now_s: float) -> None:
        self.time = lambda: now_s


def read(facade: Any, deadline_s: float) -> Any:
    return facade.router.read(b"k", LINEARIZABLE, deadline_s, None, 0)


async def test_an_operation_that_comes_late_is_refused_and_not_sent(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    with pytest.raises(NotAppliedError, match="no time left"):
        read(facade, asyncio.get_running_loop().time() - 0.001)


async def test_an_operation_whose_tick_was_looked_at_ends_all_the_same(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    facade.cluster.shards[0].nodes[0].silent = True
    loop, registry = asyncio.get_running_loop(), facade.router.registry
    first = read(facade, loop.time() + 5)
    await facade.until(lambda: registry._next_tick > int(loop.time() / TICK_S), "the present tick to be looked at")
    late = read(facade, loop.time() + TICK_S / 100)
    # Whether it was sent before its time was over depends on the machine.
    with pytest.raises((NotAppliedError, ReadTimeoutError)):
        await asyncio.wait_for(late.future, 60)
    assert not first.future.done()


@pytest.mark.parametrize("uncertain", [False, True])
@pytest.mark.parametrize("end", ["malformed", "stranded", "abandoned"])
async def test_a_write_that_may_have_been_applied_is_never_called_not_applied(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch, end: str, uncertain: bool
) -> None:
    monkeypatch.setattr(registry_module, "ABANDONED_S", 0.0)
    facade = await make_facade(nodes=1)
    facade.cluster.shards[0].nodes[0].silent = True
    registry = facade.router.registry
    write = facade.router.write(Opcode.PUT, b"k", value=b"v", idempotency_key="once")
    write.uncertain = uncertain
    if end == "malformed":
        registry._refused(write, ResultRecord(write.id, Status.INVALID, 0, b"", b""))
    elif end == "abandoned":
        registry.abandon(write)
    else:
        registry._stranded.append(write)
        facade.router.directory.map = None
        registry.send_stranded()
    with pytest.raises(ProblemError) as raised:
        await asyncio.wait_for(write.future, 60)
    assert raised.value.outcome == ("unknown" if uncertain else "not_applied")


async def test_a_client_that_leaves_soon_is_served_though_it_has_not_had_its_turn(make_facade: MakeFacade) -> None:
    """Who sends a write and goes must not fare worse because somebody else fills the window."""
    facade = await make_facade(nodes=1, fair_window_items=1)
    facade.cluster.shards[0].nodes[0].silent = True
    registry = facade.router.registry
    for number in range(SHARE_MIN + 1):
        facade.router.write(Opcode.PUT, b"%d" % number, value=b"v", client="greedy")
    facade.router.write(Opcode.PUT, b"other", value=b"v", client="other")
    waiting = facade.router.write(Opcode.PUT, b"k", value=b"v", client="greedy")
    assert not waiting.inside
    assert waiting.queued_s == pytest.approx(asyncio.get_running_loop().time(), abs=60)
    registry._loop = Frozen(waiting.queued_s + ABANDONED_S / 2)
    registry.abandon(waiting)
    assert not waiting.future.done()
    registry._loop = Frozen(waiting.queued_s + 2 * ABANDONED_S)
    registry.abandon(waiting)
    assert waiting.future.done()
