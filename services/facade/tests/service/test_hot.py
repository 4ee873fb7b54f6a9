"""The short way of plain requests: it answers byte for byte as the application does, and takes nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from facade_under_test import comparable

from doug_wire.pipe import Status

MakeFacade = Callable[..., Awaitable[Any]]

HOST = b"Host: localhost\r\n"
Exchange = Callable[[bytes], Awaitable[bytes]]


def request(method: str, target: str, *headers: str, body: bytes = b"", host: bytes = HOST) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *headers]
    if method == "PUT":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n" + host + b"\r\n" + body


async def exchange(port: int, data: bytes) -> bytes:
    """Sends requests and reads until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    return answer


class BothWays:
    """A facade that listens with the short way and without it, and how often the application was asked."""

    def __init__(self, facade: Any, hot: int, cold: int) -> None:
        self.facade = facade
        self._ports = (hot, cold)
        self.asked = 0
        serve = facade.application._keys

        async def counted(*arguments: Any) -> None:
            self.asked += 1
            await serve(*arguments)

        counted.route = serve.route  # type: ignore[attr-defined]
        facade.application._keys = counted

    async def ask(self, data: bytes) -> tuple[bytes, bool]:
        """The answer of both, which must be the same, and whether the short way gave it."""
        answers = []
        asked = []
        for port in self._ports:
            before = self.asked
            store = self.facade.cluster.shards[0].store
            kept, revision = dict(store.data), store.revision
            answers.append(comparable(await exchange(port, data)))
            asked.append(self.asked - before)
            if port == self._ports[0]:
                store.data, store.revision = kept, revision
        assert answers[0] == answers[1]
        return answers[0], asked[0] < asked[1]


@pytest.fixture
async def both(make_facade: MakeFacade) -> BothWays:
    facade = await make_facade(nodes=1, request_timeout_ms=1000)
    await facade.http.put("/v1/kv/text", content=b"value", headers={"content-type": "text/plain"})
    await facade.http.put("/v1/kv/page", content=b"<p>", headers={"content-type": "text/html"})
    await facade.http.put("/v1/kv/bytes", content=b"\xff" * 40_000)
    await facade.http.put("/v1/kv/packed", content=b"z", headers={"content-encoding": "gzip"})
    await facade.http.put("/v1/kv/short?ttl=1h", content=b"s")
    return BothWays(facade, await facade.listen(), await facade.listen(hot=False))


END = "Connection: close"
PLAIN = [
    *(request("GET", f"/v1/kv/{key}", END) for key in ("text", "page", "bytes", "packed", "short", "none", "a%2Fb")),
    request("GET", "/v1/kv/text?consistency=eventual", END),
    request("GET", "/v1/kv/text?consistency=linearizable", END, "Accept: */*", "User-Agent: u"),
    request("GET", "/v1/kv/text", END, "Doug-Consistency: eventual"),
    request("GET", "/v1/kv/text", END, "Accept: text/plain", "X-Forwarded-For: 10.0.0.1"),
    request("PUT", "/v1/kv/k", END, body=b"value"),
    request("PUT", "/v1/kv/k", END, "Content-Type: text/plain"),
    request("PUT", "/v1/kv/k?consistency=eventual", END, body=b"v"),
    request("PUT", "/v1/kv/k", END, body=b"x" * 60_000),
]
OTHERS = [
    request("HEAD", "/v1/kv/text", END),
    request("DELETE", "/v1/kv/text", END),
    request("GET", "/v1/kv/text", END, "Accept: application/json"),
    request("GET", "/v1/kv/text", END, 'If-None-Match: "1"'),
    request("GET", "/v1/kv/text", END, "Sec-Fetch-Site: same-origin"),
    request("GET", "/v1/kv/text", END, "Origin: https://a.example"),
    request("GET", "/v1/kv/text", END, "Range: bytes=0-1"),
    request("GET", "/v1/kv/text", END, "Doug-Session: x"),
    request("GET", "/v1/kv/text", END, "Never-Heard-Of: x"),
    request("GET", "/v1/kv/text", END, "Doug-Consistency: eventual", "Doug-Consistency: linearizable"),
    request("GET", "/v1/kv/text?consistency=eventual", END, "Doug-Consistency: linearizable"),
    request("GET", "/v1/kv/text?consistency=strong", END),
    request("GET", "/v1/kv/text?x=1", END),
    request("GET", "/v1/kv/%zz", END),
    request("GET", "/v1/kv/%ff", END),
    request("GET", "/v1/kv/", END),
    request("GET", "/v1/kv/" + "k" * 1025, END),
    request("PUT", "/v1/kv/k", END, "Content-Type: a\tb", body=b"v"),
    request("PUT", "/v1/kv/k", END, "Content-Encoding: gzip", body=b"v"),
    request("PUT", "/v1/kv/k", END, "If-Match: *", body=b"v"),
    request("PUT", "/v1/kv/k", END, "Idempotency-Key: " + "i" * 300, body=b"v"),
    request("PUT", "/v1/kv/k", END, "Sec-Fetch-Site: cross-site", body=b"v"),
    request("PUT", "/v1/kv/k", END, "Expect: 100-continue", body=b"v"),
    request("PUT", "/v1/kv/k?ttl=5s", END, body=b"v"),
    request("PUT", "/v1/kv/k", END, body=b"x" * 100_000),
    request("PUT", "/v1/kv/k", END, body=b"x" * ((1 << 20) + 1)),
    request("GET", "/v1/kv/text", END, host=b"Host: evil.example\r\n"),
    request("GET", "/v1/kv/text", END, host=b""),
    request("GET", "/v1/kv/text", END, host=HOST + HOST),
    b"GET /v1/kv/text HTTP/1.0\r\n" + HOST + b"\r\n",
    b"PUT /v1/kv/k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"Connection: close\r\n\r\n1\r\nv\r\n0\r\n\r\n",
    b"GET http://localhost/v1/kv/text HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n",
]


