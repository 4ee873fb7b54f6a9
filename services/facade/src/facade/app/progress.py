"""Whether enough bytes move: bodies that trickle in, and answers that nobody reads.

A deadline alone lets one byte now and then hold memory for ever, or for as long as it is generous to slow lines. So in
every window a least number of bytes must have moved. Nor may they move in the smallest pieces, each of which takes as
long as a large one. Must not know sockets.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

from doug_stream.limits import Bucket
from facade.client.turns import RESERVE
from facade.errors import BadRequestError, NotAppliedError

BODY_WINDOW_S = 5.0
"""The time in which a body must grow by the least rate."""
PIECE_BYTES = 16
"""The size below which a piece of a body is no line of anything, and takes much longer than its bytes."""
PIECES_BURST, PIECES_PER_S = 4096, 1000.0
"""How many such pieces of one connection may come at once, and each second."""
SMALL_BYTES = 4 << 10
"""So many bytes of one connection may wait unparsed without being counted: the connection itself takes more."""


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

    def full_for(self, address: str, more: int = 0) -> bool:
        """Whether no more bytes may be held for an address, or not so many more."""
        held = self.held + more
        if held <= self.limit:
            return False
        return held > (1 + RESERVE) * self.limit or self._of.get(address, 0) + more > self.limit


class Bodies:
    """The bodies of one connection that are arriving, one after the other, and what has come behind them."""

    __slots__ = ("_account", "_address", "_aside", "_held", "_moved", "_pieces", "_progress")

    def __init__(self, account: Account, address: str) -> None:
        """Begins without any; ``account`` counts those of all connections, and ``address`` is this one's."""
        self._account = account
        self._address = address
        self._progress = Progress()
        self._pieces: Bucket | None = None
        self._moved = self._held = self._aside = 0

    def put_aside(self, size: int) -> None:
        """Counts the bytes that now wait unparsed, if they are many: those of all connections together are too.

        Raises:
            NotAppliedError: There is no room for them.
        """
        aside = size if size > SMALL_BYTES else 0
        more, self._aside = aside - self._aside, aside
        if more:
            self._account.add(self._address, more)
            self._check_room(more)

    def hold(self, size: int, now_s: float) -> None:
        """Counts a piece of a body that has arrived: those that are only announced hold no room.

        Raises:
            NotAppliedError: There is no room for it.
            BadRequestError: There were too many small ones. The first piece of a body is of any size.
        """
        if self._held and size < PIECE_BYTES:
            if self._pieces is None:
                self._pieces = Bucket(PIECES_BURST, PIECES_PER_S)
            if not self._pieces.take(now_s):
                raise BadRequestError("bad_request", "The body comes in too many small chunks.")
        self._moved += size
        self._held += size
        self._account.add(self._address, size)
        self._check_room(size)

    def _check_room(self, more: int) -> None:
        if more > 0 and self._account.full_for(self._address):
            self._account.refused += 1
            raise NotAppliedError("overloaded", "Too many bodies are being received.")

    def release(self) -> None:
        """Counts what has arrived of a body no more."""
        self._account.add(self._address, -self._held)
        self._held = 0

    def end(self) -> None:
        """Counts nothing more: the connection is gone."""
        self.release()
        self.put_aside(0)

    def begin(self, now_s: float) -> None:
        """Begins to wait for bytes."""
        self._progress.begin(now_s, self._moved)

    def is_too_slow(self, now_s: float, bytes_per_s: int, *, reads: bool) -> bool:
        """Whether too few bytes have come in time; ``reads`` is whether the facade takes any now."""
        if not reads:
            self.begin(now_s)
            return False
        return self._progress.is_too_slow(now_s, self._moved, BODY_WINDOW_S, bytes_per_s)
