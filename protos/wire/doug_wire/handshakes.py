"""The beginning of HTTPS connections: a handshake ends in time, and counts as a connection from its first moment.

asyncio tells a protocol of its connection only after the handshake, so that no limit would see who connects and says
nothing. Such connections would take the descriptors that a process needs for others. Must not know HTTP. Invariants:

1. There are never more handshakes under way than there is room for connections.
2. When there is no room for a new one, one of the network that has most of them is given up for it, the one that has
   taken longest: silent clients keep nobody out. Then one connection is taken in a turn of the loop, so that a crowd
   does not either.
3. Those of other networks wait for their turn behind no crowd.

Source: loop.connect_accepted_socket; docs/operations.md, Limits of clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from doug_stream.accepting import Pace, accepted, raise_error
from doug_wire.networks import network_of

OF_TURN = 32
"""How many begin in a turn of the loop: some 20 ms of work."""

OF_NETWORK = 64
"""How many of one network are under way where clients may show certificates: each may take 20 ms when it ends."""

Served = Any
"""An ``asyncio.Protocol`` whose attribute ``transport`` is None until it has been told of its connection."""


class Handshakes:
    """Listens on sockets, and has a protocol serve each connection whose handshake is done.

    Attributes:
        given_up: How many connections were given up, for others or because there was no room at all.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        make: Callable[[], Served],
        room: Callable[[], int],
        timeout_s: float,
        free: Callable[[], int] | None = None,
    ) -> None:
        """Builds it; ``listen`` sets it going.

        Args:
            context: The TLS context.
            make: Makes the protocol of a connection.
            room: Tells how many more connections there may be now, handshakes left out.
            timeout_s: How long a handshake may take.
            free: Tells how many more there may be without another one having to go, handshakes left out; None for
                ``room``.
        """
        self._context = context
        self._make = make
        self._room = room
        self._free = free or room
        self._timeout_s = timeout_s
        self._pace = Pace(OF_TURN, None if context.verify_mode == ssl.CERT_NONE else OF_NETWORK)
        self._accepting: list[asyncio.Task[None]] = []
        self._greeting: dict[str, dict[asyncio.Task[None], None]] = {}
        """By network, the oldest first."""
        self._under_way = 0
        self.given_up = 0

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Takes connections of sockets that listen and do not block."""
        for each in sockets:
            task = asyncio.create_task(self._accept(each))
            task.add_done_callback(raise_error)
            self._accepting.append(task)

    async def stop(self) -> None:
        """Takes no more connections, and gives up those whose handshakes are under way."""
        tasks = [*self._accepting, *chain.from_iterable(self._greeting.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def under_way(self) -> int:
        """How many handshakes are under way."""
        return self._under_way

    def free(self) -> int:
        """How many more connections there may be without another one having to go."""
        return self._free() - self._under_way

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for client, address in await accepted(loop, listener, self.free):
                self._take(client, network_of(address[0]))

    def _take(self, client: socket.socket, network: str) -> None:
        if self._under_way >= self._room():
            self.given_up += 1
            if not self._greeting:
                client.close()
                return
            most = max(self._greeting, key=lambda each: len(self._greeting[each]))
            oldest = next(iter(self._greeting[most]))
            self._forget(most, oldest)
            oldest.cancel()
        client.setblocking(False)
        with contextlib.suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(self._greet(client, network))
        self._greeting.setdefault(network, {})[task] = None
        self._under_way += 1
        task.add_done_callback(functools.partial(self._over, client, network))

    def _forget(self, network: str, task: asyncio.Task[None]) -> None:
        greeting = self._greeting.get(network, {})
        if task in greeting:
            del greeting[task]
            self._under_way -= 1
            if not greeting:
                del self._greeting[network]

    def _over(self, client: socket.socket, network: str, task: asyncio.Task[None]) -> None:
        self._forget(network, task)
        if task.cancelled():
            client.close()  # A task that was given up before its first step has not handed it on.

    async def _greet(self, client: socket.socket, network: str) -> None:
        made: list[Served] = []

        def make() -> Served:
            made.append(self._make())
            return made[-1]

        loop = asyncio.get_running_loop()
        handed = False
        await self._pace.turn(network)
        try:
            await loop.connect_accepted_socket(make, client, ssl=self._context, ssl_handshake_timeout=self._timeout_s)
            handed = True
        except (OSError, EOFError):
            return  # The client was silent, left, or was refused; it sees the end of the connection.
        finally:
            self._pace.over(network, failed=not handed)
            if not handed:
                for each in made:
                    # If it was given up just as it was done, uvloop tells the protocol only of the beginning.
                    if each.transport is not None:
                        each.connection_lost(None)
