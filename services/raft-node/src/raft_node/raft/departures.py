"""The nodes that were removed from a shard, and that its leader still sends to until they know it.

Must not know messages or the log; ``raft_node.raft.leader`` sends.

Invariant: a node is let go once it has learned of its removal, or when the time for that is over.

Reference: the thesis, 4.2.2 (what removed servers do that do not know it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raft_node.raft.progress import Progress
from raft_node.raft.types import NodeId

_TIMEOUTS = 10
"""The number of election timeouts for which a removed node that does not answer is still sent its removal."""


@dataclass(slots=True)
class Departing:
    """A node that was removed, and that still is to learn of its removal.

    Attributes:
        removal_index: The entry that removed it.
        deadline_tick: When the leader gives up telling it.
        told_tick: When the node was first told that this entry is committed; None before that.
    """

    removal_index: int
    deadline_tick: int
    told_tick: int | None = None


class Departures:
    """All nodes that are on their way out."""

    def __init__(self, election_timeout_ticks_max: int, heartbeat_ticks: int) -> None:
        """Nobody is.

        Args:
            election_timeout_ticks_max: The longest election timeout.
            heartbeat_ticks: The time between two heartbeats.
        """
        self._patience_ticks = _TIMEOUTS * election_timeout_ticks_max
        self._heartbeat_ticks = heartbeat_ticks
        self._nodes: dict[NodeId, Departing] = {}

    def __contains__(self, node: NodeId) -> bool:
        """Whether a node is on its way out."""
        return node in self._nodes

    def add(self, node: NodeId, removal_index: int, now: int) -> bool:
        """Notes that the entry at ``removal_index`` removed a node; returns whether that is news."""
        if node in self._nodes:
            return False
        self._nodes[node] = Departing(removal_index, now + self._patience_ticks)
        return True

    def come_back(self, node: NodeId) -> bool:
        """Notes that a node is a member again; returns whether it was on its way out."""
        return self._nodes.pop(node, None) is not None

    def let_go(self, progress: Mapping[NodeId, Progress], now: int) -> list[NodeId]:
        """Forgets the nodes that have learned of it, or that cannot be reached; returns them."""
        gone = []
        for node, departing in self._nodes.items():
            peer = progress[node]
            if departing.told_tick is None and peer.told_commit_index >= departing.removal_index:
                departing.told_tick = now
            # Every heartbeat repeats it, so a peer that answers one more has received it.
            told = departing.told_tick is not None and peer.heard_tick - departing.told_tick > self._heartbeat_ticks
            if told or now >= departing.deadline_tick:
                gone.append(node)
        for node in gone:
            del self._nodes[node]
        return gone
