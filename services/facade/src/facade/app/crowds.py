"""The turns of connections: a client with many of them leaves the others their part of the facade's own time.

A turn of the event loop reads every connection that has sent something. Were all of it carried out at once, a client
with 10,000 connections would make everybody else wait for 10,000 requests before the next one of theirs. So what the
connections of one network begin in a turn is bounded, once there are many of them: beyond that the bytes are put aside
unparsed, and the connections begin in later turns, in the order in which they asked.

Must not know sockets, and of HTTP only the first line. Invariants:

1. A network with few connections waits here for nothing but to begin more than ``BEGUN_MAX`` requests that go the long
   way, and never with so few connections.
2. What waits begins in the order in which it came; only a few probes and short requests of operators go before.
3. Nothing is kept of a network without connections.

Source: docs/operations.md, Limits of clients; ``facade.client.turns`` does the same for a shard's queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sized
from typing import Protocol

from facade.app import reserve

FEW = 256
"""So many connections of one network begin whatever they like of what goes the short way."""
BEGUN_MAX = 64
"""How many requests a larger crowd begins in a turn beside other networks. They take some five milliseconds. A smaller
one begins so many of those that go the long way."""
ALONE_MAX = 1024
"""How many it begins in a turn while no other network has a connection: short turns cost more for each request."""
LONG = 8
"""A request that goes the long way, through the application, counts as so many that go the short one."""
UNPARSED_BYTES_MAX = 64 << 10
"""From so many bytes on that wait unparsed, a connection is read no more."""
URGENT_MAX = 16
"""How many probes and short requests of operators a crowd's network begins in a turn besides."""


class Member(Protocol):
    """One connection of a crowd."""

    def take_turn(self) -> None:
        """Begins with what it has put aside."""


class Crowd:
    """The connections of one network.

    Attributes:
        is_large: Whether what they begin is counted.
        turns: The number of the present turn, from 1 on.
        waiting: The connections whose turn comes later.
    """

    __slots__ = ("_all", "_begun", "_call_soon", "_counts", "_urgent", "connections", "is_large", "turns", "waiting")

    def __init__(self, call_soon: Callable[[Callable[[], None]], object], crowds: Sized) -> None:
        """Begins without connections.

        Args:
            call_soon: Has something called in the next turn of the event loop.
            crowds: The crowds of all networks.
        """
        self._call_soon = call_soon
        self._all = crowds
        self._counts = False
        self._begun = self._urgent = 0
        self.connections = 0
        self.is_large = False
        self.turns = 1
        self.waiting: deque[Member] = deque()

    def take(self, member: Member, data: bytes) -> bool:
        """Whether a connection begins a request now; otherwise its ``take_turn`` is called in a later turn.

        Args:
            member: The connection.
            data: The first bytes of the request, as far as they are at hand.
        """
        if not self._counts:
            self._counts = True
            self._call_soon(self._turn)
        if self._begun < self._most and not self.waiting:
            self._begun += 1
            return True
        if self.hurries(data):
            return True
        self.waiting.append(member)
        return False

    def hurries(self, data: bytes) -> bool:
        """Whether bytes begin a request that goes before others, also one that waits, since they came in pieces."""
        if self._urgent < URGENT_MAX and reserve.begins_with_served(data):
            self._urgent += 1
            return True
        return False

    def went_long(self) -> None:
        """Counts that a request which has begun goes the long way."""
        self._begun += LONG - 1

    def parsed_ahead(self) -> None:
        """Counts a request of the short way that was parsed while an earlier one of its connection is under way."""
        self._begun += 1

    def _turn(self) -> None:
        self.turns += 1
        self._begun = self._urgent = 0
        waiting = self.waiting
        self._counts = bool(waiting)
        if waiting:
            self._call_soon(self._turn)
        most = self._most
        while waiting and self._begun < most:
            self._begun += 1
            waiting.popleft().take_turn()

    @property
    def _most(self) -> int:
        return ALONE_MAX if len(self._all) == 1 else BEGUN_MAX


class Crowds:
    """The crowds of all networks that have connections."""

    def __init__(self) -> None:
        """Begins without any."""
        self._of: dict[str, Crowd] = {}

    def enter(self, network: str, call_soon: Callable[[Callable[[], None]], object]) -> Crowd:
        """Counts a connection of a network until ``leave``; see ``Crowd`` for ``call_soon``."""
        crowd = self._of.get(network)
        if crowd is None:
            crowd = self._of[network] = Crowd(call_soon, self._of)
        crowd.connections += 1
        crowd.is_large = crowd.connections > FEW
        return crowd

    def leave(self, network: str) -> None:
        """Counts a connection that has ended no more."""
        crowd = self._of[network]
        crowd.connections -= 1
        crowd.is_large = crowd.connections > FEW
        if not crowd.connections:
            del self._of[network]
