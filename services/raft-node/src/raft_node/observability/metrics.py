"""All metric names of a node, in one place (label ``shard``; never a key in a label).

What changes with every batch is counted here; what is merely a state (term, indexes, sizes) is read from the node when
Prometheus asks, by ``StateCollector``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from raft_node import __version__

_FSYNC_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_STATES = ("leader", "follower", "candidate", "pre-candidate", "learner")


class NodeState(NamedTuple):
    """What ``StateCollector`` reads at a scrape."""

    role: str
    term: int
    commit_index: int
    applied_index: int
    last_log_index: int
    first_log_index: int
    has_leader: bool
    members: int
    proposals_pending: int
    peers: dict[str, int]
    wal_bytes: int
    wal_disk_bytes: int
    wal_syncs: int
    memtable_bytes: int
    tables: dict[int, tuple[int, int]]
    block_cache_hits: int
    block_cache_misses: int
    flushes: int
    compactions: int
    stalled: bool
    restoring: bool


class Metrics:
    """The counters and histograms of one node, in a registry of their own."""

    def __init__(self, shard: int) -> None:
        """Registers every metric.

        Args:
            shard: The shard's number, the constant label of all of them.
        """
        self.registry = CollectorRegistry()
        self.shard = str(shard)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ("shard", *labels), registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, ("shard",), buckets=buckets, registry=self.registry).labels(self.shard)

        self.grpc_messages_received = counter(
            "dougdb_grpc_messages_received", "gRPC messages that this node received", "service", "method"
        )
        self.grpc_messages_sent = counter(
            "dougdb_grpc_messages_sent", "gRPC messages that this node sent", "service", "method"
        )
        self.proposals_committed = counter(
            "dougdb_raft_proposals_committed", "Proposals of this leader that were committed"
        ).labels(self.shard)
        self.entries_applied = counter("dougdb_raft_proposals_applied", "Log entries that were applied").labels(
            self.shard
        )
        self.proposals_failed = counter(
            "dougdb_raft_proposals_failed", "Proposals that were refused or whose outcome is unknown", "reason"
        )
        self.leader_changes = counter("dougdb_raft_leader_changes", "How often this node saw a new leader").labels(
            self.shard
        )
        self.elections = counter("dougdb_raft_elections", "Elections that this node started", "outcome")
        self.messages_dropped = counter(
            "dougdb_raft_messages_dropped", "Raft messages that were not for this node, or could not be sent", "reason"
        )
        self.read_index = counter("dougdb_raft_read_index", "Rounds of reads that asked for a quorum", "outcome")
        self.wal_fsync = histogram(
            "dougdb_wal_append_duration_seconds", "Writing and syncing one append to the log", _FSYNC_BUCKETS
        )
        self.wal_group_commit = histogram(
            "dougdb_wal_group_commit_size", "Entries that became durable in one sync", _SIZE_BUCKETS
        )
        self.apply_batch = histogram("dougdb_raft_apply_batch_size", "Entries applied in one go", _SIZE_BUCKETS)
        self.flush_duration = histogram(
            "dougdb_flush_duration_seconds",
            "Writing one memtable as an SSTable",
            (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
        )
        self.compaction_duration = histogram(
            "dougdb_compaction_duration_seconds", "One compaction", (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120)
        )
        self.snapshots = counter(
            "dougdb_snapshot_transfers", "Snapshots sent to peers and received from them, by what came of it", "outcome"
        )
        self.snapshot_bytes = counter(
            "dougdb_snapshot_bytes", "Bytes of snapshots that went over the network", "direction"
        )
        self.snapshot_damages = counter(
            "dougdb_snapshot_damages", "Damaged chunks, files and whole snapshots that were refused", "what"
        )
        self.log_compactions = counter("dougdb_log_compactions", "How often the log's beginning was dropped").labels(
            self.shard
        )
        self.event_loop_lag = Gauge(
            "dougdb_event_loop_lag_seconds",
            "How late the last timer of the event loop was",
            ("shard",),
            registry=self.registry,
        ).labels(self.shard)
        Gauge("dougdb_build_info", "The version that runs", ("version",), registry=self.registry).labels(
            __version__
        ).set(1)

    def received(self, service: str, method: str) -> Counter:
        """The child that counts received messages of one method; callers keep it."""
        return self.grpc_messages_received.labels(self.shard, service, method)

    def sent(self, service: str, method: str) -> Counter:
        """The child that counts sent messages of one method; callers keep it."""
        return self.grpc_messages_sent.labels(self.shard, service, method)


class StateCollector(Collector):
    """Reads a node's state when Prometheus asks."""

    def __init__(self, shard: int, read: Callable[[], NodeState | None]) -> None:
        """Args are the shard's number, and what gives the state: None while the node is starting."""
        self._shard = str(shard)
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yields every gauge."""
        state = self._read()
        if state is None:
            return
        plain = {
            "dougdb_raft_term": ("The current term", state.term),
            "dougdb_raft_commit_index": ("The highest index known to be committed", state.commit_index),
            "dougdb_raft_applied_index": ("The last index that was applied", state.applied_index),
            "dougdb_raft_last_log_index": ("The last index of the log", state.last_log_index),
            "dougdb_raft_first_log_index": ("The first index that the log still holds", state.first_log_index),
            "dougdb_raft_is_leader": ("1 on the leader", int(state.role == "leader")),
            "dougdb_raft_has_leader": ("1 while a leader is known", int(state.has_leader)),
            "dougdb_raft_proposals_pending": ("Proposals without a result", state.proposals_pending),
            "dougdb_memtable_bytes": ("Memory of the memtables", state.memtable_bytes),
            "dougdb_wal_disk_bytes": ("What the files of the log take", state.wal_disk_bytes),
            "dougdb_snapshot_installing": ("1 while a snapshot takes the place of the state", int(state.restoring)),
            "dougdb_write_stalled": ("1 while applying waits for a flush or a compaction", int(state.stalled)),
        }
        for name, (text, value) in plain.items():
            yield self._gauge(name, text, [((), value)])
        yield self._gauge(
            "dougdb_raft_state",
            "1 for the role this node has",
            [((s,), int(s == state.role)) for s in _STATES],
            "state",
        )
        yield self._gauge("dougdb_raft_members", "Voters of the configuration", [(("voter",), state.members)], "role")
        yield self._gauge(
            "dougdb_raft_peer_match_index",
            "What the leader knows each follower to hold",
            [((peer,), index) for peer, index in state.peers.items()],
            "peer",
        )
        levels = sorted(state.tables.items())
        yield self._gauge(
            "dougdb_sstable_count", "SSTables of a level", [((str(n),), files) for n, (files, _) in levels], "level"
        )
        yield self._gauge(
            "dougdb_sstable_bytes", "Bytes of a level", [((str(n),), size) for n, (_, size) in levels], "level"
        )
        yield self._counter("dougdb_wal_bytes", "Bytes written to the log", [((), state.wal_bytes)])
        yield self._counter("dougdb_wal_fsyncs", "Syncs of the log", [((), state.wal_syncs)])
        yield self._counter("dougdb_flush", "Memtables written as SSTables", [((), state.flushes)])
        yield self._counter("dougdb_compaction", "Compactions done", [((), state.compactions)])
        yield self._counter(
            "dougdb_block_cache_requests",
            "Look-ups of a decoded block",
            [(("hit",), state.block_cache_hits), (("miss",), state.block_cache_misses)],
            "outcome",
        )

    def _gauge(self, name: str, text: str, rows: list[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("shard", *labels))
        for values, value in rows:
            family.add_metric((self._shard, *values), value)
        return family

    def _counter(self, name: str, text: str, rows: list[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
        family = CounterMetricFamily(name, text, labels=("shard", *labels))
        for values, value in rows:
            family.add_metric((self._shard, *values), value)
        return family
