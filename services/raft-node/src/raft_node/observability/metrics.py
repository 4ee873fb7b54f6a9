"""All metric names of a node, in one place (label ``shard``; never a key in a label). docs/metrics.md explains them.

What changes with every batch is counted here; what is merely a state (term, indexes, sizes) is read from the node when
Prometheus asks, by ``StateCollector``. Nothing is counted for a single operation: one figure for a batch is cheap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from doug_wire import native
from raft_node import __version__

_APPEND_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_FSYNC_BUCKETS = tuple(0.0005 * 2**step for step in range(15))
"""Buckets from 0.5 ms to 8 s, each the double of the one before."""
_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_APPLY_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_LAG_BUCKETS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.0175, 0.02, 0.025, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.25, 0.5, 1.0),
)
"""Buckets that are fine around 20 ms, by which `make bench-stall` judges."""
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_APPEND = "append_entries"
_SNAPSHOT_OPS = ("create", "send", "install")
_STATES = ("leader", "follower", "candidate", "pre-candidate", "learner")


def _message_type(method: str) -> str:
    """The type of message that a method of the Raft service carries: ``request_vote``."""
    return _APPEND if method == "Replicate" else re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()


def total_of(histogram: Histogram) -> tuple[int, float]:
    """The count and the sum of the values of a histogram without labels, or of a child of one."""
    samples = {
        sample.name.rpartition("_")[2]: sample.value for family in histogram.collect() for sample in family.samples
    }
    return int(samples["count"]), samples["sum"]


def value_of(counter: Counter) -> float:
    """The value of a counter without labels, or of a child of one."""
    return next(sample.value for family in counter.collect() for sample in family.samples)


class NodeState(NamedTuple):
    """The figures that ``StateCollector`` reads at a scrape."""

    role: str
    term: int
    commit_index: int
    leader_commit_index: int
    lease_held: bool
    applied_index: int
    last_log_index: int
    first_log_index: int
    has_leader: bool
    members: int
    learners: int
    proposals_pending: int
    peers: dict[str, int]
    messages_sent: dict[str, float]
    wal_bytes: int
    wal_syncs: int
    wal_size_bytes: int
    wal_replay_s: float
    memtable_bytes: int
    immutable_bytes: int
    tables: dict[int, tuple[int, int]]
    table_memory_bytes: int
    open_tables: int
    table_opens: int
    block_cache_bytes: int
    block_cache_hits: int
    block_cache_misses: int
    filter_negatives: int
    filter_false_positives: int
    flushes: int
    flushed_bytes: int
    compactions: int
    compacted_read_bytes: int
    compacted_written_bytes: int
    compaction_pending_bytes: int
    stalled: bool
    restoring: bool
    idempotency_keys: int
    idempotency_bytes: int
    stalled_s: float
    volumes: dict[str, tuple[int, int]]
    disk_low: bool


class Metrics:
    """The counters and histograms of one node, in a registry of their own."""

    def __init__(self, shard: int, commit: str = "") -> None:
        """Registers every metric.

        Args:
            shard: The shard's number, the constant label of all metrics.
            commit: The commit that was built; empty if it is not known.
        """
        self.registry = CollectorRegistry()
        self.shard = str(shard)
        # Without a second series for each counter that nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=self.registry)
        Gauge("dougdb_build_info", "The version that runs", ("version", "commit"), registry=self.registry).labels(
            __version__, commit
        ).set(1)
        Gauge("dougdb_native_modules", "How many of its modules run as native code", registry=self.registry).set(
            native.modules()
        )
        self._register_grpc()
        self._register_raft()
        self._register_storage()
        self._register_snapshots()
        self.event_loop_lag = Gauge(
            "dougdb_event_loop_lag_seconds",
            "How late the last timer of the event loop was",
            ("shard",),
            registry=self.registry,
        ).labels(self.shard)
        self.log_clock_ahead = Gauge(
            "dougdb_log_clock_ahead_seconds",
            "By how much the log was ahead of this leader's clock when it was elected",
            ("shard",),
            registry=self.registry,
        ).labels(self.shard)
        self.event_loop_lags = self._histogram(
            "dougdb_event_loop_timer_lag_seconds", "How late each timer of the event loop was", _LAG_BUCKETS
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ("shard", *labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("shard",), buckets=buckets, registry=self.registry).labels(self.shard)

    def _outcomes(self, counter: Counter, *values: str) -> dict[str, Counter]:
        """The children of a counter by its one label, there from the start: a rate needs the zero before the one."""
        return {value: counter.labels(self.shard, value) for value in values}

    def _register_grpc(self) -> None:
        self.grpc_messages_received = self._counter(
            "dougdb_grpc_messages_received", "gRPC messages that this node received", "service", "method"
        )
        self.grpc_messages_sent = self._counter(
            "dougdb_grpc_messages_sent", "gRPC messages that this node sent", "service", "method"
        )
        self.calls_limited = self._outcomes(
            self._counter("dougdb_calls_limited", "Calls refused because of their client's limits", "reason"),
            *("rate", "share"),
        )
        call = ("grpc_type", "grpc_service", "grpc_method")
        self.grpc_started = self._counter("grpc_server_started", "Calls that began", *call)
        self.grpc_handled = self._counter("grpc_server_handled", "Calls that ended, by status", *call, "grpc_code")
        self.grpc_handling = Histogram(
            "grpc_server_handling_seconds",
            "Time that unary calls took",
            ("shard", *call),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )

    def _register_raft(self) -> None:
        counter, histogram = self._counter, self._histogram
        self.proposals_committed = counter(
            "dougdb_raft_proposals_committed", "Proposals of this leader that were committed"
        ).labels(self.shard)
        self.entries_applied = counter("dougdb_raft_proposals_applied", "Log entries that were applied").labels(
            self.shard
        )
        self.proposals_failed = counter(
            "dougdb_raft_proposals_failed", "Proposals that were refused or whose outcome is unknown", "reason"
        )
        self._outcomes(self.proposals_failed, "not_leader", "overloaded", "disk_full", "timeout")
        self.leader_changes = counter("dougdb_raft_leader_changes", "How often this node saw a new leader").labels(
            self.shard
        )
        self.elections = counter("dougdb_raft_elections", "Elections that this node started", "outcome")
        self._outcomes(self.elections, "started", "won")
        self.state_divergence = counter(
            "dougdb_state_divergence", "How often this replica's state differed from its leader's"
        ).labels(self.shard)
        self.heartbeats_late = counter(
            "dougdb_raft_heartbeat_late", "How often a leader woke up too late to send its heartbeats in time"
        ).labels(self.shard)
        self.messages_dropped = counter(
            "dougdb_raft_messages_dropped", "Raft messages that were not for this node, or could not be sent", "reason"
        )
        dropped = ("not_for_me", "malformed", "unknown_peer", "vote_failed", "timeout_now_failed")
        self._outcomes(self.messages_dropped, *dropped)
        self.read_index = counter("dougdb_raft_read_index", "Rounds of reads that asked for a quorum", "outcome")
        rounds = self._outcomes(self.read_index, "confirmed", "failed")
        self.read_index_confirmed, self.read_index_failed = rounds["confirmed"], rounds["failed"]
        self.read_index_duration = histogram(
            "dougdb_raft_read_index_duration_seconds", "Until a quorum had confirmed a round of reads", _LATENCY_BUCKETS
        )
        self._transfers = self._outcomes(
            counter("dougdb_raft_leader_transfers", "Attempts of this leader to hand over", "outcome"),
            *("done", "failed", "refused"),
        )
        self.commit_duration = histogram(
            "dougdb_raft_commit_duration_seconds", "From proposing a batch to its commit", _LATENCY_BUCKETS
        )
        self.apply_duration = histogram(
            "dougdb_raft_apply_duration_seconds", "Applying committed entries in one go", _APPLY_BUCKETS
        )
        self.apply_batch = histogram("dougdb_raft_apply_batch_size", "Entries applied in one go", _SIZE_BUCKETS)
        self._peer_round_trips = Histogram(
            "dougdb_raft_peer_rtt_seconds",
            "From a heartbeat of this leader to its answer, a sample",
            ("shard", "peer"),
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )

    def _register_storage(self) -> None:
        histogram = self._histogram
        self.wal_append = histogram(
            "dougdb_wal_append_duration_seconds", "Writing and syncing one append to the log", _APPEND_BUCKETS
        )
        self.wal_fsync = histogram("dougdb_wal_fsync_duration_seconds", "Syncing one append to the log", _FSYNC_BUCKETS)
        self.wal_group_commit = histogram(
            "dougdb_wal_group_commit_size", "Entries that became durable in one sync", _SIZE_BUCKETS
        )
        counter = self._counter
        self.wal_corrupt_records = counter(
            "dougdb_wal_corrupt_records", "What the start had to mend at the end of the log"
        ).labels(self.shard)
        self.scrub_bytes = counter("dougdb_scrub_bytes", "Bytes of SSTables whose checksums were checked").labels(
            self.shard
        )
        self.scrub_rounds = counter("dougdb_scrub_rounds", "How often all SSTables were checked").labels(self.shard)
        self.scrub_damages = counter("dougdb_scrub_damages", "Damaged SSTables that were found, each time").labels(
            self.shard
        )
        self.scrub_damaged_tables = Gauge(
            "dougdb_scrub_damaged_tables",
            "SSTables that the last round found damaged",
            ("shard",),
            registry=self.registry,
        ).labels(self.shard)
        self.flush_duration = histogram(
            "dougdb_flush_duration_seconds",
            "Writing one memtable as an SSTable",
            (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30),
        )
        self.compaction_duration = histogram(
            "dougdb_compaction_duration_seconds", "One compaction", (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120)
        )

    def _register_snapshots(self) -> None:
        counter = self._counter
        self.snapshots = counter(
            "dougdb_snapshot_transfers", "Snapshots sent to peers and received from them, by what came of it", "outcome"
        )
        self._outcomes(self.snapshots, "sent", "failed", "installed", "refused")
        self.snapshot_bytes = counter(
            "dougdb_snapshot_bytes", "Bytes of snapshots that went over the network", "direction"
        )
        self._outcomes(self.snapshot_bytes, "sent", "received")
        self.snapshot_duration = Histogram(
            "dougdb_snapshot_duration_seconds",
            "Making, sending or installing one snapshot",
            ("shard", "op"),
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120, 600),
            registry=self.registry,
        )
        self._snapshot_durations = {op: self.snapshot_duration.labels(self.shard, op) for op in _SNAPSHOT_OPS}
        self.snapshot_size = Gauge(
            "dougdb_snapshot_size_bytes",
            "The size of the last snapshot that was made, sent or installed",
            ("shard",),
            registry=self.registry,
        ).labels(self.shard)
        self.snapshot_damages = counter(
            "dougdb_snapshot_damages", "Damaged chunks, files and whole snapshots that were refused", "what"
        )
        self._outcomes(self.snapshot_damages, "chunk", "file", "snapshot")
        self.log_compactions = counter("dougdb_log_compactions", "How often the log's beginning was dropped").labels(
            self.shard
        )

    def snapshot_done(self, op: str, duration_s: float, size_bytes: int) -> None:
        """Counts one snapshot: ``op`` is ``create``, ``send`` or ``install``."""
        self._snapshot_durations[op].observe(duration_s)
        self.snapshot_size.set(size_bytes)

    def raft_messages_sent(self) -> dict[str, float]:
        """How many messages were sent to peers, by type, over streams and unary calls."""
        samples = [sample for family in self.grpc_messages_sent.collect() for sample in family.samples]
        return {
            _message_type(sample.labels["method"]): sample.value
            for sample in samples
            if sample.name.endswith("_total") and sample.labels["service"] == "Raft"
        }

    def transferred(self, outcome: str) -> None:
        """Counts one attempt to hand leadership over: ``done``, ``failed`` or ``refused``."""
        self._transfers[outcome].inc()

    def peer_round_trip(self, peer: str) -> Histogram:
        """The child that takes the round trips to one peer; callers keep it."""
        return self._peer_round_trips.labels(self.shard, peer)

    def peer_round_trips(self) -> dict[str, tuple[int, float]]:
        """By peer: how many round trips there were, and how long they took."""
        found: dict[str, dict[str, float]] = {}
        for sample in (sample for family in self._peer_round_trips.collect() for sample in family.samples):
            found.setdefault(sample.labels["peer"], {})[sample.name.rpartition("_")[2]] = sample.value
        return {peer: (int(each["count"]), each["sum"]) for peer, each in found.items()}

    def received(self, service: str, method: str) -> Counter:
        """The child that counts received messages of one method; callers keep it."""
        return self.grpc_messages_received.labels(self.shard, service, method)

    def sent(self, service: str, method: str) -> Counter:
        """The child that counts sent messages of one method; callers keep it."""
        return self.grpc_messages_sent.labels(self.shard, service, method)


class StateCollector(Collector):
    """Reads a node's state when Prometheus asks."""

    def __init__(self, shard: int, read: Callable[[], NodeState | None]) -> None:
        """Takes the shard's number, and a function that gives the state, or None while the node is starting."""
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
            "dougdb_raft_leader_commit_index": (
                "The highest commit index that a leader told",
                state.leader_commit_index,
            ),
            "dougdb_raft_snapshot_index": ("The last index that the log holds no more", state.first_log_index - 1),
            "dougdb_raft_lease_valid": ("1 while this leader's lease makes rounds needless", int(state.lease_held)),
            "dougdb_raft_applied_index": ("The last index that was applied", state.applied_index),
            "dougdb_raft_last_log_index": ("The last index of the log", state.last_log_index),
            "dougdb_raft_first_log_index": ("The first index that the log still holds", state.first_log_index),
            "dougdb_raft_is_leader": ("1 on the leader", int(state.role == "leader")),
            "dougdb_raft_has_leader": ("1 while a leader is known", int(state.has_leader)),
            "dougdb_raft_proposals_pending": ("Proposals without a result", state.proposals_pending),
            "dougdb_snapshot_installing": ("1 while a snapshot takes the place of the state", int(state.restoring)),
            "dougdb_idempotency_keys": ("Idempotency keys that are kept", state.idempotency_keys),
            "dougdb_idempotency_bytes": ("What they take with their results", state.idempotency_bytes),
            "dougdb_wal_size_bytes": ("What the files of the log take", state.wal_size_bytes),
            "dougdb_wal_replay_duration_seconds": ("Reading the log at the start", state.wal_replay_s),
            "dougdb_sstable_memory_bytes": ("Memory of indexes and filters, about", state.table_memory_bytes),
            "dougdb_sstable_open_files": ("SSTables that are kept open", state.open_tables),
            "dougdb_block_cache_bytes": ("Memory of the decoded blocks", state.block_cache_bytes),
            "dougdb_compaction_pending_bytes": ("What waits for a compaction", state.compaction_pending_bytes),
            "dougdb_disk_low": ("1 while writes are refused for want of space", int(state.disk_low)),
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
        yield self._gauge(
            "dougdb_raft_members",
            "Members of the configuration",
            [(("voter",), state.members), (("learner",), state.learners)],
            "role",
        )
        yield self._gauge(
            "dougdb_raft_peer_match_index",
            "What the leader knows each follower to hold",
            [((peer,), index) for peer, index in state.peers.items()],
            "peer",
        )
        yield self._counter(
            "dougdb_raft_messages_sent",
            "Raft messages that this node sent, questions and answers",
            [((kind,), count) for kind, count in state.messages_sent.items()],
            "type",
        )
        yield from self._storage(state)

    def _storage(self, state: NodeState) -> Iterator[Metric]:
        levels = sorted(state.tables.items())
        yield self._gauge(
            "dougdb_sstable_count", "SSTables of a level", [((str(n),), files) for n, (files, _) in levels], "level"
        )
        yield self._gauge(
            "dougdb_sstable_bytes", "Bytes of a level", [((str(n),), size) for n, (_, size) in levels], "level"
        )
        yield self._gauge(
            "dougdb_memtable_bytes",
            "Memory of the memtables",
            [(("active",), state.memtable_bytes), (("immutable",), state.immutable_bytes)],
            "state",
        )
        for name, text, place in (
            ("dougdb_disk_total_bytes", "The size of a volume", 0),
            ("dougdb_disk_free_bytes", "What is free on a volume", 1),
        ):
            rows = [((volume,), space[place]) for volume, space in state.volumes.items()]
            yield self._gauge(name, text, [*rows], "volume")
        plain = {
            "dougdb_wal_bytes": ("Bytes written to the log", state.wal_bytes),
            "dougdb_wal_fsyncs": ("Syncs of the log", state.wal_syncs),
            "dougdb_flush": ("Memtables written as SSTables", state.flushes),
            "dougdb_flush_bytes": ("Bytes that flushes wrote", state.flushed_bytes),
            "dougdb_compaction": ("Compactions done", state.compactions),
            "dougdb_sstable_opens": ("SSTables opened again for a read", state.table_opens),
            "dougdb_write_stall_seconds": ("Time that applying waited for flushes and compactions", state.stalled_s),
        }
        for name, (text, value) in plain.items():
            yield self._counter(name, text, [((), value)])
        yield self._counter(
            "dougdb_compaction_bytes",
            "Bytes that compactions read and wrote",
            [(("read",), state.compacted_read_bytes), (("written",), state.compacted_written_bytes)],
            "direction",
        )
        yield self._counter(
            "dougdb_block_cache_requests",
            "Look-ups of a decoded block",
            [(("hit",), state.block_cache_hits), (("miss",), state.block_cache_misses)],
            "outcome",
        )
        # Every filter that said "perhaps" led to one look into the cache.
        perhaps, in_vain = state.block_cache_hits + state.block_cache_misses, state.filter_false_positives
        yield self._counter(
            "dougdb_bloom_checks",
            "Questions to Bloom filters",
            [
                (("negative",), state.filter_negatives),
                (("false_positive",), in_vain),
                (("positive",), max(0, perhaps - in_vain)),
            ],
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
