"""A bounded pool of connections for asyncio, in which the cost of a request does not grow with the pool.

The pool of httpx looks at every connection and at every waiting request whenever a request begins or ends: 800 requests
at once took 17 s, 1,200 failed, and even with 64 connections a request cost four times as much as with one.
Invariants:

1. A lane carries one request at a time, from its first byte to the end of its answer.
2. A request that waits for a lane has not begun: none of its time limits run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx


class Lanes(httpx.AsyncBaseTransport):
    """Sends each request over a transport that no other request uses meanwhile.

    Args:
        make: Makes a transport; called when all existing ones are in use.
        size: How many transports there may be.
    """

    def __init__(self, make: Callable[[], httpx.AsyncBaseTransport], size: int) -> None:
        self._make = make
        self._turns = asyncio.Semaphore(size)
        self._lanes: list[httpx.AsyncBaseTransport] = []
        #: The connection that was used last is used next, so that no more connections stay open than are needed.
        self._free: list[httpx.AsyncBaseTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Waits for a lane, and sends the request there."""
        await self._turns.acquire()
        try:
            if not self._free:
                self._lanes.append(self._make())
                self._free.append(self._lanes[-1])
            lane = self._free.pop()
        except BaseException:
            self._turns.release()
            raise
        try:
            response = await lane.handle_async_request(request)
        except BaseException:
            self._release(lane)
            raise
        if response.is_closed:
            # The answer is complete already, so nothing will close its stream later.
            self._release(lane)
            return response
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Stream(response.stream, lambda: self._release(lane))
        return response

    async def aclose(self) -> None:
        """Closes all connections."""
        for lane in self._lanes:
            await lane.aclose()

    def _release(self, lane: httpx.AsyncBaseTransport) -> None:
        self._free.append(lane)
        self._turns.release()


class _Stream(httpx.AsyncByteStream):
    """The body of an answer. Its lane is free again once httpx closes the body: at its end, or when it is given up."""

    def __init__(self, inner: httpx.AsyncByteStream, release: Callable[[], None]) -> None:
        self._inner = inner
        self._release: Callable[[], None] | None = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            yield part

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            release, self._release = self._release, None
            if release is not None:
                release()
