"""Snapshots of a simulated node: it sends them, receives them, and installs one.

Installing takes steps, each of which takes time and may be the last before a crash:

``files``   the received files are synced; then the core is asked whether it needs the snapshot (``RaftNode.restore``)
``wait``    a log write that was under way comes to its end
``switch``  the state takes the place of the old one, as switching CURRENT does
``reset``   the log goes on behind it

Between ``restore`` and the end nothing is written or applied; messages go on. A start that finds the state ahead of the
log does the last step again.

Invariants:
1. The sender's log is kept from the snapshot on while it is under way, but not without a bound.
2. Only a complete snapshot, whose checksum fits, is offered to the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft_node.raft.types import NodeId
from raft_testing.disk import Reset
from raft_testing.machine import Snapshot
from raft_testing.snapshots import (
    Receiving,
    Sending,
    SnapshotChunk,
    SnapshotChunkResponse,
    SnapshotMessage,
)

if TYPE_CHECKING:
    from raft_testing.node import SimulatedNode

_RETRY_US = 40_000
_ATTEMPTS_MAX = 8
_PINNED_ENTRIES_MAX = 150


class Installation:
    """One node's transfers, and the snapshot that it is installing.

    Attributes:
        step: Which step of installing one is under way; empty when there is none.
    """

    def __init__(self, node: SimulatedNode) -> None:
        self.step = ""
        self._node = node
        self._sending: dict[NodeId, Sending] = {}
        self._receiving = Receiving()
        self._snapshot: Snapshot | None = None
        self._from: NodeId | None = None

    @property
    def restoring(self) -> bool:
        """Whether the core has taken over a snapshot that is not installed yet: nothing may be written or applied."""
        return self.step in ("wait", "switch", "reset")

    @property
    def busy(self) -> bool:
        """Whether it has received a part of a snapshot, or installs one."""
        return bool(self.step) or self._receiving.offset > 0

    def pinned_index(self) -> int:
        """The entry behind which the log must be kept; a very large number if it need not be kept."""
        last = self._node.log.last_index
        pinned = [sending.index for sending in self._sending.values() if last - sending.index < _PINNED_ENTRIES_MAX]
        return min(pinned, default=1 << 60)

    # The sender.

    def send_to(self, peer: NodeId) -> None:
        """Begins to send a snapshot to a peer, as the core asks."""
        node = self._node
        node.flush()
        snapshot = node.store.snapshot()
        environment = node.environment
        environment.checkers.snapshot(node.name, snapshot.head)
        environment.trace(f"{node.name} snapshot {snapshot.head.applied_index} for {peer.name}")
        environment.counters["snapshot_sent"] += 1
        chunks = environment.habits.snapshot_chunks or environment.chance.choice((1, 3, 6, 12))
        chunk_bytes = max(1, len(snapshot.payload) // chunks + 1)
        self._sending[peer] = Sending(node.identity, peer, snapshot, chunk_bytes)
        self._send(peer)

    def _send(self, peer: NodeId) -> None:
        environment = self._node.environment
        sending = self._sending[peer]
        sending.attempts += 1
        environment.send(sending.chunk())
        environment.clock.call_later(
            _RETRY_US, self._node.when_awake, self._node.life, self._retry, peer, sending, sending.offset
        )

    def _retry(self, peer: NodeId, sending: Sending, offset: int) -> None:
        node = self._node
        if self._sending.get(peer) is not sending or sending.offset != offset or node.raft is None:
            return
        if node.raft.leadership is None:
            del self._sending[peer]
        elif sending.attempts >= _ATTEMPTS_MAX:
            del self._sending[peer]
            node.environment.counters["snapshot_failed"] += 1
            node.environment.trace(f"{node.name} snapshot {sending.index} for {peer.name} failed")
            node.raft.snapshot_failed(peer)
            node.pump()
        else:
            if 0 < offset < len(sending.snapshot.payload):
                node.environment.counters["snapshot_cut"] += 1
            self._send(peer)

    def _answered(self, message: SnapshotChunkResponse) -> None:
        node = self._node
        sending = self._sending.get(message.sender)
        if sending is None or sending.index != message.applied_index or node.raft is None:
            return
        if message.done:
            del self._sending[message.sender]
            node.raft.snapshot_sent(message.sender, message.applied_index)
            node.pump()
        elif sending.answered(message.offset):
            self._send(message.sender)

    # The receiver.

    def deliver(self, message: SnapshotMessage) -> None:
        """Takes a message about a snapshot."""
        node = self._node
        if node.raft is None or message.receiver != node.identity:
            return
        if isinstance(message, SnapshotChunkResponse):
            self._answered(message)
            return
        if message.head.applied_index <= node.raft.commit_index and not self.step:
            self._respond(message, done=True)
            return
        if not self.step:
            if node.spoils and node.environment.chance.random() < 0.1:
                self._receiving.spoil(node.environment.chance)
            note: list[str] = []
            snapshot = self._receiving.take(message, note)
            for name in note:
                node.environment.counters[name] += 1
                node.environment.trace(f"{node.name} {name} at {message.offset}")
            if snapshot is not None:
                self._snapshot, self._from = snapshot, message.sender
                self._go_on("files", self._files_synced)
        self._respond(message, done=False)

    def _respond(self, message: SnapshotChunk, *, done: bool) -> None:
        offset = message.size if self.step else self._receiving.offset
        index = message.head.applied_index
        self._node.environment.send(SnapshotChunkResponse(message.receiver, message.sender, index, offset, done))

    def _go_on(self, step: str, then: object) -> None:
        """Begins a step that takes as long as a sync."""
        node = self._node
        self.step = step
        environment = node.environment
        environment.trace(f"{node.name} install {step}")
        delay_us = 200 + int(environment.chance.random() * (node.fsync_max_us + environment.habits.install_max_us))
        environment.clock.call_later(delay_us, node.when_awake, node.life, then)

    def _files_synced(self) -> None:
        node, snapshot = self._node, self._snapshot
        assert snapshot is not None
        assert node.raft is not None
        head = snapshot.head
        node.environment.checkers.snapshot(node.name, head)
        last = node.raft.last_index
        if not node.raft.restore(head.applied_index, head.applied_term, head.configuration, head.timestamp_us):
            node.environment.counters["snapshot_void"] += 1
            self._end("void")
            return
        kept = node.raft.last_index > head.applied_index
        effect = "log_kept" if kept else "log_discarded" if last > head.applied_index else "snapshot_ahead"
        node.environment.counters[effect] += 1
        node.environment.trace(f"{node.name} restore {head.applied_index}/{head.applied_term} {effect}")
        node.restored(head.applied_index)
        self.step = "wait"
        self.write_ended()
        node.pump()

    def write_ended(self) -> None:
        """Goes on with the switch, since no log write is under way any more."""
        if self.step == "wait" and self._node.log.writing is None:
            self._go_on("switch", self._switched)

    def _switched(self) -> None:
        node, snapshot = self._node, self._snapshot
        assert snapshot is not None
        node.store.adopt(snapshot)
        node.environment.checkers.state_durable(node.name, node.store.durable_index)
        self._go_on("reset", self._log_reset)

    def _log_reset(self) -> None:
        node, snapshot = self._node, self._snapshot
        assert snapshot is not None
        node.log.reset(Reset(snapshot.head.applied_index, snapshot.head.applied_term))
        node.environment.checkers.disk_changed(node.name)
        node.environment.checkers.applied(node.name, snapshot.head.applied_index, node.store.head.digest)
        node.environment.counters["snapshot_installed"] += 1
        self._end("done")

    def _end(self, what: str) -> None:
        node, snapshot, sender = self._node, self._snapshot, self._from
        assert snapshot is not None
        assert sender is not None
        self.step, self._snapshot, self._from = "", None, None
        index = snapshot.head.applied_index
        node.environment.trace(f"{node.name} install {what} {index}")
        node.environment.send(SnapshotChunkResponse(node.identity, sender, index, len(snapshot.payload), True))
        node.applied_snapshot()

    # Life and death.

    def crash(self, *, spoil: bool) -> tuple[Snapshot | None, Reset | None]:
        """Ends with the process; returns the snapshot being switched to and the reset of the log, or None."""
        environment = self._node.environment
        step, snapshot = self.step, self._snapshot
        self.step, self._snapshot, self._from = "", None, None
        self._sending.clear()
        self._receiving.crash(environment.chance, spoil=spoil)
        if step:
            environment.counters[f"install_cut_{step}"] += 1
        adopting = snapshot if step == "switch" else None
        if step == "reset" and snapshot is not None:
            return None, Reset(snapshot.head.applied_index, snapshot.head.applied_term)
        return adopting, None

    def wipe(self) -> None:
        """The disk is replaced by an empty one."""
        self._receiving = Receiving()
