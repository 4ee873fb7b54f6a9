"""Whether enough bytes move: bodies that trickle in, and answers that nobody reads.

A deadline alone lets one byte now and then hold memory for ever, or for as long as it is generous to slow lines. So in
every window a least number of bytes must have moved. Must not know sockets.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

from facade.client.turns import RESERVE


class Progress:
    """Watches whether bytes move fast enough in one direction of one connection."""

    __slots__ = ("_moved", "since_s")

    def __init__(self) -> None:
        self._moved = 0
        self.since_s: float | None = None
        """When the present window began; None while no bytes are waited for."""

    def begin(self, now_s: float, moved: int) -> None:
        """Begins to wait for bytes; ``moved`` counts all bytes that have moved so far."""
        self.since_s = now_s
        self._moved = moved

    def end(self) -> None:
        """Stops waiting for bytes."""
        self.since_s = None

    def is_too_slow(self, now_s: float, moved: int, window_s: float, bytes_per_s: int) -> bool:
        """Whether a whole window has passed with too few bytes; begins the next window if there were enough."""
        if self.since_s is None or now_s - self.since_s < window_s:
            return False
        if moved - self._moved < bytes_per_s * (now_s - self.since_s):
            return True
        self.begin(now_s, moved)
        return False


class Account:
    """The bytes of one kind that all connections hold together.

    No address can fill it for all others: beyond the limit there is a reserve, of which only those get a part who hold
    less than the limit themselves.

    Attributes:
        held: How many bytes are held.
        limit: How many bytes one address may hold, and all together but for the reserve.
        refused: How often there was no room.
    """

    __slots__ = ("_of", "held", "limit", "refused")

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.limit = limit
        self.refused = 0
        self._of: dict[str, int] = {}

    def add(self, address: str, size: int) -> None:
        """Counts bytes of an address; a negative size for bytes that are not held any more."""
        self.held += size
        held = self._of.get(address, 0) + size
        if held:
            self._of[address] = held
        else:
            self._of.pop(address, None)

    @property
    def full(self) -> bool:
        """Whether the limit is reached, so that it has to be asked for whom there is still room."""
        return self.held > self.limit

    def full_for(self, address: str) -> bool:
        """Whether no more bytes may be held for an address."""
        if not self.full:
            return False
        return self.held > (1 + RESERVE) * self.limit or self._of.get(address, 0) > self.limit
