"""Whoever connects while a crowd does is served after a few turns of a busy loop, not after one turn for each other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from doug_stream.accepting import accepted
from doug_wire import handshakes as handshakes_module
from doug_wire.handshakes import Handshakes
from doug_wire.listening import Listening

pytestmark = pytest.mark.sockets

CROWD = 400
TURNS = 25
"""Two turns in which some are accepted, and what the loops take to begin and to hand over."""


@contextlib.contextmanager
def crowd(count: int) -> Iterator[socket.socket]:
    """A listener at which so many connections wait to be accepted."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2 * CROWD))
        listener.setblocking(False)
        for _ in range(count):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        yield listener


class Turns:
    """Counts the turns of a loop."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._turn)

    def stop(self) -> int:
        self._handle.cancel()
        return self.count


class Served(asyncio.Protocol):
    """A connection; counts those that have begun, and waits for the last one."""

    def __init__(self, made: list[asyncio.BaseTransport], all_made: asyncio.Future[None]) -> None:
        self._made = made
        self._all_made = all_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.append(transport)
        if len(self._made) == CROWD:
            self._all_made.set_result(None)


class Untold(asyncio.Protocol):
    """A connection that is never told that it has begun."""

    transport = None


async def turns_until_all_are_served() -> int:
    made: list[asyncio.BaseTransport] = []
    all_made = asyncio.get_running_loop().create_future()
    with crowd(CROWD) as listener:
        listening = Listening(lambda: Served(made, all_made), None, lambda: CROWD, 600.0)
        servers = await listening.start([listener], 2 * CROWD)
        turns = Turns()
        async with asyncio.timeout(30.0):
            await all_made
        count = turns.stop()
        for server in servers:
            server.close()
        await listening.stop()
        for transport in made:
            transport.close()
    return count


async def turns_until_all_are_accepted() -> int:
    with crowd(CROWD) as listener:
        loop, turns, found = asyncio.get_running_loop(), Turns(), 0
        async with asyncio.timeout(30.0):
            while found < CROWD:
                for client, _ in await accepted(loop, listener):
                    client.close()
                    found += 1
        return turns.stop()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("waits", [turns_until_all_are_served, turns_until_all_are_accepted])
def test_a_crowd_is_let_in_within_a_few_turns(waits: Any, factory: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(waits()) <= TURNS


@pytest.mark.parametrize("free", [-1, 0, 1, 2, 7])
async def test_no_more_are_accepted_at_once_than_there_is_room_for_and_always_one(free: int) -> None:
    """Also where a new one may take the place of a silent one: a crowd took all of these before a probe had asked."""
    loop = asyncio.get_running_loop()
    made: list[asyncio.BaseTransport] = []
    with crowd(12) as listener:
        listening = Listening(lambda: Served(made, loop.create_future()), None, lambda: 12, 600.0, lambda: free)
        # The one that the loop has accepted by itself is not in the crowd here.
        assert isinstance(listening._accept(loop, listener), Served)
        await listening.stop()
        assert len(made) == max(1, free) - 1
        for transport in made:
            transport.close()


@pytest.mark.parametrize("free", [-1, 1, 7])
async def test_no_more_handshakes_begin_at_once_than_there_is_room_for(free: int) -> None:
    """Else a crowd makes those give up that have come in the same turn, before they have sent a byte."""
    handshakes = Handshakes(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Untold, lambda: 4, 600.0, lambda: free)
    with crowd(12) as listener:
        found = list(await accepted(asyncio.get_running_loop(), listener, handshakes.free))
        assert len(found) == max(1, free)
        for client, _ in found:
            client.close()
        handshakes.listen([listener])
        while handshakes.under_way + handshakes.given_up < 12 - len(found):
            await asyncio.sleep(0)
        assert handshakes.under_way == 4 and handshakes.free() == free - 4
        await handshakes.stop()


async def test_a_crowd_of_handshakes_without_room_is_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    async def one_by_one(loop: object, listener: object, free: Callable[[], int]) -> Any:
        taken.append(free())
        if len(taken) > 2:
            await asyncio.Event().wait()
        return iter([(client, ("127.0.0.1", 1)) for client in clients[len(taken) - 1 : len(taken)]])

    monkeypatch.setattr(handshakes_module, "accepted", one_by_one)
    handshakes = Handshakes(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Untold, lambda: 9, 600.0, lambda: 5)
    with crowd(2) as listener:
        clients = [listener.accept()[0] for _ in range(2)]
        handshakes.listen([listener])
        while len(taken) < 3:
            await asyncio.sleep(0)
        assert taken == [5, 4, 3], "those that have only begun count"
        await handshakes.stop()
