"""A load generator: as many requests as a fixed number of keep-alive connections can keep under way.

It must not know DougDB beyond the paths of the key routes, and it must cost little: on two cores every microsecond that
it takes per operation is missing for the cluster (``cpu_us_per_operation`` tells its own cost).

Invariants:
    1. Each connection has at most one request under way (a closed loop), so the load never exceeds ``connections``.
    2. An operation counts once: as an answer with its status, as ``timeout``, or as ``cut off``.
    3. The run ends at ``seconds + timeout_s`` at the latest, whatever the server does.

The parser is httptools' with no header callbacks; uvloop is used when it is there.
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
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import httptools

Done = TypeVar("Done")

STEP = 48_271
"""A multiplier without a common factor with any sensible number of keys: it visits every key once, scattered."""

CONDITIONS = {"exists": b"if-match: *\r\n", "absent": b"if-none-match: *\r\n", "revision": b"if-match: %b\r\n"}
"""What the condition of a put is, by its name; for ``revision`` with the tag that the key had last."""

BODIES = 64
"""The number of different requests of a load of batches, which are made before it begins."""

SWEEP_S = 0.1
RECONNECT_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The requests of a run.

    Attributes:
        kind: ``put``, ``get``, or ``batch``: requests with many puts each, of which one counts as one operation.
        connections: How many keep-alive connections are used.
        seconds: After how many seconds no further operation is begun.
        operations: After how many operations to stop, if that comes first; 0: no limit.
        keys: How many distinct keys are used.
        known: From how many keys, in the order in which they are put, reads choose; 0: from all.
        value_bytes: How many bytes a value has.
        consistency: The consistency of reads; empty leaves it out of the request.
        prefix: The prefix of all keys.
        timeout_s: After how many seconds an operation is given up and its connection closed.
        seed: The seed of the order in which keys are read, and of the values.
        condition: The condition of puts, one of ``CONDITIONS``; empty for none.
        headers: Further headers of every request, as name and value; ``authorization``, say.
        batch: How many puts a request of ``batch`` has.
    """

    kind: str
    connections: int = 64
    seconds: float = 10.0
    operations: int = 0
    keys: int = 100_000
    known: int = 0
    value_bytes: int = 100
    consistency: str = ""
    prefix: str = "bench/"
    timeout_s: float = 15.0
    seed: int = 1
    condition: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    batch: int = 128

    def __post_init__(self) -> None:
        assert self.kind in ("put", "get", "batch"), self.kind
        assert not self.condition or (self.kind == "put" and self.condition in CONDITIONS), self.condition
        assert self.keys % STEP, "the keys would not all be visited"

    def key(self, index: int) -> str:
        """The name of the ``index``-th key that is put."""
        return f"{self.prefix}{index * STEP % self.keys:08d}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0.99, say) of the values do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def percentile_ms(latencies_ns: Sequence[int], share: float) -> float:
    """The latency in ms that ``share`` of the answers did not exceed; 0 without answers."""
    return percentile(latencies_ns, share) / 1e6


@dataclass(slots=True)
class LoadResult:
    """The result of a run.

    Attributes:
        begun: How many operations were begun.
        ok: How many were answered with a 2xx status.
        seconds: The seconds from the first request to the last answer.
        cpu_s: The CPU seconds of this process meanwhile.
        statuses: Answers by status, and ``timeout``, ``cut off`` and ``not connected``.
        latencies_ns: The latencies of all answers, in order of arrival.
        answered_ns: When each answer came, in nanoseconds since the start.
    """

    begun: int = 0
    ok: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))
    answered_ns: array[int] = field(default_factory=lambda: array("q"))

    @property
    def operations_per_s(self) -> float:
        """Successful operations per second."""
        return self.ok / self.seconds if self.seconds else 0.0

    @property
    def cpu_us_per_operation(self) -> float:
        """The CPU time that the generator took for each answer."""
        return self.cpu_s * 1e6 / max(1, len(self.latencies_ns))

    @property
    def errors(self) -> dict[str, int]:
        """Everything that was not a 2xx answer, by kind."""
        return {kind: count for kind, count in sorted(self.statuses.items()) if not kind.startswith("2")}

    def percentile_ms(self, share: float) -> float:
        """See the function of this name."""
        return percentile_ms(self.latencies_ns, share)

    def summary(self) -> dict[str, Any]:
        """The figures, for people and for JSON."""
        return {
            "operations_per_s": round(self.operations_per_s, 1),
            "begun": self.begun,
            "ok": self.ok,
            "seconds": round(self.seconds, 2),
            "p50_ms": round(self.percentile_ms(0.5), 2),
            "p99_ms": round(self.percentile_ms(0.99), 2),
            "p99.9_ms": round(self.percentile_ms(0.999), 2),
            "errors": self.errors,
            "generator_cpu_us": round(self.cpu_us_per_operation, 1),
        }


