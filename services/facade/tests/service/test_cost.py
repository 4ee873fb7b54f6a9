"""What an operation costs in the facade: how many of its own functions it enters, and how many messages it needs.

The limits are a tenth above what was measured when they were last set. Who makes an operation cheaper lowers them; who
makes it dearer says why in the commit that raises them. ``make bench-guard`` compares CPU.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from facade_under_test import Facade

from raft_testing.calls import counted, report

CONNECTIONS = 64
ROUNDS, TURNS = 4, 5
"""What runs by the clock beside, or a batch that was cut early, adds to a turn; the cheapest of the turns counts."""
AUTH_CALLS_MAX = 5.5
"""What a plain request may enter beside, where clients say who they are."""
PACKAGES = ("src/facade", "wire/doug_stream", "wire/doug_wire")

PUT = b"PUT /v1/kv/key-%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
CONDITIONAL = PUT.replace(b"\r\n\r\n", b"\r\nIf-Match: *\r\n\r\n")
TAGGED = PUT.replace(b"\r\n\r\n", b'\r\nIf-Match: "%d"\r\n\r\n')
KEYED = PUT.replace(b"\r\n\r\n", b"\r\nIdempotency-Key: %d\r\n\r\n")
CREATED = PUT.replace(b"key-%d", b"new-%d-%d").replace(b"\r\n\r\n", b"\r\nIf-None-Match: *\r\n\r\n")
CONDITION_MAX = 1.3
"""What a put with a condition may cost of a plain one."""
GET = b"GET /v1/kv/key-%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
TAG = re.compile(rb'etag: "(\d+)"')
STALE = b"GET /v1/kv/key-%d?consistency=eventual HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client(asyncio.Protocol):
    """One connection that asks when it is told to."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.revision = self.asked = 0
        self.answered: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.answered is not None
        if tag := TAG.search(data):
            self.revision = int(tag[1])
        self.answered.set_result(data)

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        assert self.transport is not None
        self.answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answered


async def ask_all(clients: list[Client], request: bytes) -> None:
    asked = []
    for number, each in enumerate(clients):
        each.asked += 1
        nowhere_else = each.asked * CONNECTIONS + number
        varying = {TAGGED: (each.revision,), KEYED: (nowhere_else,), CREATED: (nowhere_else,)}.get(request, ())
        asked.append(each.ask(request % (number, *varying)))
    for answer in await asyncio.gather(*asked):
        assert answer.startswith(b"HTTP/1.1 200 "), answer


def shown(request: bytes, token: str) -> bytes:
    """The same request with a token."""
    return request.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer " + token.encode() + b"\r\n\r\n", 1)


async def measured(facade: Facade, request_line: bytes, put: bytes = PUT) -> tuple[Counter[str], float]:
    """What so many requests enter, and the messages that they need."""
    port = await facade.listen()
    loop = asyncio.get_running_loop()
    clients = [(await loop.create_connection(Client, "127.0.0.1", port))[1] for _ in range(CONNECTIONS)]
    for _ in range(3):
        await ask_all(clients, put)
        await ask_all(clients, request_line)
    received = facade.metrics.messages_received._value
    turns = []
    for _ in range(TURNS):
        before = received.get()
        with counted(*PACKAGES) as found:
            for _ in range(ROUNDS):
                await ask_all(clients, request_line)
        turns.append((found, received.get() - before))
    for client in clients:
        assert client.transport is not None
        client.transport.close()
    return min(turns, key=lambda turn: sum(turn[0].values()))


@pytest.mark.parametrize(
    ("request_line", "calls_max"),
    [
        pytest.param(PUT, 56.0, id="put"),
        pytest.param(GET, 50.0, id="get"),
        pytest.param(STALE, 53.5, id="stale"),
        pytest.param(KEYED, 67.0, id="keyed put"),
    ],
)
async def test_calls_and_messages_per_operation(
    make_facade: Callable[..., Awaitable[Facade]], request_line: bytes, calls_max: float
) -> None:
    facade = await make_facade(nodes=1, pipe_gather_us=100_000)
    found, messages = await measured(facade, request_line)
    operations = ROUNDS * CONNECTIONS
    assert sum(found.values()) / operations <= calls_max, report(found, operations)
    assert messages / operations <= 1.1 / CONNECTIONS


@pytest.mark.parametrize(
    "conditional",
    [pytest.param(CONDITIONAL, id="exists"), pytest.param(CREATED, id="absent"), pytest.param(TAGGED, id="revision")],
)
async def test_a_condition_costs_a_put_little(
    make_facade: Callable[..., Awaitable[Facade]], conditional: bytes
) -> None:
    facade = await make_facade(nodes=1, pipe_gather_us=100_000)
    plain, _ = await measured(facade, PUT)
    found, _ = await measured(facade, conditional)
    operations = ROUNDS * CONNECTIONS
    assert sum(found.values()) <= CONDITION_MAX * sum(plain.values()), report(found, operations)


@pytest.mark.parametrize("request_line", [pytest.param(PUT, id="put"), pytest.param(GET, id="get")])
async def test_who_somebody_is_and_what_they_may_do_costs_a_plain_request_a_few_calls(
    make_facade: Callable[..., Awaitable[Facade]], tmp_path: Path, request_line: bytes
) -> None:
    """What was proved once is remembered: a request costs a look into a dict, and whether a grant covers its key."""
    token = "bootstrap-" + "b" * 32
    path = tmp_path / "bootstrap.token"
    path.write_text(token)
    free = await make_facade(nodes=1, pipe_gather_us=100_000)
    without, _ = await measured(free, request_line)
    guarded = await make_facade(
        nodes=1, pipe_gather_us=100_000, auth_mode="token", auth_bootstrap_file=str(path), auth_poll_ms=1500
    )
    within, _ = await measured(guarded, shown(request_line, token), shown(PUT, token))
    more = (sum(within.values()) - sum(without.values())) / (ROUNDS * CONNECTIONS)
    assert more <= AUTH_CALLS_MAX, report(within - without, ROUNDS * CONNECTIONS)
