"""The turns of clients: one that asks for more than a shard can do leaves the others their share.

A client is a principal, or an address while nobody has to say who they are. What one client has under way alone is
bounded by the shard's queue only. Once there are two, each has a share of a window for itself; what is beyond its share
waits in a line of its own while the window is full, and the lines are served in turn. A batch takes the longer the more
is in it, so whoever has few operations under way beside one that fills the rest of the window would be served seldom:
nobody has more in the window than ``TIMES`` what the others have, also while these have just been answered and have not
asked again yet. This bound does not go below ``BESIDE_MIN``; beside others that never have many operations at a time it
does not go below ``BESIDE_FEW_MIN``, since small batches cost more for each operation. Once half of the shard's room is
taken, nobody of several may hold more of it than their part: they are refused (429), so that others find room. Whoever
comes while one client fills the queue finds room in a reserve beyond it, as large as ``RESERVE``. While requests wait
for too long (``facade.client.waits``), nobody may hold more than their part of what is under way, alone or not.

Must not know HTTP, or what operations do. Invariants:

1. Whoever holds less than their share of the window, and less than ``BESIDE_MIN``, never waits here.
2. Whoever waits is let in when what is under way ends, oldest line first; nobody waits once they are alone.
3. Nothing is kept of a client that has nothing under way, and that ``REMEMBERED`` operations have outlived, but for the
   moment until it is looked at.

Source: A. Demers et al., Analysis and simulation of a fair queueing algorithm, 1989; docs/operations.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from facade.errors import TooManyRequestsError

if TYPE_CHECKING:
    from facade.client.operation import Operation

SHARE_MIN = 32
"""A share of a window is at least so many operations, however many clients there are."""
TIMES = 2
"""How many times what the others have in the window on average one client may have there beside them."""
BESIDE_MIN = 32
"""So many operations anybody may have beside others, however few these have just now."""
FEW = 16
BESIDE_FEW_MIN = 64
"""So many anybody may have beside others that have had fewer than ``FEW`` at a time on average."""
REMEMBERED, REMEMBERED_EACH = 1024, 64
"""A client that has been answered counts for so many further operations as one that asks, since it may ask again; and
for no more than ``REMEMBERED_EACH`` for each that it had in the window: others have smaller batches meanwhile."""
RESERVE = 1 / 8
"""The part of a shard's room that exists beyond it, for clients that come while one client has all of it."""


class Client:
    """One client, and its operations that are under way in a shard.

    Attributes:
        name: The principal, or the address.
        items: The number of the client's operations, in the window and in the line.
        size: The bytes of these operations.
        inside: The number of its operations in the window.
        most: The largest number of them since the client had none under way.
        line: Its operations that wait for their turn, oldest first; some may be over.
    """

    __slots__ = ("inside", "items", "line", "most", "name", "size")

    def __init__(self, name: str) -> None:
        self.name = name
        self.items = 0
        self.size = 0
        self.inside = 0
        self.most = 0
        self.line: deque[Operation] = deque()


