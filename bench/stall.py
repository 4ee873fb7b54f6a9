"""Measures the effect of flushes and compactions on a cluster under full write load: ``make bench-stall``.

The same load is put on two kinds of cluster in turn, each fresh: one whose memtables are so large that nothing is
flushed, and one whose memtables are so small that flushes and compactions run all the time. Three limits are judged:

1. the lag of the nodes' event loops, p99, is less than 20 ms while flushes and compactions run;
2. no election begins meanwhile;
3. the p99 of puts is less than twice that without flushes and compactions.

It ends with exit code 1 if one of them does not hold, or if the measurement is invalid: a put failed, a memtable was
flushed where none should be, or some node flushed or compacted for less than a quarter of the time. Its time is
bounded. It uses only the nodes' ordinary settings, metrics and events.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

if __package__ in (None, ""):  # Started by its path, as `make bench-stall` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import stall_plot
from bench.cluster import Cluster, ClusterError
from bench.http11 import HttpError, fetch
from bench.load import LoadResult, Workload, run_blocking
from bench.meter import cpu_s, family, parse_metrics, total, waited_for_core_s

LAG_LIMIT_S = 0.02
PUT_RATIO_LIMIT = 2.0
BUSY_SHARE_MIN = 0.25

LAG = "dougdb_event_loop_timer_lag_seconds_bucket"
ELECTIONS = "dougdb_raft_elections_total"
FLUSHES, COMPACTIONS = "dougdb_flush_total", "dougdb_compaction_total"
STALLED = "dougdb_write_stall_seconds_total"
EVENTS_MAX = 10_000
UNREST = (
    "became_pre_candidate",
    "became_candidate",
    "became_leader",
    "lost_quorum",
    "resigned",
    "slow_disk",
    "stall_began",
)
"""The events of the timeline that show elections and their causes."""
UNREST_SHOWN_MAX = 20
SAMPLE_EVERY_S = 2.0
"""How often metrics are read; each time takes some milliseconds of a node's event loop, which are part of the lag."""
WARM_UP_S = 2.0
WITHOUT_MEMTABLE_BYTES = 1 << 30
START_BOUND_S = 90

Metrics = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Lags:
    """The lateness of timers.

    Attributes:
        counts: How many timers were at most as late as the upper bound of a bucket, by that bound in seconds.
    """

    counts: dict[float, float]

    @classmethod
    def of(cls, nodes: Iterable[Metrics]) -> Lags:
        """The sum of the counts of some nodes."""
        counts: dict[float, float] = {}
        for metrics in nodes:
            for labels, count in metrics.get(LAG, {}).items():
                bound = float(labels.split('le="')[1].split('"')[0])
                counts[bound] = counts.get(bound, 0.0) + count
        return cls(dict(sorted(counts.items())))

    def since(self, before: Lags) -> Lags:
        """The counts since an earlier sample."""
        return Lags({bound: count - before.counts.get(bound, 0.0) for bound, count in self.counts.items()})

    @property
    def timers(self) -> float:
        """How many timers there were."""
        return max(self.counts.values(), default=0.0)

    def share_within(self, bound_s: float) -> float:
        """The fraction of timers that were at most ``bound_s`` late. Requires: that is the bound of a bucket."""
        return self.counts[bound_s] / self.timers if self.timers else 0.0

    def percentile_s(self, share: float) -> float:
        """The lag that a fraction of the timers did not exceed, interpolated within a bucket."""
        wanted, lower, below = share * self.timers, 0.0, 0.0
        for bound, count in self.counts.items():
            if count >= wanted and count:
                if bound == float("inf") or count == below:
                    return lower
                return lower + (bound - lower) * (wanted - below) / (count - below)
            lower, below = bound, count
        return lower


