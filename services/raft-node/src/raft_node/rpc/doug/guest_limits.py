"""The limits of clients that call a node themselves: operations a second, and what they use at a time.

The same as at a facade (``facade.app.quotas``): a rate of each principal and of each address, off unless the settings
say otherwise, and a share of the node. A batch or a transaction counts as its operations. Admin is asked by operators:
its calls have no rate, and room of their own, so that a flood of others leaves them alone.

Must not know who a client is, or how that is proved. Invariants:

1. Whoever is refused holds nothing, and nothing was done for them.
2. Of whom nobody knows yet who they are, no more wait to be told than may be served.
3. The log has a line a minute for each client and limit; metrics count each refusal.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from doug_wire.excess import Excess
from doug_wire.networks import host_of, network_of
from doug_wire.rates import Rate
from raft_node.rpc.doug.guest_room import (
    OF_ALL,
    OF_ALL_OPERATORS,
    OF_ONE,
    OF_ONE_ADDRESS,
    OF_ONE_OPERATOR,
    GuestRoom,
    Use,
)
from raft_node.rpc.doug.wanted import ADMIN, DOUG, SCANNING, WATCHING, operations_in

RATE, SHARE = "rate", "share"
"""The names of the limits, in metrics and in the log."""
WAIT_S = 1
"""After how many seconds whoever uses too much may ask again."""


class TooMuchError(Exception):
    """A client asks for more than its part.

    Attributes:
        wait_s: After how many seconds it may ask again.
    """

    def __init__(self, words: str, wait_s: int) -> None:
        super().__init__(words)
        self.wait_s = wait_s


class GuestLimits:
    """What guests may ask of this node.

    Attributes:
        room: What guests use of the node now.
        reserve: What they use as operators.
        arriving: What is used by those of whom it is not known yet who they are, by address.
    """

    def __init__(
        self,
        client_per_s: int = 0,
        address_per_s: int = 0,
        parts: tuple[Use, Use] = (OF_ONE, OF_ALL),
        tell: Callable[..., object] = lambda event, **fields: None,
        count: Callable[[str], object] = lambda limit: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with nothing used.

        Args:
            client_per_s: How many operations a second each principal may ask for; 0 for any number.
            address_per_s: The same of each address.
            parts: The most that one guest, and that all of them, may use at a time.
            tell: The log, which is told of clients that are refused.
            count: Counts a refusal under the name of its limit.
            clock: Gives seconds that never go back.
        """
        self._clients, self._addresses = Rate(client_per_s, clock), Rate(address_per_s, clock)
        self._count = count
        self._excess = Excess(
            lambda limit, client, times: tell("caller.limited", limit=limit, client=client, times=times), clock
        )
        self.room = GuestRoom(*parts)
        self.reserve = GuestRoom(OF_ONE_OPERATOR, OF_ALL_OPERATORS)
        self.arriving = GuestRoom(OF_ONE_ADDRESS, OF_ALL)

    def arrive(self, caller: str, request: Any) -> Callable[[], None]:
        """Counts a call of which it is not known yet whose it is; returns what counts it no more.

        Args:
            caller: The address of the caller, as gRPC says it.
            request: The message, or the stream of messages.

        Raises:
            TooMuchError: Too many wait already.
        """
        return self._take(self.arriving, network_of(host_of(caller)), Use(1, 0, _size(request)))

    def stranger(self, caller: str) -> None:
        """Counts a call of somebody who could not be told who they are, whatever it was for.

        Raises:
            TooMuchError: The address has used up its rate.
        """
        address = network_of(host_of(caller))
        self._ask(self._addresses, address)
        self._addresses.charge(address, 1)

    def begin(self, guest: str, caller: str, asked: tuple[str, str], request: Any) -> Callable[[], None]:
        """Counts a call of a guest; returns what counts it no more, once it has ended.

        Args:
            guest: The principal's name.
            caller: The address of the caller, as gRPC says it.
            asked: The service and the method.
            request: The message, or the stream of messages.

        Raises:
            TooMuchError: The guest or its address has used up its rate, or there is no room for the call.
        """
        scans, watches = int(asked in SCANNING), int(asked == WATCHING)
        if asked[0] == DOUG:
            count, address = operations_in(asked[1], request), network_of(host_of(caller))
            self._ask(self._addresses, address)
            self._ask(self._clients, guest)
            self._addresses.charge(address, count)
            self._clients.charge(guest, count)
        room = self.reserve if asked[0] == ADMIN and not scans else self.room
        return self._take(room, guest, Use(1, scans, _size(request), watches))

    def _ask(self, rate: Rate, client: str) -> None:
        if wait_s := rate.wait(client):
            self._note(RATE, client)
            raise TooMuchError(f"{client} may ask for {rate.per_s} operations a second", wait_s)

    def _take(self, room: GuestRoom, client: str, use: Use) -> Callable[[], None]:
        if refusal := room.take(client, use):
            self._note(SHARE, client)
            raise TooMuchError(refusal, WAIT_S)
        return lambda: room.give_back(client, use)

    def _note(self, limit: str, client: str) -> None:
        self._count(limit)
        self._excess.note(limit, client)


def _size(request: Any) -> int:
    # Of a stream nobody knows the size; there is none that guests may send.
    return request.ByteSize() if isinstance(request, Message) else 0