class _Run:
    """Hands out requests and gathers their results."""

    def __init__(self, workload: Workload, host: str, tags: dict[bytes, bytes] | None) -> None:
        self._workload = workload
        self.tags = tags
        self.key = b""
        self._condition = CONDITIONS.get(workload.condition, b"")
        self._needs_tag = b"%" in self._condition
        self.result = LoadResult()
        self.start_ns = 0
        self.ends_ns = 0
        self.last_answer_ns = 0
        headers = "".join(f"{name}: {value}\r\n" for name, value in workload.headers)
        self._head = f" HTTP/1.1\r\nhost: {host}\r\n{headers}".encode()
        self._random = Random(workload.seed)
        body = self._random.randbytes(workload.value_bytes)
        self._put_rest = f"content-length: {len(body)}\r\n\r\n".encode() + body
        self._put_tail = self._head + self._put_rest
        query = f"?consistency={workload.consistency}" if workload.consistency else ""
        self._get_tail = query.encode() + self._head + b"\r\n"
        self._batches = [self._batch(number) for number in range(BODIES)] if workload.kind == "batch" else []

    def _batch(self, number: int) -> bytes:
        workload, value = self._workload, "v" * self._workload.value_bytes
        keys = [workload.key(number * workload.batch + place) for place in range(workload.batch)]
        body = json.dumps({"operations": [{"op": "put", "key": key, "value": value} for key in keys]}).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        return b"POST /v1/batch" + self._head + head + body

    def next_request(self, now_ns: int) -> bytes | None:
        workload, result = self._workload, self.result
        if now_ns >= self.ends_ns or (workload.operations and result.begun >= workload.operations):
            return None
        index = result.begun
        result.begun = index + 1
        if workload.kind == "put":
            self.key = key = workload.key(index).encode()
            if not self._condition:
                return b"PUT /v1/kv/" + key + self._put_tail
            condition = self._condition
            if self._needs_tag:
                assert self.tags is not None, "nothing has told the tags"
                condition %= self.tags[key]
            return b"PUT /v1/kv/" + key + self._head + condition + self._put_rest
        if workload.kind == "batch":
            return self._batches[index % BODIES]
        index = int(self._random.random() * (workload.known or workload.keys))
        return b"GET /v1/kv/" + workload.key(index).encode() + self._get_tail

    @property
    def batch(self) -> int:
        """How many puts each request has; 0 if it is none of several."""
        return self._workload.batch if self._batches else 0

    def answered(self, status: int, sent_ns: int, now_ns: int) -> None:
        result = self.result
        if 200 <= status < 300:
            result.ok += 1
        result.statuses[str(status)] += 1
        result.latencies_ns.append(now_ns - sent_ns)
        result.answered_ns.append(now_ns - self.start_ns)
        self.last_answer_ns = now_ns


def request_of(workload: Workload) -> bytes:
    """The first request that a connection of a workload sends."""
    run = _Run(workload, "localhost", None)
    run.ends_ns = 1
    request = run.next_request(0)
    assert request is not None, "no request is to be sent"
    return request


