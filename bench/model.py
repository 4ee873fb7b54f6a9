"""Measures the cost of an operation by the shape of the cluster and of the load: ``make bench-model``.

A put needs a facade, a leader, and followers, each of which may have a machine of its own. So the CPU that each of them
spends on an operation, measured here on one machine for all, shows how much a larger cluster can do: a process has one
core. The shape changes what an operation costs, since it changes how many operations share a message; so each row is a
fresh cluster, or another load on the same one.

It must not tune anything: clusters run with the defaults that users get, except for the number of shards and nodes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):  # Started by its path, as `make bench-model` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.cluster import Cluster, ClusterError
from bench.load import Workload
from bench.smoke import Meter, measure

CORE_US = 1_000_000
KEYS = 10_007
FILL = 4_000
VALUES_BYTES_MAX = 32 << 20
"""How many bytes a fill may put: with large values there are few keys."""


class Shape(NamedTuple):
    """A cluster and its load."""

    shards: int = 1
    nodes: int = 5
    facades: int = 1
    connections: int = 64
    value_bytes: int = 100

    @property
    def cluster(self) -> tuple[int, int, int]:
        """The shape of the cluster; rows with the same one share a cluster."""
        return self.shards, self.nodes, self.facades


BASE = Shape()
TABLES: dict[str, list[Shape]] = {
    "connections": [BASE._replace(connections=count) for count in (1, 8, 64, 256, 1000, 2000)],
    "value-bytes": [BASE._replace(value_bytes=size) for size in (10, 100, 1_000, 10_000, 100_000, 1_000_000)],
    "nodes": [BASE._replace(nodes=count) for count in (1, 3, 5)],
    "facades": [BASE._replace(facades=count, connections=256) for count in (1, 2)],
    "shards": [Shape(shards=count, nodes=3, connections=256) for count in (1, 2, 4)],
}
KINDS = (("put", ""), ("get", "linearizable"), ("get", "eventual"))


def cost(figures: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """A row: the cost of one operation, and how many the busiest process could do with a core of its own."""
    spent = figures["cpu_us_per_operation"]
    followers = max(1, shape.shards * (shape.nodes - 1))
    # Every shard gets its part of the operations.
    by_process = {
        "facade": spent["facade"] / shape.facades,
        "leader": spent["leaders"] / shape.shards,
        "follower": spent["followers"] / followers,
    }
    busiest = max(by_process, key=lambda name: by_process[name])
    return {
        **shape._asdict(),
        "kind": figures["phase"],
        "cpu_us": {name: round(spent[name], 1) for name in ("facade", "leaders", "followers", "helpers")},
        "messages": figures["grpc_messages_per_operation"],
        "rate_per_s": figures["operations_per_s"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "busiest": busiest,
        "a_core_each_per_s": round(CORE_US / max(by_process[busiest], 0.1)),
        "errors": figures["errors"],
        "terms": figures["term_changes"],
    }


HEAD = (
    "| shards | nodes | facades | connections | value bytes | load | facade us | leaders us | followers us "
    "| helpers us | messages | here /s | p50 ms | p99 ms | a core each: /s | bound by |\n" + "|---" * 16 + "|"
)


def line(row: dict[str, Any]) -> str:
    """The row as a line of a Markdown table."""
    spent = " | ".join(f"{us:.0f}" for us in row["cpu_us"].values())
    return (
        f"| {row['shards']} | {row['nodes']} | {row['facades']} | {row['connections']} | {row['value_bytes']:,} "
        f"| {row['kind']} | {spent} | {row['messages']:.2f} | {row['rate_per_s']:,.0f} "
        f"| {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | {row['a_core_each_per_s']:,} | {row['busiest']} |"
    )


def measure_shape(cluster: Cluster, meter: Meter, shape: Shape, seconds: float) -> list[dict[str, Any]]:
    """Puts the three loads on a running cluster; returns a row for each."""
    known = max(32, min(FILL, VALUES_BYTES_MAX // shape.value_bytes))
    fill = Workload(kind="put", seconds=60, operations=known, connections=64, value_bytes=shape.value_bytes, keys=KEYS)
    measure(cluster, meter, "fill", fill)
    rows = []
    for kind, consistency in KINDS:
        workload = Workload(
            kind=kind,
            consistency=consistency,
            seconds=seconds,
            connections=shape.connections,
            value_bytes=shape.value_bytes,
            keys=KEYS,
            known=0 if kind == "put" else known,
        )
        _, figures = measure(cluster, meter, consistency or kind, workload)
        rows.append(cost(figures, shape))
        print(line(rows[-1]), flush=True)
    return rows


def run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measures all requested tables; a cluster serves all shapes that fit it, one after the other."""
    rows: list[dict[str, Any]] = []
    for table in options.tables:
        print(f"\n{table}\n\n{HEAD}", flush=True)
        shapes = TABLES[table]
        for number, kind in enumerate(dict.fromkeys(shape.cluster for shape in shapes)):
            shards, nodes, facades = kind
            cluster = Cluster(folder / f"{table}-{number}", shards=shards, nodes=nodes, facades=facades)
            try:
                cluster.start()
                meter = Meter(cluster)
                for shape in shapes:
                    if shape.cluster == kind:
                        rows += measure_shape(cluster, meter, shape, options.seconds)
            finally:
                cluster.close()
    return rows


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description="What an operation costs, by the shape of the cluster and of the load."
    )
    parser.add_argument("--tables", nargs="+", choices=tuple(TABLES), default=list(TABLES))
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each load lasts")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="dougdb-model-", ignore_cleanup_errors=True) as folder:
            rows = run(options, Path(folder))
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    bad = [row for row in rows if row["errors"] or row["terms"]]
    for row in bad:
        print(f"errors {row['errors']}, terms {row['terms']}: {line(row)}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