class Span(NamedTuple):
    """One flush or compaction of one node, in seconds since the load began."""

    kind: str
    node: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class Phase:
    """The results of one load.

    Attributes:
        name: ``without`` or ``with``.
        load: The result of the puts.
        lags: The lateness of the timers of all nodes.
        lags_over_time: For each piece of the load, its end in seconds since the load began, and the lags.
        spans: The flushes and compactions.
        unrest: The elections and stalls of the timeline, one line each.
        elections: How many elections were begun.
        flushes: How many flushes were done.
        compactions: How many compactions were done.
        stalled_s: How many seconds nodes held up applying, summed over the nodes.
        waited_share: The fraction of the load for which a node's main thread waited for a core, on average.
        cpu_us: The CPU microseconds of each group of processes per put.
    """

    name: str
    load: LoadResult
    lags: Lags
    lags_over_time: list[tuple[float, Lags]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    unrest: list[str] = field(default_factory=list)
    elections: int = 0
    flushes: int = 0
    compactions: int = 0
    stalled_s: float = 0.0
    waited_share: float = 0.0
    cpu_us: dict[str, float] = field(default_factory=dict)

    def busy_share(self) -> float:
        """The fraction of the load for which some node flushed or compacted."""
        return covered_s([(span.start_s, span.end_s) for span in self.spans], self.load.seconds) / self.load.seconds

    def summary(self) -> dict[str, Any]:
        """The figures, for people and for JSON."""
        return {
            "phase": self.name,
            **self.load.summary(),
            "lag_p50_ms": round(self.lags.percentile_s(0.5) * 1000, 1),
            "lag_p99_ms": round(self.lags.percentile_s(0.99) * 1000, 1),
            "lag_within_limit": round(self.lags.share_within(LAG_LIMIT_S), 4),
            "timers": int(self.lags.timers),
            "elections": self.elections,
            "flushes": self.flushes,
            "compactions": self.compactions,
            "busy_share": round(self.busy_share(), 3),
            "stalled_s": round(self.stalled_s, 2),
            "waited_share": round(self.waited_share, 3),
            "cpu_us_per_put": {name: round(us, 1) for name, us in self.cpu_us.items()},
        }


def covered_s(spans: Iterable[tuple[float, float]], seconds: float) -> float:
    """How much of ``[0, seconds)`` lies within at least one of the spans."""
    covered = until = 0.0
    for span_start, span_end in sorted(spans):
        start, end = max(span_start, until), min(span_end, seconds)
        if end > start:
            covered, until = covered + end - start, end
    return covered


def spans_of(events: Iterable[Mapping[str, Any]], begun_us: int) -> list[Span]:
    """The flushes and compactions among the events of a shard, which tell their ends."""
    spans = []
    for event in events:
        kind = {"flush_done": "flush", "compaction_done": "compaction"}.get(event["name"])
        if kind is not None:
            end_s = (event["time_us"] - begun_us) / 1e6
            spans.append(Span(kind, event["node"], end_s - event["details"]["duration_ms"] / 1000, end_s))
    return spans


def unrest_of(events: Iterable[Mapping[str, Any]], begun_us: int) -> list[str]:
    """Elections and stalls among the events of a shard, as lines."""
    return [
        f"{(event['time_us'] - begun_us) / 1e6:6.2f} s {event['node']} {event['name']} {event['details']}"
        for event in events
        if event["name"] in UNREST
    ]


class Sampler(threading.Thread):
    """Fetches the metrics of all nodes now and then. They are parsed afterwards, since the load shares this process."""

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__(name="sampler", daemon=True)
        self._ports = ports
        self._over = threading.Event()
        self.samples: list[tuple[float, list[str]]] = []

    def sample(self) -> None:
        """Takes one sample of all nodes."""
        texts = []
        for port in self._ports:
            try:
                texts.append(fetch(port, "GET", "/metrics", headers={"accept": "text/plain"}).body.decode())
            except HttpError:
                texts.append("")
        self.samples.append((time.perf_counter(), texts))

    def run(self) -> None:
        """Samples until it is told to stop."""
        while not self._over.wait(SAMPLE_EVERY_S):
            self.sample()

    def stop(self) -> None:
        """Ends it."""
        self._over.set()
        self.join()


def measure(cluster: Cluster, name: str, options: argparse.Namespace) -> Phase:
    """Puts the load on a cluster that runs."""
    views = cluster.views()
    workload = {"kind": "put", "connections": options.connections, "keys": options.keys}
    run_blocking(cluster.url, Workload(seconds=WARM_UP_S, value_bytes=options.value_bytes, seed=2, **workload))
    nodes = {view.id: cluster.member(view.id) for view in views}
    leaders = [nodes[view.id] for view in views if view.role == "leader"]
    followers = [nodes[view.id] for view in views if view.role != "leader"]

    def spent() -> dict[str, float]:
        helpers = [helper for process in nodes.values() for helper in family(process)[1:]]
        facades = [cluster.member(path.stem) for path in sorted((cluster.data / "run").glob("facade*.pid"))]
        groups = {"facade": facades, "leaders": leaders, "followers": followers, "helpers": helpers}
        return {group: cpu_s(processes) for group, processes in groups.items()}

    def waited_s() -> float:
        return sum(waited_for_core_s(process.pid) for process in nodes.values())

    sampler = Sampler([view.admin_port for view in views])
    sampler.sample()
    before, waited_before_s, begun_us, begun_s = spent(), waited_s(), time.time_ns() // 1000, time.perf_counter()
    sampler.start()
    try:
        load = run_blocking(cluster.url, Workload(seconds=options.seconds, value_bytes=options.value_bytes, **workload))
    finally:
        sampler.stop()
    sampler.sample()
    after, waited = spent(), waited_s() - waited_before_s
    events = []
    for shard in cluster.shard_ids():
        answer = cluster.request("GET", f"/v1/shards/{shard}/events?since={begun_us}&limit={EVENTS_MAX}").json()
        events += answer["events"]
    phase = read_samples(name, load, [(at - begun_s, list(map(parse_metrics, texts))) for at, texts in sampler.samples])
    phase.spans = [span for span in spans_of(events, begun_us) if span.start_s < load.seconds]
    phase.waited_share = waited / len(nodes) / load.seconds
    phase.unrest = unrest_of(events, begun_us)
    phase.cpu_us = {group: (after[group] - before[group]) * 1e6 / max(1, load.ok) for group in after}
    return phase


def read_samples(name: str, load: LoadResult, samples: Sequence[tuple[float, Sequence[Metrics]]]) -> Phase:
    """The phase that the samples show, from the first one to the last one."""
    first, last = samples[0][1], samples[-1][1]

    def added(metric: str) -> float:
        return sum(total(metrics, metric) for metrics in last) - sum(total(metrics, metric) for metrics in first)

    started = [sum(_started(metrics) for metrics in nodes) for nodes in (first, last)]
    phase = Phase(name, load, Lags.of(last).since(Lags.of(first)))
    phase.lags_over_time = [
        (at, Lags.of(nodes).since(Lags.of(before)))
        for (was, before), (at, nodes) in itertools.pairwise(samples)
        if all(nodes) and all(before) and at - was > SAMPLE_EVERY_S / 2
    ]
    phase.elections = round(started[1] - started[0])
    phase.flushes, phase.compactions = round(added(FLUSHES)), round(added(COMPACTIONS))
    phase.stalled_s = added(STALLED)
    return phase


def _started(metrics: Metrics) -> float:
    return sum(count for labels, count in metrics.get(ELECTIONS, {}).items() if 'outcome="started"' in labels)


class Verdict(NamedTuple):
    """The verdict on one limit."""

    holds: bool
    text: str


def judge(without: Sequence[Phase], busy: Sequence[Phase]) -> list[Verdict]:
    """The three limits, over all rounds together."""
    lags = merged_lags(busy)
    lag_ms = lags.percentile_s(0.99) * 1000
    elections = sum(phase.elections for phase in busy)
    ratio = put_p99_ms(busy) / max(put_p99_ms(without), 1e-9)
    return [
        Verdict(lags.share_within(LAG_LIMIT_S) >= 0.99, f"event-loop lag p99 {lag_ms:.1f} ms < 20 ms"),
        Verdict(elections == 0, f"elections {elections} = 0"),
        Verdict(ratio < PUT_RATIO_LIMIT, f"put p99 {ratio:.2f} x < 2 x"),
    ]


def merged_lags(phases: Iterable[Phase]) -> Lags:
    """The lags of several phases as one."""
    counts: dict[float, float] = {}
    for phase in phases:
        for bound, count in phase.lags.counts.items():
            counts[bound] = counts.get(bound, 0.0) + count
    return Lags(dict(sorted(counts.items())))


def put_p99_ms(phases: Iterable[Phase]) -> float:
    """The p99 of the puts of several phases together."""
    merged = LoadResult()
    for phase in phases:
        merged.latencies_ns.extend(phase.load.latencies_ns)
    return merged.percentile_ms(0.99)


def problems(without: Sequence[Phase], busy: Sequence[Phase]) -> list[str]:
    """The reasons why the figures are no valid measurement; empty if they are."""
    found = [f"puts failed in a phase {p.name}: {p.load.errors}" for p in (*without, *busy) if p.load.errors]
    if any(phase.flushes or phase.compactions for phase in without):
        found.append("something was flushed or compacted where nothing should be")
    if any(phase.busy_share() < BUSY_SHARE_MIN or not phase.flushes or not phase.compactions for phase in busy):
        found.append("flushes and compactions ran for too little of the time; try smaller memtables or a longer load")
    return found


def show(phase: Phase) -> None:
    """Prints the figures of one phase."""
    figures = phase.summary()
    print(
        f"{phase.name:8} {figures['operations_per_s']:8.0f}/s   put p50 {figures['p50_ms']:6.1f}   p99 "
        f"{figures['p99_ms']:6.1f} ms   lag p50 {figures['lag_p50_ms']:5.1f}   p99 {figures['lag_p99_ms']:5.1f} ms   "
        f"elections {phase.elections}   flushes {phase.flushes}   compactions {phase.compactions}   "
        f"running {100 * figures['busy_share']:.0f} %   stalled {figures['stalled_s']:.1f} s"
    )
    spent = ", ".join(f"{name} {us:.0f}" for name, us in figures["cpu_us_per_put"].items())
    print(
        f"{'':8} CPU us per put: {spent}; together {sum(phase.cpu_us.values()):.0f}. A node waited for a core for "
        f"{100 * phase.waited_share:.0f} % of the time",
        flush=True,
    )
    for line in phase.unrest[:UNREST_SHOWN_MAX]:
        print(f"{'':8} {line}")


def run_phase(folder: Path, name: str, memtable_bytes: int, options: argparse.Namespace) -> Phase:
    """Starts a fresh cluster, puts the load on it and stops it."""
    environment = {"DOUGDB_MEMTABLE_BYTES": str(memtable_bytes)}
    cluster = Cluster(folder, shards=options.shards, nodes=options.nodes, environment=environment)
    try:
        cluster.start()
        phase = measure(cluster, name, options)
        code = cluster.stop()
        if code:
            raise ClusterError(f"dougctl dev ended with exit code {code}\n{cluster.tail()}")
    finally:
        cluster.close()
    show(phase)
    return phase


def _give_up(signal_number: int, _: FrameType | None) -> None:
    raise ClusterError(f"ended by signal {signal_number}: the bound of time, or the user")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Flushes and compactions under full write load, against none.")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each load lasts (default: 20)")
    parser.add_argument("--rounds", type=int, default=1, help="how often both are measured in turn (default: 1)")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument(
        "--memtable-bytes", type=int, default=32 << 10, help="of the cluster that flushes (default: 32768)"
    )
    parser.add_argument("--plot", type=Path, default=Path("out/stall.png"), help="where the picture goes")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    return parser.parse_args()


