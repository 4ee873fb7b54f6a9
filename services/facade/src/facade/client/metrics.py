"""Every metric of the facade, ``dougdb_facade_*``, by name in one place.

Must not know what the figures mean for anybody. Label children are resolved once and kept, because looking one up
costs more than counting does.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one facade, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "dougdb_facade_requests",
            "Requests on the key routes",
            ("method", "status", "consistency"),
            registry=self.registry,
        )
        self._latency = Histogram(
            "dougdb_facade_request_seconds",
            "Time from head to answer on the key routes",
            ("method", "consistency"),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._batch_items = Histogram(
            "dougdb_facade_batch_items",
            "Items in a batch sent to a raft-node",
            ("kind",),
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.messages_sent = Counter(
            "dougdb_facade_messages_sent", "Pipe messages sent to raft-nodes", registry=self.registry
        )
        self.messages_received = Counter(
            "dougdb_facade_messages_received", "Pipe messages received from raft-nodes", registry=self.registry
        )
        self._retries = Counter(
            "dougdb_facade_retries",
            "Operations that were sent back and tried again",
            ("reason",),
            registry=self.registry,
        )
        self._pending_items = Gauge(
            "dougdb_facade_pending_items", "Operations that wait or are in flight", ("shard",), registry=self.registry
        )
        self._pending_bytes = Gauge("dougdb_facade_pending_bytes", "Their bytes", ("shard",), registry=self.registry)
        self._leader_known = Gauge(
            "dougdb_facade_leader_known", "1 while the shard's leader is known", ("shard",), registry=self.registry
        )
        self._leader_changes = Counter(
            "dougdb_facade_leader_changes", "Leaders found", ("shard",), registry=self.registry
        )
        self.map_epoch = Gauge("dougdb_facade_map_epoch", "Epoch of the partition map", registry=self.registry)
        self._request_children: dict[tuple[str, int, str], tuple[Counter, Histogram]] = {}
        self._batch_children: dict[str, Histogram] = {}

    def request(self, method: str, status: int, consistency: str, seconds: float) -> None:
        """Counts one answered request."""
        children = self._request_children.get((method, status, consistency))
        if children is None:
            children = (
                self._requests.labels(method, str(status), consistency),
                self._latency.labels(method, consistency),
            )
            self._request_children[method, status, consistency] = children
        children[0].inc()
        children[1].observe(seconds)

    def batch(self, kind: str, items: int) -> None:
        """Counts one batch that is sent."""
        child = self._batch_children.get(kind)
        if child is None:
            child = self._batch_children[kind] = self._batch_items.labels(kind)
        child.observe(items)
        self.messages_sent.inc()

    def retry(self, reason: str) -> None:
        """Counts one operation that was sent back."""
        self._retries.labels(reason).inc()

    def pending(self, shard: int, items: int, size: int) -> None:
        """Sets what a shard's queue holds; called when the metrics are read."""
        self._pending_items.labels(str(shard)).set(items)
        self._pending_bytes.labels(str(shard)).set(size)

    def leader(self, shard: int, *, known: bool) -> None:
        """Sets whether a shard's leader is known."""
        self._leader_known.labels(str(shard)).set(1 if known else 0)
        if known:
            self._leader_changes.labels(str(shard)).inc()

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
