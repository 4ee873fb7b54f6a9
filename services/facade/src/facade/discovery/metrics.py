"""The metrics of discovery, ``dougdb_discovery_*``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class DiscoveryMetrics:
    """How discovery fares. Sources: ``dns`` and ``kubernetes``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "dougdb_discovery_events", "Changes that were heard of", ("source", "type"), registry=registry
        )
        self._relists = Counter(
            "dougdb_discovery_relists", "Full lists that were asked for", ("reason",), registry=registry
        )
        self._failures = Counter(
            "dougdb_discovery_failures", "Questions without an answer", ("source", "reason"), registry=registry
        )
        self._success = Gauge(
            "dougdb_discovery_last_success_timestamp_seconds",
            "When the source last answered; 0 for never",
            ("source",),
            registry=registry,
        )

    def event(self, source: str, kind: str, number: int = 1) -> None:
        """Counts what changed: ``added``, ``changed``, ``removed``."""
        if number:
            self._events.labels(source, kind).inc(number)

    def relist(self, reason: str) -> None:
        """Counts a full list: ``start``, or ``expired`` after the API server had forgotten our version."""
        self._relists.labels(reason).inc()

    def failed(self, source: str, reason: str) -> None:
        """Counts a question without an answer."""
        self._failures.labels(source, reason).inc()

    def succeeded(self, source: str) -> None:
        """The source answered just now."""
        self._success.labels(source).set_to_current_time()
