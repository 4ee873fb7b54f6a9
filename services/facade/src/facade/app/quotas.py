"""How many requests a second each principal and each address may send, and how many connections an address may have.

All of it is off unless the settings say otherwise, and costs nothing then: fairness under load is not made of rates
(``facade.client.turns``). A rate is a bucket that fills while nobody asks: a second's requests may come at once. What
is refused is refused before anything is proposed, 429 with the time after which there is room again.

Probes, metrics and what operators use ask for nothing here, so that a flood leaves them alone. Must not know routes.

Invariant: what is kept of clients is bounded; a client whose bucket is full is not kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil

from facade.errors import TooManyRequestsError
from facade.settings import Settings

CLIENTS_MAX = 10_000


class Rate:
    """Bounds the requests a second of each of many clients."""

    def __init__(self, per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Lets each client send ``per_s`` requests a second, and as many at once; 0 for any number."""
        self._per_s = per_s
        self._clock = clock
        self._full_s: dict[str, float] = {}
        """By client, when its bucket will be full again."""
        self.refused = 0

    def take(self, client: str) -> None:
        """Counts one request.

        Raises:
            TooManyRequestsError: Its client or address has used up its share.
        """
        if not self._per_s:
            return
        now_s = self._clock()
        full_s = max(now_s, self._full_s.get(client, 0.0)) + 1 / self._per_s
        if full_s - now_s > 1.0 + 1e-9:
            self.refused += 1
            wait_s = max(1, ceil(full_s - now_s - 1.0))
            raise TooManyRequestsError(f"You may send {self._per_s} requests a second.", wait_s)
        if len(self._full_s) >= CLIENTS_MAX and client not in self._full_s:
            self._forget(now_s)
        self._full_s[client] = full_s

    def _forget(self, now_s: float) -> None:
        self._full_s = {client: full_s for client, full_s in self._full_s.items() if full_s > now_s}
        while len(self._full_s) >= CLIENTS_MAX:
            # Requests come from so many addresses that limits per address would not help.
            del self._full_s[next(iter(self._full_s))]


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

    def take(self, principal: str, address: str) -> None:
        """Counts one request of keys.

        Args:
            principal: The sender; empty while clients need not say who they are.
            address: The client's address.

        Raises:
            TooManyRequestsError: Its client or address has used up its share.
        """
        self._take(self._addresses, address)
        if principal:
            self._take(self._principals, principal)

    def _take(self, rate: Rate, client: str) -> None:
        try:
            rate.take(client)
        except TooManyRequestsError:
            self.on_refused("rate", client)
            raise

    def take_stranger(self, address: str) -> None:
        """Counts a request, whatever it was for, of somebody who could not be told who they are.

        Raises:
            TooManyRequestsError: The address has used up its share.
        """
        self._take(self._addresses, address)

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
