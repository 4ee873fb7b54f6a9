"""The metrics of watches: how many there are, how much they were sent, and how far behind they are.

Plain numbers that others change, read when Prometheus asks. Must not know who watches what. ``collect`` is called on a
thread: what only the event loop may read is noted by ``sample`` before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class WatchMetrics(Collector):
    """The metrics of the watches of one facade.

    Attributes:
        open: How many watches are open.
        events: How many changes were sent, counted for each watch.
        resyncs: How many watches ended because changes were lost for them.
        left_behind: How often a watch was left behind by the others, because its client did not read.
        catching_up: Gives how many watches read older changes by a stream of their own.
        lags: Gives, by shard that is followed, how many entries a node has applied that were not told here yet.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers the metrics, all at zero."""
        self.open = 0
        self.events = 0
        self.resyncs = 0
        self.left_behind = 0
        self.catching_up: Callable[[], int] = lambda: 0
        self.lags: Callable[[], Mapping[int, int]] = dict
        self._catching_up = 0
        self._lags: Mapping[int, int] = {}
        registry.register(self)

    def sample(self) -> None:
        """Notes what others tell when they are asked; called on the event loop, before the metrics are read."""
        self._catching_up, self._lags = self.catching_up(), self.lags()

    def collect(self) -> Iterator[Metric]:
        """See ``Collector``."""
        for name, text, value in (
            ("dougdb_facade_watchers", "Watches that are open", self.open),
            ("dougdb_facade_watchers_catching_up", "Those that read older changes from a node", self._catching_up),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        for name, text, value in (
            ("dougdb_facade_watch_events", "Changes that were sent to watches", self.events),
            ("dougdb_facade_watch_resyncs", "Watches that ended because changes were lost", self.resyncs),
            ("dougdb_facade_watch_left_behind", "How often a client did not read, and fell behind", self.left_behind),
        ):
            yield CounterMetricFamily(name, text, value=value)
        lag = GaugeMetricFamily(
            "dougdb_facade_watch_lag_entries", "Entries that were applied and not told here yet", labels=("shard",)
        )
        for shard, entries in self._lags.items():
            lag.add_metric((str(shard),), entries)
        yield lag
