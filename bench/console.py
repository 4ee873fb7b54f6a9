"""What open consoles cost a facade and the nodes: ``make bench-console``, or ``python -m bench.console``.

A fresh cluster stands idle, first without a console, then with one, then with a hundred, each of which reads its stream
of states as a browser does. With ``--timelines`` each also asks for the timeline of all shards, as the console's view
of it does, and leadership is moved some times before, so that there is something to tell. It prints the share of a core
that the facade and all nodes together take. With ``--check`` it ends with exit code 1 if a hundred consoles cost the
facade 10 % of a core or more, or the nodes notably more than one does. It must not tune anything: the cluster runs with
the defaults that users get.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

if __package__ in (None, ""):  # Started by its path, as `make bench-console` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.cluster import Cluster
from bench.fresh import add_layout, on_fresh_cluster
from bench.smoke import Meter

FACADE_CORE_MAX = 0.10
NODES_CORE_MAX = 0.05
"""The share of a core that the nodes may take more for many consoles than for one: the noise of an idle machine."""
WARM_UP_S = 5.0
STATE = b"event: state\n"
LOOK_S = 2.0
"""So long the console's timeline waits from an answer to its next question."""
MOVES = 40
"""So often leadership of each shard is moved before timelines are measured: some hundred events."""
HEADS_MAX = 1 << 16


class Consoles:
    """Open streams of states.

    Attributes:
        states: How many states came in.
        looks: How many timelines were told.
        event_bytes: How many bytes these were.
        lost: How many streams have ended.
    """

    def __init__(self, host: str, port: int, timelines: Sequence[int] = ()) -> None:
        """Opens none; with ``timelines`` each asks for the events of these shards, too."""
        self._host, self._port = host, port
        self._shards = timelines
        self.looks = 0
        self.event_bytes = 0
        self._place = f"{host}:{port}".encode()
        self.states = 0
        self.lost = 0
        self._opened = 0
        self._tasks: list[asyncio.Task[None]] = []

    def open(self, count: int) -> None:
        """Opens more of them, up to ``count``."""
        while self._opened < count:
            self._opened += 1
            self._tasks.append(asyncio.create_task(self._follow()))
            if self._shards:
                self._tasks.append(asyncio.create_task(self._look()))

    async def close(self) -> None:
        """Ends all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(b"GET /v1/console/stream HTTP/1.1\r\nhost: %b\r\n\r\n" % self._place)
            rest = b""
            while told := await reader.read(1 << 16):
                rest += told
                self.states += rest.count(STATE)
                # A mark may be cut in two.
                rest = rest[-(len(STATE) - 1) :]
            self.lost += 1
        finally:
            writer.close()

    async def _look(self) -> None:
        """Asks for what is new again and again, over one connection."""
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=HEADS_MAX)
        cursors = [""] * len(self._shards)
        # They are not opened at once either.
        await asyncio.sleep(LOOK_S * self._opened % 100 / 100)
        try:
            while True:
                query = f"shards={','.join(map(str, self._shards))}&after={','.join(cursors)}"
                writer.write(b"GET /v1/console/events?%b HTTP/1.1\r\nhost: %b\r\n\r\n" % (query.encode(), self._place))
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                told = json.loads(await reader.readexactly(length))["shards"]
                cursors = [each["cursor"] for each in told]
                self.looks += 1
                self.event_bytes += length
                await asyncio.sleep(LOOK_S)
        finally:
            writer.close()


def _move(cluster: Cluster) -> list[int]:
    """Moves leadership of each shard again and again; returns the shards."""
    shards = [int(each["id"]) for each in json.loads(cluster.request("GET", "/v1/cluster").body)["shards"]]
    for _ in range(MOVES):
        for shard in shards:
            cluster.request("POST", f"/v1/shards/{shard}/leader", b"{}", {"content-type": "application/json"})
    return shards


def run(cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    """Measures with each number of consoles; returns all figures."""
    cluster.start()
    shards = _move(cluster) if options.timelines else []
    return asyncio.run(_measure(cluster, options, shards))


async def _measure(cluster: Cluster, options: argparse.Namespace, shards: Sequence[int]) -> dict[str, Any]:
    place = urlsplit(cluster.url)
    assert place.hostname is not None and place.port is not None
    consoles = Consoles(place.hostname, place.port, shards)
    meter = Meter(cluster)
    figures = {}
    for count in sorted({0, 1, options.consoles}):
        consoles.open(count)
        await asyncio.sleep(WARM_UP_S)
        states, looks, event_bytes = consoles.states, consoles.looks, consoles.event_bytes
        spent, began_s = meter.cpu_s(), time.monotonic()
        await asyncio.sleep(options.seconds)
        passed_s, after = time.monotonic() - began_s, meter.cpu_s()
        shares = {group: (after[group] - spent[group]) / passed_s for group in spent}
        figures[str(count)] = {
            "facade_core": round(shares["facade"], 4),
            "nodes_core": round(shares["leaders"] + shares["followers"] + shares["helpers"], 4),
            "states_per_console_and_s": round((consoles.states - states) / passed_s / count, 2) if count else None,
        }
        if shards and count:
            looks, event_bytes = consoles.looks - looks, consoles.event_bytes - event_bytes
            figures[str(count)]["looks_per_console_and_s"] = round(looks / passed_s / count, 2)
            figures[str(count)]["bytes_per_look"] = round(event_bytes / max(1, looks))
    lost = consoles.lost
    await consoles.close()
    return {"consoles": figures, "lost": lost}


def beyond(figures: dict[str, Any], most: int) -> list[str]:
    """The limits that were not kept, as sentences."""
    found = figures["consoles"]
    one, many = found["1"], found[str(most)]
    judged = {
        f"{most} consoles cost the facade {many['facade_core']:.1%} of a core": many["facade_core"] >= FACADE_CORE_MAX,
        f"{most} consoles cost the nodes {many['nodes_core'] - one['nodes_core']:.1%} of a core more than one does": (
            many["nodes_core"] - one["nodes_core"] > NODES_CORE_MAX
        ),
        f"{figures['lost']} streams have ended": figures["lost"] > 0,
        "consoles got hardly any states": (many["states_per_console_and_s"] or 0) < 0.5,
    }
    return [what for what, bad in judged.items() if bad]


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="What open consoles cost a facade and the nodes.")
    parser.add_argument("--consoles", type=int, default=100, help="how many are opened at most (100)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each number of them is measured (20)")
    add_layout(parser)
    parser.add_argument("--timelines", action="store_true", help="each of them also shows the timeline of all shards")
    parser.add_argument("--check", action="store_true", help="exit code 1 beyond the limits")
    options = parser.parse_args()
    if options.consoles < 1:
        parser.error("--consoles is 1 at least")
    figures = on_fresh_cluster(run, options, 3 * (options.seconds + WARM_UP_S) + 120)
    if figures is None:
        return 1
    print(json.dumps(figures, indent=2))
    bad = beyond(figures, options.consoles)
    for what in bad:
        print(what, file=sys.stderr)
    return 1 if options.check and bad else 0


if __name__ == "__main__":
    sys.exit(main())
