"""How old the state of this replica can be at most, and reads that wait until it is new enough.

A read says what its answer must contain: everything up to an entry of the log (a session), or everything that was
acknowledged longer ago than a bound. For the bound a replica needs a proof, and that its leader sends heartbeats is
none: that leader may be deposed. The proof is a confirmed read round (thesis, 6.4): all that was acknowledged before
this node asked for the round is applied here once the round's index is. Linearizable reads bring such proofs along;
when they are not enough, a round is asked for here.

It knows neither keys nor streams. Invariants:

1. The stamp of a proof was taken before its round was asked for, by this node's own clock, which nobody can set.
2. Each read that waits is answered once, within ``WAIT_S``: who asks may know a fresher replica.
3. While nobody asks for a bound, no round is begun here.

Source: docs/api.md, Consistency.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Protocol

from raft_node.runtime.clocks import boot_s

WAIT_S = 0.2
"""How long a read waits here: a facade believes that a node is stuck which is silent for half a second."""

WAITING_MAX = 20_000
"""The most reads that wait; more are refused."""

AHEAD = 0.5
"""The share of a bound from whose age on a proof is renewed while it still serves."""

_EVERY_S = 0.02
"""The time between two looks at waiting reads, at which proofs are asked for."""

Callback = Callable[[bool], None]


class Reads(Protocol):
    """The driver as this module sees it."""

    @property
    def applied_index(self) -> int:
        """The last entry that reads see."""

    def read(self, callback: Callback, *, forward: bool = False) -> None:
        """Has a round confirmed, here or at the leader."""


class _Waiting:
    """A read that waits until this replica is fresh enough."""

    __slots__ = ("bound_s", "callback", "deadline_s", "min_index")

    def __init__(self, min_index: int, bound_s: float, callback: Callback, deadline_s: float) -> None:
        self.min_index = min_index
        self.bound_s = bound_s
        self.callback = callback
        self.deadline_s = deadline_s


class Freshness:
    """Tells whether this replica's state is fresh enough for a read, and has reads wait until it is."""

    def __init__(self, reads: Reads, proven: Callable[[], float], clock: Callable[[], float] = boot_s) -> None:
        """Nothing waits yet.

        Args:
            reads: The driver, which confirms rounds and knows what is applied.
            proven: Gives the stamp of the newest proof; minus infinity without one.
            clock: The clock of the proofs.
        """
        self._reads = reads
        self._proven = proven
        self._clock = clock
        self._asking = False
        self._by_index: list[tuple[int, int, _Waiting]] = []
        self._by_bound: list[_Waiting] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many reads wait."""
        return len(self._by_index) + len(self._by_bound)

    @property
    def proven_s(self) -> float:
        """The stamp of the newest proof; minus infinity without one."""
        return self._proven()

    def age_s(self, stamp_s: float) -> float:
        """How many seconds ago a stamp was made."""
        return self._clock() - stamp_s

    def serves(self, min_index: int, bound_s: float) -> bool:
        """Whether the applied state contains all that a read must see.

        Args:
            min_index: The read must see everything up to this entry; 0 for no demand.
            bound_s: The read must see everything that was acknowledged longer ago; 0 for no bound.
        """
        if min_index > self._reads.applied_index:
            return False
        if not bound_s:
            return True
        age_s = self._clock() - self._proven()
        if age_s > AHEAD * bound_s:
            self._ask()
        return age_s <= bound_s

    def wait(self, min_index: int, bound_s: float, callback: Callback) -> None:
        """Calls back with True once the state contains what the read must see, with False if that takes too long.

        Requires: ``serves`` said no; a running loop.
        """
        if len(self) >= WAITING_MAX:
            callback(False)
            return
        loop = asyncio.get_running_loop()
        waiting = _Waiting(min_index, bound_s, callback, loop.time() + WAIT_S)
        if bound_s:
            self._by_bound.append(waiting)
        else:
            heapq.heappush(self._by_index, (min_index, next(self._numbers), waiting))
            # A leader sends what a read waits for at once.
            self._ask()
        if self._timer is None:
            self._timer = loop.call_later(_EVERY_S, self._tick)

    def applied(self) -> None:
        """Looks at the waiting reads again, since entries were applied."""
        index = self._reads.applied_index
        while self._by_index and self._by_index[0][0] <= index:
            heapq.heappop(self._by_index)[2].callback(True)

    def stop(self) -> None:
        """Refuses all waiting reads: nothing will become fresher here."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        by_index, self._by_index = self._by_index, []
        by_bound, self._by_bound = self._by_bound, []
        for waiting in (*(each[2] for each in by_index), *by_bound):
            waiting.callback(False)

    def _ask(self) -> None:
        if not self._asking:
            self._asking = True
            self._reads.read(self._answered, forward=True)

    def _answered(self, confirmed: bool) -> None:
        self._asking = False
        if confirmed and self._by_bound:
            # Soon, not at once: the caller may be in the middle of answering reads.
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        waiting, self._by_bound = self._by_bound, []
        for each in waiting:
            if self.serves(each.min_index, each.bound_s):
                each.callback(True)
            else:
                self._by_bound.append(each)

    def _tick(self) -> None:
        self._timer = None
        self.applied()
        self._look()
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        late = [each for each in self._by_bound if each.deadline_s <= now_s]
        late += [each for _, _, each in self._by_index if each.deadline_s <= now_s]
        if late:
            gone = set(map(id, late))
            self._by_bound = [each for each in self._by_bound if id(each) not in gone]
            self._by_index = [each for each in self._by_index if id(each[2]) not in gone]
            heapq.heapify(self._by_index)
            for each in late:
                each.callback(False)
        if len(self) and self._timer is None:
            self._timer = loop.call_later(_EVERY_S, self._tick)