def main() -> int:
    """Runs the command line."""
    options = arguments()
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _give_up)
    signal.alarm(int(2 * options.rounds * (options.seconds + WARM_UP_S + START_BOUND_S)))
    without: list[Phase] = []
    busy: list[Phase] = []
    with tempfile.TemporaryDirectory(prefix="dougdb-bench-", ignore_cleanup_errors=True) as name:
        try:
            for turn in range(options.rounds):
                folder = Path(name) / str(turn)
                without.append(run_phase(folder / "without", "without", WITHOUT_MEMTABLE_BYTES, options))
                busy.append(run_phase(folder / "with", "with", options.memtable_bytes, options))
        except ClusterError as error:
            print(error, file=sys.stderr)
            return 1
    verdicts, wrong = judge(without, busy), problems(without, busy)
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    stall_plot.draw(without[-1], busy[-1], options.plot)
    print(f"the picture is {options.plot}")
    if options.json:
        figures = {
            "phases": [phase.summary() for phase in (*without, *busy)],
            "limits": [{"holds": verdict.holds, "text": verdict.text} for verdict in verdicts],
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for problem in wrong:
        print(f"no measurement: {problem}", file=sys.stderr)
    print("; ".join(f"{'pass' if verdict.holds else 'FAIL'}: {verdict.text}" for verdict in verdicts))
    return 0 if not wrong and all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
