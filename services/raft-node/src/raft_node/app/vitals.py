"""How a node is, as ``Admin.Status`` tells those who watch it: reads the running parts, and changes nothing.

It is asked some times a second while somebody looks, on the event loop: nothing here may wait or walk through data.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from doug.v1 import admin_pb2
from doug_wire.tls import Certificates
from raft_node.observability.metrics import Metrics, NodeState, total_of, value_of
from raft_node.raft.node import RaftNode

_STATM = Path("/proc/self/statm")


def memory_bytes() -> int:
    """The resident memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


class Vitals:
    """Tells how one node is."""

    def __init__(self, metrics: Metrics, tick_ms: int, certificates: Certificates | None = None) -> None:
        """Counts the uptime from now on.

        Args:
            metrics: The metrics of the node.
            tick_ms: The grain of the core's time.
            certificates: The certificates of this node; None without TLS.
        """
        self._metrics = metrics
        self._certificates = certificates
        self._tick_ms = tick_ms
        self._started_s = time.monotonic()

    def read(self, core: RaftNode, state: NodeState, *, draining: bool) -> admin_pb2.Vitals:
        """How the node is now.

        Args:
            core: The node's Raft core.
            state: The node's figures.
            draining: Whether the node is about to be stopped.
        """
        syncs, sync_s = total_of(self._metrics.wal_fsync)
        commits, commit_s = total_of(self._metrics.commit_duration)
        heard = None if core.leadership is not None else core.ticks_since_heard()
        return admin_pb2.Vitals(
            voted_for="" if core.voted_for is None else core.voted_for.name,
            uptime_ms=round((time.monotonic() - self._started_s) * 1000),
            memory_bytes=memory_bytes(),
            leader_heard_ms=None if heard is None else heard * self._tick_ms,
            log_bytes=state.wal_size_bytes,
            table_bytes=sum(size for _, size in state.tables.values()),
            compaction_pending_bytes=state.compaction_pending_bytes,
            compacted_bytes=state.compacted_read_bytes + state.compacted_written_bytes,
            proposals_pending=state.proposals_pending,
            syncs=syncs,
            sync_seconds=sync_s,
            commits=commits,
            commit_seconds=commit_s,
            disk_low=state.disk_low,
            stalled=state.stalled,
            draining=draining,
            volumes=[
                admin_pb2.Volume(name=name, total_bytes=total, free_bytes=free)
                for name, (total, free) in sorted(state.volumes.items())
            ],
            peers=self._peers(core),
            clock_us=time.time_ns() // 1000,
            divergences=int(value_of(self._metrics.state_divergence)),
            certificate_ends_s=None if self._certificates is None else int(self._certificates.expires_s()),
        )

    def _peers(self, core: RaftNode) -> list[admin_pb2.Peer]:
        if core.leadership is None:
            return []
        trips = self._metrics.peer_round_trips()
        found = []
        for peer, progress in sorted(core.leadership.progress.items(), key=lambda each: each[0].name):
            count, seconds = trips.get(peer.name, (0, 0.0))
            found.append(
                admin_pb2.Peer(
                    name=peer.name,
                    match_index=progress.match_index,
                    state=progress.state.value,
                    heard_ms=(core.ticks_since_heard(peer) or 0) * self._tick_ms,
                    round_trips=count,
                    round_trip_seconds=seconds,
                )
            )
        return found