async def test_plain_requests_are_answered_as_the_application_does(both: BothWays) -> None:
    for data in PLAIN:
        answer, short = await both.ask(data)
        assert short, data[:80]
        assert answer.startswith((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 404 Not Found\r\n"))
        assert b"connection: close\r\n" in answer
        assert b"doug-request-id: " in answer


async def test_all_others_go_through_the_application(both: BothWays) -> None:
    for data in OTHERS:
        _, short = await both.ask(data)
        assert not short, data[:80]


async def test_names_of_clients_for_their_requests_are_kept(both: BothWays) -> None:
    answer = await exchange(both._ports[0], request("GET", "/v1/kv/text", END, "X-Request-Id: abc-1"))
    assert b"doug-request-id: abc-1\r\n" in answer
    answer = await exchange(both._ports[0], request("GET", "/v1/kv/text", END, "X-Request-Id: a b"))
    assert b"a b" not in answer


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.INVALID])
async def test_errors_are_told_as_the_application_does(both: BothWays, status: Status) -> None:
    node = both.facade.cluster.shards[0].nodes[0]
    node.script.extend([status] * 2)
    answer, short = await both.ask(request("PUT", "/v1/kv/k", END, body=b"v"))
    assert short
    assert b"application/problem+json" in answer


async def test_what_is_not_answered_in_time_or_not_admitted(both: BothWays) -> None:
    node = both.facade.cluster.shards[0].nodes[0]
    node.silent = True
    for data in (request("PUT", "/v1/kv/k", END, body=b"v"), request("GET", "/v1/kv/text", END)):
        # What the other way is told depends on what the facade has learned of the node meanwhile.
        answer = await exchange(both._ports[0], data)
        assert answer[:10] == b"HTTP/1.1 5"
        assert b'"shard":0' in answer
    assert both.asked == 0
    node.silent = False
    both.facade.router.directory.map = None
    answer, short = await both.ask(request("PUT", "/v1/kv/k", END, body=b"v"))
    assert (short, answer[:12]) == (True, b"HTTP/1.1 503")
    many = b"".join(request("PUT", "/v1/kv/k", body=b"v") for _ in range(2000))
    answer, _ = await both.ask(many + request("GET", "/v1/kv/text", END))
    assert answer.count(b"HTTP/1.1 503") == 2001


async def test_requests_of_both_ways_keep_their_order(both: BothWays) -> None:
    data = b"".join(
        [
            request("PUT", "/v1/kv/a", body=b"1"),
            request("GET", "/v1/kv/a"),
            request("HEAD", "/v1/kv/a"),
            request("PUT", "/v1/kv/a", "Expect: 100-continue", body=b"2"),
            request("GET", "/v1/kv/a", "Accept: application/json"),
            request("DELETE", "/v1/kv/a"),
            request("GET", "/v1/kv/a"),
            request("PUT", "/v1/kv/a", END, body=b"3"),
            request("PUT", "/v1/kv/never", body=b"4"),
        ]
    )
    answer, _ = await both.ask(data)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"] * 3 + [b"100"] + [b"200"] * 2 + [b"204", b"404", b"200"]
    stored = both.facade.cluster.shards[0].data
    assert b"never" not in stored


async def test_whatever_the_pieces_are(both: BothWays) -> None:
    data = request("PUT", "/v1/kv/cut", body=b"12345") + request("GET", "/v1/kv/cut", END)
    for cut in range(0, len(data), 7):
        reader, writer = await asyncio.open_connection("127.0.0.1", both._ports[0])
        for piece in (data[:cut], data[cut:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)
        async with asyncio.timeout(60):
            answer = await reader.read()
        assert answer.count(b"HTTP/1.1 200 OK") == 2, cut
        assert answer.endswith(b"12345")
        writer.close()


async def test_they_are_counted_alike(both: BothWays) -> None:
    def counted(name: str, **labels: str) -> float:
        route = {"route": "/v1/kv/{key}", "method": "GET", "consistency": "eventual"} | labels
        return both.facade.metrics.registry.get_sample_value(name, route) or 0.0

    for _ in range(3):
        await both.ask(request("GET", "/v1/kv/text?consistency=eventual", END))
    assert counted("dougdb_facade_requests_total", code="200") == 6
    assert counted("dougdb_facade_request_duration_seconds_count") == 6
    assert counted("dougdb_facade_request_duration_seconds_bucket", le="+Inf") == 6
    assert counted("dougdb_facade_request_duration_seconds_bucket", le="10.0") == 6
    assert 0 < counted("dougdb_facade_request_duration_seconds_sum") < 60
    assert both.facade.metrics.inflight == 0
