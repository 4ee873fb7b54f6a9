"""What a fake node did, and the call that tells it."""

from __future__ import annotations

from typing import Any, Protocol

from doug.v1 import admin_pb2


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
