"""Accepts connections for as long as a listener lives.

Whoever waits is taken, up to ``AT_ONCE`` in one turn of the loop. uvloop accepts one: connections would wait for as
many turns as there are others before them, and a loop that is busy turns only a few times a second. A probe then
waits for seconds behind a crowd, and a healthy process may be restarted.

accept(2) also returns the errors of the connection that it would have returned, such as that of a network that has
just gone or of a firewall that refuses it, and those of a process without a free descriptor. A listener that ended with
one of them would be deaf for ever, in a process that looks well. Must not know what a connection is for.

Invariants:
    1. Only an error of the listener itself ends the accepting, and nobody overlooks that.
    2. One turn of the loop takes ``AT_ONCE`` connections at most, so that those who have one are served, too; and one
       where each new one makes another one go, so that whoever has come gets to say something before that.

Source: accept(2), "Error handling"; libuv's uv__server_io.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

_OF_LISTENER = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
TRY_AGAIN_S = 0.02
AT_ONCE = 256
"""How many connections one turn of the loop takes: some 20 ms of work."""

FAILED = 4
"""So many turns does it cost if what had one fails: handshakes of strangers do, and may take long."""
OWED_MAX = 16
"""So many turns at most pass because of that."""
PLACE_S = 1.0
"""What has been under way for so long is given up while others of its network wait: who is silent keeps nobody out."""


async def accepted(
    loop: asyncio.AbstractEventLoop, listener: socket.socket, free: Callable[[], int] = lambda: AT_ONCE
) -> Iterator[tuple[socket.socket, Any]]:
    """Waits at a listener that does not block; gives the connections, and the addresses that they come from.

    Requires: all of them are taken before the loop turns.

    Args:
        loop: The loop.
        listener: The listener.
        free: Tells how many more connections there may be without another one having to go.

    Raises:
        OSError: The listener cannot be used.
    """
    while True:
        try:
            first = await loop.sock_accept(listener)
        except OSError as error:
            if error.errno in _OF_LISTENER:
                raise
        else:
            return chain((first,), waiting(listener, min(AT_ONCE, free()) - 1))
        await asyncio.sleep(TRY_AGAIN_S)  # A descriptor may be free by then.


def waiting(listener: socket.socket, most: int) -> Iterator[tuple[socket.socket, Any]]:
    """The connections that wait at a listener that does not block, and the addresses that they come from."""
    for _ in range(most):
        try:
            client = listener.accept()
        except OSError:
            return  # None waits; or it is an error, which the loop meets again if it lasts.
        yield client


class Pace:
    """Lets few go on in each turn of the loop: what they do next takes long, as the beginning of TLS does.

    Whoever has a certificate signs at each handshake, and whoever asks for one need not do anything for it: hundreds
    that come together would keep the loop from everything else meanwhile. Nor do they keep others waiting: networks
    take turns, so that whoever comes from another one than a crowd goes on at once. What a stranger sends next may take
    the loop much longer than that beginning; so few of a network are under way, and each that fails takes the place of
    several. While others of its network wait, one that has been under way for ``PLACE_S`` is cancelled for them.
    """

    def __init__(self, of_turn: int, of_network: int | None = None) -> None:
        """Lets ``of_turn`` go on in a turn, those of one network in the order in which they have come.

        Args:
            of_turn: See above.
            of_network: How many of one network may be under way, where what fails takes long; None for any number.
        """
        self._of_turn = of_turn
        self._of_network = of_network
        self._gone_on = 0
        self._under_way: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """Those that wait for a turn, by network; the network whose turn is next comes first."""
        self._held: dict[str, deque[asyncio.Future[None]]] = {}
        """Those of networks that have too many under way."""
        self._since: dict[str, dict[asyncio.Task[Any], float]] = {}
        """The tasks of those under way, and when each began, by network; the oldest first."""
        self._given_up: set[asyncio.Task[Any]] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._turns = False

    async def turn(self, network: str) -> None:
        """Waits until it is one's turn; ``network`` is where one comes from.

        Then the same task must call ``over``. It may be cancelled in between.
        """
        loop = asyncio.get_running_loop()
        self._go_on(loop)
        has_room = self._has_room(network)
        if self._gone_on < self._of_turn and not self._waiting and has_room:
            self._begin(network)
            self._note(loop, network)
            return
        mine = loop.create_future()
        lines = self._waiting if has_room or network in self._waiting else self._held
        lines.setdefault(network, deque()).append(mine)
        self._relieve(network)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():  # It was given up just as its turn came.
                self.over(network)
            raise
        self._note(loop, network)

    def over(self, network: str, *, failed: bool = False) -> None:
        """What had its turn has ended, well or not."""
        self._under_way[network] -= 1
        if not self._under_way[network]:
            del self._under_way[network]
        task = _task()
        since = self._since.get(network, {})
        since.pop(task, None)
        if not since:
            self._since.pop(network, None)
        if task in self._given_up:
            self._given_up.remove(task)  # It was silent, and cost nothing.
        elif failed and self._of_network is not None:
            self._gone_on = min(self._gone_on + FAILED * self._of_turn, OWED_MAX * self._of_turn)
        if network in self._held:
            self._waiting[network] = self._held.pop(network)
        self._go_on(asyncio.get_running_loop())

    def _note(self, loop: asyncio.AbstractEventLoop, network: str) -> None:
        if self._of_network is not None:
            self._since.setdefault(network, {})[_task()] = loop.time()

    def _relieve(self, network: str) -> None:
        """Gives up those of a network that have been under way for long, as many as wait; looks again later."""
        if network not in self._held or network in self._timers:
            return
        loop = asyncio.get_running_loop()
        since = self._since.get(network, {})
        for task, began_s in list(since.items())[: len(self._held[network])]:
            if loop.time() - began_s < PLACE_S:
                self._timers[network] = loop.call_at(began_s + PLACE_S, self._look_again, network)
                break
            del since[task]
            self._given_up.add(task)
            task.cancel()

    def _look_again(self, network: str) -> None:
        del self._timers[network]
        self._relieve(network)

    def _has_room(self, network: str) -> bool:
        return self._of_network is None or self._under_way[network] < self._of_network

    def _begin(self, network: str) -> None:
        self._gone_on += 1
        self._under_way[network] += 1

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._turns:
            self._turns = True
            loop.call_soon(self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._gone_on = max(0, self._gone_on - self._of_turn)
        while self._waiting and self._gone_on < self._of_turn:
            network = next(iter(self._waiting))
            line = self._waiting.pop(network)
            if not self._has_room(network):
                self._held[network] = line
                self._relieve(network)
                continue
            first = line.popleft()
            if line:
                self._waiting[network] = line  # Behind all others.
            if not first.done():  # It was given up.
                first.set_result(None)
                self._begin(network)
        self._turns = False
        if self._gone_on or self._waiting:
            self._go_on(loop)


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def raise_error(accepting: asyncio.Task[Any]) -> None:
    """Raises what ended the task of a listener, in a callback of the loop: a process that accepts nothing must end."""
    if not accepting.cancelled():
        accepting.result()
