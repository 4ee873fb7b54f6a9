"""The messages and events on their way out of the core, and the barrier between messages and the disk.

Every change of what must be durable (term, vote, entries) gets a number. A message that speaks of the durable state is
held until the newest change at the time it was written is durable; all others leave at once.

Invariants:

1. A vote and an acknowledgement never leave before what they promise is durable (the paper, figure 2: "updated on
   stable storage before responding to RPCs").
2. Held messages leave in the order in which they were written.

Reference: the thesis, 10.2.1 (writing to the leader's disk in parallel).
"""

from __future__ import annotations

from collections import deque

from raft_node.raft.messages import Message
from raft_node.raft.ready import Event
from raft_node.raft.types import NodeId


class Outbox:
    """What leaves the core: messages, also those that wait for a write, events, and peers that want a snapshot."""

    __slots__ = ("_held", "change", "durable_change", "events", "messages", "snapshots_wanted")

    def __init__(self) -> None:
        self.change = 0
        self.durable_change = 0
        self.messages: list[Message] = []
        self.events: list[Event] = []
        self.snapshots_wanted: list[NodeId] = []
        self._held: deque[tuple[int, Message]] = deque()

    def send(self, message: Message) -> None:
        """Sends a message at once."""
        self.messages.append(message)

    def send_when_durable(self, message: Message) -> None:
        """Sends a message once all changes up to now are durable; at once if they are."""
        if self.change == self.durable_change:
            self.messages.append(message)
        elif not self._held or self._held[-1][1] != message:
            # The same answer twice in a row says nothing more; so a disk that hangs does not pile them up.
            self._held.append((self.change, message))

    def hold(self, message: Message) -> None:
        """Keeps a message until all changes up to now are durable; ``persisted`` then returns it.

        Requires: something is not durable yet.
        """
        assert self.change > self.durable_change, "it would never come back"
        self._held.append((self.change, message))

    def persisted(self, change: int) -> list[Message]:
        """Notes that a change is durable; returns the messages that waited for it."""
        assert self.durable_change < change <= self.change, "writes become durable in order"
        self.durable_change = change
        released = []
        while self._held and self._held[0][0] <= change:
            released.append(self._held.popleft()[1])
        return released

    def event(self, name: str, **fields: object) -> None:
        """Notes something worth a log line."""
        self.events.append(Event(name, fields))
