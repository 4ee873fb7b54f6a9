"""Every metric of the facade by name in one place; docs/metrics.md explains them.

Must not know what the figures mean for anybody. Label children are resolved once and kept, because looking one up
costs more than counting does; what is merely a state is set when somebody reads it. A route is its template and never
a path: a key must not become a label.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from doug_wire import native
from facade import __version__
from facade.client.places import Bytes, Places
from facade.client.watches.metrics import WatchMetrics

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

KEY_ROUTE = "/v1/kv/{key}"
RANGE_ROUTE = "/v1/kv"
UNMATCHED = "unmatched"
"""The route of a request that no route serves."""

HEDGE_OUTCOMES = ("sent", "won", "over_budget")

RETRY_REASONS = (
    *("no_leader", "superseded", "overloaded", "disk_full", "unavailable", "not_fresh_enough", "wrong_shard", "silent"),
    *("stream_broken", "unanswered"),
)


class Totals(NamedTuple):
    """The answers to requests of keys since the start.

    Attributes:
        requests: The number of requests.
        errors: The number of those that were answered with 5xx.
        buckets: The numbers of requests by duration, as ``LATENCY_BUCKETS_S`` has it; the last one has no bound.
    """

    requests: int
    errors: int
    buckets: Sequence[int]


class ShardState(NamedTuple):
    """The figures of a shard that are read when Prometheus asks for the metrics."""

    items: int
    size: int
    reachable: bool
    leader_age_s: float | None


class Metrics:
    """The metrics of one facade, in a registry of their own.

    Attributes:
        watches: The metrics of watches.
        inflight: Requests that are being answered; a plain number, because every request changes it twice.
        places: The bounds of how many scans, watches and long polls a client has, and of the bytes of its batches.
        loop_lag_s: How late the last timer of the event loop was.
        certificate_ends_s: Gives when the certificate in use ends, in seconds since the epoch; None without one.
    """

    def __init__(self, commit: str = "") -> None:
        """Makes the metrics; ``commit`` is the commit that was built, empty when it is not known."""
        self.registry = CollectorRegistry()
        self.inflight = 0
        self.places: list[Places | Bytes] = []
        self.loop_lag_s = 0.0
        self.certificate_ends_s: Callable[[], float] | None = None
        # Without a second series for each counter that nobody reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=self.registry)
        Gauge("dougdb_build_info", "The version that runs", ("version", "commit"), registry=self.registry).labels(
            __version__, commit
        ).set(1)
        Gauge("dougdb_native_modules", "How many of its modules run as native code", registry=self.registry).set(
            native.modules()
        )
        self.event_loop_lag = Gauge(
            "dougdb_event_loop_lag_seconds", "How late the last timer of the event loop was", registry=self.registry
        )
        self.watches = WatchMetrics(self.registry)
        self._register_requests()
        self._register_front()
        self._register_shards()
        self._register_map()
        self._rendering = asyncio.Lock()
        self._batch_children: dict[str, Histogram] = {}
        self._upstream_children: dict[tuple[int, str], Histogram] = {}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _register_requests(self) -> None:
        self._answered = _Requests()
        self.registry.register(self._answered)
        self._inflight = self._gauge("dougdb_facade_inflight_requests", "Requests that are being answered")
        self._batch_items = Histogram(
            "dougdb_facade_batch_items",
            "Items in a batch sent to a raft-node",
            ("kind",),
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.messages_sent = self._counter("dougdb_facade_messages_sent", "Pipe messages sent to raft-nodes")
        self.spread_reads = self._counter(
            "dougdb_facade_spread_reads", "Linearizable reads that were sent to a follower, because many waited"
        )
        self._hedged = self._counter(
            "dougdb_facade_hedged_reads", "Second copies of eventual reads that took long", "outcome"
        )
        for outcome in HEDGE_OUTCOMES:
            self._hedged.labels(outcome)
        self.messages_received = self._counter(
            "dougdb_facade_messages_received", "Pipe messages received from raft-nodes"
        )
        self._upstream = Histogram(
            "dougdb_facade_upstream_duration_seconds",
            "From sending a batch to the answer of its last item",
            ("shard", "rpc"),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._retries = self._counter(
            "dougdb_facade_retries", "Operations that were sent back and tried again", "reason"
        )
        for reason in RETRY_REASONS:
            self._retries.labels(reason)

    def _register_front(self) -> None:
        self._connections = self._gauge("dougdb_facade_connections", "Connections of clients")
        self._connections_max = self._gauge("dougdb_facade_connections_max", "How many there may be")
        self._connections_refused = self._counter(
            "dougdb_facade_connections_refused", "Connections that were closed because there were too many"
        )
        self._unread = self._gauge("dougdb_facade_unread_bytes", "Bytes of answers that clients have not taken")
        self._unread_refused = self._counter(
            "dougdb_facade_unread_refused", "Reads that were refused because clients leave too much unread"
        )
        self._front_counted = [0, 0]
        self._limited = self._counter(
            "dougdb_facade_limited", "Requests and connections that were refused because of their client's limits",
            "reason",
        )  # fmt: skip
        for reason in ("rate", "share", "connections", "places"):
            self._limited.labels(reason)
        self._turns_waiting = self._gauge("dougdb_facade_turns_waiting", "Operations that wait for their client's turn")
        self._turns_waited = self._counter("dougdb_facade_turns_waited", "Operations that have waited for it")
        self._limited_counted = {"rate": 0, "share": 0, "connections": 0, "places": 0, "waited": 0}

    def quotas(self, requests: int, connections: int) -> None:
        """Sets how many requests and connections the limits of clients refused; called now and then, with totals."""
        self._count_up("rate", self._limited.labels("rate"), requests)
        self._count_up("connections", self._limited.labels("connections"), connections)
        self._count_up("places", self._limited.labels("places"), sum(each.refused for each in self.places))

    def turns(self, waiting: int, waited: int, refused: int) -> None:
        """Sets how many operations wait for their turn; called now and then, with totals."""
        self._turns_waiting.set(waiting)
        self._count_up("waited", self._turns_waited, waited)
        self._count_up("share", self._limited.labels("share"), refused)

    def _count_up(self, what: str, counter: Counter, total: int) -> None:
        counter.inc(total - self._limited_counted[what])
        self._limited_counted[what] = total

    def front(self, connections: int, connections_max: int, refused: int, unread: int, unread_refused: int) -> None:
        """Sets the figures of clients' connections; called now and then, with totals."""
        self._connections.set(connections)
        self._connections_max.set(connections_max)
        self._unread.set(unread)
        for number, (counter, total) in enumerate(
            ((self._connections_refused, refused), (self._unread_refused, unread_refused))
        ):
            counter.inc(total - self._front_counted[number])
            self._front_counted[number] = total

    def _register_shards(self) -> None:
        self._pending_items = self._gauge(
            "dougdb_facade_pending_items", "Operations that wait or are in flight", "shard"
        )
        self._pending_bytes = self._gauge("dougdb_facade_pending_bytes", "Their bytes", "shard")
        self._leader_known = self._gauge("dougdb_facade_leader_known", "1 while the shard's leader is known", "shard")
        self._leader_age = self._gauge(
            "dougdb_facade_leader_cache_age_seconds", "Since when the shard's leader is known", "shard"
        )
        self._reachable = self._gauge(
            "dougdb_facade_shard_reachable", "1 while the shard's leader is connected and answers", "shard"
        )
        self._leader_changes = self._counter("dougdb_facade_leader_changes", "Leaders found", "shard")
        self._redirects = self._counter(
            "dougdb_facade_leader_redirects", "Answers by a node that it does not lead the shard", "shard"
        )

    def _register_map(self) -> None:
        self._map_epoch = self._gauge("dougdb_facade_map_epoch", "Epoch of the partition map")
        self._map_version = self._gauge("dougdb_partition_map_version", "Epoch of the partition map")
        self._map_age = self._gauge(
            "dougdb_partition_map_age_seconds", "Since the partition map was last confirmed by shard 0"
        )
        self._map_updates = self._counter(
            "dougdb_partition_map_updates", "How often a new partition map was taken over", "source"
        )
        self._map_updates.labels("leader")

    def tell_expiry(self, ends_s: Callable[[], float]) -> None:
        """Tells when the certificate in use ends; ``ends_s`` gives the time in seconds since the epoch."""
        self.certificate_ends_s = ends_s
        self._gauge("dougdb_tls_certificate_expiry_timestamp_seconds", "When the certificate in use ends").set_function(
            ends_s
        )

    def request(self, method: str, status: int, consistency: str, seconds: float, route: str = KEY_ROUTE) -> None:
        """Counts one answered request."""
        self._answered.count((route, method, status, consistency), seconds)

    def totals(self) -> Totals:
        """The answers to requests of keys since the start."""
        return self._answered.totals(KEY_ROUTE)

    def loop_late(self, seconds: float) -> None:
        """Notes how late the last timer of the event loop was."""
        self.loop_lag_s = seconds
        self.event_loop_lag.set(seconds)

    def batch(self, kind: str, items: int) -> None:
        """Counts one batch that is sent."""
        child = self._batch_children.get(kind)
        if child is None:
            child = self._batch_children[kind] = self._batch_items.labels(kind)
        child.observe(items)
        self.messages_sent.inc()

    def upstream(self, shard: int, kind: str, seconds: float) -> None:
        """Counts one batch of which every operation was answered."""
        child = self._upstream_children.get((shard, kind))
        if child is None:
            child = self._upstream_children[shard, kind] = self._upstream.labels(str(shard), kind)
        child.observe(seconds)

    def hedged(self, outcome: str) -> None:
        """Counts one copy of a read by its outcome."""
        self._hedged.labels(outcome).inc()

    def retry(self, reason: str) -> None:
        """Counts one operation that was sent back."""
        self._retries.labels(reason).inc()

    def redirected(self, shard: int) -> None:
        """Counts one node that said it does not lead."""
        self._redirects.labels(str(shard)).inc()

    def shard(self, shard: int, state: ShardState) -> None:
        """Sets the gauges of a shard; called when the metrics are read."""
        label = str(shard)
        self._pending_items.labels(label).set(state.items)
        self._pending_bytes.labels(label).set(state.size)
        self._reachable.labels(label).set(1 if state.reachable else 0)
        self._redirects.labels(label)
        if state.leader_age_s is None:
            # Not remove_by_labels, which looks through all shards for each.
            self._leader_age.remove(label)
        else:
            self._leader_age.labels(label).set(state.leader_age_s)

    def leader(self, shard: int, *, known: bool) -> None:
        """Sets whether a shard's leader is known."""
        self._leader_known.labels(str(shard)).set(1 if known else 0)
        if known:
            self._leader_changes.labels(str(shard)).inc()

    def map_loaded(self, epoch: int, *, new: bool) -> None:
        """Notes that shard 0's leader gave its partition map."""
        self._map_epoch.set(epoch)
        self._map_version.set(epoch)
        if new:
            self._map_updates.labels("leader").inc()

    def map_age(self, seconds: float) -> None:
        """Sets how old the map is; called when the metrics are read."""
        self._map_age.set(seconds)

    async def render(self) -> bytes:
        """The text that Prometheus reads; made on a thread, since it takes long with many shards."""
        self._inflight.set(self.inflight)
        self.watches.sample()
        async with self._rendering:
            return await asyncio.to_thread(generate_latest, self.registry)


