"""A short benchmark of a fresh local cluster: ``make bench-smoke``, or ``python -m bench.smoke``.

Puts, then linearizable gets, then eventual gets, through the facade, with the CPU time per operation of each group of
processes, the gRPC messages that a put costs, and the memory of every process. It ends with exit code 1 when a term
changed during the load, when an operation failed, or when the cluster did not start; its time is bounded.

It must not tune anything: the cluster runs with the defaults that users get, unless an option says otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

if __package__ in (None, ""):  # Started by its path, as `make bench-smoke` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.cluster import Cluster
from bench.fresh import add_layout, on_fresh_cluster
from bench.http11 import Secure
from bench.load import LoadResult, Workload, run_blocking
from bench.meter import cpu_s, family, family_pss_bytes, rss_bytes, scrape, total

MESSAGES = "dougdb_grpc_messages_received_total"
BOUND_S = 120
"""How long start, stop and measuring may take beyond the load itself."""


class Meter:
    """Reads the CPU time that the groups of processes of a cluster have spent, and the messages they have received."""

    def __init__(
        self, cluster: Cluster, secure: Secure | None = None, facades: Sequence[psutil.Process] | None = None
    ) -> None:
        """Finds the processes of a cluster.

        Args:
            cluster: The cluster, which runs.
            secure: How its nodes are asked for metrics over TLS; None for plaintext.
            facades: The facades that count; None for the cluster's own ones.
        """
        self._secure = secure
        self._views = cluster.views()
        names = {path.stem for path in (cluster.data / "run").glob("facade*.pid")}
        self._facades = [cluster.member(name) for name in sorted(names)] if facades is None else list(facades)
        self._nodes = {view.id: cluster.member(view.id) for view in self._views}
        self._leaders = {view.id for view in self._views if view.role == "leader"}

    def groups(self) -> dict[str, list[psutil.Process]]:
        """The processes by group, as they are now: a helper process may have been replaced."""
        leaders = [process for name, process in self._nodes.items() if name in self._leaders]
        followers = [process for name, process in self._nodes.items() if name not in self._leaders]
        helpers = [helper for process in self._nodes.values() for helper in family(process)[1:]]
        return {"facade": self._facades, "leaders": leaders, "followers": followers, "helpers": helpers}

    def cpu_s(self) -> dict[str, float]:
        """The CPU time that each group has spent so far."""
        return {name: cpu_s(processes) for name, processes in self.groups().items()}

    def messages(self) -> float:
        """How many gRPC messages all nodes have received so far."""
        return sum(total(scrape(view.admin_port, self._secure), MESSAGES) for view in self._views)

    def terms(self) -> dict[str, float]:
        """The term of every node, from its own gauge."""
        return {view.id: total(scrape(view.admin_port, self._secure), "dougdb_raft_term") for view in self._views}

    def memory(self) -> dict[str, dict[str, float]]:
        """PSS and RSS in MB of every process with its children."""
        named = {**self._nodes, **{f"facade {process.pid}": process for process in self._facades}}
        return {
            name: {"pss_mb": round(family_pss_bytes(process) / 1e6, 1), "rss_mb": round(rss_bytes(process) / 1e6, 1)}
            for name, process in named.items()
        }


def measure(
    cluster: Cluster,
    meter: Meter,
    name: str,
    workload: Workload,
    tags: dict[bytes, bytes] | None = None,
    url: str = "",
) -> tuple[LoadResult, dict[str, Any]]:
    """Runs one phase against the cluster's facades, or the one at ``url``; returns its result and its figures."""
    terms, messages, spent = meter.terms(), meter.messages(), meter.cpu_s()
    result = run_blocking(url or cluster.shared_url, workload, tags)
    spent_after, messages_after, terms_after = meter.cpu_s(), meter.messages(), meter.terms()
    answers = max(1, len(result.latencies_ns))
    cpu_us = {group: round((spent_after[group] - spent[group]) * 1e6 / answers, 2) for group in spent}
    cpu_us["load generator"] = round(result.cpu_us_per_operation, 1)
    figures = {
        "phase": name,
        **result.summary(),
        "cpu_us_per_operation": cpu_us,
        "grpc_messages_per_operation": round((messages_after - messages) / answers, 3),
        "term_changes": {
            node: [int(term), int(terms_after[node])] for node, term in terms.items() if term != terms_after[node]
        },
    }
    return result, figures


def show(figures: dict[str, Any]) -> None:
    """Prints the figures of one phase."""
    print(
        f"{figures['phase']:18} {figures['operations_per_s']:9.0f}/s   p50 {figures['p50_ms']:.1f} ms   "
        f"p99 {figures['p99_ms']:.1f} ms   p99.9 {figures['p99.9_ms']:.1f} ms   errors {figures['errors'] or 'none'}"
    )
    spent = figures["cpu_us_per_operation"]
    total_us = sum(spent.values())
    print(
        f"{'':18} CPU us per operation: {', '.join(f'{name} {us:.0f}' for name, us in spent.items())}"
        f", together {total_us:.0f}"
    )
    print(f"{'':18} gRPC messages received per operation, all nodes: {figures['grpc_messages_per_operation']:.3f}")
    if figures["term_changes"]:
        print(f"{'':18} TERMS CHANGED: {figures['term_changes']}")
    sys.stdout.flush()


def show_memory(memory: dict[str, dict[str, float]]) -> None:
    """Prints the memory of every process with its children."""
    print("memory, with children (MB):")
    for name, figures in memory.items():
        print(f"  {name:14} PSS {figures['pss_mb']:6.1f}   RSS {figures['rss_mb']:6.1f}")
    print(f"  {'together':14} PSS {sum(figures['pss_mb'] for figures in memory.values()):6.1f}")


def run(cluster: Cluster, options: argparse.Namespace) -> dict[str, Any]:
    """Starts the cluster, puts the three loads on it, and returns all figures."""
    begun = time.monotonic()
    cluster.start()
    print(f"{options.shards} shards of {options.nodes} nodes were up after {time.monotonic() - begun:.1f} s")
    meter = Meter(cluster)
    common = {"connections": options.connections, "seconds": options.seconds, "value_bytes": options.value_bytes}
    puts, figures = measure(cluster, meter, "put", Workload(kind="put", keys=options.keys, **common))
    show(figures)
    phases = [figures]
    # Reads ask for keys that were put: the first ``ok`` of the sequence are all there, unless something failed.
    if puts.ok and not puts.errors:
        for name in ("linearizable", "eventual"):
            reads = Workload(
                kind="get", keys=options.keys, consistency=name, known=min(puts.ok, options.keys), **common
            )
            _, figures = measure(cluster, meter, f"get {name}", reads)
            show(figures)
            phases.append(figures)
    memory = meter.memory()
    show_memory(memory)
    return {"phases": phases, "memory": memory}


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="A short benchmark of a fresh local cluster.")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each of the three loads lasts")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    add_layout(parser)
    parser.add_argument("--memtable-bytes", type=int, help="DOUGDB_MEMTABLE_BYTES of the nodes, to see flushes")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    environment = {"DOUGDB_MEMTABLE_BYTES": str(options.memtable_bytes)} if options.memtable_bytes else {}
    figures = on_fresh_cluster(run, options, 3 * options.seconds + BOUND_S, environment)
    if figures is None:
        return 1
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    bad = [phase["phase"] for phase in figures["phases"] if phase["term_changes"] or phase["errors"]]
    if bad:
        print(f"failed: terms changed or operations failed in {', '.join(bad)}", file=sys.stderr)
    return 1 if bad or len(figures["phases"]) < 3 else 0


if __name__ == "__main__":
    sys.exit(main())
