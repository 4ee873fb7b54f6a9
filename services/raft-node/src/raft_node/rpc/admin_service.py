"""The Admin service: what operators ask of one node, also while it is starting.

It only turns requests and answers; what a node is, does and remembers, it hears from ``Operated``.
"""

from __future__ import annotations

from typing import Any, Protocol

import grpc.aio

from doug.v1 import admin_pb2 as pb
from doug.v1 import admin_pb2_grpc
from raft_node.runtime.events import EventRing

Context = grpc.aio.ServicerContext[Any, Any]


class Operated(Protocol):
    """The node as its operators see it."""

    def status(self) -> pb.StatusResponse:
        """The role, the term and the indexes."""


class AdminService(admin_pb2_grpc.AdminServicer):
    """Serves operators."""

    def __init__(self, node_id: str, shard: int, node: Operated, events: EventRing) -> None:
        """Ties the parts together.

        Args:
            node_id: This node's name.
            shard: Its shard's number.
            node: What is asked and told.
            events: What it remembers.
        """
        self._node_id = node_id
        self._shard = shard
        self._node = node
        self._events = events

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:  # noqa: N802
        """Tells the role, the term and the indexes of this node."""
        return self._node.status()

    async def Events(self, request: pb.EventsRequest, context: Context) -> pb.EventsResponse:  # noqa: N802
        """Tells what this process did and why, as far as its ring still holds it."""
        events = self._events
        records, cut = events.since(request.since_us, request.limit)
        return pb.EventsResponse(
            node_id=self._node_id,
            shard=self._shard,
            start_id=events.start_id,
            clock_us=events.now_us(),
            forgotten=events.forgotten,
            cut=cut,
            events=[
                pb.Event(
                    sequence=record.sequence,
                    time_us=record.time_us,
                    monotonic_us=record.monotonic_us,
                    term=record.term,
                    name=record.name,
                    details=record.details,
                    count=record.count,
                    last_time_us=record.last_time_us,
                )
                for record in records
            ],
        )
