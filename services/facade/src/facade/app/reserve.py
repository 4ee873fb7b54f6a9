"""The connections beyond the limit: a few are kept for probes and operators, who must get through what others hold.

Whoever holds all connections of a facade would otherwise have its probes refused, too: a healthy facade would be
restarted, and nobody could revoke the token that does it. So a connection beyond the limit may ask one thing: a probe,
or a route of operators that is answered at once. Everything else is refused, 503.

Must not know who somebody is: the gate judges these requests as all others. Invariants:

1. There are never more than ``PLACES`` of them. One that has not asked yet makes room for a new one, so that silent
   connections keep nobody out.
2. Each is answered once and closed.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from facade.app.rules import RULES, Need, Rules
from facade.errors import NotAppliedError

PLACES = 16
PATIENCE_S = 2.0
"""How long such a connection may take to ask."""
FIRST_LINE_BYTES = 256
"""More than the first line of such a request has."""
_LONG = frozenset({"/v1/console/{what}", "/v1/shards/{shard}/backup"})
"""Routes whose answers may last as long as their clients like."""
_SERVED = Rules(
    rule
    for rule in RULES
    if rule.route in ("/livez", "/readyz") or not (isinstance(rule.need, Need) or rule.route in _LONG)
)


class Guest(Protocol):
    """A connection beyond the limit."""

    @property
    def has_asked(self) -> bool:
        """Whether its request has come."""

    def turn_away(self) -> None:
        """Tells it that there is no room, and closes it."""


class Reserve:
    """The places for connections beyond the limit."""

    def __init__(self) -> None:
        """Begins without any."""
        self._guests: dict[Guest, None] = {}

    def enter(self, guest: Guest) -> bool:
        """Gives a new connection a place, if need be that of the one that has been silent for longest.

        Returns:
            Whether there was a place.
        """
        if len(self._guests) >= PLACES:
            silent = next((each for each in self._guests if not each.has_asked), None)
            if silent is None:
                return False
            self.leave(silent)
            silent.turn_away()
        self._guests[guest] = None
        return True

    def leave(self, guest: Guest) -> None:
        """Takes the place of a connection back, if it has one."""
        self._guests.pop(guest, None)


def check(scope: Mapping[str, Any]) -> None:
    """Refuses a request that has no reserve.

    Raises:
        NotAppliedError: The request is neither a probe nor a short one of operators.
    """
    if _SERVED.find(scope["method"], scope["raw_path"], scope["path"]) is None:
        raise too_many()


def begins_with_served(data: bytes) -> bool:
    """Whether bytes begin with a request that has a reserve; False where that cannot be told by its first line."""
    method, target, _ = (*data[:FIRST_LINE_BYTES].split(b" ", 2), b"", b"")[:3]
    path = target.partition(b"?")[0]
    if not (method.isascii() and path.isascii()):
        return False
    return _SERVED.find(method.decode(), path, path.decode()) is not None


def too_many() -> NotAppliedError:
    """The error for a client that finds all connections taken."""
    return NotAppliedError("overloaded", "Too many connections are open here.")
