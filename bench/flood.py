"""An open load: so many requests a second, whatever becomes of them. ``python -m bench.flood URL --rate 1000``.

``bench.load`` asks again once it is answered, so a slow cluster is asked less. Real clients do not know of each other:
they come when they come, give up after a while, and close the connection that did not answer. This is such a crowd. It
runs in a process of its own, so that what it does to itself is not measured as the cluster's.

Invariants:
    1. A connection has one request under way at most, and there are at most ``connections`` of them.
    2. What is due while none is free is counted as ``not_offered``, and is not sent later.
    3. Every request that was sent counts once: by its status and the problem's code, as ``gave up``, or as ``cut off``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import sys
import time
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.load import Workload, on_own_loop, percentile_ms, request_of

TICK_S = 0.005
OPENING_MAX = 256
"""How many connections may be on their way at the same time: fewer than a listener's backlog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """An open load.

    Attributes:
        rate: How many requests a second are due.
        connections: How many connections there may be at most.
        seconds: For how long requests are due.
        deadline_s: After how many seconds a client gives up, and closes its connection.
        source: The address from which connections are made; empty for any.
        prefix: The prefix of all keys.
    """

    rate: float
    connections: int
    seconds: float
    deadline_s: float = 2.0
    source: str = ""
    prefix: str = "flood/"


@dataclass(slots=True)
class Outcome:
    """What came of an open load.

    Attributes:
        sent: How many requests were sent.
        not_offered: How many were due while no connection was free.
        kinds: Requests by what came of them: ``200``, ``503 overloaded``, ``gave up``, ``cut off``.
        dated: How many refusals said when to come again (``Retry-After``).
        not_connected: How many connections could not be made.
        served_ns: The latencies of the successes, in order of arrival.
        refused_ns: The latencies of all other answers.
        served_by_second: How many successes each second had.
    """

    sent: int = 0
    not_offered: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    dated: int = 0
    not_connected: int = 0
    served_ns: array[int] = field(default_factory=lambda: array("q"))
    refused_ns: array[int] = field(default_factory=lambda: array("q"))
    served_by_second: list[int] = field(default_factory=list)

    def summary(self, seconds: float) -> dict[str, Any]:
        """The figures, for people and for JSON; ``seconds`` is for how long requests were due."""
        return {
            "due_per_s": round((self.sent + self.not_offered) / seconds),
            "sent_per_s": round(self.sent / seconds),
            "served_per_s": round(len(self.served_ns) / seconds),
            "kinds": dict(sorted(self.kinds.items())),
            "with_retry_after": self.dated,
            "not_connected": self.not_connected,
            "p50_ms": round(percentile_ms(self.served_ns, 0.5), 1),
            "p99_ms": round(percentile_ms(self.served_ns, 0.99), 1),
            "refused_p99_ms": round(percentile_ms(self.refused_ns, 0.99), 1),
            "served_by_second": self.served_by_second,
        }


class _Connection(asyncio.Protocol):
    """One connection of the crowd."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.sent_ns = 0
        self._code = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class, only by behaviour.
        self.send()

    def send(self) -> None:
        assert self._transport is not None
        self.sent_ns = self._run.begin(self)
        self._transport.write(self._run.next_request())

    def data_received(self, data: bytes) -> None:
        with contextlib.suppress(httptools.HttpParserError):
            self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._run.outcome.dated += 1

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() >= 400:
            self._code += body

    def on_message_complete(self) -> None:
        sent_ns, self.sent_ns = self.sent_ns, 0
        body, self._code = self._code, b""
        if sent_ns:
            self._run.answered(self._parser.get_status_code(), body, sent_ns)
        if self._transport is not None and self._parser.should_keep_alive():
            self._run.idle.append(self)

    def give_up(self) -> None:
        self.sent_ns = 0
        self._run.outcome.kinds["gave up"] += 1
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._run.live.discard(self)
        if self.sent_ns:
            self.sent_ns = 0
            self._run.outcome.kinds["cut off"] += 1


