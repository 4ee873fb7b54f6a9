"""Measures what a condition costs a put: ``make bench-conditions``, or ``python -m bench.conditions``.

A fresh cluster gets plain puts and puts with each kind of condition in turn, over the same keys, which are in memory,
and the same connections; each round gives one ratio of the CPU of all processes of the cluster per put, and the median
of the ratios is the result. ``If-None-Match: *`` creates keys, so it is compared with plain puts of new keys. All
conditions hold; a put whose condition fails is refused with 412, and counts as an error here.

With ``--check`` it ends with exit code 1 if a condition costs more than the limit. On a machine that does other work,
too, one measure may be wrong by as much: with ``--attempts`` a condition counts as too dear only if all rounds of all
attempts show it together.

It must not tune anything: the cluster runs with the defaults that users get.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):  # Started by its path, as `make bench-conditions` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.ab import ratio_of, spent_us
from bench.cluster import Cluster, ClusterError
from bench.fresh import add_layout, on_fresh_cluster
from bench.load import Workload
from bench.smoke import Meter, measure

RATIO_MAX = 1.3
"""How many times the CPU of a plain put one with a condition may cost."""
NEW_KEYS = 10_000_019
"""Among so many no key comes twice in one load."""


class Kind(NamedTuple):
    """A kind of puts: its name, its condition, whether its keys are new, and what it is compared with."""

    name: str
    condition: str
    new: bool
    beside: str


KINDS = (
    Kind("plain", "", False, ""),
    Kind("If-Match: *", "exists", False, "plain"),
    Kind('If-Match: "7"', "revision", False, "plain"),
    Kind("plain, new keys", "", True, ""),
    Kind("If-None-Match: *", "absent", True, "plain, new keys"),
)
Found = dict[str, list[dict[str, Any]]]


def in_turn(number: int) -> Iterator[Kind]:
    """The kinds in the order of a round: each begins with another one, since the first finds a colder machine."""
    return (KINDS[(number + place) % len(KINDS)] for place in range(len(KINDS)))


def workload(kind: Kind, number: int, options: argparse.Namespace) -> Workload:
    """The puts of a kind in a round."""
    return Workload(
        kind="put",
        condition=kind.condition,
        connections=options.connections,
        seconds=options.seconds,
        keys=NEW_KEYS if kind.new else options.keys,
        prefix=f"new/{kind.condition}/{number}/" if kind.new else "bench/",
        value_bytes=options.value_bytes,
    )


def ratios(found: Found) -> dict[str, float]:
    """By kind, the median of what it costs of a plain put."""
    return {
        kind.name: ratio_of(map(spent_us, found[kind.name]), map(spent_us, found[kind.beside]))
        for kind in KINDS
        if kind.beside
    }


def rows(found: Found) -> list[str]:
    """A Markdown table of all kinds."""
    groups = [name for name in found[KINDS[0].name][0]["cpu_us_per_operation"] if name != "load generator"]
    costs = ratios(found)
    lines = [
        f"| put | per second | p50 ms | CPU us: {', '.join(groups)} | together | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        runs = found[kind.name]
        spent = [statistics.median(run["cpu_us_per_operation"][group] for run in runs) for group in groups]
        lines.append(
            f"| {kind.name} | {statistics.median(run['operations_per_s'] for run in runs):.0f} | "
            f"{statistics.median(run['p50_ms'] for run in runs):.2f} | {', '.join(f'{us:.0f}' for us in spent)} | "
            f"{statistics.median(map(spent_us, runs)):.0f} | "
            f"{f'{costs[kind.name]:.2f}' if kind.beside else ''} |"
        )
    return lines


def too_dear(found: Found) -> list[str]:
    """The conditions that cost more than the limit."""
    return [
        f"{name}: {ratio:.2f} times the CPU of a plain put, more than {RATIO_MAX}"
        for name, ratio in ratios(found).items()
        if ratio > RATIO_MAX
    ]


def run(cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    """Measures on a fresh cluster; returns all figures.

    Raises:
        ClusterError: A put failed, or an election was held.
    """
    cluster.start()
    meter = Meter(cluster)
    tags: dict[bytes, bytes] = {}
    fill = Workload(kind="put", seconds=60, operations=options.keys, keys=options.keys, value_bytes=options.value_bytes)
    measure(cluster, meter, "fill", fill, tags)
    found: Found = {kind.name: [] for kind in KINDS}
    number = 0
    for _ in range(options.attempts):
        for _ in range(options.rounds):
            for kind in in_turn(number):
                known = {} if kind.new else tags
                _, figures = measure(cluster, meter, kind.name, workload(kind, number, options), known)
                if figures["errors"] or figures["term_changes"]:
                    raise ClusterError(f"{kind.name}: errors {figures['errors']}, terms {figures['term_changes']}")
                found[kind.name].append(figures)
            number += 1
        print("\n".join(rows(found)), flush=True)
        if not (options.check and too_dear(found)):
            break
    return {"ratios": ratios(found), "runs": found, "too_dear": too_dear(found)}


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="What a condition costs a put, on a fresh local cluster.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each load lasts")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    add_layout(parser, shards=1)
    parser.add_argument("--check", action="store_true", help=f"exit code 1 above {RATIO_MAX}")
    parser.add_argument(
        "--attempts", type=int, default=2, help="with --check, how often it is measured until it counts"
    )
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    limit_s = options.attempts * options.rounds * len(KINDS) * (options.seconds + 2) + 120
    figures = on_fresh_cluster(run, options, limit_s)
    if figures is None:
        return 1
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if options.check and figures["too_dear"]:
        print("\n".join(figures["too_dear"]), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
