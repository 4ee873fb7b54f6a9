"""Snapshots on their way between simulated nodes: cut into chunks, resumed after a cut, refused when damaged.

The sender keeps one chunk under way and sends it again when no answer comes. The receiver tells how far it has got, so
that a transfer goes on where it stopped, also after the receiver has crashed (what it had synced is still there). This
module decides what is sent and what is believed; ``raft_testing.installation`` brings a snapshot into force.

Invariants:
1. A receiver keeps the chunks of one snapshot at a time; another one's first chunk throws them away.
2. A chunk is kept only if its checksum fits, and the whole only if its own does: disks spoil things too.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from crc32c import crc32c

from raft_node.raft.types import NodeId
from raft_testing.machine import Head, Snapshot


class SnapshotChunk(NamedTuple):
    """A part of a snapshot; without ``data`` it asks how far the receiver is."""

    sender: NodeId
    receiver: NodeId
    head: Head
    size: int
    checksum: int
    offset: int
    data: bytes
    data_checksum: int


class SnapshotChunkResponse(NamedTuple):
    """How far a receiver is; ``done`` when it needs nothing more of this snapshot."""

    sender: NodeId
    receiver: NodeId
    applied_index: int
    offset: int
    done: bool


SnapshotMessage = SnapshotChunk | SnapshotChunkResponse


class Sending:
    """A snapshot on its way to a peer.

    Attributes:
        offset: How far the receiver is known to be.
        attempts: How often the chunk under way was sent without an answer.
    """

    def __init__(self, sender: NodeId, receiver: NodeId, snapshot: Snapshot, chunk_bytes: int) -> None:
        self.snapshot = snapshot
        self.offset = 0
        self.attempts = 0
        self._sender = sender
        self._receiver = receiver
        self._chunk_bytes = chunk_bytes
        self._checksum = crc32c(snapshot.payload)

    @property
    def index(self) -> int:
        """The last entry in the snapshot."""
        return self.snapshot.head.applied_index

    def chunk(self) -> SnapshotChunk:
        """What to send now."""
        head, payload = self.snapshot
        data = payload[self.offset : self.offset + self._chunk_bytes]
        return SnapshotChunk(
            self._sender, self._receiver, head, len(payload), self._checksum, self.offset, data, crc32c(data)
        )

    def answered(self, offset: int) -> bool:
        """Notes how far the receiver is; True if that is news."""
        news = offset != self.offset
        if news:
            self.offset, self.attempts = offset, 0
        return news


class Receiving:
    """What a node has of a snapshot that it is being sent."""

    def __init__(self) -> None:
        self._head: Head | None = None
        self._checksum = 0
        self._held = bytearray()
        # Whether what is held survived a crash of this node.
        self._survived = False

    def take(self, chunk: SnapshotChunk, note: list[str]) -> Snapshot | None:
        """Takes a chunk in; gives the snapshot once it is complete and whole.

        Args:
            chunk: What arrived.
            note: Is given what was remarkable about it.
        """
        if (chunk.head, chunk.checksum) != (self._head, self._checksum):
            if self._held:
                note.append("snapshot_superseded")
            self._head, self._checksum = chunk.head, chunk.checksum
            self._forget()
        if crc32c(chunk.data) != chunk.data_checksum:
            note.append("snapshot_damaged")
            return None
        if chunk.data and chunk.offset == len(self._held):
            if self._survived:
                note.append("snapshot_resumed")
                self._survived = False
            self._held += chunk.data
        if len(self._held) < chunk.size:
            return None
        payload = bytes(self._held)
        self._forget()
        if crc32c(payload) != chunk.checksum:
            # Something became of it after its chunks were checked. It is fetched again from the beginning.
            note.append("snapshot_spoiled")
            return None
        return Snapshot(chunk.head, payload)

    @property
    def offset(self) -> int:
        """How far it is."""
        return len(self._held)

    def spoil(self, chance: random.Random) -> None:
        """The disk changes a bit of what is held."""
        if self._held:
            self._held[chance.randrange(len(self._held))] ^= 1 << chance.randrange(8)

    def crash(self, chance: random.Random, *, spoil: bool) -> None:
        """The power goes: a part of what was received is left, and ``spoil`` changes a bit of that."""
        self._held = self._held[: chance.randrange(len(self._held) + 1)]
        self._survived = bool(self._held)
        if spoil:
            self.spoil(chance)

    def _forget(self) -> None:
        self._held = bytearray()
        self._survived = False