class _Run:
    """Sends what is due, and gathers what comes of it."""

    def __init__(self, crowd: Crowd, host: str, port: int, name: str) -> None:
        self._crowd = crowd
        self._host, self._port = host, port
        self.outcome = Outcome(served_by_second=[0] * int(crowd.seconds))
        self.idle: deque[_Connection] = deque()
        self.live: set[_Connection] = set()
        self._overdue: deque[tuple[int, _Connection]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._start_ns = time.perf_counter_ns()
        workload = Workload(kind="put", keys=1_000_003, prefix=crowd.prefix)
        first = request_of(workload).replace(b"localhost", name.encode(), 1)
        self._head, self._tail = first.split(workload.key(0).encode(), 1)
        self._workload, self._number = workload, 0

    def next_request(self) -> bytes:
        self._number += 1
        return self._head + self._workload.key(self._number).encode() + self._tail

    def begin(self, connection: _Connection) -> int:
        """Notes that a request is sent now; returns the time."""
        now_ns = time.perf_counter_ns()
        self.live.add(connection)
        self._overdue.append((now_ns, connection))
        self.outcome.sent += 1
        return now_ns

    def answered(self, status: int, body: bytes, sent_ns: int) -> None:
        now_ns, outcome = time.perf_counter_ns(), self.outcome
        if status < 300:
            outcome.kinds["200"] += 1
            outcome.served_ns.append(now_ns - sent_ns)
            second = (now_ns - self._start_ns) // 1_000_000_000
            if second < len(outcome.served_by_second):
                outcome.served_by_second[second] += 1
            return
        outcome.refused_ns.append(now_ns - sent_ns)
        outcome.kinds[f"{status} {code_of(body)}"] += 1

    def send_due(self, count: int) -> None:
        """Sends so many requests, as far as there are connections for them."""
        for number in range(count):
            connection = self._free()
            if connection is not None:
                connection.send()
            elif len(self._opening) < OPENING_MAX and len(self.live) + len(self._opening) < self._crowd.connections:
                task = asyncio.ensure_future(self._open())
                self._opening.add(task)
                task.add_done_callback(self._opening.discard)
            else:
                self.outcome.not_offered += count - number
                return

    def _free(self) -> _Connection | None:
        while self.idle:
            connection = self.idle.popleft()
            if connection.is_open:
                return connection
        return None

    async def _open(self) -> None:
        local = (self._crowd.source, 0) if self._crowd.source else None
        make = functools.partial(_Connection, self)
        try:
            await asyncio.get_running_loop().create_connection(make, self._host, self._port, local_addr=local)
        except OSError:
            self.outcome.not_connected += 1

    def give_up_late(self) -> None:
        """Has those give up whose answers are overdue."""
        late_ns = time.perf_counter_ns() - int(self._crowd.deadline_s * 1e9)
        while self._overdue and self._overdue[0][0] <= late_ns:
            sent_ns, connection = self._overdue.popleft()
            if connection.sent_ns == sent_ns:
                connection.give_up()

    async def run(self) -> None:
        """Sends for the time of the load, and waits for what is under way."""
        crowd, due = self._crowd, 0
        while (passed_s := (time.perf_counter_ns() - self._start_ns) / 1e9) < crowd.seconds:
            wanted = int(crowd.rate * passed_s)
            self.send_due(wanted - due)
            due = wanted
            self.give_up_late()
            await asyncio.sleep(TICK_S)
        if self._opening:
            await asyncio.wait(self._opening)
        while any(connection.sent_ns for connection in self.live):
            self.give_up_late()
            await asyncio.sleep(TICK_S)
        for connection in list(self.live):
            connection.close()


def code_of(body: bytes) -> str:
    """The code of a problem document; empty if it is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return str(found.get("code", ""))
    return ""


async def offer_async(url: str, crowd: Crowd) -> Outcome:
    """Offers an open load to the facade at ``url``."""
    parts = urlsplit(url)
    run = _Run(crowd, parts.hostname or "127.0.0.1", parts.port or 80, parts.netloc)
    await run.run()
    return run.outcome


def offer(url: str, crowd: Crowd) -> Outcome:
    """The same on an event loop of its own."""
    return on_own_loop(offer_async(url, crowd))


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Offers so many requests a second, whatever becomes of them.")
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--connections", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--deadline-s", type=float, default=2.0)
    parser.add_argument("--source", default="")
    parser.add_argument("--prefix", default="flood/")
    options = vars(parser.parse_args())
    crowd = Crowd(**{name: value for name, value in options.items() if name != "url"})
    cpu_s = time.process_time()
    summary = offer(options["url"], crowd).summary(crowd.seconds)
    print(json.dumps(summary | {"generator_cpu_s": round(time.process_time() - cpu_s, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
