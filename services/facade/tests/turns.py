"""Counts the turns of the event loop: how often something long lets others in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """How often others were let in.

    Attributes:
        count: How often so far.
    """

    def __init__(self) -> None:
        self.count = 0

    async def go_on(self) -> None:
        """Counts until it is cancelled."""
        while True:
            await asyncio.sleep(0)
            self.count += 1


@asynccontextmanager
async def counted_turns() -> AsyncIterator[Turns]:
    """Counts while the block runs."""
    turns = Turns()
    counting = asyncio.create_task(turns.go_on())
    try:
        yield turns
    finally:
        counting.cancel()
