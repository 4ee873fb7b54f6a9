"""``dougctl bench``: histograms, plans, an open loop that omits nothing, and the command."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dougdb.benchmark.histogram import Histogram, drawn, shown
from dougdb.benchmark.load import Connection, Endpoint, Load, endpoint_of
from dougdb.benchmark.plan import Plan, Requests, parse_mix
from dougdb.cli import app
from dougdb.client import DougClient
from dougdb.commands import bench as bench_command
from dougdb.commands import common

pytestmark = pytest.mark.sockets

PLAN = Plan({"get": 1}, "p/", 10, 5, "", "h:1", {})
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LATENCIES = st.lists(st.floats(0, 100), min_size=1, max_size=200)


# Histograms.


@given(LATENCIES, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_percentiles_are_within_a_32nd_of_the_truth(latencies: list[float], part: float) -> None:
    histogram = Histogram()
    for each in latencies:
        histogram.record(each)
    ordered = sorted(latencies)
    true = ordered[max(0, -(-len(ordered) * part // 1).__int__() - 1)]
    assert histogram.count == len(latencies)
    assert histogram.max_s == ordered[-1]
    assert true - 2e-6 <= histogram.percentile_s(part) <= true * (1 + 1 / 32) + 2e-6
    assert sum(count for _, count in histogram.rows()) == histogram.count


@given(LATENCIES, LATENCIES)
def test_merging_is_recording_both(first: list[float], second: list[float]) -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for each in first:
        one.record(each)
        both.record(each)
    for each in second:
        other.record(each)
        both.record(each)
    one.merge(other)
    assert (one.count, one.max_s, one.rows()) == (both.count, both.max_s, both.rows())


def test_nothing_recorded_is_nothing_shown() -> None:
    histogram = Histogram()
    assert (histogram.mean_s, histogram.percentile_s(0.5), histogram.rows(), drawn([])) == (0.0, 0.0, [], [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 us"), (0.000999, "999 us"), (0.0123, "12.3 ms"), (0.999, "999 ms"), (12.34, "12.3 s")],
)
def test_latencies_are_short_to_read(seconds: float, text: str) -> None:
    assert shown(seconds) == text


def test_a_drawing_fits_into_80_columns() -> None:
    lines = drawn([(2.0**each / 1e6, 10**9 * each) for each in range(30)])
    assert all(len(line) <= 80 for line in lines)
    assert len(lines) == 24


# Plans.


@pytest.mark.parametrize("mix", ["", "get", "get=x", "get=-1", "scan=3", "get=1,get=2", "get=0", "get=1,,put=1"])
def test_a_mix_that_is_none_is_refused(mix: str) -> None:
    with pytest.raises(ValueError, match="mix"):
        parse_mix(mix)


def test_requests_are_those_of_the_plan() -> None:
    mix = parse_mix("get=1, put=2,delete=3,increment=4")
    plan = Plan(mix, "a b/", 3, 5, "consistency=eventual", "h:1", {"Authorization": "Bearer t"})
    requests = Requests(plan, 1)
    drawn_names = {name for name, _ in (requests.draw() for _ in range(200))}
    assert drawn_names == set(mix)
    head = b"\r\nHost: h:1\r\nAuthorization: Bearer t\r\n"
    assert requests.request("get", 2) == b"GET /v1/kv/a%20b%2F00000002?consistency=eventual HTTP/1.1" + head + b"\r\n"
    put = requests.request("put", 1)
    assert put.startswith(b"PUT /v1/kv/a%20b%2F00000001 HTTP/1.1" + head + b"Content-Length: 5\r\n\r\n")
    assert len(put.rpartition(b"\r\n\r\n")[2]) == 5
    assert requests.request("increment", 0).startswith(b"POST /v1/kv/a%20b%2Fn00000000:increment HTTP/1.1")
    again = Requests(plan, 7)
    assert [again.draw() for _ in range(20)] == [each.draw() for each in [Requests(plan, 7)] for _ in range(20)]


@pytest.mark.parametrize("url", ["", "ftp://h", "http://", "http://h/path", "http://h:x"])
def test_a_url_that_is_none_of_a_facade_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        endpoint_of(url, _no_trust)


def _no_trust() -> Any:
    raise AssertionError("plaintext trusts nobody")


def test_urls() -> None:
    assert endpoint_of("http://[::1]:80", _no_trust).name == "[::1]:80"
    assert endpoint_of("h:8080", _no_trust) == Endpoint("h", 8080, None)


# The load.


class FakeFacade:
    """Answers every request by a function of how many came before it."""

    def __init__(
        self, answer: Callable[[int], bytes] = lambda number: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    ):
        self.answer = answer
        self.requests = 0
        self.connections = 0
        self.on_request: Callable[[int], None] = lambda number: None
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                _, found, rest = head.partition(b"Content-Length: ")
                if found:
                    await reader.readexactly(int(rest.split(b"\r\n")[0]))
                self.requests += 1
                self.on_request(self.requests)
                answer = self.answer(self.requests)
                if not answer:
                    return
                writer.write(answer)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[Endpoint]:
        """Serves meanwhile. No connection outlives it: its warning would fail whichever test comes later."""
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as server:
            yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1], None)
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_stall_counts_for_every_request_that_was_due_meanwhile() -> None:
    facade, clock = FakeFacade(), FakeClock()

    def stall(number: int) -> None:
        # The first answer takes ten seconds; all others come at once.
        clock.now_s = 10.0 if number == 1 else clock.now_s

    facade.on_request = stall
    async with facade.started() as endpoint:
        load = Load(endpoint, Requests(PLAN, 1), clock)
        results = await load.run(connections=1, duration_s=10.5, rate=1.0)
    whole = results.together()
    # Due at 0, 1, ..., 10: all were answered at 10, so they took 10, 9, ... seconds, and not 10, 0, 0, ...
    assert (whole.count, results.failed, results.behind) == (11, 0, 0)
    assert whole.mean_s == pytest.approx(5.0)
    assert whole.max_s == 10.0


async def test_requests_that_were_never_begun_are_told() -> None:
    facade, clock = FakeFacade(), FakeClock()

    def stall(number: int) -> None:
        clock.now_s = 20.0

    facade.on_request = stall
    async with facade.started() as endpoint:
        results = await Load(endpoint, Requests(PLAN, 1), clock).run(connections=1, duration_s=10.0, rate=2.0)
    assert (results.answered, results.behind) == (1, 19)


async def test_every_request_is_counted_once_as_answered_refused_or_failed() -> None:
    clock = FakeClock()
    answers = {
        1: b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        2: b"HTTP/1.1 503 Unavailable\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad",
        3: b"HTTP/1.1 204 No Content\r\n\r\n",
        4: b"",
        5: b"nonsense\r\n\r\n",
        6: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    }
    facade = FakeFacade(lambda number: answers.get(number, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))

    def tick(number: int) -> None:
        clock.now_s = float(number)

    facade.on_request = tick
    async with facade.started() as endpoint:
        results = await Load(endpoint, Requests(PLAN, 1), clock).run(connections=1, duration_s=7.0, rate=None)
    assert (results.answered, dict(results.statuses), results.failures) == (3, {503: 1}, 3)
    assert facade.connections == 5


async def test_a_facade_that_is_not_there_is_an_error() -> None:
    connection = Connection(Endpoint("127.0.0.1", 1, None))
    with pytest.raises(OSError, match=r"."):
        await connection.ask(b"GET / HTTP/1.1\r\n\r\n")


# The command.


@pytest.fixture
def running() -> Iterator[FakeFacade]:
    """A facade in a thread; ``port`` is where."""
    facade = FakeFacade()
    started, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with facade.started() as endpoint:
            facade.port = endpoint.port  # type: ignore[attr-defined]
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    started.wait()
    yield facade
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


@pytest.fixture
def cleaned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The deletions of ranges."""
    prefixes: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        prefixes.append(f"{request.method} {request.url.params}")
        return httpx.Response(200, json={"deleted": 1, "complete": True, "dry_run": False, "next_cursor": None})

    monkeypatch.setattr(
        common, "DougClient", lambda url, **options: DougClient(url, **options, transport=httpx.MockTransport(handle))
    )
    return prefixes


