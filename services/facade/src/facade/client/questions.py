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
    """Asks nodes side by side, each once at a time; a context at whose end all questions are given up."""

    def __init__(self, ask: Callable[[Node], Awaitable[None]]) -> None:
        """Asks by ``ask``, which asks one node and comes to an end by itself. Requires: a running loop."""
        self._ask = ask
        self._under_way: dict[Node, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        """Begins without a question."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives up all questions that are under way."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def ask(self, nodes: Iterable[Node], patience_s: float, enough: Callable[[], bool]) -> None:
        """Asks the nodes that no question is under way to, and waits for the answers.

        Args:
            nodes: The nodes to ask.
            patience_s: How long to wait for silent nodes before ``enough`` is asked; after a yes the wait goes on.
            enough: Tells whether the answers so far are enough, so that nothing hurries.
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
