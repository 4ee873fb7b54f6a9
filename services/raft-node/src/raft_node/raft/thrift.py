"""Which voters the leader asks first, and which ones trail.

A commit and a read round need the answers of a quorum, not of all voters. So the voters whose answers made up a quorum
lately are sent everything at once, and the others *trail*: entries for them are gathered for some ticks, and read
rounds pass them by. One message, one fsync and one answer of a trailing voter then stand for several.

Must not know messages or the log; ``raft_node.raft.leader`` asks and tells.

Invariants:

1. Nobody trails unless the first ones and the leader, as far as it counts itself, are a quorum.
2. This decides when a message is sent, never whether: a trailing voter is sent entries after ``trail_ticks``, and
   nobody trails once a quorum has not answered within ``patience_ticks``.

Source: the "thrifty" leaders of I. Moraru, D. Andersen, M. Kaminsky, "There Is More Consensus in Egalitarian
Parliaments", SOSP 2013, whose messages go to a quorum only; ADR 16.
"""

from __future__ import annotations

from collections.abc import Sequence

from raft_node.raft.types import NodeId

RENEWAL_TICKS = 100
"""After so many ticks the fastest voters are looked for anew: the first ones may be slow without ever being late."""


class Thrift:
    """The choice of voters that are asked first.

    Attributes:
        trail_ticks: For how many ticks entries for a trailing voter are gathered at most; 0: nobody ever trails.
        patience_ticks: How long a quorum may take before everybody is asked.
        first: The voters that are sent everything at once; empty while nobody trails.
    """

    __slots__ = ("_chosen_tick", "_waiting_tick", "first", "patience_ticks", "trail_ticks")

    def __init__(self, trail_ticks: int) -> None:
        self.trail_ticks = trail_ticks
        self.patience_ticks = trail_ticks + 1
        self.first: frozenset[NodeId] = frozenset()
        self._chosen_tick = 0
        self._waiting_tick: int | None = None

    def answered(self, fastest: Sequence[NodeId], needed: int, others: int, now: int) -> None:
        """Notes that a quorum has answered. If it took others than the first ones, these are asked first from now on.

        Args:
            fastest: The voters that have answered, without the leader.
            needed: How many of them make a quorum with the leader, or without one whose own disk is slower.
            others: The number of voters without the leader.
            now: The tick.
        """
        # What still waits has waited since now at most.
        self._waiting_tick = None
        if self.trail_ticks and not (self.first.issubset(fastest) and len(self.first) >= needed):
            self.first = frozenset(fastest[:needed]) if needed < others else frozenset()
            self._chosen_tick = now

    def forget(self) -> None:
        """Has nobody trail until another quorum has answered."""
        self.first = frozenset()

    def waits(self, waiting: bool, now: int) -> None:
        """Notes whether anything waits for a quorum; called whenever something is sent or was answered."""
        if not waiting:
            self._waiting_tick = None
        elif self._waiting_tick is None:
            self._waiting_tick = now

    def late(self, now: int) -> bool:
        """Whether the first ones have to be chosen anew: a quorum is late, or they have been the same for long."""
        if not self.first:
            return False
        waited = 0 if self._waiting_tick is None else now - self._waiting_tick
        return waited >= self.patience_ticks or now - self._chosen_tick >= RENEWAL_TICKS

    def trails(self, node: NodeId) -> bool:
        """Whether a voter that is not among the first ones trails."""
        return bool(self.first) and node not in self.first

    def deadline(self, default: int) -> int:
        """The tick at which a quorum is late, or ``default``, whichever is earlier. Requires: somebody trails."""
        if self._waiting_tick is None:
            return default
        return min(default, self._waiting_tick + self.patience_ticks)
