"""How many of something long each client and each address may have at a time: scans, watches, long polls.

One of these lasts as long as its client likes, so a rate bounds nothing: what is bounded is how many there are, in all
and of each. Beyond the total everybody is refused (503); beyond their own number only they are (429), and the others
find places left. What takes only a moment may wait for its place instead (``one_soon``). Must not know HTTP, or what is
done in a place. Invariants:

1. Whoever is refused holds nothing, and whoever is let in gives back what they took, whatever becomes of them.
2. Nothing is kept of a client or an address that has none.

Source: docs/operations.md, Limits of clients.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from facade.client.access import peer, sender
from facade.errors import NotAppliedError, ProblemError, TooManyRequestsError

PART = 3 / 4
"""The part of all places that one client may take, unless the settings name a number."""


_Queue = OrderedDict[asyncio.Future[None], None]
"""Requests that wait, in the order of their turns, by what is done once they have a place. Whoever goes away is found
at once, however many wait."""


class Places:
    """The places of one kind, such as those for watches: each holds one stream of a client.

    Attributes:
        taken: The number of places that are taken.
        refused: How often a client or address was refused because it had too many.
        on_refused: Called with the limit and the client that is refused so.
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
        self._waiting: dict[str, dict[str, _Queue]] = {}
        """By client, and of each by address, in the order of their turns: those that wait."""
        self.taken = 0
        self.refused = 0
        self.on_refused: Callable[[str, str], None] = lambda limit, client: None

    @contextmanager
    def one(self) -> Iterator[None]:
        """Holds a place for the sender of the request that is being served.

        Raises:
            NotAppliedError: No place is left.
            TooManyRequestsError: The sender, or its address, has too many already.
        """
        client, address = sender.get(), peer.get()
        if (refusal := self._refusal(client, address)) is not None:
            raise self._refuse(refusal, client)
        self._take(client, address)
        try:
            yield
        finally:
            self._give_back(client, address)

    @asynccontextmanager
    async def one_soon(self, patience_s: float) -> AsyncIterator[None]:
        """Holds a place as ``one`` does, and waits for it if need be: for what does not last.

        Args:
            patience_s: How many seconds to wait at most.

        Raises:
            NotAppliedError: No place was left, and none became free in time.
            TooManyRequestsError: The sender, or its address, had too many all the time.
        """
        client, address = sender.get(), peer.get()
        if self._refusal(client, address) is None:
            self._take(client, address)
        else:
            await self._wait(client, address, patience_s)
        try:
            yield
        finally:
            self._give_back(client, address)

    async def _wait(self, client: str, address: str, patience_s: float) -> None:
        """Waits until the sender has a place; raises what ``one_soon`` does."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, {}).setdefault(address, OrderedDict())[place] = None
        try:
            async with asyncio.timeout(patience_s):
                await place
        except TimeoutError:
            self._leave(client, address, place)
            raise self._refuse(self._refusal(client, address) or self._full(), client) from None
        except asyncio.CancelledError:
            self._leave(client, address, place)
            raise

    def _leave(self, client: str, address: str, place: asyncio.Future[None]) -> None:
        """Lets a request go that waits no more, perhaps just after it was given a place."""
        if place.cancelled():
            queues = self._waiting.get(client, {})
            queue = queues.get(address)
            if queue is not None and place in queue:
                del queue[place]
                if not queue:
                    del queues[address]
                if not queues:
                    del self._waiting[client]
            self._hand_on()
        else:
            self._give_back(client, address)

    def _refusal(self, client: str, address: str) -> ProblemError | None:
        """Why a client may have no place now; None if it may."""
        if self.taken >= self._total:
            return self._full()
        for counts, name, limit in (
            (self._clients, client, self._of_client),
            (self._addresses, address, self._of_address),
        ):
            if counts.get(name, 0) >= limit:
                return TooManyRequestsError(f"Too many {self._what} for you: {limit} at a time.")
        return None

    def _full(self) -> NotAppliedError:
        return NotAppliedError("overloaded", f"Too many {self._what}.")

    def _refuse(self, refusal: ProblemError, client: str) -> ProblemError:
        if isinstance(refusal, TooManyRequestsError):
            self.refused += 1
            self.on_refused("places", client)
        return refusal

    def _take(self, client: str, address: str) -> None:
        self.taken += 1
        _add(self._clients, client, 1)
        _add(self._addresses, address, 1)

    def _give_back(self, client: str, address: str) -> None:
        self.taken -= 1
        _add(self._clients, client, -1)
        _add(self._addresses, address, -1)
        if self._waiting:
            self._hand_on()

    def _hand_on(self) -> None:
        """Gives free places to those who may have them, one request of each client in turn."""
        handed = True
        while handed and self.taken < self._total:
            handed = False
            for client, queues in list(self._waiting.items()):
                address = self._next(client, queues)
                if address is not None:
                    handed = True
                if address is not None or not queues:
                    del self._waiting[client]
                if queues:
                    self._waiting[client] = queues  # If it had its turn, behind the others.

    def _next(self, client: str, queues: dict[str, _Queue]) -> str | None:
        """Gives a place to the request whose turn it is of a client's: the first of an address that may have one.

        Returns:
            The address; None if there is none.
        """
        for address, queue in list(queues.items()):
            while queue and next(iter(queue)).done():
                queue.popitem(last=False)  # It was cancelled, and has not come to leave yet.
            if not queue:
                del queues[address]
            elif self._refusal(client, address) is None:
                place, _ = queue.popitem(last=False)
                del queues[address]
                if queue:
                    queues[address] = queue
                self._take(client, address)
                place.set_result(None)
                return address
        return None


class Bytes:
    """The bytes of one kind that requests hold: so many in all, and of each client at most a part of them.

    Attributes:
        held: How many bytes are held.
        held_max: How many bytes may be held.
        refused: How often a client was refused because it held too many.
        on_refused: Called with the limit and the client that is refused.
    """

    def __init__(self, what: str, total: int, of_one: int) -> None:
        """Starts with none held.

        Args:
            what: What holds the bytes, in the words of a refusal: "batches are being carried out".
            total: How many bytes may be held; at least ``of_one``.
            of_one: How many bytes one request may hold, which every client may have.
        """
        self._what = what
        self._of_client = max(of_one, int(PART * total))
        self._clients: dict[str, int] = {}
        self.held = 0
        self.held_max = max(total, of_one)
        self.refused = 0
        self.on_refused: Callable[[str, str], None] = lambda limit, client: None

    def take(self, client: str, size: int) -> None:
        """Counts bytes that a client holds until ``give_back``.

        Raises:
            NotAppliedError: Too many bytes are held.
            TooManyRequestsError: The client holds too many already.
        """
        own = self._clients.get(client, 0)
        if own and own + size > self._of_client:
            self.refused += 1
            self.on_refused("places", client)
            raise TooManyRequestsError(f"Too many {self._what} for you.")
        if self.held + size > self.held_max:
            raise NotAppliedError("overloaded", f"Too many {self._what}.")
        self.held += size
        _add(self._clients, client, size)

    def give_back(self, client: str, size: int) -> None:
        """Counts bytes no more that a client has held."""
        self.held -= size
        _add(self._clients, client, -size)


class Queue:
    """Places for which requests wait, in the order in which they came; of each client so many wait as may have one.

    The others of a client wait behind these, so that one client that waits for very many places leaves others a part.

    Attributes:
        taken: The number of places that are taken.
    """

    def __init__(self, total: int) -> None:
        """Starts with none of ``total`` places taken."""
        self._free = asyncio.Semaphore(total)
        self._of_client = max(1, int(PART * total))
        self._clients: dict[str, asyncio.Semaphore] = {}
        self._waiting: dict[str, int] = {}
        self.taken = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Holds a place for the sender of the request that is being served, once there is one."""
        client = sender.get()
        own = self._clients.setdefault(client, asyncio.Semaphore(self._of_client))
        _add(self._waiting, client, 1)
        try:
            async with own, self._free:
                self.taken += 1
                try:
                    yield
                finally:
                    self.taken -= 1
        finally:
            _add(self._waiting, client, -1)
            if client not in self._waiting:
                del self._clients[client]


def _add(counts: dict[str, int], name: str, number: int) -> None:
    count = counts.get(name, 0) + number
    if count:
        counts[name] = count
    else:
        counts.pop(name, None)
