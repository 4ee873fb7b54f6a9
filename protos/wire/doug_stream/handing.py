"""Hands a new connection over, or leaves nothing of it behind.

When a dial or a hand-over is given up (a deadline, a cancelled task) just as its transport was made, uvloop closes the
socket and never calls ``connection_lost``; asyncio's own loop does. A protocol that was told of its connection and not
of its end keeps a dead transport and its timers, and the next write raises in a callback of the loop, where no caller
can catch it.

Must not know protocols. Invariant: who was told ``connection_made`` is told ``connection_lost``, at least once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Made = TypeVar("Made", bound=asyncio.Protocol)
Opening = Callable[[Callable[[], Made]], Awaitable[tuple[asyncio.BaseTransport, Made]]]


async def hand_over(opening: Opening[Made], factory: Callable[[], Made]) -> Made:
    """Opens a connection for a new protocol.

    Args:
        opening: One of the loop's functions that make a transport, but for the factory of its protocol.
        factory: Makes the protocol. Its ``connection_lost`` may be called twice.

    Raises:
        OSError: It cannot be opened.
    """
    made: list[Made] = []

    def make() -> Made:
        made.append(factory())
        return made[-1]

    handed = False
    try:
        await opening(make)
        handed = True
        return made[-1]  # What the loop gives as the protocol is, of uvloop's under TLS, what it has put before ours.
    finally:
        if not handed:
            for each in made:
                each.connection_lost(None)
