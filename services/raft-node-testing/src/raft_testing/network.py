"""The virtual network between the nodes: it loses, delays, repeats, reorders and cuts.

It carries immutable messages, and knows of their meaning only whether the loss of one matters. Like the real streams it
keeps the order of each link, unless reordering is switched on. Counters tell how often a fault mattered: a fault of an
idle heartbeat counts for nothing.

Invariants:
1. Whether and when a message arrives is drawn at the moment it is sent, from the run's random generator; only
   echoes (late copies) are drawn from a generator of their own.
2. A cut also acts when a message would arrive: messages under way are lost when their link is cut.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable

from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    RequestVoteResponse,
)
from raft_testing.clock import Clock
from raft_testing.snapshots import SnapshotChunk, SnapshotMessage

AnyMessage = Message | SnapshotMessage
Link = tuple[str, str]
LATE_US = 50_000
_ECHOES = 0.02
"""The fraction of messages that arrive once more seconds later, while duplication is on."""


def matters(message: AnyMessage) -> bool:
    """Whether the loss of this message matters, even if the next one of its kind arrives."""
    match message:
        case Heartbeat() | HeartbeatResponse():
            return message.read_token > 0
        case AppendEntries():
            return bool(message.entries)
        case RequestVoteResponse():
            return message.granted
        case AppendEntriesResponse():
            return message.success
        case _:
            return True


class Network:
    """Carries messages from node to node.

    Attributes:
        loss_permille: How many of a thousand messages get lost; faults add to it and subtract again.
        duplicate_permille: How many are delivered twice.
        reorder_permille: How many may be overtaken.
        delay_max_us: How much longer than usual a message may take.
        notice_permille: How many of the lost ones make the sender hear that the peer is unreachable.
        damage_permille: How many chunks of snapshots arrive with a wrong bit.
    """

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        counters: Counter[str],
        deliver: Callable[[str, AnyMessage], None],
        unreachable: Callable[[str, str], None],
    ) -> None:
        self.loss_permille = 0
        self.duplicate_permille = 0
        self.reorder_permille = 0
        self.delay_max_us = 0
        self.notice_permille = 0
        self.damage_permille = 0
        self._clock = clock
        self._chance = chance
        self._counters = counters
        self._deliver = deliver
        self._unreachable = unreachable
        self._cuts: dict[Link, list[str]] = {}
        self._last_arrival: dict[Link, int] = {}
        # Echoes have a random generator of their own, so that runs without echoes are unchanged.
        self._echoes = random.Random("echoes")  # noqa: S311

    def send(self, message: AnyMessage) -> None:
        """Takes a message from a node."""
        link = (message.sender.name, message.receiver.name)
        chance = self._chance
        if self._cuts.get(link):
            self._cut_off(link, message)
            return
        if self.loss_permille and chance.random() * 1000 < self.loss_permille:
            self._counters["loss"] += matters(message)
            self._lost(link)
            return
        if self.damage_permille and isinstance(message, SnapshotChunk) and message.data:
            message = self._damage(message)
        self._schedule(link, message)
        if self.duplicate_permille and chance.random() * 1000 < self.duplicate_permille:
            self._counters["duplicate"] += matters(message)
            self._schedule(link, message)
        if self.duplicate_permille and self._echoes.random() < _ECHOES:
            # One more copy arrives long after its term: a connection that was given up may still deliver.
            late_us = int((0.3 + 3 * self._echoes.random()) * 1_000_000)
            self._clock.call_later(late_us, self._echo, link, message)

    def cut(self, links: Iterable[Link], kind: str) -> None:
        """Cuts links, each in the one direction that it names."""
        for link in links:
            self._cuts.setdefault(link, []).append(kind)

    def mend(self, links: Iterable[Link], kind: str) -> None:
        """Undoes one earlier ``cut``."""
        for link in links:
            self._cuts[link].remove(kind)

    def heal(self) -> None:
        """Ends all faults of the network."""
        self._cuts.clear()
        self.loss_permille = self.duplicate_permille = self.reorder_permille = self.notice_permille = 0
        self.delay_max_us = self.damage_permille = 0

    def _damage(self, chunk: SnapshotChunk) -> SnapshotChunk:
        if self._chance.random() * 1000 >= self.damage_permille:
            return chunk
        data = bytearray(chunk.data)
        data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
        return chunk._replace(data=bytes(data))

    def _schedule(self, link: Link, message: AnyMessage) -> None:
        chance, now_us = self._chance, self._clock.now_us
        delay_us = 200 + int(chance.random() * 1_000)
        if self.delay_max_us:
            # Most messages are a little late and a few very much: the cube does that.
            delay_us += int(chance.random() ** 3 * self.delay_max_us)
        arrival_us = now_us + delay_us
        last_us = self._last_arrival.get(link, 0)
        if arrival_us <= last_us:
            if self.reorder_permille and chance.random() * 1000 < self.reorder_permille:
                self._counters["reorder"] += matters(message)
            else:
                arrival_us = last_us + 1
        if arrival_us > last_us:
            self._last_arrival[link] = arrival_us
        if arrival_us - now_us > LATE_US:
            self._counters["delay"] += matters(message)
        self._clock.call_later(arrival_us - now_us, self._arrive, link, message)

    def _arrive(self, link: Link, message: AnyMessage) -> None:
        if self._cuts.get(link):
            self._cut_off(link, message)
            return
        self._deliver(link[1], message)

    def _cut_off(self, link: Link, message: AnyMessage) -> None:
        if matters(message):
            self._counters.update(self._cuts[link])
        self._lost(link)

    def _echo(self, link: Link, message: AnyMessage) -> None:
        if self.duplicate_permille:
            self._counters["echo"] += matters(message)
            self._deliver(link[1], message)

    def _lost(self, link: Link) -> None:
        if self.notice_permille and self._chance.random() * 1000 < self.notice_permille:
            self._clock.call_later(1_000, self._unreachable, link[0], link[1])
