"""The parts in which the client for asyncio differs from the blocking one: transport, waiting, background work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

import httpx

from dougdb.answers import hide_encoding
from dougdb.checks import is_loopback, proxy_of
from dougdb.lanes import Lanes
from dougdb.security import verify

T = TypeVar("T")

Transport = httpx.AsyncBaseTransport
HttpClient = httpx.AsyncClient
Mutex = asyncio.Lock
Stream = AsyncGenerator[T, None]
Body = AsyncIterator[bytes]
_ONE_CONNECTION = httpx.Limits(max_connections=1, max_keepalive_connections=1)


class _AsStored(httpx.AsyncBaseTransport):
    """Keeps httpx from undoing the content encoding of values."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request."""
        response = await self._inner.handle_async_request(request)
        hide_encoding(response.headers)
        return response

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._inner.aclose()


def http_client(
    url: str,
    *,
    timeout_s: float,
    ca_file: str | None,
    in_flight: int,
    headers: Mapping[str, str],
    transport: Transport | None,
) -> HttpClient:
    """An HTTP client with at most ``in_flight`` connections, which sends the headers with every request."""
    context, proxy = verify(url, ca_file), proxy_of(url)

    def lane() -> httpx.AsyncBaseTransport:
        return transport or httpx.AsyncHTTPTransport(verify=context, limits=_ONE_CONNECTION, proxy=proxy)

    return httpx.AsyncClient(
        timeout=timeout_s,
        transport=_AsStored(Lanes(lane, in_flight)),
        trust_env=not is_loopback(url),
        headers={"Accept-Encoding": "identity", **headers},
    )


def as_body(pieces: AsyncIterator[bytes]) -> Body:
    """The body of an answer for the caller: an iterator of its pieces."""
    return pieces


class Background:
    """Work that is done while the caller does something else, in a task of its own."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._owner: asyncio.Task[object] | None = None
        self._ends = asyncio.Event()
        self._interrupts = False

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begins the work. ``interrupt`` cancels the task that calls this."""
        self._owner = asyncio.current_task()

        async def run() -> None:
            await work()

        self._task = asyncio.create_task(run())

    async def wait(self, seconds: float) -> bool:
        """Waits for some seconds, and returns whether the work is to end; called by the work itself."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ends.wait()
        return self._ends.is_set()

    async def stop(self) -> None:
        """Asks the work to end, and waits until it has ended."""
        self._ends.set()
        while self._task is not None and not (self._task.done() and not self._interrupts):
            try:
                await asyncio.shield(self._task)
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                if not self.was_interrupted():
                    raise

    def interrupt(self) -> None:
        """Cancels the task that called ``start``."""
        if self._owner is not None and not self._ends.is_set():
            self._interrupts = True
            self._owner.cancel()

    def was_interrupted(self) -> bool:
        """Whether ``interrupt`` alone cancelled the caller's task; if so, the cancellation is taken back."""
        interrupts, self._interrupts = self._interrupts, False
        return interrupts and self._owner is not None and self._owner.uncancel() == 0


class Pace:
    """The clock of a client, and its ways to wait."""

    def now(self) -> float:
        """The time in seconds, by a clock that only goes forward."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits for some seconds."""
        await asyncio.sleep(seconds)

    def background(self) -> Background:
        """A new ``Background``."""
        return Background()
