"""How long a heartbeat to one peer and its answer take, measured now and then.

Answers come back on the stream in the order of the heartbeats, so counting both tells which answer belongs to which.
Pure bookkeeping: no clock, no stream.

Invariants:
1. One heartbeat at a time is measured, and none within ``EVERY_S`` of the last: the cost does not grow with the load.
2. The first heartbeat of a stream is not measured: it waits for the connection.
3. Once an answer is missing, the counts do not fit any more, and nothing is measured until the stream is a new one.
"""

from __future__ import annotations

from collections.abc import Callable

EVERY_S = 0.1
MISSING_S = 5.0
"""The time after which an answer is not expected any more."""


class RoundTrips:
    """Measures the round trips of heartbeats to one peer."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """Begins without heartbeats; ``observe`` takes the seconds of each measured round trip."""
        self._observe = observe
        self._sent = 0
        self._answered = 0
        self._measured = 0
        self._measured_at_s = 0.0
        self._next_s = 0.0
        self._missing = False

    def sent(self, now_s: float) -> None:
        """Notes that a heartbeat that wants an answer is about to be written, for one in a queue may never be."""
        self._sent += 1
        if self._measured:
            self._missing = self._missing or now_s - self._measured_at_s > MISSING_S
        elif self._answered and now_s >= self._next_s:
            self._measured, self._measured_at_s = self._sent, now_s
            self._next_s = now_s + EVERY_S

    def answered(self, now_s: float) -> None:
        """Notes that an answer arrived, and measures its round trip."""
        self._answered += 1
        if self._answered == self._measured and not self._missing:
            self._measured = 0
            self._observe(now_s - self._measured_at_s)

    def broken(self) -> None:
        """Forgets the heartbeats under way, because their stream has ended."""
        self._sent = self._answered = self._measured = 0
        self._missing = False