def bench(port: int, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["--url", f"http://127.0.0.1:{port}", "bench", "--duration", "50ms", *arguments])


def test_results_for_people_and_for_programs(running: Any, cleaned: list[str]) -> None:
    result = bench(running.port, "--keys", "5", "--connections", "2")
    assert result.exit_code == 0, result.output
    assert " requests answered in " in result.stdout.splitlines()[0]
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    document = json.loads(bench(running.port, "--keys", "5", "--mix", "put=1", "--json").stdout)
    assert document["answered"] == document["all"]["count"] == sum(each["count"] for each in document["histogram"])
    assert list(document["operations"]) == ["put"]
    assert (document["failed"], document["statuses"]) == (0, {})
    assert len(cleaned) == 2
    assert all(asked.startswith("DELETE ") and "dougctl_bench" in asked for asked in cleaned)
    assert bench(running.port, "--keep").exit_code == 0
    assert len(cleaned) == 2


def test_a_terminal_is_told_what_goes_on(running: Any, cleaned: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(bench_command, "progress", told.append)
    assert bench(running.port, "--keys", "5").exit_code == 0
    assert told[0] == "0 keys put before the measurement" and told[-1] == ""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, file = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    common.progress("5 keys")
    common.progress("")
    assert terminal.getvalue() == "\r5 keys\x1b[K\r\x1b[K"
    monkeypatch.setattr(sys, "stderr", file)
    common.progress("5 keys")
    assert file.getvalue() == ""


def test_a_request_that_failed_is_exit_code_1_and_no_answer_is_4(running: Any, cleaned: list[str]) -> None:
    running.answer = lambda number: (
        b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
        if number % 2
        else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    )
    result = bench(running.port, "--mix", "put=1")
    assert (result.exit_code, "FAILED: " in result.stdout) == (1, True)
    running.answer = lambda number: b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    assert bench(running.port, "--mix", "put=1").exit_code == 4
    assert len(cleaned) == 2, "a write without a good answer may have happened"
    del cleaned[:]
    running.answer = lambda number: b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
    refused = bench(running.port)
    assert (refused.exit_code, " with 401" in refused.stdout, cleaned) == (4, True, [])
    unreachable = bench(1)
    assert (unreachable.exit_code, unreachable.output.count("dougctl: "), cleaned) == (4, 1, [])


@pytest.mark.parametrize(
    "arguments", [["--mix", "scan=1"], ["--duration", "soon"], ["--duration", "0s"], ["--consistency", "strong"]]
)
def test_wrong_usage(arguments: list[str], cleaned: list[str]) -> None:
    assert bench(1, *arguments).exit_code == 2
    assert cleaned == []
