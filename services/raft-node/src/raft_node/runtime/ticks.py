"""Time for the core: ticks, counted on the event loop's clock.

Messages that have arrived are handled before a deadline is: a wake-up that comes late lets the loop read its sockets
once and counts one tick, so that a paused process does not campaign for the time it slept. Must not know
messages, the log, or who is a member.

Invariant: time is counted up to a deadline only by the timer, never by a message that may put the deadline off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from raft_node.observability.metrics import Metrics
from raft_node.raft.node import RaftNode
from raft_node.raft.types import Role

LATE_S = 0.03
"""A timer that is later than this shows that the process stood still, and that its sockets may hold messages."""


class Ticks:
    """The clock of one core."""

    def __init__(
        self,
        node: RaftNode,
        tick_s: float,
        metrics: Metrics,
        guarded: Callable[[Callable[[], None]], None],
        turn: Callable[[], None],
    ) -> None:
        """No time passes before ``begin`` and ``set_timer``.

        Args:
            node: The core.
            tick_s: The length of a tick.
            metrics: The metrics in which lateness is counted.
            guarded: Runs a callback of the timer, and handles errors that end the node.
            turn: Called after the core was given ticks at a deadline; it sets the timer again.
        """
        self._node, self._tick_s, self._metrics = node, tick_s, metrics
        self._guarded, self._turn = guarded, turn
        self._loop = asyncio.get_running_loop()
        self._counted_until_s = self._loop.time()
        self._timer: asyncio.Handle | None = None
        self._timer_due_s = 0.0
        self._gave_way = False

    def begin(self) -> None:
        """Begins to count time."""
        self._counted_until_s = self._loop.time()

    def stop(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def count_before_message(self) -> None:
        """Counts time up to, and never to, the next deadline: the message at hand may put it off."""
        elapsed = self._elapsed()
        if elapsed <= 0:
            return
        self._counted_until_s += elapsed * self._tick_s
        counted = min(elapsed, self._node.ticks_to_deadline() - 1)
        if counted > 0:
            self._node.tick(counted)

    def set_timer(self) -> None:
        """Has the timer fire at the core's next deadline."""
        due_s = self._counted_until_s + max(1, self._node.ticks_to_deadline()) * self._tick_s
        # A timer that fires early finds nothing due and sets itself again: cheaper than moving it with every message.
        if self._timer is None or self._timer_due_s > due_s + self._tick_s / 2:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due_s, self._guarded, partial(self._on_timer, due_s))
            self._timer_due_s = due_s

    def _elapsed(self) -> int:
        # A hair is added, so that a timer which fires on the dot finds its tick full.
        return int((self._loop.time() - self._counted_until_s) / self._tick_s + 1e-6)

    def _on_timer(self, due_s: float) -> None:
        self._timer = None
        late_s = self._loop.time() - due_s
        self._metrics.event_loop_lag.set(max(0.0, late_s))
        self._metrics.event_loop_lags.observe(max(0.0, late_s))
        if late_s > LATE_S and not self._gave_way:
            if self._node.role is Role.LEADER:
                self._metrics.heartbeats_late.inc()
            # Once only: a machine so slow that every wake-up is late must still elect its leaders.
            self._gave_way = True
            # The process stood still. Count up to the deadline, let the loop read its sockets, then count one tick.
            self.count_before_message()
            self.set_timer()
            return
        self._gave_way = False
        elapsed = self._elapsed()
        if elapsed > 0:
            self._counted_until_s += elapsed * self._tick_s
            self._node.tick(min(elapsed, max(1, self._node.ticks_to_deadline())))
            self._turn()
        else:
            self.set_timer()
