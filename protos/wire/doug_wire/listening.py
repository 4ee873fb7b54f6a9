"""Listens for HTTP, in plaintext or with TLS, for protocols that uvicorn would have listen by its own means.

With TLS uvicorn bounds neither the number nor the time of handshakes (``doug_wire.handshakes``). In plaintext it leaves
accepting to the loop, which for uvloop means one connection in a turn (``doug_stream.accepting``). Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Iterable

from doug_stream.accepting import AT_ONCE, waiting
from doug_stream.handing import hand_over
from doug_wire.handshakes import Handshakes, Served


class Listening:
    """Has a protocol serve each connection to some sockets."""

    def __init__(
        self,
        make: Callable[[], Served],
        context: ssl.SSLContext | None,
        room: Callable[[], int],
        timeout_s: float,
        free: Callable[[], int] | None = None,
    ) -> None:
        """Builds it; ``start`` sets it going.

        Args:
            make: Makes the protocol of a connection.
            context: The TLS context; None for plaintext.
            room: Tells how many more connections there may be now, those that have not begun left out.
            timeout_s: How long a handshake may take.
            free: Tells how many more there may be without another one having to go, those that have not begun left out;
                None for ``room``.
        """
        self._make = make
        self._free = free or room
        self._handshakes = None if context is None else Handshakes(context, make, room, timeout_s, free)
        self._handing: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        """How many handshakes are under way."""
        return 0 if self._handshakes is None else self._handshakes.under_way

    @property
    def given_up(self) -> int:
        """How many connections were given up before they had begun."""
        return 0 if self._handshakes is None else self._handshakes.given_up

    async def start(self, sockets: Iterable[socket.socket], backlog: int) -> list[asyncio.Server]:
        """Listens on bound sockets; returns what is to be closed, before ``stop``, to listen no more."""
        servers = []
        for each in sockets:
            each.setblocking(False)
            each.listen(backlog)
            if self._handshakes is None:
                loop = asyncio.get_running_loop()
                accept = functools.partial(self._accept, loop, each)
                servers.append(await loop.create_server(accept, sock=each, backlog=backlog))
            else:
                self._handshakes.listen([each])
        return servers

    async def stop(self) -> None:
        """Gives up the handshakes that are under way, and ends the hand-over of connections that were accepted."""
        if self._handshakes is not None:
            await self._handshakes.stop()
        await asyncio.gather(*self._handing, return_exceptions=True)

    def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> Served:
        """Makes the protocol of a connection that the loop has accepted, and takes those that wait behind it."""
        # Without room one in a turn, to be told so, or to take the place of one that has been silent for long: a crowd
        # would take the last descriptors, and all such places before anybody in it had said a word.
        for client, _ in waiting(listener, min(AT_ONCE, self._free() - len(self._handing)) - 1):
            client.setblocking(False)
            task = loop.create_task(self._hand_over(loop, client))
            self._handing.add(task)
            task.add_done_callback(self._handing.discard)
        return self._make()

    async def _hand_over(self, loop: asyncio.AbstractEventLoop, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # The client has left already.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await hand_over(lambda make: loop.connect_accepted_socket(make, client), self._make)
