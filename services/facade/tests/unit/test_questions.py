"""Questions to nodes: who is silent holds nobody up, nobody is asked twice at a time, and an error is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from facade.client.questions import Questions, until


class Asked:
    """Nodes are names; each answers when its event is set."""

    def __init__(self, *silent: str) -> None:
        self.asked: list[str] = []
        self.answers = {name: asyncio.Event() for name in ("a", "b", "c")}
        for name, event in self.answers.items():
            if name not in silent:
                event.set()

    async def ask(self, node: Any) -> None:
        self.asked.append(node)
        await self.answers[node].wait()


def nodes(names: str) -> Any:
    return tuple(names)


async def test_the_others_are_asked_again_while_one_is_silent() -> None:
    asked = Asked("b")
    async with Questions(asked.ask) as questions:
        await questions.ask(nodes("abc"), 0.01, lambda: False)
        await questions.ask(nodes("abc"), 0.01, lambda: False)
        assert asked.asked == ["a", "b", "c", "a", "c"]
        asked.answers["b"].set()
        await questions.ask((), 60, lambda: True)
        await questions.ask(nodes("b"), 60, lambda: True)
    assert asked.asked[5:] == ["b"]


async def test_when_it_is_enough_everybody_has_time() -> None:
    asked = Asked("b")
    async with Questions(asked.ask) as questions:
        waits = asyncio.create_task(questions.ask(nodes("ab"), 0.001, lambda: True))
        await until(asyncio.Event(), 0.02)
        assert not waits.done()
        asked.answers["b"].set()
        await waits


async def test_nobody_is_asked_after_the_end() -> None:
    asked = Asked("a")
    before = asyncio.all_tasks()
    async with Questions(asked.ask) as questions:
        await questions.ask(nodes("a"), 0, lambda: False)
    assert asyncio.all_tasks() == before


async def test_an_error_is_told() -> None:
    async def ask(node: Any) -> None:
        raise ValueError(node)

    async with Questions(ask) as questions:
        with pytest.raises(ValueError, match="a"):
            await questions.ask(nodes("a"), 60, lambda: False)


async def test_who_waits_for_an_event_does_not_wait_for_longer() -> None:
    event = asyncio.Event()
    await until(event, 0)
    event.set()
    await until(event, 60)
