"""Sessions of the client, and reads of bounded staleness: which token goes with which request."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from dougdb import AsyncDougClient, DougClient, ForeignSessionError, InvalidArgumentError, Put, bounded

URL = "http://127.0.0.1:26000"


class Facade:
    """Numbers its answers: the token of each is its number."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.under_way = self.most = 0

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        headers = {"Doug-Session": str(len(self.requests)), "ETag": '"7"'}
        if request.url.path == "/v1/batch":
            return httpx.Response(200, json={"results": [{"status": 200, "revision": "7"}]}, headers=headers)
        if request.headers.get("Accept") == "application/x-ndjson":
            return httpx.Response(200, content=b'{"complete": true}\n', headers=headers)
        return httpx.Response(200, json={}, headers=headers)

    async def handle_async(self, request: httpx.Request) -> httpx.Response:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return self.handle(request)

    def sent(self) -> list[tuple[str | None, str | None]]:
        """Token and consistency of every request."""
        return [(each.headers.get("Doug-Session"), each.headers.get("Doug-Consistency")) for each in self.requests]


def test_every_request_of_a_session_carries_the_newest_token() -> None:
    facade = Facade()
    with DougClient(URL, transport=httpx.MockTransport(facade.handle)) as client:
        session = client.session()
        assert session.session_token == ""
        session.put("k", b"v")
        session.get("k")
        session.get("k", consistency="linearizable")
        assert list(session.scan()) == []
        session.batch([Put("k", b"v")])
        session.limits()
        session.close()
        client.get("k")
    assert facade.sent() == [
        (None, None),
        ("1", "session"),
        ("2", None),
        ("3", "session"),
        ("4", "session"),
        (None, None),
        (None, None),
    ]
    assert session.session_token == "6"
    assert client.session_token == ""


def test_a_session_goes_on_elsewhere() -> None:
    facade = Facade()
    with DougClient(URL, transport=httpx.MockTransport(facade.handle)) as client:
        client.session("from another process").get("k")
    assert facade.sent() == [("from another process", "session")]


async def test_requests_of_a_session_go_one_after_the_other() -> None:
    """Two at once would each come back with a token that does not know of the other."""
    facade = Facade()
    async with AsyncDougClient(URL, transport=httpx.MockTransport(facade.handle_async)) as client:
        session = client.session()
        await asyncio.gather(*(session.put(f"k{number}", b"") for number in range(10)))
        assert facade.most == 1
        await asyncio.gather(*(client.put(f"k{number}", b"") for number in range(10)))
        assert facade.most > 1
    assert [token for token, _ in facade.sent()[:10]] == [None, *map(str, range(1, 10))]


async def test_a_stream_begins_in_the_turn_of_its_session() -> None:
    """Its answer would else bring back a token that does not know of what was written while it was under way."""
    facade = Facade()
    async with AsyncDougClient(URL, transport=httpx.MockTransport(facade.handle_async)) as client:
        session = client.session()

        async def scan() -> None:
            async with contextlib.aclosing(session.scan()) as found:
                assert [entry async for entry in found] == []

        await asyncio.gather(scan(), session.put("k", b""), scan(), session.put("k", b""))
        assert facade.most == 1
    assert [token for token, _ in facade.sent()] == [None, "1", "2", "3"]
    assert session.session_token == "4"


def test_a_stream_tells_at_its_end_how_far_it_has_seen() -> None:
    """It may have gone on at a later point than the one that its head tells."""

    def handle(request: httpx.Request) -> httpx.Response:
        line = b'{"complete": true, "session": "later"}\n'
        return httpx.Response(200, content=line, headers={"Doug-Session": "earlier"})

    with DougClient(URL, transport=httpx.MockTransport(handle)) as client:
        session = client.session()
        assert list(session.scan()) == []
        assert session.session_token == "later"
        assert list(client.scan()) == []
        assert client.session_token == ""


def test_a_foreign_session_is_told() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        headers = {"Content-Type": "application/problem+json"}
        return httpx.Response(409, json={"code": "foreign_session"}, headers=headers)

    with DougClient(URL, transport=httpx.MockTransport(handle)) as client, pytest.raises(ForeignSessionError):
        client.session("old").get("k")


def test_bounded_staleness_is_asked_for_by_the_query() -> None:
    facade = Facade()
    with DougClient(URL, transport=httpx.MockTransport(facade.handle)) as client:
        client.get("k", consistency=bounded(2))
        list(client.scan(prefix="k", consistency=bounded("500ms")))
    asked = [(each.url.params["consistency"], each.url.params["max_staleness"]) for each in facade.requests]
    assert asked == [("bounded", "2000ms"), ("bounded", "500ms")]
    with pytest.raises(InvalidArgumentError):
        bounded("soon")
