"""Puts ten times the possible load on a fresh cluster: ``make bench-overload``, or ``python -m bench.overload``.

It measures the cluster with a few clients until flushes and merges are a part of what it does, then lets many times as
many ask at once, and measures again from the moment on when they stop, second by second. It prints the answers
meanwhile, whether a term changed, by how much the memory of every process grew, and after how many seconds the speed
was back. With ``--check`` it ends with exit code 1 beyond the limits below.

It must not tune anything: the cluster runs with the defaults that users get. The clients are as rude as can be: who is
refused asks again at once, so that as much is offered as the connections carry.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # Started by its path, as `make bench-overload` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.cluster import Cluster
from bench.fresh import add_layout, on_fresh_cluster
from bench.load import LoadResult, Workload, run_blocking
from bench.meter import MemorySampler, family_pss_bytes
from bench.smoke import Meter

ALLOWED = frozenset({"429", "503"})
"""The statuses that an overloaded facade may answer beside success: refused before anything was proposed."""
GROWTH_MB_MAX = 256.0
SPEED_MIN = 0.9
"""Which fraction of the rate before the overload counts as full speed: the rates of single seconds differ as much."""
RECOVERY_S_MAX = 5
"""After how many seconds full speed must be back at the latest."""
SPAN_S = 3
"""Over how many seconds in a row a speed is taken."""
AFTER_S = 15.0


def run(cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    """Measures before, during and after; returns all figures."""
    cluster.start()
    usual = Workload(kind="put", connections=options.connections, seconds=options.settle, keys=1_000_003)
    flood = replace(usual, connections=options.connections * options.times, seconds=options.seconds, prefix="flood/")
    before = run_blocking(cluster.url, usual)
    meter = Meter(cluster)
    groups = meter.groups()
    processes = {
        **{f"facade {process.pid}": process for process in groups["facade"]},
        **{f"node {process.pid}": process for process in (*groups["leaders"], *groups["followers"])},
    }
    held = {name: family_pss_bytes(process) for name, process in processes.items()}
    terms = meter.terms()
    with MemorySampler(lambda: processes, 0.5) as memory:
        during = run_blocking(cluster.url, flood)
    # It begins at once: the seconds until full speed is back count from here.
    after = run_blocking(cluster.url, replace(usual, seconds=AFTER_S, prefix="after/"))
    grown = {name: round((memory.peak_bytes[name] - held[name]) / 1e6, 1) for name in processes}
    rates = {"before": by_second(before), "after": by_second(after)}
    return {
        "before": _shown(before),
        "during": _shown(during) | {"offered_per_s": round(during.begun / during.seconds)},
        "after": _shown(after),
        "by_second": rates,
        "recovered_s": recovered_s(rates["before"], rates["after"]),
        "growth_mb": dict(sorted(grown.items())),
        "terms_changed": {name: each for name, each in meter.terms().items() if each != terms[name]},
    }


def by_second(result: LoadResult) -> list[int]:
    """How many answers came in each whole second of a run, errors included."""
    counts = [0] * int(result.seconds)
    for answered_ns in result.answered_ns:
        second = answered_ns // 1_000_000_000
        if second < len(counts):
            counts[second] += 1
    return counts


def recovered_s(before: list[int], after: list[int]) -> int | None:
    """After how many seconds full speed was back; None if it never was.

    Args:
        before: The answers of each second before. The last half counts: the first seconds fill empty memtables, and
            nothing is flushed or merged yet.
        after: The answers of each second after.
    """
    usual = statistics.median(before[len(before) // 2 :])
    for second in range(len(after) - SPAN_S + 1):
        if statistics.mean(after[second : second + SPAN_S]) >= SPEED_MIN * usual:
            return second
    return None


def _shown(result: LoadResult) -> dict[str, Any]:
    return {
        "operations_per_s": round(result.operations_per_s),
        "p99_ms": round(result.percentile_ms(0.99), 1),
        "errors": result.errors,
    }


def beyond(figures: dict[str, Any]) -> list[str]:
    """The limits that were not kept, as sentences."""
    grown = max(figures["growth_mb"].values())
    others = sorted(set(figures["during"]["errors"]) - ALLOWED)
    recovered = figures["recovered_s"]
    judged = {
        f"terms changed: {figures['terms_changed']}": bool(figures["terms_changed"]),
        f"answers other than success, 429 and 503: {others}": bool(others),
        f"a process grew by {grown} MB": grown > GROWTH_MB_MAX,
        f"full speed was back after {recovered} s": recovered is None or recovered > RECOVERY_S_MAX,
        f"errors before or after: {figures['before']['errors']} {figures['after']['errors']}": bool(
            figures["before"]["errors"] or figures["after"]["errors"]
        ),
    }
    return [what for what, bad in judged.items() if bad]


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Ten times what a fresh local cluster can do.")
    parser.add_argument("--connections", type=int, default=64, help="the clients that it can serve (64)")
    parser.add_argument("--times", type=int, default=32, help="how many times as many ask at once (32)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (60)")
    parser.add_argument("--settle", type=float, default=30.0, help="for how many seconds it is measured before (30)")
    add_layout(parser)
    parser.add_argument("--check", action="store_true", help="exit code 1 beyond the limits")
    options = parser.parse_args()
    figures = on_fresh_cluster(run, options, options.seconds + options.settle + 180)
    if figures is None:
        return 1
    print(json.dumps(figures, indent=2))
    bad = beyond(figures)
    for what in bad:
        print(what, file=sys.stderr)
    return 1 if options.check and bad else 0


if __name__ == "__main__":
    sys.exit(main())
