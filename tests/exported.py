"""What both services export: every metric family with its type and labels, without a process being started."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge

from facade.app.audit import Audit
from facade.client import metrics as facade_metrics
from facade.client.access import NOBODY
from facade.discovery.metrics import DiscoveryMetrics
from raft_node.observability.metrics import Metrics, NodeState, StateCollector

STATE = NodeState(
    role="leader",
    term=1,
    commit_index=1,
    leader_commit_index=1,
    lease_held=False,
    applied_index=1,
    last_log_index=1,
    first_log_index=1,
    has_leader=True,
    members=3,
    learners=0,
    proposals_pending=0,
    peers={"b": 1},
    messages_sent={"heartbeat": 1},
    wal_bytes=1,
    wal_syncs=1,
    wal_size_bytes=1,
    wal_replay_s=0.1,
    memtable_bytes=1,
    immutable_bytes=1,
    tables={0: (1, 1)},
    table_memory_bytes=1,
    open_tables=1,
    table_opens=1,
    block_cache_bytes=1,
    block_cache_hits=1,
    block_cache_misses=1,
    filter_negatives=1,
    filter_false_positives=1,
    flushes=1,
    flushed_bytes=1,
    compactions=1,
    compacted_read_bytes=1,
    compacted_written_bytes=1,
    compaction_pending_bytes=1,
    stalled=False,
    restoring=False,
    idempotency_keys=1,
    idempotency_bytes=1,
    stalled_s=0.0,
    volumes={"wal": (2, 1)},
    disk_low=False,
)


class Exported(NamedTuple):
    """One metric as Prometheus shows it."""

    name: str
    type: str
    labels: frozenset[str]


def node_registry() -> CollectorRegistry:
    """The registry of a node that has done everything once."""
    metrics = Metrics(0)
    metrics.registry.register(StateCollector(0, lambda: STATE))
    metrics.received("Raft", "Heartbeat").inc()
    metrics.sent("Raft", "Heartbeat").inc()
    metrics.peer_round_trip("b").observe(0.1)
    call = ("0", "unary", "doug.v1.Doug", "Get")
    metrics.grpc_started.labels(*call).inc()
    metrics.grpc_handled.labels(*call, "OK").inc()
    metrics.grpc_handling.labels(*call).observe(0.1)
    # Registered only once there is a certificate.
    Gauge("dougdb_tls_certificate_expiry_timestamp_seconds", "When it ends", registry=metrics.registry).set(1)
    return metrics.registry


def facade_registry() -> CollectorRegistry:
    """The registry of a facade that has done everything once."""
    metrics = facade_metrics.Metrics()
    metrics.request("GET", 200, "linearizable", 0.1)
    metrics.batch("write", 1)
    metrics.upstream(0, "write", 0.1)
    metrics.retry("no_leader")
    metrics.leader(0, known=True)
    metrics.shard(0, facade_metrics.ShardState(0, 0, True, 1.0))
    metrics.map_loaded(1, new=True)
    metrics.watches.lags = lambda: {0: 1}
    metrics.watches.sample()
    # Registered where clients have to say who they are.
    Audit("", metrics.registry).acted(NOBODY, {"path": "/v1/members"}, 200)
    discovery = DiscoveryMetrics(metrics.registry)
    discovery.event("dns", "added")
    discovery.relist("start")
    discovery.failed("dns", "timeout")
    discovery.succeeded("dns")
    metrics.tell_expiry(lambda: 1.0)
    return metrics.registry


def exported(registry: CollectorRegistry) -> list[Exported]:
    """Every family of a registry by the name that a query uses."""
    found = []
    for family in registry.collect():
        labels = {label for sample in family.samples for label in sample.labels}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append(Exported(name, family.type, frozenset(labels - {"le"})))
    return sorted(found)


def series(registry: CollectorRegistry) -> set[str]:
    """Every name that an expression may ask for: those of samples, such as ``..._bucket``."""
    return {sample.name for family in registry.collect() for sample in family.samples}
