"""How many requests a second each of many clients may send: a bucket for each, which fills while nobody asks.

A second's requests may come at once. What counts for more than one request, such as a batch, is let in while there is
room for one, and what it takes beyond that is waited for: so a batch may be larger than the bucket, and nobody gets
more than the rate by asking for much at a time. Must not know who the clients are, or what they ask for.

Invariants:

1. What is kept of clients is bounded, and so is the time that a request takes, however many clients there are; a client
   whose bucket is full is not kept.
2. Whoever is refused has taken nothing.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from math import ceil

CLIENTS_MAX = 10_000
FORGOTTEN = CLIENTS_MAX // 8
"""How many are forgotten at a time: to look for one takes as long as to look for all."""


class Rate:
    """Bounds the requests a second of each of many clients.

    Attributes:
        per_s: How many requests a second each client may send; 0 for any number.
        refused: How many requests were refused.
    """

    def __init__(self, per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Lets each client send ``per_s`` requests a second, and as many at once."""
        self.per_s = per_s
        self._clock = clock
        self._full_s: dict[str, float] = {}
        """By client, when its bucket will be full again."""
        self.refused = 0

    def take(self, client: str, count: int = 1) -> int:
        """Counts a request.

        Args:
            client: The sender.
            count: For how many requests it counts, at least 1.

        Returns:
            0 if there is room for it; else after how many seconds there will be, at least 1.
        """
        wait_s = self.wait(client)
        if not wait_s:
            self.charge(client, count)
        return wait_s

    def wait(self, client: str) -> int:
        """The same as ``take`` of a request that may be refused by another limit: it is counted by ``charge``."""
        if not self.per_s:
            return 0
        now_s = self._clock()
        full_s = max(now_s, self._full_s.get(client, 0.0))
        beyond_s = full_s + 1 / self.per_s - now_s - 1.0
        if beyond_s <= 1e-9:
            return 0
        self.refused += 1
        return max(1, ceil(beyond_s))

    def charge(self, client: str, count: int) -> None:
        """Counts requests of a client that were let in already, whether there is room for them or not."""
        if not self.per_s or count < 1:
            return
        now_s = self._clock()
        if len(self._full_s) >= CLIENTS_MAX and client not in self._full_s:
            self._forget(now_s)
        self._full_s[client] = max(now_s, self._full_s.get(client, 0.0)) + count / self.per_s

    def _forget(self, now_s: float) -> None:
        self._full_s = {client: full_s for client, full_s in self._full_s.items() if full_s > now_s}
        if len(self._full_s) > CLIENTS_MAX - FORGOTTEN:
            # Requests come from so many addresses that limits per address would not help.
            for client in list(islice(self._full_s, FORGOTTEN)):
                del self._full_s[client]
