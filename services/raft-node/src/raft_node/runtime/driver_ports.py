"""The surroundings of the driver as protocols, so that tests and the simulator can give it others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from raft_node.kv.operations.work import Details
from raft_node.raft.messages import Message
from raft_node.storage.tables.reads import BlockNeeded


class Transport(Protocol):
    """The network as the driver sees it."""

    def send(self, messages: Sequence[Message]) -> None:
        """Queues messages; never blocks, may drop."""


LoadBlocks = Callable[[Sequence[BlockNeeded], Callable[[Sequence[tuple[bytes, bytes | None]]], None]], None]
"""Loads blocks, and calls back on the event loop with keys and values; the node stops if a block cannot be read."""


class Stallable(Protocol):
    """The storage engine as the driver sees it."""

    @property
    def stalled(self) -> bool:
        """Whether applying must wait for a flush or a compaction."""


class NoSink:
    """The sink of proposals of the node itself, whose results nobody waits for."""

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        """Forgets the result."""
