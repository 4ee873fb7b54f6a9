"""Questions to nodes of a shard, of which one that is silent does not hold up the others. Must not know what is asked.

Invariant: a node is asked one question at a time; it is asked again once it has answered or its time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from facade.client.node import Node


async def until(event: asyncio.Event, seconds: float) -> None:
    """Waits for an event, but not for longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


class Questions:
    """Who is being asked; as a context, at whose end nobody is asked any more."""

    def __init__(self, ask: Callable[[Node], Awaitable[None]]) -> None:
        """Args: ask: Asks one node, and comes to an end by itself. Requires: a running loop."""
        self._ask = ask
        self._under_way: dict[Node, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        """Nobody is asked yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Asks nobody any more."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def ask(self, nodes: Iterable[Node], patience_s: float, enough: Callable[[], bool]) -> None:
        """Asks those that are not being asked, and waits for the answers.

        Args:
            nodes: Whom.
            patience_s: How long whoever is silent is waited for, unless what was heard is enough: then there is time.
            enough: Whether it is.
        """
        for node in nodes:
            if node not in self._under_way:
                self._under_way[node] = asyncio.create_task(self._put(node))
        while self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=patience_s)
            for node in [node for node, task in self._under_way.items() if task.done()]:
                self._under_way.pop(node).result()
            if not enough():
                return

    async def _put(self, node: Node) -> None:
        await self._ask(node)
