"""A steady load of puts while the leader is killed and, later, started again.

The load is an open one at a modest rate (``open_loop.py``), so that requests keep coming while nobody answers. One run
has three parts of the same length: all members, one member dead from a SIGKILL of the leader on, all members again.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.load import percentile
from bench.open_loop import Requests, arguments_of, count_of
from bench.systems import Load, System, in_turn

HEAD = (
    "| leader killed | system | s without an acknowledged put | failed | unknown | p99 ms before | "
    "while it is dead | from its start on |\n|---|---|---|---|---|---|---|---|"
)


class Outage(NamedTuple):
    """What a kill of the leader did to puts.

    Attributes:
        gap_s: The longest time without an acknowledged put that ends after the kill.
        before_p99_ms: The p99 of puts that were due before the kill.
        dead_p99_ms: That of puts due after the gap, while the member is dead.
        after_p99_ms: That of puts due once the member is started again.
        outcomes: Puts that did not succeed, by what they came to.
    """

    gap_s: float
    before_p99_ms: float
    dead_p99_ms: float
    after_p99_ms: float
    outcomes: dict[str, int]


def judge(requests: Requests, killed_s: float, started_s: float) -> Outage:
    """Works out what the kill did.

    Args:
        requests: All puts.
        killed_s: When the leader was killed, in seconds since the start of the load.
        started_s: When it was started again.
    """
    done = [request for request in requests.all if request.is_done]
    end = max((request.ended for request in requests.all), default=0.0)
    moments = [0.0, *sorted(request.ended for request in done), end]
    gaps = [(later - sooner, later) for sooner, later in itertools.pairwise(moments) if later > killed_s]
    gap_s, over_s = max(gaps, default=(0.0, killed_s))

    def p99(first_s: float, end_s: float) -> float:
        return percentile([request.latency_ms for request in done if first_s <= request.due < end_s], 0.99)

    return Outage(gap_s, p99(0, killed_s), p99(over_s, started_s), p99(started_s, math.inf), requests.outcomes())


def rows(runs: dict[str, list[Outage]], rate: float) -> list[str]:
    """One line of the Markdown table for each system: medians; puts that did not succeed are those of all runs."""
    lines = []
    for name, found in runs.items():
        gap, before, dead, after = (
            statistics.median(getattr(run, field) for run in found) for field in Outage._fields[:-1]
        )
        failed, unknown = (sum(count_of(run.outcomes, kind) for run in found) for kind in ("failed", "unknown"))
        longest = max(run.gap_s for run in found)
        lines.append(
            f"| {rate:g} puts/s | {name} | {gap:.2f} (longest {longest:.2f}) | {failed} | {unknown} | {before:.1f} | "
            f"{dead:.1f} | {after:.1f} |"
        )
    return lines


def measure(system: System, load: Load, options: argparse.Namespace) -> Outage:
    """One kill of the leader under load; returns once all members are there again."""
    client = system.client
    assert client is not None, "it was asked for"
    part_s = load.seconds / 3
    run = client.begin("open", *arguments_of(load, options.failover_rate, options.poisson, options.seed))
    try:
        time.sleep(part_s)
        killed_s = system.kill_leader()
        time.sleep(part_s)
        started_s = time.time()
        system.start_again()
    finally:
        told = client.result(run, load.seconds)
    system.await_whole()
    requests = Requests.of(told)
    return judge(requests, killed_s - requests.started_unix_s, started_s - requests.started_unix_s)


def compare(systems: Sequence[System], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Kills the leader of each system, in turn, and prints the table; returns all figures.

    Requires: each has a client and the kind ``failover``.
    """
    print(f"\nThe leader is killed under an open load of puts, and started again\n\n{HEAD}")
    load = Load("put", 0, options.value_bytes[0], options.keys, options.failover_seconds)
    runs: dict[str, list[Outage]] = {system.name: [] for system in systems}
    for turn in range(options.turns):
        for system in in_turn(systems, turn):
            runs[system.name].append(measure(system, load, options))
    print("\n".join(rows(runs, options.failover_rate)), flush=True)
    return [
        {
            "system": name,
            "rate": options.failover_rate,
            "seconds": load.seconds,
            "runs": [run._asdict() for run in found],
        }
        for name, found in runs.items()
    ]
