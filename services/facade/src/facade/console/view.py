"""The documents that the console shows of the nodes: their statuses as JSON, with rates between two looks.

Pure, but for what it remembers of the look before. Invariants: (1) a figure that nobody knows is null, never 0; (2)
however many nodes there are, a piece of work is about ``PIECE_NODES`` of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from doug.v1 import admin_pb2
from facade.client.node import Node
from facade.client.operators.cluster_status import Statuses

PIECE_NODES = 48
"""So many nodes are shown in one piece, some milliseconds: whoever drives this lets requests in between the pieces."""


class Counted(NamedTuple):
    """The counts of a node since its process started, at one look."""

    time_s: float
    uptime_ms: int
    commit_index: int
    syncs: int
    sync_s: float
    commits: int
    commit_s: float
    compacted: int
    trips: Mapping[str, tuple[int, float]]


def _mean_ms(count: int, seconds: float) -> float | None:
    return round(1000 * seconds / count, 3) if count > 0 else None


class Views:
    """Makes the documents, look after look."""

    def __init__(self) -> None:
        self._before: dict[str, Counted] = {}
        self._learners: frozenset[str] = frozenset()

    def pieces(self, statuses: Statuses, now_s: float) -> Iterator[list[dict[str, Any]]]:
        """Every shard with its nodes, some shards at a time.

        Args:
            statuses: What the nodes said.
            now_s: A monotonic clock.
        """
        counted: dict[str, Counted] = {}
        learners: set[str] = set()
        piece: list[dict[str, Any]] = []
        nodes_in_piece = 0
        for shard, nodes in statuses.items():
            if nodes_in_piece and nodes_in_piece + len(nodes) > PIECE_NODES:
                yield piece
                piece, nodes_in_piece = [], 0
            shown = [self._node(node, status, counted, now_s) for node, status in nodes]
            # Who was a learner when it answered last has no vote while it does not.
            learners.update(each["id"] for each in shown if each["role"] == "learner" or "learner" in each)
            piece.append({"id": shard, "nodes": shown})
            nodes_in_piece += len(nodes)
        if piece:
            yield piece
        self._before, self._learners = counted, frozenset(learners)

    def _node(
        self, node: Node, status: admin_pb2.StatusResponse | None, counted: dict[str, Counted], now_s: float
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": node.id, "address": node.address, "admin": node.admin}
        if status is None:
            return shown | {"role": "unreachable"} | ({"learner": True} if node.id in self._learners else {})
        shown |= {
            "role": status.role,
            "term": status.term,
            "commit": status.commit_index,
            "applied": status.applied_index,
            "last": status.last_log_index,
            "first": status.first_log_index,
            "leader": status.leader_id,
            "version": status.version,
            "incarnation": str(status.incarnation),
        }
        if status.HasField("vitals"):
            now = _counted(status, now_s)
            counted[node.id] = now
            before = self._before.get(node.id)
            # The counts of a restarted process begin at zero.
            if before is not None and before.uptime_ms > now.uptime_ms:
                before = None
            shown |= _vitals(status.vitals) | _rates(now, before, status.vitals.peers)
        return shown


def _counted(status: admin_pb2.StatusResponse, now_s: float) -> Counted:
    vitals = status.vitals
    return Counted(
        now_s,
        vitals.uptime_ms,
        status.commit_index,
        vitals.syncs,
        vitals.sync_seconds,
        vitals.commits,
        vitals.commit_seconds,
        vitals.compacted_bytes,
        {peer.name: (peer.round_trips, peer.round_trip_seconds) for peer in vitals.peers},
    )


def _vitals(vitals: admin_pb2.Vitals) -> dict[str, Any]:
    return {
        "voted_for": vitals.voted_for,
        "uptime_ms": vitals.uptime_ms,
        "memory_bytes": vitals.memory_bytes or None,
        "heard_ms": vitals.leader_heard_ms if vitals.HasField("leader_heard_ms") else None,
        "log_bytes": vitals.log_bytes,
        "table_bytes": vitals.table_bytes,
        "compaction_pending_bytes": vitals.compaction_pending_bytes,
        "proposals_pending": vitals.proposals_pending,
        "disk_low": vitals.disk_low,
        "stalled": vitals.stalled,
        "draining": vitals.draining,
        "disks": [
            {"name": each.name, "total_bytes": each.total_bytes, "free_bytes": each.free_bytes}
            for each in vitals.volumes
        ],
    }


def _rates(now: Counted, before: Counted | None, peers: Any) -> dict[str, Any]:
    """Rates since the look before; means since the start where nothing happened in between."""
    passed_s = 0.0 if before is None else now.time_s - before.time_s
    if before is None or passed_s <= 0:
        before = now._replace(syncs=0, sync_s=0.0, commits=0, commit_s=0.0, trips={})
    trips = before.trips

    def round_trip(name: str) -> float | None:
        count, seconds = now.trips[name]
        count_before, seconds_before = trips.get(name, (0, 0.0))
        return _mean_ms(count - count_before, seconds - seconds_before) or _mean_ms(count, seconds)

    return {
        "commit_rate": round((now.commit_index - before.commit_index) / passed_s, 1) if passed_s > 0 else None,
        "compaction_rate": round((now.compacted - before.compacted) / passed_s) if passed_s > 0 else None,
        "sync_ms": _mean_ms(now.syncs - before.syncs, now.sync_s - before.sync_s) or _mean_ms(now.syncs, now.sync_s),
        "commit_ms": _mean_ms(now.commits - before.commits, now.commit_s - before.commit_s),
        "peers": [
            {
                "name": peer.name,
                "match": peer.match_index,
                "state": peer.state,
                "heard_ms": peer.heard_ms,
                "round_trip_ms": round_trip(peer.name),
            }
            for peer in peers
        ],
    }