class _LoadConnection(asyncio.Protocol):
    """A closed loop on one connection: the end of an answer sends the next request."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.sent_ns = 0
        self.finished = False
        self._why = "cut off"
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class, only by behaviour.
        self._next(time.perf_counter_ns())

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort("not HTTP")

    def on_message_complete(self) -> None:
        now_ns = time.perf_counter_ns()
        self._run.answered(self.status(), self.sent_ns, now_ns)
        self.sent_ns = 0
        if self._parser.should_keep_alive():
            self._next(now_ns)
        elif self._transport is not None:
            self._transport.close()

    def status(self) -> int:
        return self._parser.get_status_code()

    def _next(self, now_ns: int) -> None:
        assert self._transport is not None
        request = self._run.next_request(now_ns)
        if request is None:
            self.finished = True
            self._transport.close()
            return
        self.sent_ns = now_ns
        self._transport.write(request)

    def abort(self, why: str) -> None:
        self._why = why
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.sent_ns:
            self._run.result.statuses[self._why] += 1
        if not self.gone.done():
            self.gone.set_result(None)


class _TaggedConnection(_LoadConnection):
    """The same, and it remembers the tag that each key was given."""

    def __init__(self, run: _Run) -> None:
        super().__init__(run)
        self._key = b""

    def _next(self, now_ns: int) -> None:
        super()._next(now_ns)
        self._key = self._run.key

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"etag" and self._run.tags is not None:
            self._run.tags[self._key] = value


class _BatchConnection(_LoadConnection):
    """The same for batches: an answer in which a put failed counts as one with the status 0."""

    def __init__(self, run: _Run) -> None:
        super().__init__(run)
        self._pieces: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def status(self) -> int:
        body, self._pieces = b"".join(self._pieces), []
        return super().status() if body.count(b'{"status":200') == self._run.batch else 0


async def _keep_connected(run: _Run, host: str, port: int, live: set[_LoadConnection]) -> None:
    """Runs one closed loop and opens its connection again whenever that is lost before the end."""
    loop = asyncio.get_running_loop()
    kind = _BatchConnection if run.batch else _LoadConnection if run.tags is None else _TaggedConnection
    while time.perf_counter_ns() < run.ends_ns:
        try:
            _, connection = await loop.create_connection(functools.partial(kind, run), host, port)
        except OSError:
            run.result.statuses["not connected"] += 1
            await asyncio.sleep(RECONNECT_S)
            continue
        live.add(connection)
        try:
            await connection.gone
        finally:
            live.discard(connection)
            connection.abort("cut off")
        if connection.finished:
            return
        if connection.sent_ns:
            await asyncio.sleep(RECONNECT_S)


async def _sweep(live: set[_LoadConnection], timeout_s: float) -> None:
    """Cuts connections whose answer is overdue."""
    while True:
        await asyncio.sleep(SWEEP_S)
        overdue_ns = time.perf_counter_ns() - int(timeout_s * 1e9)
        for connection in list(live):
            if connection.sent_ns and connection.sent_ns < overdue_ns:
                connection.abort("timeout")


async def run_load(url: str, workload: Workload, tags: dict[bytes, bytes] | None = None) -> LoadResult:
    """Applies a workload to the facade at ``url`` and waits for the last answer.

    Args:
        url: The URL of the facade.
        workload: The workload.
        tags: If given, takes the tag of each key that is put. The condition ``revision`` needs those of all keys.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    run, live = _Run(workload, parts.netloc, tags), set[_LoadConnection]()
    cpu_s, start_ns = time.process_time(), time.perf_counter_ns()
    run.start_ns = start_ns
    run.ends_ns = start_ns + int(workload.seconds * 1e9)
    sweep = asyncio.ensure_future(_sweep(live, workload.timeout_s))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workload.connections):
                group.create_task(_keep_connected(run, host, port, live))
    finally:
        sweep.cancel()
        await asyncio.gather(sweep, return_exceptions=True)
    run.result.seconds = (max(run.last_answer_ns, start_ns) - start_ns) / 1e9
    run.result.cpu_s = time.process_time() - cpu_s
    return run.result


def run_blocking(url: str, workload: Workload, tags: dict[bytes, bytes] | None = None) -> LoadResult:
    """Applies a workload on an event loop of its own; see ``run_load``."""
    return on_own_loop(run_load(url, workload, tags))


def on_own_loop(work: Coroutine[Any, Any, Done]) -> Done:
    """Runs a coroutine on an event loop of its own, uvloop's when it is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop as factory  # noqa: PLC0415 - there is none on some platforms
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def main() -> int:
    """Runs the command line: ``python -m bench.load URL put --connections 64 --seconds 10``."""
    parser = argparse.ArgumentParser(description="Puts load on a DougDB facade and prints what came of it.")
    parser.add_argument("url")
    parser.add_argument("kind", choices=("put", "get", "batch"))
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--operations", type=int, default=0)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--known", type=int, default=0)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--consistency", default="")
    parser.add_argument("--prefix", default="bench/")
    parser.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args())
    result = run_blocking(options.pop("url"), Workload(**options))
    print(json.dumps(result.summary(), indent=2))
    return 1 if result.errors else 0


if __name__ == "__main__":
    sys.exit(main())
