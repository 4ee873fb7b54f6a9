"""Linearizable reads between those who ask and the core: many share one context, and each is answered once.

It knows neither what is read nor who asks; ``raft_node.runtime.driver`` gives it its turns.

Invariants:

1. All reads that wait when a turn asks share one context. A read is in one place at a time: it waits, is asked for, or
   is confirmed and waits until its index is applied.
2. The clock of a lease is read after the reads came in, and immediately before the core judges it.
3. A read that was not meant to be forwarded is confirmed by this node's own leadership or not at all.
4. The stamp of a proof is taken before the core is asked, so before the round begins whose index was applied.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from raft_node.errors import NotLeaderError, OverloadedError
from raft_node.observability.metrics import Metrics
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Ready
from raft_node.raft.types import Role
from raft_node.runtime.clocks import boot_s
from raft_node.runtime.log.commit_times import NodeTimes

ReadCallback = Callable[[bool], None]
"""Called with True once a read may be served, with False if the client must ask again elsewhere."""


class _Asked(NamedTuple):
    """The reads that a context stands for, the time when the core was asked, and the stamp of the proof from them."""

    callbacks: list[ReadCallback]
    asked_s: float
    stamp_s: float


class _Confirmed(NamedTuple):
    """Confirmed reads that wait until their index is applied; they are ordered by it."""

    read_index: int
    context: int
    callbacks: list[ReadCallback]
    stamp_s: float
    asked_s: float


class PendingReads:
    """The linearizable reads of one node.

    Attributes:
        proven_s: Everything that was acknowledged before this time is applied here, by the clock of the proofs.
    """

    def __init__(
        self,
        node: RaftNode,
        metrics: Metrics,
        now_s: Callable[[], float],
        lease_clock: Callable[[], float] | None,
        proof_clock: Callable[[], float] = boot_s,
        times: NodeTimes | None = None,
    ) -> None:
        """Starts without reads.

        Args:
            node: The core.
            metrics: The metrics of the node.
            now_s: The loop's clock, for reads that wait too long.
            lease_clock: The clock that leases are judged by, in ticks; None without leases.
            proof_clock: The clock of ``proven_s``.
            times: Takes how long reads wait.
        """
        self._proof_clock = proof_clock
        self.proven_s = -inf
        self._times = times or NodeTimes()
        self._node = node
        self._metrics = metrics
        self._now_s = now_s
        self._lease_clock = lease_clock
        self._waiting: list[ReadCallback] = []
        self._forwardable: list[ReadCallback] = []
        self._asked: dict[int, _Asked] = {}
        self._confirmed: list[_Confirmed] = []
        self._next_context = 1
        self._count = 0

    def __len__(self) -> int:
        """How many reads have no answer yet."""
        return self._count

    def add(self, callback: ReadCallback, *, forward: bool) -> None:
        """Takes a read; with ``forward`` it may be confirmed by another node that leads."""
        self._count += 1
        (self._forwardable if forward else self._waiting).append(callback)

    def ask(self) -> None:
        """Asks the core for one read index for all reads that wait."""
        callbacks, self._waiting = self._waiting, []
        if self._node.role is not Role.LEADER:
            self._answer(callbacks, confirmed=False)
            callbacks = []
        callbacks, self._forwardable = callbacks + self._forwardable, []
        if not callbacks:
            return
        context = self._next_context
        self._next_context += 1
        stamp_s = self._proof_clock()
        try:
            if self._lease_clock is None:
                self._node.read_index(context)
            else:
                self._node.read_index(context, self._lease_clock())
        except (NotLeaderError, OverloadedError):
            self._metrics.read_index_failed.inc()
            self._answer(callbacks, confirmed=False)
            return
        self._asked[context] = _Asked(callbacks, self._now_s(), stamp_s)

    def take(self, ready: Ready, *, keep: bool) -> None:
        """Notes the reads that the core confirmed; refuses those that it dropped, with ``keep`` lets them wait anew."""
        for state in ready.read_states:
            asked = self._asked.pop(state.context, None)
            # A round that was given up as too late may still be confirmed later.
            if asked is not None:
                self._metrics.read_index_confirmed.inc()
                self._metrics.read_index_duration.observe(self._now_s() - asked.asked_s)
                confirmed = _Confirmed(state.read_index, state.context, asked.callbacks, asked.stamp_s, asked.asked_s)
                heapq.heappush(self._confirmed, confirmed)
        if keep:
            for context in ready.reads_dropped:
                asked = self._asked.pop(context, None)
                self._waiting += asked.callbacks if asked is not None else ()
        else:
            self._drop(ready.reads_dropped)

    def serve(self, applied_index: int) -> None:
        """Answers the confirmed reads whose index is applied."""
        # A heap: reads of the leader that this node was may be confirmed at a greater index than the next leader's.
        while self._confirmed and self._confirmed[0].read_index <= applied_index:
            confirmed = heapq.heappop(self._confirmed)
            self.proven_s = max(self.proven_s, confirmed.stamp_s)
            self._times.confirm_s = self._now_s() - confirmed.asked_s
            self._answer(confirmed.callbacks, confirmed=True)

    def expire(self, asked_before_s: float) -> None:
        """Refuses the reads that were asked for before a time of the loop's clock."""
        self._drop([context for context, asked in self._asked.items() if asked.asked_s <= asked_before_s])

    def stop(self) -> None:
        """Refuses all reads: none will be confirmed any more."""
        self._drop([*self._asked])
        waiting, self._waiting, self._forwardable = self._waiting + self._forwardable, [], []
        self._answer(waiting, confirmed=False)
        while self._confirmed:
            self._answer(heapq.heappop(self._confirmed).callbacks, confirmed=False)

    @property
    def lease_held(self) -> bool:
        """Whether this node leads with a lease, so that reads need no round at this moment."""
        return self._lease_clock is not None and self._node.holds_lease(self._lease_clock())

    @property
    def waiting(self) -> bool:
        """Whether any read waits for the core to be asked."""
        return bool(self._waiting or self._forwardable)

    def _drop(self, contexts: Sequence[int]) -> None:
        for context in contexts:
            asked = self._asked.pop(context, None)
            if asked is not None:
                self._metrics.read_index_failed.inc()
                self._answer(asked.callbacks, confirmed=False)

    def _answer(self, callbacks: Sequence[ReadCallback], *, confirmed: bool) -> None:
        self._count -= len(callbacks)
        for callback in callbacks:
            callback(confirmed)
