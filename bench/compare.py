"""Compares DougDB with etcd, NATS JetStream and Redis: ``make bench``, or ``python -m bench.compare``.

All systems run at once and get each load in turn, so that whatever else the machine does hits all of them; each turn
gives one ratio, and the median of the ratios counts. It prints a Markdown table and, with ``--json``, writes every
figure of every run; with ``--plot`` it draws the closed loads. Rates of two days are never compared.

Closed loads are here; open loads, kills of leaders and watchers have modules and tables of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # Started by its path, as `make bench` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench import compare_plot, failover, fan_out, open_loop
from bench.cluster import ClusterError
from bench.lineup import running
from bench.systems import MEMBERS, Figures, Load, System, in_turn

CLOSED = ("put", "linearizable", "stale", "mixed", "batch", "scan")
OTHERS = {"open": open_loop.compare, "failover": failover.compare, "watch": fan_out.compare}
NAMES = ("dougdb", "etcd", "etcd-json", "nats", "redis")


def machine() -> str:
    """The machine on which the figures were measured, in words."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores, {model}, Linux {platform.release()}, Python {platform.python_version()}"


class Table:
    """All runs of one load, by system, in the order of the turns."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.runs: dict[str, list[Figures]] = {}

    def ratio(self, other: str, figure: str) -> float:
        """The ratio of DougDB's figure to another system's: the median over the turns."""
        pairs = zip(self.runs["DougDB"], self.runs[other], strict=True)
        ratios = [float(getattr(ours, figure) / max(1e-9, getattr(theirs, figure))) for ours, theirs in pairs]
        return statistics.median(ratios)

    def document(self) -> dict[str, Any]:
        """All runs, for files."""
        runs = {name: [run._asdict() for run in found] for name, found in self.runs.items()}
        return {"load": self.load._asdict(), "runs": runs}

    def rows(self) -> list[str]:
        """One line of the Markdown table for each system."""
        lines = []
        for name, runs in self.runs.items():
            middle = [
                statistics.median(getattr(run, figure) for run in runs)
                for figure in ("operations_per_s", "p50_ms", "p99_ms", "p999_ms")
            ]
            cpu = ", ".join(
                f"{group} {statistics.median(run.cpu_us[group] for run in runs):.0f}" for group in runs[0].cpu_us
            )
            ratio = ""
            if name != "DougDB" and "DougDB" in self.runs:
                ratio = f"{self.ratio(name, 'operations_per_s'):.2f} / {self.ratio(name, 'p99_ms'):.2f}"
            errors = sum(sum(run.errors.values()) for run in runs)
            lines.append(
                f"| {self.load.name} | {name} | {middle[0]:,.0f} | {middle[1]:.2f} | {middle[2]:.1f} | "
                f"{middle[3]:.1f} | {cpu} | {errors} | {ratio} |"
            )
        return lines


HEAD = (
    "| load | system | per second | p50 ms | p99 ms | p99.9 ms | CPU us per operation | errors | "
    "DougDB to it: rate / p99 |\n|---|---|---|---|---|---|---|---|---|"
)


def compare(systems: list[System], options: argparse.Namespace) -> list[Table]:
    """Puts all closed loads on all systems, in turn."""
    print(f"\n{HEAD}")
    tables = []
    for value_bytes in options.value_bytes:
        fill(systems, value_bytes, options)
        for kind in options.kinds:
            if kind not in CLOSED:
                continue
            for connections in options.batch_connections if kind == "batch" else options.connections:
                table = Table(Load(kind, connections, value_bytes, options.keys, options.seconds))
                asked = [system for system in systems if kind in system.kinds()]
                for turn in range(options.turns):
                    for system in in_turn(asked, turn):
                        table.runs.setdefault(system.name, []).append(system.run(table.load))
                table.runs = {system.name: table.runs[system.name] for system in asked}
                print("\n".join(table.rows()), flush=True)
                tables.append(table)
    return tables


def fill(systems: list[System], value_bytes: int, options: argparse.Namespace) -> None:
    """Puts every key once, into all systems."""
    for system in systems:
        system.fill(Load("put", 256, value_bytes, options.keys, options.seconds))


def measure(systems: list[System], options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """Does all kinds of load; returns the tables of closed loads, and all figures for files."""
    tables = compare(systems, options) if set(options.kinds) & set(CLOSED) else []
    document: dict[str, Any] = {"machine": machine(), "loads": [table.document() for table in tables]}
    # Before members are killed and start anew.
    document["memory_mb"] = {system.name: round(system.memory_mb(), 1) for system in systems}
    others = [kind for kind in OTHERS if kind in options.kinds]
    if others:
        fill(systems, options.value_bytes[0], options)
    # Kills are the last, since they are hard on what is measured after them.
    for kind in sorted(others, key="failover".__eq__):
        asked = [system for system in systems if kind in system.kinds() and system.client]
        if asked:
            document[kind] = OTHERS[kind](asked, options)
        else:
            print(f"{kind}: none of the systems here has it; DougDB needs Go for it", file=sys.stderr)
    return tables, document


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Compares DougDB, etcd, NATS JetStream and Redis, five members each.")
    parser.add_argument("--systems", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--kinds", nargs="+", choices=(*CLOSED, *OTHERS), default=[*CLOSED, *OTHERS])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--batch-connections", type=int, nargs="+", default=[8, 32])
    parser.add_argument(
        "--value-bytes", type=int, nargs="+", default=[100], help="open loads and watches use the first"
    )
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each load lasts; for wrk, whole ones")
    parser.add_argument("--turns", type=int, default=5, help="how often each load is put on each system")
    parser.add_argument("--facades", type=int, default=1, help="how many facades DougDB has, on one port together")
    parser.add_argument(
        "--open-kinds", nargs="+", choices=("put", "linearizable", "stale"), default=["put", "linearizable"]
    )
    parser.add_argument(
        "--open-shares", type=float, nargs="+", default=[0.5, 0.8], help="of each system's own capacity"
    )
    parser.add_argument("--open-rate", type=float, default=0.0, help="one rate for all, in place of shares")
    parser.add_argument("--poisson", action="store_true", help="open loads: at random distances, not equal ones")
    parser.add_argument("--seed", type=int, default=1, help="of these distances; each turn takes the next one")
    parser.add_argument("--failover-rate", type=float, default=200.0, help="puts a second while the leader is killed")
    parser.add_argument("--failover-seconds", type=float, default=24.0, help="a third before, without, with it again")
    parser.add_argument("--watchers", type=int, nargs="+", default=[1000])
    parser.add_argument("--events", type=int, default=20, help="how many events one at a time")
    parser.add_argument("--stream-events", type=int, default=100, help="how many events one behind the other")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--plot", type=Path, help="also draw the closed loads into this PNG; needs make bench-tools")
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the command line."""
    options = options_of()
    if options.plot and not compare_plot.is_possible():
        print("--plot needs matplotlib, which make bench-tools installs", file=sys.stderr)
        return 2
    print(f"{machine()}; {MEMBERS} members each, medians of {options.turns} turns of {options.seconds:g} s")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="dougdb-bench-", ignore_cleanup_errors=True) as folder,
            running(
                options.systems, Path(folder), options.facades, needs_go=bool(set(options.kinds) & set(OTHERS))
            ) as systems,
        ):
            tables, document = measure(systems, options)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\nmemory of all members (PSS, MB): {document['memory_mb']}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if options.plot and tables:
        compare_plot.draw(document, options.plot)
    elections = [
        table.load.name for table in tables for run in table.runs.get("DougDB", []) if "elections" in run.errors
    ]
    if elections:
        print(f"a term changed during {sorted(set(elections))}", file=sys.stderr)
    return 1 if elections else 0


if __name__ == "__main__":
    sys.exit(main())
