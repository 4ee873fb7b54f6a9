"""Sends the requests of a plan over some connections, and measures how long their answers take.

At a rate, the times of requests are fixed in advance, however long answers take (an open loop): a request that finds
all connections busy waits, and its latency counts from its fixed time on. So a stall is seen as often as users would
see it (no coordinated omission). Without a rate each connection sends its next request as soon as it was answered.

Must not know how requests are drawn, or how results are shown. Invariant: every request that was begun is counted once:
as answered, as refused, or as failed.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from dougdb.benchmark.histogram import Histogram
from dougdb.benchmark.plan import Requests

TIMEOUT_S = 30.0
HEAD_BYTES_MAX = 64 << 10
RECONNECT_S = 0.1
GOOD = range(200, 300)
REFUSED = range(400, 500)
"""Statuses of requests that wrote nothing."""
MISSING = 404
"""The status for a key that does not exist, which counts as a good answer."""


class Endpoint(NamedTuple):
    """The address of a facade.

    Attributes:
        host: The facade's host name or IP address.
        port: The facade's port.
        trust: The TLS context with the trusted authorities; None for plaintext.
    """

    host: str
    port: int
    trust: ssl.SSLContext | None

    @property
    def name(self) -> str:
        """The value of the Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def endpoint_of(url: str, trust: Callable[[], ssl.SSLContext]) -> Endpoint:
    """Reads a URL.

    Raises:
        ValueError: The URL cannot be that of a facade.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"{url!r} is not like http://HOST:PORT")
    secure = parts.scheme == "https"
    return Endpoint(parts.hostname, parts.port or (443 if secure else 80), trust() if secure else None)


class Results:
    """The results of a run.

    Attributes:
        latencies: The latencies of the answered requests, by operation.
        statuses: How often each status came that is neither success nor 404.
        failures: How many requests got no answer.
        behind: How many requests of an open loop were never begun, since there was no time left.
        seconds: How many seconds the run took.
    """

    def __init__(self) -> None:
        self.latencies: dict[str, Histogram] = {}
        self.statuses: Counter[int] = Counter()
        self.failures = 0
        self.behind = 0
        self.seconds = 0.0

    @property
    def answered(self) -> int:
        """How many requests were answered with success or 404."""
        return sum(each.count for each in self.latencies.values())

    @property
    def failed(self) -> int:
        """How many requests got another answer or none."""
        return self.failures + sum(self.statuses.values())

    def together(self) -> Histogram:
        """The latencies of all operations in one histogram."""
        whole = Histogram()
        for each in self.latencies.values():
            whole.merge(each)
        return whole

    def answer(self, name: str, status: int, seconds: float) -> None:
        """Counts an answer."""
        if status in GOOD or status == MISSING:
            self.latencies.setdefault(name, Histogram()).record(seconds)
        else:
            self.statuses[status] += 1


class Connection:
    """One connection to the facade; it is opened by the first request, and again after it broke."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> int:
        """Sends a request; returns the status of the answer.

        Raises:
            OSError: There was no answer.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._streams is None:
                    host, port, trust = self._endpoint
                    self._streams = await asyncio.open_connection(host, port, ssl=trust, limit=HEAD_BYTES_MAX)
                return await self._exchange(*self._streams, request)
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            await self.close()
            raise ConnectionError(str(error)) from None
        except OSError:
            await self.close()
            raise

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        _, found, rest = head.partition(b"\r\ncontent-length:")
        if found:
            await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
        elif status not in (204, 304):
            raise ValueError("an answer without a length")
        if b"\r\nconnection: close\r\n" in head:
            await self.close()
        return status

    async def close(self) -> None:
        """Closes the connection; the next request opens another one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Load:
    """One run of a benchmark.

    Attributes:
        results: The results so far.
        filled: How many keys were put before the measurement.
        touched: Whether anything may have been written, so that there may be something to delete.
    """

    def __init__(self, endpoint: Endpoint, requests: Requests, clock: Callable[[], float] = time.perf_counter) -> None:
        """Creates a run; nothing is sent yet.

        Args:
            endpoint: The facade.
            requests: Draws the requests.
            clock: Gives the time in seconds.
        """
        self._endpoint = endpoint
        self._requests = requests
        self._clock = clock
        self.results = Results()
        self.filled = 0
        self.touched = False

    async def fill(self, keys: int, connections: int) -> None:
        """Puts every key once, so that reads find values; this is not measured.

        Raises:
            OSError: The facade cannot be reached.
        """
        numbers = iter(range(keys))

        async def put() -> None:
            connection = Connection(self._endpoint)
            try:
                for number in numbers:
                    self._note(await connection.ask(self._requests.request("put", number)))
                    self.filled += 1
            finally:
                await connection.close()

        await asyncio.gather(*(put() for _ in range(connections)))

    async def run(self, connections: int, duration_s: float, rate: float | None) -> Results:
        """Sends requests for some time, and waits for the last answers.

        Args:
            connections: How many requests may be under way.
            duration_s: How many seconds to send.
            rate: How many requests begin per second; None: each connection sends as soon as it was answered.
        """
        began_s = self._clock()
        ends_s = began_s + duration_s
        turns = itertools.count()
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._closed(ends_s) if not rate else self._open(turns, began_s, ends_s, rate))
        self.results.seconds = self._clock() - began_s
        if rate:
            self.results.behind = max(0, int(duration_s * rate) - self.results.answered - self.results.failed)
        return self.results

    async def _closed(self, ends_s: float) -> None:
        connection = Connection(self._endpoint)
        try:
            while (now_s := self._clock()) < ends_s:
                await self._measure(connection, now_s)
        finally:
            await connection.close()

    async def _open(self, turns: itertools.count[int], began_s: float, ends_s: float, rate: float) -> None:
        connection = Connection(self._endpoint)
        try:
            while True:
                due_s = began_s + next(turns) / rate
                if due_s >= ends_s or self._clock() >= ends_s:
                    return
                await asyncio.sleep(max(0.0, due_s - self._clock()))
                await self._measure(connection, due_s)
        finally:
            await connection.close()

    async def _measure(self, connection: Connection, due_s: float) -> None:
        name, request = self._requests.draw()
        try:
            status = await connection.ask(request)
        except OSError:
            self.results.failures += 1
            await asyncio.sleep(RECONNECT_S)
            return
        self._note(status)
        self.results.answer(name, status, self._clock() - due_s)

    def _note(self, status: int) -> None:
        self.touched |= status not in REFUSED
