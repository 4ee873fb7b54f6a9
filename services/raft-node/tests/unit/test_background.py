"""Tasks that run beside everything else, and calls between parts that are built one after the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raft_node.app.background import Background
from raft_node.errors import FatalError, IdentityError
from raft_node.runtime.wire import Wire


async def fails(error: Exception) -> None:
    raise error


async def test_a_task_that_says_that_the_node_must_end_ends_it() -> None:
    told: list[FatalError] = []
    background = Background(told.append)
    error = IdentityError("not this disk")
    background.start(fails(error))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told == [error]
    await background.close()


async def test_a_task_with_a_defect_goes_to_the_loops_handler() -> None:
    told: list[FatalError] = []
    handled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: handled.append(context))
    background = Background(told.append)
    background.start(fails(ValueError("a defect")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [str(context["exception"]) for context in handled] == ["a defect"]
    assert told == []


async def test_closing_ends_all_tasks() -> None:
    ended: list[str] = []

    async def lasts() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    background = Background(lambda error: None)
    background.start(lasts(), lasts())
    await asyncio.sleep(0)
    await background.close()
    assert ended == ["ended", "ended"]


def test_a_wire_reaches_all_its_ends_in_order_and_must_be_led_before_it_is_used() -> None:
    wire: Wire[[int]] = Wire()
    with pytest.raises(AssertionError, match="leads nowhere"):
        wire(1)
    heard: list[str] = []
    wire.lead_to(lambda number: heard.append(f"first {number}"), lambda number: heard.append(f"second {number}"))
    wire(7)
    assert heard == ["first 7", "second 7"]
    with pytest.raises(AssertionError, match="once"):
        wire.lead_to(lambda number: None)
