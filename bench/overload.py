"""Puts ten times the possible load on a fresh cluster: ``make bench-overload``, or ``python -m bench.overload``.

It measures the cluster with a few clients until flushes and merges are a part of what it does, then lets far too many
ask, and measures again from the moment on when they stop, second by second. It prints the answers meanwhile, those of
probes and of a polite client at another address that asks for its share, whether a term changed, by how much the memory
of every process grew, and after how many seconds the speed was back. With ``--check`` it ends with exit code 1 beyond
the limits below.

It must not tune anything: the cluster runs with the defaults that users get. The crowd runs in a process of its own,
which takes its memory with it. There are two kinds of it: many times as many clients as before, each of which asks
again once it is answered; or, with ``--open``, ten times as many requests a second as were answered before, whatever
becomes of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # Started by its path, as `make bench-overload` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.cluster import Cluster, ClusterError
from bench.fresh import add_layout, on_fresh_cluster
from bench.http11 import HttpError, fetch
from bench.load import LoadResult, Workload, percentile_ms, run_blocking
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
GAVE_UP_MAX = 0.01
"""Which part of the requests of an open load may end without an answer in time."""
PROBES = ("/livez", "/readyz", "/v1/cluster")
PROBE_S = 0.5
PROBE_TIMEOUT_S = 10.0
POLITE_CONNECTIONS = 64
SHARE = 0.5
"""The share of one of two clients, of the rate before."""
KEPT_MIN = 0.5
"""How much of its share a polite client that asks for all of it must be left."""
ADDRESS, POLITE_ADDRESS = "127.0.0.1", "127.0.0.2"
_ROOT = Path(__file__).resolve().parent.parent


class Probes(threading.Thread):
    """Asks what probes and operators ask, each time over a new connection, until it is stopped."""

    def __init__(self, url: str) -> None:
        super().__init__(name="probes", daemon=True)
        self._port = int(url.rsplit(":", 1)[1])
        self._over = threading.Event()
        self.kinds: Counter[str] = Counter()
        self.latencies_ns: list[int] = []

    def run(self) -> None:
        """Asks until ``__exit__``."""
        while not self._over.wait(PROBE_S):
            for path in PROBES:
                began_ns = time.perf_counter_ns()
                try:
                    status = str(fetch(self._port, "GET", path, timeout_s=PROBE_TIMEOUT_S).status)
                except HttpError:
                    status = "no answer"
                self.kinds[f"{path} {status}"] += 1
                self.latencies_ns.append(time.perf_counter_ns() - began_ns)

    def __enter__(self) -> Probes:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def shown(self) -> dict[str, Any]:
        """How many had which answer, and the longest time that one took."""
        return {
            "answers": dict(sorted(self.kinds.items())),
            "longest_ms": round(percentile_ms(self.latencies_ns, 1.0), 1),
        }


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
    with MemorySampler(lambda: processes, 0.5) as memory, Probes(cluster.url) as probes:
        during = _open(cluster.url, before, options) if options.open else _closed(cluster.url, flood)
    # It begins at once: the seconds until full speed is back count from here.
    after = run_blocking(cluster.url, replace(usual, seconds=AFTER_S, prefix="after/"))
    grown = {name: round((memory.peak_bytes[name] - held[name]) / 1e6, 1) for name in processes}
    rates = {"before": by_second(before), "after": by_second(after)}
    return {
        "before": _shown(before),
        "during": during,
        "probes": probes.shown(),
        "after": _shown(after),
        "by_second": rates,
        "recovered_s": recovered_s(rates["before"], rates["after"]),
        "growth_mb": dict(sorted(grown.items())),
        "terms_changed": {name: each for name, each in meter.terms().items() if each != terms[name]},
    }


def _closed(url: str, flood: Workload) -> dict[str, Any]:
    """Has many clients ask again and again."""
    sizes = ("--connections", str(flood.connections), "--keys", str(flood.keys))
    told = _told(_started("bench.load", url, "put", "--seconds", str(flood.seconds), "--prefix", flood.prefix, *sizes))
    named = ("operations_per_s", "p99_ms", "errors")
    return {name: told[name] for name in named} | {"offered_per_s": round(told["begun"] / told["seconds"])}


def _open(url: str, before: LoadResult, options: argparse.Namespace) -> dict[str, Any]:
    """Offers so many times what can be done, and beside it lets one client at another address ask for its share."""
    named = ("--seconds", str(options.seconds), "--deadline-s", str(options.deadline_s))
    rates = options.offered * before.operations_per_s, SHARE * before.operations_per_s
    with ExitStack() as stack:
        crowd, polite = (
            stack.enter_context(
                _started("bench.flood", url, "--rate", str(rate), "--connections", str(connections), "--source", source,
                         "--prefix", f"{source}/", *named)
            )
            for rate, connections, source in (
                (rates[0], options.connections * options.times, ADDRESS),
                (rates[1], POLITE_CONNECTIONS, POLITE_ADDRESS),
            )
        )  # fmt: skip
        told, polite_told = _told(crowd), _told(polite)
    errors = {kind: count for kind, count in told["kinds"].items() if kind != "200"}
    return {"operations_per_s": told["served_per_s"], "p99_ms": told["p99_ms"], "errors": errors} | {
        "offered_per_s": told["due_per_s"], "crowd": told,
        "polite": polite_told | {"share_per_s": round(SHARE * before.operations_per_s)},
    }  # fmt: skip


def _started(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)


def _told(process: subprocess.Popen[str]) -> dict[str, Any]:
    printed, _ = process.communicate()
    if not printed:
        raise ClusterError("the generator of the load has failed")
    told: dict[str, Any] = json.loads(printed)
    return told


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
    during = figures["during"]
    crowd = during.get("crowd", {"kinds": {}, "with_retry_after": 0})
    gave_up = during["errors"].get("gave up", 0)
    refused = sum(count for kind, count in during["errors"].items() if kind.split()[0] in ALLOWED)
    others = sorted(kind for kind in during["errors"] if kind.split()[0] not in ALLOWED and kind != "gave up")
    probes = sorted(kind for kind in figures["probes"]["answers"] if not kind.endswith(" 200"))
    recovered = figures["recovered_s"]
    judged = {
        f"terms changed: {figures['terms_changed']}": bool(figures["terms_changed"]),
        f"answers other than success, 429 and 503: {others}": bool(others),
        f"answers to probes other than 200: {probes}": bool(probes),
        f"{gave_up} requests were not answered in time": gave_up > GAVE_UP_MAX * sum(crowd["kinds"].values()),
        f"of {refused} refusals {crowd['with_retry_after']} said when to come again": bool(crowd["kinds"])
        and refused != crowd["with_retry_after"],
        f"of its share a polite client kept {kept(during):.2f}": kept(during) < KEPT_MIN,
        f"a process grew by {grown} MB": grown > GROWTH_MB_MAX,
        f"full speed was back after {recovered} s": recovered is None or recovered > RECOVERY_S_MAX,
        f"errors before or after: {figures['before']['errors']} {figures['after']['errors']}": bool(
            figures["before"]["errors"] or figures["after"]["errors"]
        ),
    }
    return [what for what, bad in judged.items() if bad]


def kept(during: dict[str, Any]) -> float:
    """How much of its share the polite client of an open load got; 1 where there was none."""
    polite = during.get("polite")
    return float(polite["served_per_s"] / polite["share_per_s"]) if polite else 1.0


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Ten times what a fresh local cluster can do.")
    parser.add_argument("--connections", type=int, default=64, help="the clients that it can serve (64)")
    parser.add_argument("--times", type=int, default=32, help="how many times as many ask at once (32)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long (60)")
    parser.add_argument("--settle", type=float, default=30.0, help="for how many seconds it is measured before (30)")
    parser.add_argument("--open", action="store_true", help="send at a rate, whatever becomes of it")
    parser.add_argument("--offered", type=float, default=10.0, help="how many times what it can do a second (10)")
    parser.add_argument("--deadline-s", type=float, default=2.0, help="when a client of --open gives up (2)")
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
