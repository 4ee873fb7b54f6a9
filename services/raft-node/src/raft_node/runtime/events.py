"""The events of a node, with their reasons: a ring in memory, from which operators read a timeline of the shard.

It keeps plain facts and knows nobody who makes or reads them; both clocks are given to it. It does not survive the
process: a line of the log tells the same for longer.

Invariants:
1. At most ``count_max`` events and ``bytes_max`` bytes are held; the oldest give way, and are counted.
2. Sequences count up by one for the life of the ring; ``start_id`` tells the rings of two starts apart.
3. An event that repeats the newest one in term, name and details is counted there. A node that campaigns in vain for an
   hour does not push out what led to it.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

_OVERHEAD_BYTES = 200
"""About how many bytes an event takes in memory besides its texts."""


class Recorder(Protocol):
    """The function by which the parts of a node note events."""

    def __call__(self, name: str, **details: object) -> None:
        """Notes an event with plain values."""


@dataclass(slots=True)
class Record:
    """One event.

    Attributes:
        sequence: The event's number in this ring, from 1.
        time_us: The wall clock, microseconds since the epoch, when the event happened first.
        monotonic_us: The monotonic clock at that moment.
        term: The node's term.
        name: The name of the event, such as ``became_leader``.
        details: The event's details, as a JSON object.
        count: How often the event happened in a row.
        last_time_us: The wall clock when the event happened last.
    """

    sequence: int
    time_us: int
    monotonic_us: int
    term: int
    name: str
    details: str
    count: int
    last_time_us: int

    @property
    def size(self) -> int:
        """The bytes for which the event counts in the ring."""
        return _OVERHEAD_BYTES + len(self.name) + len(self.details)


class Excerpt(NamedTuple):
    """A part of the ring: the events, and whether older ones that were asked for had to stay out."""

    records: list[Record]
    cut: bool


class EventRing:
    """The newest events of one process.

    Attributes:
        start_id: A random id of this ring, which tells it from those of other starts.
        forgotten: How many old events were dropped for newer ones.
    """

    def __init__(
        self,
        count_max: int,
        bytes_max: int,
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
        start_id: str | None = None,
    ) -> None:
        """Starts empty.

        Args:
            count_max: How many events are held.
            bytes_max: About how many bytes the events may take.
            wall_us: The wall clock.
            monotonic_us: The monotonic clock.
            start_id: The ring's id; None draws one at random.
        """
        self.start_id = start_id or secrets.token_hex(8)
        self.forgotten = 0
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._wall_us = wall_us
        self._monotonic_us = monotonic_us
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._next_sequence = 1

    def __len__(self) -> int:
        """How many events are held."""
        return len(self._records)

    @property
    def size(self) -> int:
        """About how many bytes the held events take."""
        return self._bytes

    def now_us(self) -> int:
        """The wall clock by which events are noted."""
        return self._wall_us()

    def add(self, name: str, term: int, details: dict[str, object]) -> None:
        """Notes an event; values that JSON does not know are kept as text."""
        text = json.dumps(details, default=str, sort_keys=True)
        now_us = self._wall_us()
        if self._records:
            newest = self._records[-1]
            if (newest.name, newest.term, newest.details) == (name, term, text):
                newest.count += 1
                newest.last_time_us = now_us
                return
        record = Record(self._next_sequence, now_us, self._monotonic_us(), term, name, text, 1, now_us)
        self._next_sequence += 1
        self._records.append(record)
        self._bytes += record.size
        while len(self._records) > self._count_max or self._bytes > self._bytes_max:
            self._bytes -= self._records.popleft().size
            self.forgotten += 1

    def since(self, time_us: int, limit: int) -> Excerpt:
        """The events that happened last at or after a time, in the order of their sequence.

        A wall clock may be set back, so every event is looked at.

        Args:
            time_us: Microseconds since the epoch.
            limit: How many events are returned at most, the newest ones; 0 for all.
        """
        found = [record for record in self._records if record.last_time_us >= time_us]
        if limit and len(found) > limit:
            return Excerpt(found[-limit:], True)
        return Excerpt(found, False)
