"""A leader's lease: for how long after a confirmed round no other node can have been elected.

A voter that answered a heartbeat gives nobody its vote for the shortest election timeout after it. So from the moment
at which the heartbeats of a round **left**, until that timeout has passed on no voter's clock yet, a leader whose round
a quorum of such voters answered knows, without asking again, that it still leads. The settings make a lease shorter
than the timeout by a tick, the grain in which voters count, and by a margin for clocks that run at different rates.

Pure bookkeeping; the readings of the clock come from the caller, in ticks with fractions.

Invariants:

1. A lease counts from a reading that was taken before the round's heartbeats were sent, and is judged by one that was
   taken after the read came in. So a process that stood still in between finds it expired.
2. The clock and the ticks must both say that it holds; a clock that is seen to go back ends it, and no round that was
   under way then renews it. A clock that jumps can only make it shorter.
3. After ``surrender`` there is no lease for the rest of the term: a TimeoutNow that left may arrive at any time.

Reference: the thesis, 6.4.1.
"""

from __future__ import annotations

from typing import NamedTuple


class Reading(NamedTuple):
    """A reading of both clocks at one moment.

    Attributes:
        clock: The monotonic clock, in ticks with fractions.
        tick: The core's own count of ticks.
        era: The number of the stretch between two interruptions in which it was made.
    """

    clock: float
    tick: int
    era: int


class Lease:
    """The lease of one leadership.

    Attributes:
        surrendered: Whether the lease was given up for the rest of the term.
    """

    __slots__ = ("_began", "_duration", "_era", "_newest_clock", "surrendered")

    def __init__(self, duration_ticks: int) -> None:
        self.surrendered = False
        self._duration = duration_ticks
        self._era = 0
        self._newest_clock = float("-inf")
        self._began: Reading | None = None

    def read(self, clock: float, tick: int) -> Reading:
        """Makes a reading of the clocks. A clock that went back ends the lease, for its readings of before are void."""
        if clock < self._newest_clock:
            self.interrupt()
        self._newest_clock = clock
        return Reading(clock, tick, self._era)

    def holds(self, now: Reading) -> bool:
        """Whether no other node can lead at this moment. Requires: the reading is from after the question came."""
        began = self._began
        return (
            began is not None
            and not self.surrendered
            and now.era == began.era
            and now.clock - began.clock < self._duration
            and now.tick - began.tick < self._duration
        )

    def renew(self, began: Reading) -> None:
        """Renews the lease: a quorum that keeps its votes for it has answered heartbeats that left after ``began``."""
        if began.era == self._era:
            self._began = began

    def interrupt(self) -> None:
        """Ends the lease; rounds that are under way do not renew it, later ones may."""
        self._era += 1
        self._began = None

    def surrender(self) -> None:
        """Ends the lease for the rest of the term."""
        self.surrendered = True
