"""How fast proposals come, by which the leader judges whether the next AppendEntries will carry a commit index soon.

Must not know messages or the log; ``raft_node.raft.leader`` tells and asks.

Invariant: this decides when a commit index is told, never which one.

Source: ADR 1 (streams), ADR 19 (followers that are watched).
"""

from __future__ import annotations

CALM_PROPOSALS = 2
"""The most proposals of a tick after which each is told of by itself. A client that waits for the event of its put
before it puts again makes no more; with more, the next AppendEntries comes within some milliseconds."""


class Pace:
    """The pace of one leader's proposals.

    Attributes:
        streaming: Whether the last two proposals lie less than a heartbeat interval apart, so that more will follow.
    """

    __slots__ = ("_before", "_count", "_heartbeat_ticks", "_tick", "streaming")

    def __init__(self, heartbeat_ticks: int, now: int) -> None:
        self._heartbeat_ticks = heartbeat_ticks
        # The tick of the newest proposal, how many it has seen, and how many the tick before it.
        self._tick = now - heartbeat_ticks
        self._count = self._before = 0
        self.streaming = False

    def proposed(self, now: int) -> None:
        """Notes that entries were proposed together."""
        since = now - self._tick
        self.streaming = since < self._heartbeat_ticks
        if since:
            self._before = self._count if since == 1 else 0
            self._count = 0
            self._tick = now
        self._count += 1

    def calm(self, now: int) -> bool:
        """Whether neither this tick nor the one before has seen more than ``CALM_PROPOSALS``."""
        since = now - self._tick
        if since > 1:
            return True
        return self._count <= CALM_PROPOSALS and (since == 1 or self._before <= CALM_PROPOSALS)
