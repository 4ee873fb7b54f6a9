"""The events of this node, each with the term in which it happened."""

from __future__ import annotations

from raft_node.raft.node import RaftNode
from raft_node.runtime.events import EventRing


class Timeline:
    """Notes the events of one node.

    Attributes:
        events: The newest events.
    """

    def __init__(self, events: EventRing) -> None:
        self.events = events
        self._core: RaftNode | None = None

    def follow(self, core: RaftNode) -> None:
        """Gives events the term of this core from now on; before that they have the term 0."""
        self._core = core

    def record(self, name: str, **details: object) -> None:
        """Notes an event; an event of the core brings its own term."""
        term = details.pop("term", None)
        if not isinstance(term, int):
            term = 0 if self._core is None else self._core.term
        self.events.add(name, term, details)
