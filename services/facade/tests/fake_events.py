"""What a fake node did, and the call that tells it."""

from __future__ import annotations

import json
from typing import Any, Protocol

from doug.v1 import admin_pb2


def happened(node_id: str, now_us: int) -> list[admin_pb2.Event]:
    """What a node may tell: events of one time at two nodes, repeated ones, a clock set back, numbers beyond 2^53."""
    minute_us = 60_000_000
    whole = [
        (1, now_us - 9 * minute_us, "process_started", 1, '{"incarnation": 9007199254740993, "version": "0.2"}'),
        (2, now_us - 5 * minute_us, "vote_given", 1, json.dumps({"candidate": node_id, "voters": ["a", "b"]})),
        (3, now_us - 6 * minute_us, "slow_disk", 7, '{"longest_ms": 120.5, "again": true}'),
    ]
    return [
        admin_pb2.Event(
            sequence=sequence,
            time_us=time_us // minute_us * minute_us,
            last_time_us=time_us // minute_us * minute_us + (minute_us if count > 1 else 0),
            monotonic_us=sequence,
            term=sequence,
            name=name,
            details=details,
            count=count,
        )
        for sequence, time_us, name, count, details in whole[: 3 if node_id.startswith("shard-0") else 1]
    ]


class _Node(Protocol):
    id: str
    shard: Any
    events: list[admin_pb2.Event]
    events_since: list[int]
    start_id: str
    clock_us: int

    async def _wait_while_silent(self) -> None: ...


class EventCalls:
    """A part of a fake node.

    Attributes:
        events: What it remembers.
        events_since: Since when it was asked for that, call by call.
        start_id: Of its process; empty for one that goes by its name.
        clock_us: Its wall clock.
    """

    def __init__(self) -> None:
        self.events: list[admin_pb2.Event] = []
        self.events_since: list[int] = []
        self.start_id = ""
        self.clock_us = 1_000_000

    async def Events(self: _Node, request: Any, context: Any) -> admin_pb2.EventsResponse:  # noqa: N802
        """Tells what it remembers since a time."""
        await self._wait_while_silent()
        self.events_since.append(request.since_us)
        found = [event for event in self.events if event.last_time_us >= request.since_us]
        return admin_pb2.EventsResponse(
            node_id=self.id,
            shard=self.shard.id,
            start_id=self.start_id or f"start-{self.id}",
            clock_us=self.clock_us,
            forgotten=3,
            cut=len(found) > request.limit,
            events=found[-request.limit :],
        )
