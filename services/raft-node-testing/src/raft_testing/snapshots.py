"""Transfers of snapshots between simulated nodes: in chunks, resumed after an interruption, refused if damaged.

The sender keeps one chunk under way and sends it again if no answer comes. The receiver answers with its offset, so
that a transfer goes on where it stopped, also after the receiver has crashed (the synced part is still there). This
module chooses the chunks to send and checks the received ones; ``raft_testing.installation`` installs a snapshot.

Invariants:
1. A receiver keeps the chunks of one snapshot at a time; the first chunk of another one replaces them.
2. A chunk is kept only if its checksum fits, and the whole snapshot only if its own checksum does: disks can damage it,
too.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from crc32c import crc32c

from raft_node.raft.types import NodeId
from raft_testing.machine import Head, Snapshot


class SnapshotChunk(NamedTuple):
    """A part of a snapshot; without ``data`` it asks for the receiver's offset."""

    sender: NodeId
    receiver: NodeId
    head: Head
    size: int
    checksum: int
    offset: int
    data: bytes
    data_checksum: int


class SnapshotChunkResponse(NamedTuple):
    """The offset of a receiver; ``done`` if it needs nothing more of this snapshot."""

    sender: NodeId
    receiver: NodeId
    applied_index: int
    offset: int
    done: bool


SnapshotMessage = SnapshotChunk | SnapshotChunkResponse


class Sending:
    """A snapshot on its way to a peer.

    Attributes:
        offset: The receiver's offset, as far as the sender knows it.
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
        """The chunk to send now."""
        head, payload = self.snapshot
        data = payload[self.offset : self.offset + self._chunk_bytes]
        return SnapshotChunk(
            self._sender, self._receiver, head, len(payload), self._checksum, self.offset, data, crc32c(data)
        )

    def answered(self, offset: int) -> bool:
        """Notes the receiver's offset; returns True if it is new."""
        news = offset != self.offset
        if news:
            self.offset, self.attempts = offset, 0
        return news


class Receiving:
    """The received part of a snapshot."""

    def __init__(self) -> None:
        self._head: Head | None = None
        self._checksum = 0
        self._held = bytearray()
        # Whether the received part survived a crash of this node.
        self._survived = False

    def take(self, chunk: SnapshotChunk, note: list[str]) -> Snapshot | None:
        """Takes a chunk; returns the snapshot once it is complete and undamaged, None before.

        Args:
            chunk: The chunk that arrived.
            note: Gets a line for the trace for every unusual event.
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
            # It was damaged after its chunks were checked. It is fetched again from the beginning.
            note.append("snapshot_spoiled")
            return None
        return Snapshot(chunk.head, payload)

    @property
    def offset(self) -> int:
        """How much of the snapshot was received."""
        return len(self._held)

    def spoil(self, chance: random.Random) -> None:
        """Flips a bit of the received part."""
        if self._held:
            self._held[chance.randrange(len(self._held))] ^= 1 << chance.randrange(8)

    def crash(self, chance: random.Random, *, spoil: bool) -> None:
        """Cuts the power: a part of the received data is left; with ``spoil`` one of its bits is flipped."""
        self._held = self._held[: chance.randrange(len(self._held) + 1)]
        self._survived = bool(self._held)
        if spoil:
            self.spoil(chance)

    def _forget(self) -> None:
        self._held = bytearray()
        self._survived = False