class Turns:
    """The clients of one shard.

    Attributes:
        refused: How often an operation was refused because its client held more than its part.
        waited: How many operations have waited for their turn.
        on_refused: Called with the limit and the client of an operation that is refused.
    """

    __slots__ = ("_answered", "_bytes_limit", "_bytes_max", "_clients", "_ended", "_inside", "_inside_answered",
                 "_items_max", "_most", "_waiting", "_window", "on_refused", "refused", "waited")  # fmt: skip

    def __init__(self, window: int, items_max: int, bytes_max: int, bytes_limit: int = 0) -> None:
        """Starts without clients.

        Args:
            window: How many operations of all clients together are passed on without a turn.
            items_max: How many operations the shard has room for.
            bytes_max: For how many bytes of operations the shard has room.
            bytes_limit: How many bytes a client may have under way, alone or not; 0 for no limit.
        """
        self._window = window
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._bytes_limit = bytes_limit
        self._clients: dict[str, Client] = {}
        self._inside = 0
        self._ended = 0
        self._answered: dict[str, tuple[int, int]] = {}
        """Clients that have nothing under way any more: how many operations have ended when they are forgotten, and
        their ``most``; those first that were not looked at for longest."""
        self._inside_answered = 0
        self._most = 0
        """The sum of the ``most`` of all clients that have something under way."""
        self._waiting: dict[str, Client] = {}
        self.refused = 0
        self.waited = 0
        self.on_refused: Callable[[str, str], None] = lambda limit, client: None

    @property
    def waiting(self) -> int:
        """How many operations wait for their turn."""
        return sum(client.items - client.inside for client in self._waiting.values())

    def admit(self, name: str, items: int, size: int, taken: int, *, late: bool = False) -> Client:
        """Counts one more operation of a client, or refuses it; ``enter`` then says whether it is its turn.

        Args:
            name: The client: a principal, or an address.
            items: How many operations the shard has already.
            size: The bytes of this operation.
            taken: How many bytes the shard has already.
            late: Whether requests wait for too long, so that who holds their part has to wait for answers.

        Raises:
            TooManyRequestsError: The client holds more than its part.
        """
        client = self._clients.get(name)
        if client is None:
            client = Client(name)
            if self._answered:
                self._forget(name)
        if late or self._bytes_limit or 2 * items >= self._items_max or 2 * taken >= self._bytes_max:
            self._check(client, size, items, taken, late=late)
        self._clients[name] = client
        client.items += 1
        client.size += size
        return client

    def take(self, name: str, operation: Operation, size: int) -> Client:
        """Takes over an operation that another shard's ``Turns`` had admitted: it has waited for its turn already."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = Client(name)
            self._forget(name)
        client.items += 1
        client.size += size
        self._pass(client, operation)
        return client

    def _check(self, client: Client, size: int, items: int, taken: int, *, late: bool) -> None:
        held, others = client.size + size, len(self._clients) - (client.name in self._clients)
        part = 1 / (others + 1)
        much = 2 * items >= self._items_max and client.items >= part * self._items_max
        large = 2 * taken >= self._bytes_max and client.size > 0 and held > part * self._bytes_max
        long = late and (not others or client.items >= part * items)
        if much or large or long or (self._bytes_limit and client.size > 0 and held > self._bytes_limit):
            self.refused += 1
            self.on_refused("share", client.name)
            raise TooManyRequestsError("Too many of your requests are under way.")

    def enter(self, client: Client, operation: Operation) -> bool:
        """Returns whether an admitted operation is passed on now; else puts it into its client's line."""
        if (len(self._clients) > 1 or self._answered) and (client.line or not self._has_turn(client)):
            client.line.append(operation)
            self._waiting[client.name] = client
            self.waited += 1
            return False
        self._pass(client, operation)
        return True

    def leave(self, client: Client, operation: Operation, size: int) -> list[Operation]:
        """Takes out an operation that is over, waiting or not; returns the operations whose turn it is now."""
        client.items -= 1
        client.size -= size
        self._ended += 1
        if operation.inside:
            operation.inside = False
            client.inside -= 1
            self._inside -= 1
        if not client.items:
            self._waiting.pop(client.name, None)
            self._clients.pop(client.name, None)
            self._most -= client.most
            client.line.clear()
            if self._clients or self._answered:
                until = self._ended + min(REMEMBERED, REMEMBERED_EACH * client.most)
                self._answered[client.name] = until, client.most
                self._inside_answered += client.most
        if self._answered:
            self._look_at_answered()
        return self._next(client) if self._waiting else []

    def _look_at_answered(self) -> None:
        """Forgets of two clients that were answered those who have been remembered for long enough."""
        for name in tuple(islice(self._answered, 2)):
            if self._answered[name][0] <= self._ended:
                self._forget(name)
            else:
                self._answered[name] = self._answered.pop(name)

    def _forget(self, name: str) -> None:
        """Counts a client that was answered no more."""
        self._inside_answered -= self._answered.pop(name, (0, 0))[1]

    def _next(self, left: Client) -> list[Operation]:
        ready: list[Operation] = []
        if left.line and self._has_turn(left):
            self._let_in(left, ready)
        while self._waiting and (self._inside < self._window or self._count == 1):
            # Few are passed over: each of them has BESIDE_MIN operations in a window that is not full.
            first = next(filter(self._has_turn, self._waiting.values()), None)
            if first is None:
                break
            self._let_in(first, ready)
        return ready

    def _let_in(self, client: Client, ready: list[Operation]) -> None:
        """Lets in the first operation of a client's line that is not over; puts the client behind all others."""
        self._waiting.pop(client.name, None)
        line = client.line
        while line:
            operation = line.popleft()
            if operation.client is client and not operation.future.done():
                self._pass(client, operation)
                ready.append(operation)
                break
        if line:
            self._waiting[client.name] = client

    def _pass(self, client: Client, operation: Operation) -> None:
        """Counts an operation in the window."""
        operation.inside = True
        client.inside += 1
        if client.inside > client.most:
            client.most = client.inside
            self._most += 1
        self._inside += 1

    @property
    def _count(self) -> int:
        return len(self._clients) + len(self._answered)

    def _has_turn(self, client: Client) -> bool:
        """Whether a client may have one more operation in the window."""
        inside, count = client.inside, self._count
        if count == 1:
            return True
        if inside >= BESIDE_MIN and inside * (count - 1) >= TIMES * (self._inside - inside + self._inside_answered):
            others_most = self._most - client.most + self._inside_answered
            if inside >= BESIDE_FEW_MIN or others_most >= FEW * (count - 1):
                return False
        return self._inside < self._window or inside < self._share(count)

    def _share(self, count: int) -> int:
        return max(SHARE_MIN, self._window // (count or 1))
