"""Many watchers of one facade: ``make bench-watch``, or ``python -m bench.watch``.

It opens watches of one prefix on a fresh small cluster, and says what memory each costs the facade while nothing
happens, and how long one put of 100 bytes takes until the last of 1,000 clients has read its event. With ``--check`` it
ends with exit code 1 beyond the limits. Clients are connections of this process, which shares the cores with the
facade: what they need to read is part of what is measured.

It must not tune anything but how many watches one client may have: all are of this one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # Started by its path, as `make bench-watch` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.cluster import Cluster, ClusterError, wait_for
from bench.fresh import add_layout, on_fresh_cluster
from bench.http11 import Client
from bench.meter import family_pss_bytes, scrape, total

PREFIX = "watched/"
REQUEST = f"GET /v1/watch?prefix={PREFIX} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
VALUE_BYTES = 100
IDLE_MB_MAX = 300.0
IDLE_WATCHERS = 10_000
EVENT_S_MAX = 1.0
AT_ONCE = 100
TIMEOUT_S = 60.0
TOLD_S = 12.0
"""Longer than two tellings of progress: after it every watcher has been written to more than once."""


class Watcher(asyncio.Protocol):
    """One client: a connection that counts the events that it has read."""

    def __init__(self, audience: Watchers) -> None:
        self._audience = audience
        self._left = b""
        self.begun = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks for the watch."""
        assert isinstance(transport, asyncio.Transport)
        self._audience.transports.append(transport)
        transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        """Counts what has come; a name that is cut in two counts when its rest is there."""
        data = self._left + data
        if not self.begun:
            good = data.startswith(b"HTTP/1.1 200 ") or len(data) < len(b"HTTP/1.1 200 ")
            if good and b"event: progress" not in data:
                self._left = data
                return
            self.begun = True
            self._audience.one_has_begun(good)
        self._left = data[-len(b"event: put") + 1 :]
        for _ in range(data.count(b"event: put")):
            self._audience.one_was_told()

    def connection_lost(self, exc: Exception | None) -> None:
        """Notes that it is over."""
        self._audience.lost += 1


class Watchers:
    """All clients.

    Attributes:
        transports: Their connections.
        begun: How many watches have begun, or were refused.
        told: How many events all clients together have read.
        lost: How many connections have ended, or were refused.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.transports: list[asyncio.Transport] = []
        self.lost = 0
        self.begun = self.told = 0
        self._moved = asyncio.Event()

    def one_has_begun(self, good: bool) -> None:
        """Notes that a watch has begun."""
        if not good:
            self.lost += 1
        self.begun += 1
        self._moved.set()

    def one_was_told(self) -> None:
        """Notes that a client has read an event."""
        self.told += 1
        self._moved.set()

    async def grow(self, count: int) -> None:
        """Opens watches until there are so many.

        Raises:
            ClusterError: Not all of them are served.
        """
        loop = asyncio.get_running_loop()
        while len(self.transports) < count:
            some = min(AT_ONCE, count - len(self.transports))
            await asyncio.gather(
                *(loop.create_connection(lambda: Watcher(self), self._host, self._port) for _ in range(some))
            )
            await self._until(lambda: self.begun >= len(self.transports), "watches to begin")

    async def event_s(self, client: Client, number: int) -> float:
        """Puts a key; returns the time from the request until the last client has read the event."""
        wanted = self.told + len(self.transports)
        begun_s = time.monotonic()
        answer = await client.request("PUT", f"/v1/kv/{PREFIX}{number}", b"x" * VALUE_BYTES)
        if answer.status != 200:
            raise ClusterError(f"a put was answered with {answer.status}")
        await self._until(lambda: self.told >= wanted, "the event to reach everybody")
        return time.monotonic() - begun_s

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not holds():
                    if self.lost:
                        raise ClusterError(f"{self.lost} watches were refused or have ended")
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise ClusterError(f"waited {TIMEOUT_S} s in vain for {what}") from None

    def close(self) -> None:
        """Ends all of them."""
        for transport in self.transports:
            transport.abort()


async def _measure(cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    facade = cluster.member("facade")
    watchers = Watchers("127.0.0.1", cluster.port)
    figures: dict[str, Any] = {"events": {}, "memory_mb": {}}
    try:
        async with Client("127.0.0.1", cluster.port, timeout_s=TIMEOUT_S) as client:
            await client.request("PUT", f"/v1/kv/{PREFIX}first", b"x")
            figures["memory_mb"]["0"] = round(family_pss_bytes(facade) / 1e6, 1)
            for count in sorted({options.watchers, options.idle}):
                await watchers.grow(count)
                await asyncio.sleep(TOLD_S)
                figures["memory_mb"][str(count)] = round(family_pss_bytes(facade) / 1e6, 1)
                took = [await watchers.event_s(client, number) for number in range(options.events)]
                figures["events"][str(count)] = {
                    "median_s": round(statistics.median(took), 3),
                    "max_s": round(max(took), 3),
                }
    finally:
        watchers.close()
    held = figures["memory_mb"]
    more = (held[str(options.idle)] - held["0"]) / options.idle
    figures["kib_per_watcher"] = round(more * 1e6 / 1024, 1)
    figures["mb_at_10000"] = round(held["0"] + more * IDLE_WATCHERS, 1)
    return figures


def run(cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    """Measures on a fresh cluster; returns all figures."""
    cluster.start()
    figures = asyncio.run(_measure(cluster, options))
    # They are gone, and the facade has noticed: nothing of them is left.
    port = cluster.port
    wait_for(lambda: total(scrape(port), "dougdb_facade_watchers") == 0, 30, "the watches to be over")
    return figures


def beyond(figures: dict[str, Any], watchers: int) -> list[str]:
    """Which limits were not kept."""
    slowest, held = figures["events"][str(watchers)]["max_s"], figures["mb_at_10000"]
    judged = {
        f"10,000 idle watchers take {held} MB": held > IDLE_MB_MAX,
        f"one event took {slowest} s to {watchers} watchers": slowest > EVENT_S_MAX,
    }
    return [what for what, bad in judged.items() if bad]


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Many watchers of one facade.")
    parser.add_argument("--watchers", type=int, default=1000, help="how many are told of an event (1000)")
    parser.add_argument("--idle", type=int, default=2000, help="how many are there at last (2000)")
    parser.add_argument("--events", type=int, default=20, help="how many events (20)")
    add_layout(parser)
    parser.set_defaults(shards=1, nodes=1)
    parser.add_argument("--check", action="store_true", help="exit code 1 beyond the limits")
    options = parser.parse_args()
    most = str(max(options.watchers, options.idle, 10_000))
    environment = {"DOUGDB_WATCHES_MAX": most, "DOUGDB_CLIENT_WATCHES_MAX": most}
    figures = on_fresh_cluster(run, options, 300, environment)
    if figures is None:
        return 1
    print(json.dumps(figures, indent=2))
    bad = beyond(figures, options.watchers)
    for what in bad:
        print(what, file=sys.stderr)
    return 1 if options.check and bad else 0


if __name__ == "__main__":
    sys.exit(main())
