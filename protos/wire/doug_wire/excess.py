"""Who asks for more than their part, for the log: the first refusal of each client and limit in a minute.

A client that floods a process is refused thousands of times a second. A line for each would be the flood once more; the
first one says who it is, and the next how many there were meanwhile. Must not know what the limits are.

Invariant: what is kept of clients is bounded; the line of one that is forgotten comes anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice

EVERY_S = 60.0
CLIENTS_MAX = 10_000
FORGOTTEN = CLIENTS_MAX // 8
"""How many are forgotten at least: to look for one takes as long as to look for all."""


class Excess:
    """Tells of refusals, of each client and limit once a minute."""

    def __init__(self, tell: Callable[[str, str, int], object], clock: Callable[[], float] = time.monotonic) -> None:
        """Begins without clients.

        Args:
            tell: Is told of a client: which limit, who, and how many requests were refused since it was told before.
            clock: Gives seconds that never go back.
        """
        self._tell = tell
        self._clock = clock
        self._untold: dict[tuple[str, str], int] = {}
        self._next_s: dict[tuple[str, str], float] = {}

    def note(self, limit: str, client: str) -> None:
        """Notes that a request or a connection of a client was refused because of a limit.

        Args:
            limit: Which limit it is, in a word.
            client: The principal, or the address.
        """
        place, now_s = (limit, client), self._clock()
        count = self._untold.get(place, 0) + 1
        if now_s < self._next_s.get(place, 0.0):
            self._untold[place] = count
            return
        self._untold.pop(place, None)
        self._next_s.pop(place, None)
        if len(self._next_s) >= CLIENTS_MAX:
            self._forget(now_s)
        self._next_s[place] = now_s + EVERY_S
        self._tell(limit, client, count)

    def _forget(self, now_s: float) -> None:
        """Makes room: those whose minute is over go, or those whose minute began first; places are in that order."""
        past = [place for place, next_s in self._next_s.items() if next_s <= now_s]
        for place in past if len(past) >= FORGOTTEN else list(islice(self._next_s, FORGOTTEN)):
            del self._next_s[place]
            self._untold.pop(place, None)
