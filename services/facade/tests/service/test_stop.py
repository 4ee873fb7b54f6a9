"""What requests under way are told when the facade stops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from facade_under_test import Facade

from facade.app.protocol import LimitedProtocol

MakeFacade = Callable[..., Awaitable[Facade]]


async def ask(facade: Facade, request: bytes) -> asyncio.StreamReader:
    """Sends a request over a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", await facade.listen())
    writer.write(request.replace(b"\n", b"\r\n"))
    reader.__dict__["writer"] = writer  # It would be closed with the last reference.
    return reader


def shut_down(facade: Facade) -> None:
    """As uvicorn does when it stops."""
    for connection in tuple(facade.server_state.connections):
        assert isinstance(connection, LimitedProtocol)
        connection.shutdown()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    reader.__dict__["writer"].close()
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize(("key", "status"), [("none", 404), ("there", 304)])
async def test_a_long_poll_is_answered_with_what_is_known(make_facade: MakeFacade, key: str, status: int) -> None:
    facade = await make_facade()
    revision = (await facade.http.put("/v1/kv/there", content=b"1")).headers["etag"].strip('"')
    after = revision if key == "there" else 0
    reader = await ask(facade, f"GET /v1/kv/{key}?wait=10m&after={after} HTTP/1.1\nHost: localhost\n\n".encode())
    polls, feeds = facade.application.polls, facade.router.feeds
    await facade.until(lambda: polls.places.taken == 1 and bool(feeds.open_feeds), "it waits")
    shut_down(facade)
    assert (await answer(reader))[0] == status
    assert polls.places.taken == 0


@pytest.mark.parametrize(("method", "status", "outcome"), [("PUT", 504, "unknown"), ("GET", 503, "not_applied")])
async def test_what_is_cut_off_is_told_so(make_facade: MakeFacade, method: str, status: int, outcome: str) -> None:
    facade = await make_facade(nodes=1)
    facade.cluster.shards[0].nodes[0].silent = True
    line = f"{method} /v1/kv/k HTTP/1.1\nHost: localhost\nIdempotency-Key: a\nContent-Length: 0\n\n"
    reader = await ask(facade, line.encode())
    await facade.until(lambda: bool(facade.router.registry._pending), "it is under way")
    shut_down(facade)
    for task in tuple(facade.server_state.tasks):
        task.cancel()
    told = await answer(reader)
    assert told[0] == status
    assert told[1]["content-type"] == "application/problem+json"
    assert json.loads(told[2])["outcome"] == outcome
    facade.cluster.shards[0].nodes[0].silent = False
