"""What the nodes of shards did, asked of them once for all who look; everybody is sent only what is new to them.

A timeline is a log of changes: an event that is new, or was repeated, gets the next number. Whoever has seen it up to a
number is told those behind it. Nodes, too, are asked only for what is new, by their own clocks. Must not know HTTP.
Invariants:

1. A node is asked at most once in ``FRESH_S``, however many look.
2. At most ``EVENTS_MAX`` events of each of ``SHARDS_MAX`` shards are kept, the newest ones, each encoded once.
3. The events of one start of a node stay in the order of their sequence; one that was placed stays at its place.
4. A number counts in the log that gave it alone: whoever names another log's is told everything.

Source: docs/console.md; ``facade.routes.operators.timeline``, which tells programs the same.
"""

from __future__ import annotations

import asyncio
import heapq
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from doug.v1 import admin_pb2
from facade.client.node import Node
from facade.client.operators.cluster_status import ask_events
from facade.client.shard import Shard
from facade.errors import BadRequestError

FRESH_S = 1.0
"""So long what nodes told is told again."""
EVENTS_MAX = 2000
SHARDS_MAX = 32
PIECE_EVENTS = 250
"""So many events are taken in one piece, a few milliseconds; then whatever else waits has its turn."""
SLACK_US = 10_000_000
"""So much earlier than the newest known event a node is asked for: a clock may have been set back a little."""
EXACT_MAX = (1 << 53) - 1
"""The largest whole number that JavaScript tells from its neighbours."""

_CURSOR = re.compile(rb"([0-9a-f]{8})-([0-9]{1,15})\Z")


class _Kept(NamedTuple):
    """One event: by which change it came, its place in time, and its document."""

    change: int
    time_us: int
    content: bytes


_Id = tuple[str, int, str]
"""The node of an event, its number, and the start of the node."""


class _Known(NamedTuple):
    """What a node has told: of which start, up to when by its clock, and when by ours; and whether it left some out."""

    start_id: str
    newest_us: int
    place_us: int
    clock_us: int
    heard_s: float
    cut: bool


class Timeline:
    """The events of one shard's nodes."""

    def __init__(self, shard: Shard) -> None:
        """Begins without an event. Requires: a running loop."""
        self._shard = shard
        self._loop = asyncio.get_running_loop()
        self._name = secrets.token_hex(4)
        self._changes = 0
        # In the order of their changes.
        self._events: dict[_Id, _Kept] = {}
        self._known: dict[str, _Known] = {}
        # The time of the oldest event that was not given up; 0 while none was.
        self._oldest_us = 0
        self._unreachable: list[str] = []
        self._look: asyncio.Task[None] | None = None
        self._looked_s = 0.0

    async def read(self, cursor: bytes = b"") -> bytes:
        """What somebody does not know yet who has seen everything up to a cursor; everything for whoever has none.

        Raises:
            BadRequestError: 400; it is no cursor.
        """
        since = self._since(cursor)
        now_s = self._loop.time()
        if self._look is None or (self._look.done() and now_s - self._looked_s >= FRESH_S):
            self._looked_s = now_s
            self._look = self._loop.create_task(self._ask())
            # Whoever asked may be gone by the time it fails.
            self._look.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._look)
        return self._document(since)

    def _since(self, cursor: bytes) -> int:
        if not cursor:
            return 0
        found = _CURSOR.match(cursor)
        if found is None:
            raise BadRequestError("bad_parameter", "after has the cursors of answers before, or nothing.")
        return int(found[2]) if found[1] == self._name.encode() else 0

    def _document(self, since: int) -> bytes:
        new: list[tuple[int, _Id, bytes]] = []
        for event_id, kept in reversed(self._events.items()):
            if kept.change <= since:
                break
            new.append((kept.time_us, event_id, kept.content))
        new.sort()
        told = {
            "shard": self._shard.id,
            "cursor": f"{self._name}-{self._changes}",
            "whole": since == 0,
            "events": orjson.Fragment(b"[%b]" % b",".join([content for *_, content in new])),
            "unreachable": self._unreachable,
            "cut": self._oldest_us > 0 or any(known.cut for known in self._known.values()),
        }
        return orjson.dumps(told)

    async def _ask(self) -> None:
        answers = await ask_events(self._shard, self._ask_since, EVENTS_MAX)
        for node, answer in answers:
            if answer is not None:
                await self._take(node.id, answer)
        self._unreachable = [node.id for node, answer in answers if answer is None]
        too_many = len(self._events) - EVENTS_MAX
        if too_many > 0:
            times = ((kept.time_us, each) for each, kept in self._events.items())
            *oldest, (self._oldest_us, _) = heapq.nsmallest(too_many + 1, times)
            for _, each in oldest:
                del self._events[each]

    def _ask_since(self, node: Node) -> int:
        """From when on, by its own clock, a node is asked for events."""
        known = self._known.get(node.id)
        return 0 if known is None else max(0, known.newest_us - SLACK_US)

    async def _take(self, node_id: str, answer: admin_pb2.EventsResponse) -> None:
        known = self._known.get(node_id)
        anew = known is None or known.start_id != answer.start_id
        newest_us = place_us = 0
        if known is not None and not anew:
            newest_us, place_us = known.newest_us, known.place_us
        for number, event in enumerate(answer.events, 1):
            place_us = self._add(node_id, answer.start_id, event, place_us)
            newest_us = event.last_time_us
            if number % PIECE_EVENTS == 0:
                await asyncio.sleep(0)
        now_s = self._loop.time()
        if known is not None and not anew:
            expected_us = known.clock_us + round(1e6 * (now_s - known.heard_s))
            if answer.clock_us < expected_us - SLACK_US // 2:
                newest_us = 0  # Its clock was set back: it is asked for everything once more.
        cut = answer.cut or (known is not None and not anew and known.cut)
        self._known[node_id] = _Known(answer.start_id, newest_us, place_us, answer.clock_us, now_s, cut)

    def _add(self, node_id: str, start_id: str, event: admin_pb2.Event, place_us: int) -> int:
        """Takes an event; returns where the next one of this start is placed at least."""
        event_id = (node_id, event.sequence, start_id)
        before = self._events.get(event_id)
        if before is None and event.last_time_us < self._oldest_us:
            return place_us
        place_us = max(place_us, event.time_us) if before is None else before.time_us
        content = orjson.dumps(
            {
                "node": node_id,
                "start_id": start_id,
                "sequence": event.sequence,
                "time_us": event.time_us,
                "at_us": place_us,
                "monotonic_us": event.monotonic_us,
                "term": event.term,
                "name": event.name,
                "details": _exact(orjson.loads(event.details or "{}")),
                "count": event.count,
                "last_time_us": event.last_time_us,
            }
        )
        if before is None or before.content != content:
            self._events.pop(event_id, None)
            self._changes += 1
            self._events[event_id] = _Kept(self._changes, place_us, content)
        return place_us


class Timelines:
    """The timelines of the shards at which somebody looked last."""

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self._shards = shards
        self._kept: dict[int, Timeline] = {}

    async def read(self, shard: int, cursor: bytes = b"") -> bytes:
        """See ``Timeline.read``."""
        timeline = self._kept.pop(shard, None) or Timeline(self._shards[shard])
        self._kept = dict(list(self._kept.items())[1 - SHARDS_MAX :])
        self._kept[shard] = timeline
        return await timeline.read(cursor)


def _exact(details: Mapping[str, Any]) -> dict[str, Any]:
    """The details of an event, with numbers as text that a browser would round, such as an incarnation."""
    return {name: str(each) if type(each) is int and abs(each) > EXACT_MAX else each for name, each in details.items()}
