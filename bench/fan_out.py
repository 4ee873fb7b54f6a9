"""Many watchers of one key: how soon all of them have read an event, and how many events they read a second.

DougDB's watchers are connections of their own (server-sent events over HTTP); etcd's and NATS's share eight
connections, as their clients do it. All are in one Go program, which shares the cores with the members.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from bench.systems import System, in_turn

TIMEOUT_S = 120
HEAD = (
    "| watchers of one key | system | one event to all: median ms | slowest ms | events/s in a stream of puts | "
    "skipped |\n|---|---|---|---|---|---|"
)


class FanOut(NamedTuple):
    """What one run found.

    Attributes:
        median_ms: From a put until the last watcher has read its event.
        slowest_ms: The longest such time.
        events_per_s: How many events all watchers together read a second while puts follow one another.
        skipped: How many events watchers were not told, because a later one had replaced them.
    """

    median_ms: float
    slowest_ms: float
    events_per_s: float
    skipped: int


def figures_of(told: dict[str, Any]) -> FanOut:
    """Reads what the Go program prints."""
    took = told["took_s"]
    return FanOut(
        statistics.median(took) * 1000,
        max(took) * 1000,
        told["told"] / max(1e-9, told["stream_s"]),
        told["sent"] - told["told"],
    )


def row(watchers: int, name: str, runs: Sequence[FanOut]) -> str:
    """One line of the Markdown table: medians, and of all runs the slowest event and what was skipped."""
    median, events = (statistics.median(getattr(run, field) for run in runs) for field in ("median_ms", "events_per_s"))
    slowest, skipped = max(run.slowest_ms for run in runs), sum(run.skipped for run in runs)
    return f"| {watchers} | {name} | {median:.1f} | {slowest:.1f} | {events:,.0f} | {skipped} |"


def compare(systems: Sequence[System], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Lets many watch, on all systems in turn, and prints the table; returns all figures.

    Requires: each has a client and the kind ``watch``.
    """
    print(f"\nWatchers of one key\n\n{HEAD}")
    documents = []
    for watchers in options.watchers:
        counts = ("-watchers", str(watchers), "-events", str(options.events), "-stream", str(options.stream_events))
        runs: dict[str, list[FanOut]] = {system.name: [] for system in systems}
        for turn in range(options.turns):
            for system in in_turn(systems, turn):
                assert system.client is not None, "it was asked for"
                size = ("-value-bytes", str(options.value_bytes[0]))
                runs[system.name].append(figures_of(system.client.ask("watch", TIMEOUT_S, *counts, *size)))
        print("\n".join(row(watchers, name, found) for name, found in runs.items()), flush=True)
        documents += [
            {"watchers": watchers, "system": name, "runs": [run._asdict() for run in found]}
            for name, found in runs.items()
        ]
    return documents