class _Row:
    """The counts of requests with the same route, method, status and consistency."""

    __slots__ = ("buckets", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(LATENCY_BUCKETS_S) + 1)


class _Requests(Collector):
    """Requests and their latency, in plain numbers: the library's counters cost several times as much for each.

    The latency on the key routes is shown under the name that it had in 0.1, too.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str, int, str], _Row] = {}

    def count(self, key: tuple[str, str, int, str], seconds: float) -> None:
        """Counts a request by its route, method, status and consistency."""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = _Row()
        row.count += 1
        row.seconds += seconds
        row.buckets[bisect_left(LATENCY_BUCKETS_S, seconds)] += 1

    def totals(self, route: str) -> Totals:
        """The sums of one route."""
        rows = [(key[2], row) for key, row in self._rows.items() if key[0] == route]
        buckets = [sum(column) for column in zip(*(row.buckets for _, row in rows), strict=True)]
        return Totals(
            sum(row.count for _, row in rows),
            sum(row.count for status, row in rows if status >= 500),
            buckets or [0] * (len(LATENCY_BUCKETS_S) + 1),
        )

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``; called on a thread, while requests are counted."""
        requests = CounterMetricFamily(
            "dougdb_facade_requests",
            "Requests that were answered",
            labels=("route", "method", "code", "consistency"),
        )
        latency = HistogramMetricFamily(
            "dougdb_facade_request_duration_seconds",
            "Time from head to answer",
            labels=("route", "method", "consistency"),
        )
        old = HistogramMetricFamily(
            "dougdb_facade_request_seconds",
            "The same as dougdb_facade_request_duration_seconds, on the key routes",
            labels=("method", "consistency"),
        )
        merged: dict[tuple[str, str, str], _Row] = {}
        for (route, method, status, consistency), row in self._rows.copy().items():
            requests.add_metric((route, method, str(status), consistency), row.count)
            whole = merged.setdefault((route, method, consistency), _Row())
            whole.seconds += row.seconds
            whole.buckets = [one + other for one, other in zip(whole.buckets, row.buckets, strict=True)]
        for labels, row in merged.items():
            bounds = [*map(floatToGoString, LATENCY_BUCKETS_S), "+Inf"]
            buckets = [*zip(bounds, accumulate(row.buckets), strict=True)]
            latency.add_metric(labels, buckets, row.seconds)
            if labels[0] == KEY_ROUTE:
                old.add_metric(labels[1:], buckets, row.seconds)
        yield requests
        yield latency
        yield old
