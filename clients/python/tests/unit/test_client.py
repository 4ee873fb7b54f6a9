"""The clients: what they send, and what each failure means."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest

from dougdb import (
    AsyncDougClient,
    DougClient,
    InvalidKeyError,
    KeyNotFoundError,
    OutcomeUnknownError,
    RejectedError,
    ServerError,
    UnavailableError,
)
from dougdb.checks import is_loopback, proxy_of
from dougdb.shapes import encode_key, timing_of

pytestmark = pytest.mark.sockets

URL = "http://127.0.0.1:26000"


def client_of(store: Any) -> DougClient:
    """One that repeats nothing, so that each failure is seen."""
    return DougClient(URL, deadline_s=0.0, transport=httpx.MockTransport(store.handle))


def test_a_value_and_its_content_type_come_back(store: Any) -> None:
    with client_of(store) as client:
        receipt = client.put("a/b", b"\x00\xff", content_type="image/x-test")
        value = client.get("a/b", consistency="eventual")
        assert (receipt.shard, receipt.served_by) == ("1", "shard-1-2")
        assert (value.data, value.content_type, value.receipt.revision) == (b"\x00\xff", "image/x-test", "7")
        assert store.requests[-1].url.query == b"consistency=eventual"
        client.delete("a/b")
        client.delete("a/b")
        with pytest.raises(KeyNotFoundError):
            client.get("a/b")


@pytest.mark.parametrize(
    ("header", "timing"),
    [
        ("", {}),
        ("facade;dur=1.50, route;dur=1.25, fsync;dur=0.75", {"facade": 1.5, "route": 1.25, "fsync": 0.75}),
        # A proxy has its own say.
        ('cdn-cache;desc="HIT", edge;dur=3, facade;dur=1.5', {"edge": 3.0, "facade": 1.5}),
        ("facade;dur=x, route;dur=1.2.3, ;dur=1", {}),
    ],
)
def test_where_the_time_went_is_read_from_the_answer(header: str, timing: dict[str, float]) -> None:
    assert timing_of(header) == timing


@pytest.mark.parametrize(
    "key", ["a", "a b", "a%2Fb", "//", "/", ".", "..", "../x", "a/./b", "ü/€", "?#&=", "\x00\n", "%", "+"]
)
def test_every_key_arrives_as_it_is(store: Any, key: str) -> None:
    with client_of(store) as client:
        client.put(key, b"v")
    assert list(store.values) == [key.encode()]


@pytest.mark.parametrize("key", ["", "\udcff", "x" * 1025])
def test_a_key_that_cannot_be_sent_is_refused_here(key: str | bytes) -> None:
    with pytest.raises(InvalidKeyError):
        encode_key(key)


Case = tuple[int, str | None, type[Exception], type[Exception]]
CASES: list[Case] = [
    (400, None, RejectedError, RejectedError),
    (413, "not_applied", RejectedError, RejectedError),
    (500, None, ServerError, OutcomeUnknownError),
    (500, "not_applied", ServerError, ServerError),
    (502, None, UnavailableError, OutcomeUnknownError),
    (503, "not_applied", UnavailableError, UnavailableError),
    (503, "unknown", UnavailableError, OutcomeUnknownError),
    (503, None, UnavailableError, OutcomeUnknownError),
    (504, "unknown", UnavailableError, OutcomeUnknownError),
]


@pytest.mark.parametrize(("status", "outcome", "read_error", "write_error"), CASES)
def test_a_failure_means_what_is_certain(
    store: Any,
    make_problem: Callable[..., httpx.Response],
    status: int,
    outcome: str | None,
    read_error: type[Exception],
    write_error: type[Exception],
) -> None:
    fields = {} if outcome is None else {"outcome": outcome}
    store.script = [make_problem(status, detail="because", **fields) for _ in range(3)]
    with client_of(store) as client:
        with pytest.raises(read_error, match="because"):
            client.get("k")
        with pytest.raises(write_error, match="because"):
            client.put("k", b"")
        with pytest.raises(write_error, match="because"):
            client.delete("k")


def test_a_missing_key_of_another_route_is_no_missing_key(
    store: Any, make_problem: Callable[..., httpx.Response]
) -> None:
    store.script = [make_problem(404, detail="no such route")]
    with client_of(store) as client, pytest.raises(RejectedError):
        client.cluster()


def test_another_server_cannot_say_that_a_key_is_missing(store: Any) -> None:
    """It has no problem documents; with them, what is missing may also be the route, or the shard."""
    page = httpx.Response(404, html="<h1>Not Found</h1>")
    told = httpx.Response(404, json={"code": "unknown_route", "detail": "There is nothing at this path."})
    store.script = [page, page, told, told]
    with client_of(store) as client:
        for reason in ("does the URL lead to a facade", "nothing at this path"):
            for call in (lambda: client.get("k"), lambda: client.touch("k", 5)):
                with pytest.raises(RejectedError, match=reason):
                    call()


def test_what_was_never_sent_was_not_applied(store: Any) -> None:
    store.script = [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.ReadTimeout("slow")]
    store.script += [httpx.RemoteProtocolError("closed"), httpx.ReadTimeout("slow")]
    with client_of(store) as client:
        for error in (UnavailableError, UnavailableError, OutcomeUnknownError, OutcomeUnknownError):
            with pytest.raises(error):
                client.put("k", b"v")
        with pytest.raises(UnavailableError):
            client.get("k")


def test_the_cluster_document_is_read(store: Any) -> None:
    node = {"id": "shard-0-1", "address": "127.0.0.1:1", "admin": "127.0.0.1:2", "role": "leader", "term": 3}
    node |= {"commit_index": 9, "applied_index": 8, "last_log_index": 10}
    gone = {"id": "shard-0-0", "address": "127.0.0.1:3", "admin": "127.0.0.1:4", "role": "unreachable"}
    store.script = [
        httpx.Response(200, json={"shards": [{"id": 0, "nodes": [gone, node]}]}),
        httpx.Response(200, json={}),
    ]
    with client_of(store) as client:
        cluster = client.cluster()
        leader = cluster.shards[0].leader
        assert leader is not None
        assert (leader.id, leader.term, cluster.shards[0].nodes[0].term) == ("shard-0-1", 3, None)
        with pytest.raises(ServerError):
            client.cluster()


async def test_the_async_client_is_the_same(store: Any) -> None:
    store.script = [httpx.ReadTimeout("slow")]
    async with AsyncDougClient(URL, deadline_s=0.0, transport=httpx.MockTransport(store.handle)) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.put("k", b"v")
        await client.put("k", b"v")
        assert (await client.get("k")).data == b"v"
        await client.delete("k")
        with pytest.raises(KeyNotFoundError):
            await client.get("k")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8080", True),
        ("http://localhost:1", True),
        ("http://10.0.0.1", False),
        ("https://doug.example", False),
    ],
)
def test_loopback_is_recognised(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_the_proxy_of_the_environment_is_used_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "near.example")
    assert proxy_of("http://db.example:8080") == "http://proxy.example:3128"
    assert proxy_of("http://near.example") is None
    assert proxy_of("http://127.0.0.1:1") is None


def test_no_proxy_stands_between_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:26999")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:26999")
    with DougClient("http://127.0.0.1:26998", deadline_s=0.0) as client, pytest.raises(UnavailableError, match="26998"):
        client.get("k")


@pytest.mark.parametrize("value", [bytearray(b"\x00\xff"), memoryview(b"\x00\xff"), memoryview(b"\x00.\xff.")[::2]])
def test_whatever_holds_bytes_is_a_value(store: Any, value: bytearray | memoryview) -> None:
    with client_of(store) as client:
        client.put("k", value)
        assert client.get("k").data == b"\x00\xff"


@pytest.mark.parametrize("value", [None, "text", 7, ["a"]])
async def test_what_is_no_value_is_a_type_error_before_anything_is_sent(store: Any, value: Any) -> None:
    with client_of(store) as client, pytest.raises(TypeError, match="a value is bytes"):
        client.put("k", value)
    async with AsyncDougClient(URL, deadline_s=0.0, transport=httpx.MockTransport(store.handle)) as other:
        with pytest.raises(TypeError, match="a value is bytes"):
            await other.put("k", value)
    assert store.requests == []


@pytest.mark.parametrize("content_type", ["", "text/\u00fc", "a/b\r\nX: y", "a\tb", "x" * 256])
async def test_a_bad_content_type_is_a_value_error_before_anything_is_sent(store: Any, content_type: str) -> None:
    with client_of(store) as client, pytest.raises(ValueError, match="content type"):
        client.put("k", b"", content_type=content_type)
    async with AsyncDougClient(URL, deadline_s=0.0, transport=httpx.MockTransport(store.handle)) as other:
        with pytest.raises(ValueError, match="content type"):
            await other.put("k", b"", content_type=content_type)
    assert store.requests == []


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://", "http://h:x", "http://h/?q=1", "\x00"])
def test_a_bad_url_is_a_value_error(url: str) -> None:
    for kind in (DougClient, AsyncDougClient):
        with pytest.raises(ValueError, match="URL"):
            kind(url)


async def test_requests_in_flight_are_bounded_and_the_rest_waits_for_its_turn(store: Any) -> None:
    flying = most = 0

    async def handle(request: httpx.Request) -> httpx.Response:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0)
        flying -= 1
        return cast("httpx.Response", store.handle(request))

    async with AsyncDougClient(URL, in_flight=7, transport=httpx.MockTransport(handle)) as client:
        await asyncio.gather(*(client.put(f"k{number}", b"") for number in range(500)))
    assert most == 7 and len(store.values) == 500
    with pytest.raises(ValueError, match="in flight"):
        AsyncDougClient(URL, in_flight=0)


async def answer_puts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says of every PUT of one byte that it is stored."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_great_gather_costs_no_more_a_request_than_a_small_one() -> None:
    """The pool of httpx looks at every request that waits: 800 took 17 s, and 1,200 ended in ConnectTimeout."""
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.append(task)
        await answer_puts(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    counts: list[int] = []
    async with server, AsyncDougClient(f"http://127.0.0.1:{port}", in_flight=8) as client:
        for number in (10, 60, 600):
            calls = 0

            def count(frame: object, event: str, argument: object) -> None:
                nonlocal calls
                calls += event == "call"

            # Calls are counted, not seconds, so that a busy machine changes nothing.
            sys.setprofile(count)
            try:
                await asyncio.gather(*(client.put(f"k{place}", b"v") for place in range(number)))
            finally:
                sys.setprofile(None)
            counts.append(calls)
    await asyncio.gather(*served)
    assert counts[2] < 13 * counts[1], counts
