"""How many requests a second each principal and each address may send, and how many connections an address may have.

All of it is off unless the settings say otherwise, and costs nothing then: fairness under load is not made of rates
(``facade.client.turns``). What is refused is refused before anything is proposed, 429 with the time after which there
is room again; how a rate counts, tells ``doug_wire.rates``. An address is a whole network of IPv6
(``doug_wire.networks``).

Probes, metrics and what operators use ask for nothing here, so that a flood leaves them alone. Must not know routes.

Invariant: nothing is kept of an address without connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from doug_wire.rates import Rate
from facade.client.access import peer
from facade.errors import TooManyRequestsError
from facade.routes.quota import Quota
from facade.settings import Settings


class Quotas:
    """The limits of clients: their rates, and the connections of each address.

    Attributes:
        counts: Whether requests are counted at all.
        refused_connections: How many connections were refused.
        on_refused: Called with the limit and the client of whatever is refused.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the settings."""
        self._principals = Rate(settings.client_requests_per_s, clock)
        self._addresses = Rate(settings.address_requests_per_s, clock)
        self.counts = bool(settings.client_requests_per_s or settings.address_requests_per_s)
        self._connections_max = settings.address_connections_max
        self._connections: dict[str, int] = {}
        self.refused_connections = 0
        self.on_refused: Callable[[str, str], None] = lambda limit, client: None

    @property
    def refused(self) -> int:
        """How many requests were refused."""
        return self._principals.refused + self._addresses.refused

    def take(self, principal: str, address: str, count: int = 1) -> None:
        """Counts a request of keys.

        Args:
            principal: The sender; empty while clients need not say who they are.
            address: The client's address.
            count: The number of operations in it.

        Raises:
            TooManyRequestsError: Its client or address has used up its share.
        """
        self._ask(self._addresses, address)
        if principal:
            self._ask(self._principals, principal)
        self.charge(principal, address, count)

    def charge(self, principal: str, address: str, count: int) -> None:
        """Counts operations of a request that was counted once and let in; see ``take`` for what it is given."""
        self._addresses.charge(address, count)
        if principal:
            self._principals.charge(principal, count)

    def _ask(self, rate: Rate, client: str) -> None:
        if wait_s := rate.wait(client):
            self.on_refused("rate", client)
            raise TooManyRequestsError(f"You may send {rate.per_s} requests a second.", wait_s)

    def take_stranger(self, address: str) -> None:
        """Counts a request, whatever it was for, of somebody who could not be told who they are.

        Raises:
            TooManyRequestsError: The address has used up its share.
        """
        self._ask(self._addresses, address)
        self._addresses.charge(address, 1)

    def connect(self, address: str) -> bool:
        """Counts a connection of an address until ``disconnect``; returns whether the address may have it."""
        if not self._connections_max:
            return True
        count = self._connections[address] = self._connections.get(address, 0) + 1
        if count <= self._connections_max:
            return True
        self.refused_connections += 1
        self.on_refused("connections", address)
        return False

    def disconnect(self, address: str) -> None:
        """Counts a connection of an address no more, because it has ended."""
        if self._connections_max:
            count = self._connections.get(address, 0) - 1
            if count > 0:
                self._connections[address] = count
            else:
                self._connections.pop(address, None)


class Operations(Quota):
    """Counts the operations of the request that is being served for its sender and its address."""

    def __init__(self, quotas: Quotas, principal: Callable[[], str]) -> None:
        """Counts in ``quotas``; ``principal`` gives the sender, as ``Quotas.take`` is given it."""
        self._quotas = quotas
        self._principal = principal

    def charge(self, operations: int) -> None:
        """See ``Quota``."""
        if self._quotas.counts:
            self._quotas.charge(self._principal(), peer.get(), operations)

    def take(self, operations: int) -> None:
        """See ``Quota``."""
        if self._quotas.counts:
            self._quotas.take(self._principal(), peer.get(), operations)
