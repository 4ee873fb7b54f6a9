"""How much of a node guests may use at a time, so that one of them leaves room for others, and all of them for facades.

A facade bounds its clients before it asks a node; a client that calls a node itself is bounded here. Must not know what
a call is about. Invariants:

1. Whoever is refused holds nothing, and a call that has ended holds nothing.
2. A guest that holds nothing is refused only if all guests together hold too much.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

from typing import NamedTuple


class Use(NamedTuple):
    """What a call takes, or several together, or the most that they may take.

    Attributes:
        calls: The number of calls.
        scans: How many of these read or delete a whole range, or send the whole state.
        size: The bytes of their requests.
        watches: How many of the calls are watches.
    """

    calls: int = 0
    scans: int = 0
    size: int = 0
    watches: int = 0

    def plus(self, other: Use) -> Use:
        """Both together."""
        return Use(
            self.calls + other.calls, self.scans + other.scans, self.size + other.size, self.watches + other.watches
        )

    def minus(self, other: Use) -> Use:
        """What is left without the other."""
        return Use(
            self.calls - other.calls, self.scans - other.scans, self.size - other.size, self.watches - other.watches
        )

    def beyond(self, most: Use) -> str:
        """What of it is more than the most, in words; empty if nothing is."""
        if self.calls > most.calls:
            return f"{most.calls} calls"
        if self.scans > most.scans:
            return f"{most.scans} scans"
        if self.watches > most.watches:
            return f"{most.watches} watches"
        return f"{most.size} bytes" if self.size > most.size else ""


NOTHING = Use()
OF_ONE = Use(calls=128, scans=4, size=8 << 20, watches=64)
"""The most that one guest may use at a time, of a node that serves as many scans and watches as usual."""
OF_ALL = Use(calls=512, scans=8, size=16 << 20, watches=128)
"""The most that all guests together may use at a time: half of the scans and watches that a node serves, and of the
bytes that writes may wait with, facades' included."""


def parts_of(scans: int, watches: int) -> tuple[Use, Use]:
    """The most that one guest, and that all of them, may use of a node that serves so many scans and watches."""
    one = OF_ONE._replace(scans=max(1, scans // 4), watches=max(1, watches // 4))
    return one, OF_ALL._replace(scans=max(1, scans // 2), watches=max(1, watches // 2))


OF_ONE_ADDRESS = Use(calls=384, size=12 << 20)
"""The most that one address may use at a time before it is known whose calls they are."""
OF_ONE_OPERATOR = Use(calls=16, size=1 << 20)
"""The most that one guest may use at a time to look after the node, beside what it uses otherwise."""
OF_ALL_OPERATORS = Use(calls=64, size=4 << 20)
"""The most that all guests together may use so."""


class GuestRoom:
    """Counts what guests use.

    Attributes:
        used: What all of them use together.
    """

    def __init__(self, of_one: Use = OF_ONE, of_all: Use = OF_ALL) -> None:
        """Begins with nothing used."""
        self._of_one, self._of_all = of_one, of_all
        self._by_guest: dict[str, Use] = {}
        self.used = NOTHING

    def take(self, guest: str, use: Use) -> str:
        """Counts a call until ``give_back``; returns why there is no room for it, in words, or an empty text."""
        own = self._by_guest.get(guest, NOTHING).plus(use)
        if why := own.beyond(self._of_one):
            return f"{guest} uses this node with {why} at most at a time"
        if why := self.used.plus(use).beyond(self._of_all):
            return f"clients use this node themselves with {why} at most at a time"
        self._by_guest[guest] = own
        self.used = self.used.plus(use)
        return ""

    def give_back(self, guest: str, use: Use) -> None:
        """Counts a call no more that has ended."""
        own = self._by_guest[guest].minus(use)
        if own == NOTHING:
            del self._by_guest[guest]
        else:
            self._by_guest[guest] = own
        self.used = self.used.minus(use)
