"""How many of something long each client and each address may have at a time: scans, watches, long polls.

One of these lasts as long as its client likes, so a rate bounds nothing: what is bounded is how many there are, in all
and of each. Beyond the total everybody is refused (503); beyond their own number only they are (429), and the others
find places left. Must not know HTTP, or what is done in a place. Invariants:

1. Whoever is refused holds nothing, and whoever is let in gives back what they took, whatever becomes of them.
2. Nothing is kept of a client or an address that has none.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from facade.client.access import peer, sender
from facade.errors import NotAppliedError, TooManyRequestsError

PART = 3 / 4
"""The part of all places that one client may take, unless the settings name a number."""


class Places:
    """The places of one kind, such as those for watches: each holds one stream of a client.

    Attributes:
        taken: The number of places that are taken.
        refused: How often a client or address was refused because it had too many.
    """

    def __init__(self, what: str, total: int, of_client: int = 0, of_address: int = 0) -> None:
        """Starts with none taken.

        Args:
            what: What the places are for, in the words of a refusal: "ranges are being read".
            total: The number of places.
            of_client: How many places one client may have; 0 for ``PART``. A client is a principal, or an address
                while nobody has to say who they are.
            of_address: How many places one address may have; 0 for any number.
        """
        self._what = what
        self._total = total
        self._of_client = of_client or max(1, int(PART * total))
        self._of_address = of_address or total
        self._clients: dict[str, int] = {}
        self._addresses: dict[str, int] = {}
        self.taken = 0
        self.refused = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Holds a place for the sender of the request that is being served.

        Raises:
            NotAppliedError: No place is left.
            TooManyRequestsError: The sender, or its address, has too many already.
        """
        if self.taken >= self._total:
            raise NotAppliedError("overloaded", f"Too many {self._what}.")
        client, address = sender.get(), peer.get()
        for counts, name, limit in (
            (self._clients, client, self._of_client),
            (self._addresses, address, self._of_address),
        ):
            if counts.get(name, 0) >= limit:
                self.refused += 1
                raise TooManyRequestsError(f"Too many {self._what} for you: {limit} at a time.")
        self.taken += 1
        _add(self._clients, client, 1)
        _add(self._addresses, address, 1)
        try:
            yield
        finally:
            self.taken -= 1
            _add(self._clients, client, -1)
            _add(self._addresses, address, -1)


def _add(counts: dict[str, int], name: str, number: int) -> None:
    count = counts.get(name, 0) + number
    if count:
        counts[name] = count
    else:
        del counts[name]
