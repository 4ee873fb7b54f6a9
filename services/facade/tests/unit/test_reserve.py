"""Connections beyond the limit: for probes and operators, and for nobody else."""

from __future__ import annotations

import pytest
from connection_under_test import GET, SETTINGS, Connection, FakeTransport

from facade.app import reserve
from facade.app.front import Front
from facade.app.protocol import LimitedProtocol
from facade.client.metrics import Metrics


def beyond(first: Connection) -> tuple[LimitedProtocol, FakeTransport]:
    """A connection to the same facade as another one, where there may be no more."""
    protocol, transport = LimitedProtocol(first.protocol.config, first.state, {}, front=first.front), FakeTransport()
    protocol.connection_made(transport)
    return protocol, transport


def full() -> Connection:
    """The only connection that there may be."""
    front = Front(SETTINGS, Metrics())
    front.connections_max = 1
    return Connection(front)


async def test_too_many_connections_are_told_so() -> None:
    first = full()
    more, transport = beyond(first)
    more.data_received(GET)
    await first.settle()
    assert transport.written.startswith(b"HTTP/1.1 503 ")
    assert b"overloaded" in transport.written
    assert transport.closed
    assert first.front.connections_refused == 1
    assert first.seen == [], "it went nowhere"
    await first.send(GET)
    assert first.statuses == [200], "whoever was here before goes on"


@pytest.mark.parametrize(
    "asked",
    [
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
        "GET /v1/cluster",
        "DELETE /v1/auth/tokens/a",
        "POST /v1/shards/0/leader",
    ],
)
async def test_probes_and_operators_get_through_when_all_connections_are_taken(asked: str) -> None:
    first = full()
    more, transport = beyond(first)
    more.data_received(asked.encode() + b" HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n" + GET)
    await first.settle()
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in transport.written
    assert transport.closed, "it is answered once"
    assert [(method, path.decode()) for method, path, _ in first.seen] == [tuple(asked.split())]
    assert first.front.connections_refused == 0


@pytest.mark.parametrize("asked", ["GET /v1/console/stream", "GET /v1/shards/0/backup", "GET /docs", "GET /v1/watch"])
async def test_what_lasts_as_long_as_its_client_likes_has_no_reserve(asked: str) -> None:
    first = full()
    more, transport = beyond(first)
    more.data_received(asked.encode() + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    await first.settle()
    assert transport.written.startswith(b"HTTP/1.1 503 ")
    assert first.seen == []


async def test_silent_connections_keep_nobody_out_of_the_reserve() -> None:
    first = full()
    silent = [beyond(first) for _ in range(reserve.PLACES)]
    asking, answered = beyond(first)
    assert [transport.closed for _, transport in silent] == [True] + [False] * (reserve.PLACES - 1)
    assert silent[0][1].written.startswith(b"HTTP/1.1 503 ")
    asking.data_received(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    await first.settle()
    assert answered.written.startswith(b"HTTP/1.1 200 ")
    protocol, transport = silent[1]
    protocol.check_time(first.protocol.loop.time() + reserve.PATIENCE_S + 1, 75)
    assert transport.written.startswith(b"HTTP/1.1 408 "), "and none of them stays"


async def test_who_has_asked_keeps_their_place_whatever_they_send_behind_it() -> None:
    first = full()
    gate = first.hold("/v1/auth/tokens/a")
    asking = [beyond(first) for _ in range(reserve.PLACES)]
    for protocol, _ in asking:
        protocol.data_received(b"DELETE /v1/auth/tokens/a HTTP/1.1\r\nHost: h\r\n\r\nGET /")
    _, refused = beyond(first)
    assert refused.written.startswith(b"HTTP/1.1 503 ")
    gate.set()
    await first.settle()
    assert all(transport.written.startswith(b"HTTP/1.1 200 ") for _, transport in asking), "it was carried out"


async def test_a_reserve_that_is_asked_by_all_is_full() -> None:
    first = full()
    gate = first.hold("/livez")
    asking = [beyond(first) for _ in range(reserve.PLACES)]
    for protocol, _ in asking:
        protocol.data_received(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    _, refused = beyond(first)
    assert refused.written.startswith(b"HTTP/1.1 503 ")
    gate.set()
    await first.settle()
    assert all(transport.written.startswith(b"HTTP/1.1 200 ") for _, transport in asking)
    for protocol, _ in asking:
        protocol.connection_lost(None)
    again, transport = beyond(first)
    again.data_received(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    await first.settle()
    assert transport.written.startswith(b"HTTP/1.1 200 ")
