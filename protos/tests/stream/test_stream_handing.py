"""A connection that is given up while it is handed over leaves nothing behind, on uvloop as on asyncio's own loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from doug_stream.connection import Connection
from doug_stream.endpoint import Endpoint, Keepalive
from doug_stream.handing import hand_over
from doug_stream.limits import Limits

pytestmark = pytest.mark.sockets

SOON = Keepalive(after_s=0.05, wait_s=0.05)
Opens = Callable[[asyncio.AbstractEventLoop, socket.socket, Callable[[], Endpoint]], Awaitable[Any]]


class Witness(Endpoint):
    """Has the task that opens its connection cancelled at the moment when it is made."""

    def __init__(self, opens: asyncio.Task[Any]) -> None:
        super().__init__(Connection(client=True, limits=Limits()), SOON)
        self._opens = opens
        self.was_made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.was_made = True
        self._opens.cancel()

    @property
    def is_over(self) -> bool:
        return self.closed.done() and self._transport is None and (self._timer is None or self._timer.cancelled())


def dialled(loop: asyncio.AbstractEventLoop, listener: socket.socket, make: Callable[[], Endpoint]) -> Awaitable[Any]:
    return loop.create_connection(make, *listener.getsockname())


def accepted(loop: asyncio.AbstractEventLoop, listener: socket.socket, make: Callable[[], Endpoint]) -> Awaitable[Any]:
    with socket.create_connection(listener.getsockname()):
        client, _ = listener.accept()
    client.setblocking(False)
    return loop.connect_accepted_socket(make, client)


async def give_up(opens: Opens) -> None:
    loop = asyncio.get_running_loop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    made: list[Witness] = []

    def factory() -> Endpoint:
        made.append(Witness(task))
        return made[-1]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(hand_over(lambda make: opens(loop, listener, make), factory))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert made[0].was_made, "the connection was never made, so this shows nothing"
        assert made[0].is_over
        loop.call_later(4 * SOON.after_s, (late := loop.create_future()).set_result, None)
        await late  # Long enough for a timer that was left behind.
    assert not errors


@pytest.mark.parametrize("opens", [dialled, accepted])
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_is_given_up_as_it_is_made_is_over(opens: Opens, factory: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(give_up(opens))


async def test_what_is_handed_over_stays() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)

    kept = Endpoint(Connection(client=True, limits=Limits()), SOON)
    found = await hand_over(
        lambda make: loop.create_connection(make, *server.sockets[0].getsockname()[:2]), lambda: kept
    )
    assert found is kept
    assert not kept.closed.done()
    kept.abort("the test is over")
    await kept.closed
    server.close()
