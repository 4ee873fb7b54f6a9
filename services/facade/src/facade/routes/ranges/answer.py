"""The answer to a request for a range, on its way to a client that may be slow, or gone.

Invariants: (1) what a client does not read is not made; (2) one that takes nothing for too long loses its connection;
(3) other requests have their turn between two parts of a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from facade.routes import body as bodies

Message = dict[str, Any]
Send = Callable[[Any], Awaitable[None]]

PAUSE_SHARE, PAUSE_S_MAX = 2.5, 0.005
"""While other requests are being answered, a stream rests so many times as long as its parts take to make."""


class Answer:
    """An answer on its way to a client that may be slow.

    Attributes:
        status: The status that was sent.
        begun: Whether the head of the answer was sent.
    """

    def __init__(self, send: Send, idle_s: float, others: Callable[[], bool]) -> None:
        self._send_now = send
        self._idle_s = idle_s
        self._others = others
        self.status = 0
        self.begun = False

    async def whole(self, status: int, headers: Iterable[tuple[bytes, bytes]], content: bytes) -> None:
        """Sends the whole answer."""
        if not any(name == b"content-length" for name, _ in headers):
            headers = [*headers, (b"content-length", b"%d" % len(content))]
        await self.begin(status, headers)
        await self.end(content)

    async def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Sends the head, once."""
        if self.begun:
            return
        self.status, self.begun = status, True
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def more(self, content: bytes, spent_s: float) -> None:
        """Sends a part of the body, which took some time to make, and leaves the loop to others for about as long."""
        await self._send({"type": "http.response.body", "body": content, "more_body": True})
        # A request takes several turns of the loop, and each turn waits for a part of this stream.
        await asyncio.sleep(PAUSE_SHARE * min(spent_s, PAUSE_S_MAX) if self._others() else 0)

    async def end(self, content: bytes) -> None:
        """Sends the last part."""
        await self._send({"type": "http.response.body", "body": content})

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._idle_s):
                await self._send_now(message)
        except TimeoutError:
            raise bodies.DisconnectedError from None


async def while_connected(work: Awaitable[None], receive: bodies.Receive) -> None:
    """Does something as long as the client is there: what is sent to one that is gone is dropped, and never ends.

    Raises:
        DisconnectedError: The client has gone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise bodies.DisconnectedError
        await working
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: bodies.Receive) -> None:
    """Returns once the client is gone; a body says nothing here."""
    while (await receive())["type"] != "http.disconnect":
        pass
