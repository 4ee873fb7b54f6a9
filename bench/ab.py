"""Compares two versions side by side: ``make bench-ab REF=<commit>``, or ``python -m bench.ab --ref <commit>``.

The other version is checked out of git into ``out/ab/`` and set up there once. A cluster of each is started, and they
get the same load in turn, so that whatever else the machine does hits both; each pair gives one ratio, and the median
of the ratios is the result. Many short pairs (``--pairs 12 --seconds 1.5``) tell small differences better than few long
ones; the means at the end say how well. With ``--limit`` it is a guard: it ends with exit code 1 if this version spends
more CPU or messages per operation than the limit times those of the other one. On a machine that does other work, too,
one measure may be wrong by as much: with ``--attempts`` a load counts as too dear only if all pairs of all attempts
show it together. Neither rates nor latencies are judged.

With ``--other-setting NAME=VALUE`` it compares settings instead: the other cluster has that variable, and without
``--ref`` it is of this version. With ``--compiled`` this one runs on native modules, and without ``--ref`` the other
one is the same version without them. With ``--auth`` it compares what it costs to know who asks and what they may do:
two facades of one cluster, see ``bench.guarded``. There the limit is for the CPU of the facade, since that judges.

It must not tune anything else: both run with the defaults that users get.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in (None, ""):  # Started by its path, as `make bench-ab` does.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from tools.compiled import building
from tools.compiled.modules import MODULES

from bench import guarded
from bench.cluster import Cluster, ClusterError
from bench.guarded import Headers
from bench.load import Workload
from bench.smoke import Meter, measure

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_OPERATIONS = 20_000
SINGLE = ("put", "linearizable", "eventual")
"""The loads that are compared if none are named. A batch of 128 puts counts as one operation."""


class Side(NamedTuple):
    """One of the two that are compared.

    Attributes:
        cluster: The cluster.
        meter: What reads the CPU of its processes.
        headers: What the load's requests carry besides.
        url: The facade's address; empty for the cluster's own ones.
    """

    cluster: Cluster
    meter: Meter
    headers: Headers = ()
    url: str = ""


class Load(NamedTuple):
    """A load to compare: ``put``, ``get`` with a consistency, or ``batch``, at a number of connections."""

    kind: str
    consistency: str
    connections: int

    @property
    def name(self) -> str:
        """The name of the load in tables."""
        return f"{self.consistency or self.kind} {self.connections}"

    def workload(self, options: argparse.Namespace, headers: Headers) -> Workload:
        """The workload for the load generator."""
        return Workload(
            headers=headers,
            kind=self.kind,
            consistency=self.consistency,
            connections=self.connections,
            seconds=options.seconds,
            keys=options.keys,
            known=min(options.keys, WARM_UP_OPERATIONS) if self.kind == "get" else 0,
            value_bytes=options.value_bytes,
        )


def take_out(ref: str) -> Path:
    """Checks out another version and sets it up; returns its folder.

    Raises:
        ClusterError: The version does not exist, or cannot be set up.
    """
    told = subprocess.run(
        ("git", "rev-parse", "--verify", f"{ref}^{{commit}}"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise ClusterError(f"{ref!r} names no commit")
    commit = told.stdout.strip()
    folder = ROOT / "out" / "ab" / commit[:12]
    if not folder.exists():
        packed = subprocess.run(("git", "archive", commit), cwd=ROOT, capture_output=True, check=True).stdout
        folder.mkdir(parents=True)
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            # Python before 3.11.4 knows no filters; the archive is git's own.
            archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            archive.extractall(folder)
    if subprocess.run(("make", "setup"), cwd=folder, check=False).returncode:
        raise ClusterError(f"{folder} could not be set up")
    return folder


def ratio_of(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """The median of the ratios, pair by pair."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True) if other]
    return statistics.median(ratios) if ratios else 0.0


def mean_of(ours: Iterable[float], theirs: Iterable[float]) -> str:
    """The mean of the ratios with its standard error, as text; empty for fewer than two pairs."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True) if other]
    if len(ratios) < 2:
        return ""
    return f"{statistics.mean(ratios):.3f} ± {statistics.stdev(ratios) / len(ratios) ** 0.5:.3f}"


def spent_us(figures: dict[str, Any]) -> float:
    """The CPU of all processes but the load generator's, per operation."""
    return float(sum(us for group, us in figures["cpu_us_per_operation"].items() if group != "load generator"))


def facade_us(figures: dict[str, Any]) -> float:
    """The CPU of the facade, per operation."""
    return float(figures["cpu_us_per_operation"]["facade"])


class Comparison:
    """The figures of both versions for one load, pair by pair."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.other: list[dict[str, Any]] = []
        self.this: list[dict[str, Any]] = []

    def ratio(self, name: str) -> float:
        """The ratio of this version's figure to the other's."""
        return ratio_of((each[name] for each in self.this), (each[name] for each in self.other))

    def cpu_ratio(self) -> float:
        """The ratio of the CPU per operation."""
        return ratio_of(map(spent_us, self.this), map(spent_us, self.other))

    def facade_ratio(self) -> float:
        """The ratio of the facade's CPU per operation."""
        return ratio_of(map(facade_us, self.this), map(facade_us, self.other))

    def means(self) -> str:
        """A line with the means of both ratios of CPU, each with its standard error; empty for fewer than two pairs."""
        cpu = mean_of(map(spent_us, self.this), map(spent_us, self.other))
        facade = mean_of(map(facade_us, self.this), map(facade_us, self.other))
        return f"{self.load.name}: CPU {cpu}, facade's CPU {facade} (means of {len(self.this)} pairs)" if cpu else ""

    def summary(self) -> dict[str, Any]:
        """All figures, for files."""
        return {
            "load": self.load.name,
            "rate_ratio": round(self.ratio("operations_per_s"), 3),
            "p50_ratio": round(self.ratio("p50_ms"), 3),
            "p99_ratio": round(self.ratio("p99_ms"), 3),
            "cpu_ratio": round(self.cpu_ratio(), 3),
            "facade_cpu_ratio": round(self.facade_ratio(), 3),
            "messages_ratio": round(self.ratio("grpc_messages_per_operation"), 3),
            "other": self.other,
            "this": self.this,
        }

    def rows(self) -> list[str]:
        """Two lines of a Markdown table."""
        lines = []
        for name, runs in (("other", self.other), ("this", self.this)):
            middle = {
                key: statistics.median(run[key] for run in runs)
                for key in ("operations_per_s", "p50_ms", "p99_ms", "grpc_messages_per_operation")
            }
            groups = runs[0]["cpu_us_per_operation"]
            spent = " ".join(
                f"{statistics.median(run['cpu_us_per_operation'][each] for run in runs):.0f}" for each in groups
            )
            ratios = ""
            if name == "this":
                ratios = (
                    f"{self.ratio('operations_per_s'):.2f} / {self.ratio('p50_ms'):.2f} / {self.ratio('p99_ms'):.2f} / "
                    f"{self.cpu_ratio():.2f} / {self.facade_ratio():.2f} / "
                    f"{self.ratio('grpc_messages_per_operation'):.2f}"
                )
            lines.append(
                f"| {self.load.name} | {name} | {middle['operations_per_s']:.0f} | {middle['p50_ms']:.2f} | "
                f"{middle['p99_ms']:.1f} | {spent} | {middle['grpc_messages_per_operation']:.2f} | {ratios} |"
            )
        return lines


HEAD = (
    "| load | version | per second | p50 ms | p99 ms | CPU us: facade, leaders, followers, helpers, load generator | "
    "messages | ratios: rate / p50 / p99 / CPU / facade's CPU / messages |\n|---|---|---|---|---|---|---|---|"
)


def compare(sides: Sequence[Side], options: argparse.Namespace) -> list[Comparison]:
    """Puts all loads on the other one and this one, in turn. Requires: both run."""
    for side in sides:
        fill = Workload(
            kind="put",
            seconds=60,
            operations=WARM_UP_OPERATIONS,
            keys=options.keys,
            value_bytes=options.value_bytes,
            headers=side.headers,
        )
        measure(side.cluster, side.meter, "fill", fill, url=side.url)
    loads = [
        Load(kind, consistency, connections)
        for kind, consistency in (("put", ""), ("get", "linearizable"), ("get", "eventual"), ("batch", ""))
        if (consistency or kind) in options.only
        for connections in options.connections
    ]
    found = [Comparison(load) for load in loads]
    print(HEAD, flush=True)
    for comparison in found:
        for attempt in range(options.attempts):
            if attempt:
                print(f"{comparison.load.name} spends too much; it is measured again", flush=True)
            for pair in range(options.pairs):
                # The second one finds a warmer machine, so the order alternates.
                for turn in (0, 1) if pair % 2 else (1, 0):
                    load, side = comparison.load, sides[turn]
                    workload = load.workload(options, side.headers)
                    _, figures = measure(side.cluster, side.meter, load.name, workload, url=side.url)
                    (comparison.other, comparison.this)[turn].append(figures)
            print("\n".join(comparison.rows()), flush=True)
            if not overspent(comparison, options):
                break
    return found


def overspent(comparison: Comparison, options: argparse.Namespace) -> list[str]:
    """The measures of which this version spends more than the limit allows; empty without a limit."""
    if options.auth:
        spent = {"CPU of a facade": comparison.facade_ratio()}
    else:
        spent = {"CPU": comparison.cpu_ratio(), "messages": comparison.ratio("grpc_messages_per_operation")}
    return [
        f"{comparison.load.name}: {ratio:.3f} times the {what} per operation"
        for what, ratio in spent.items()
        if options.limit and ratio > options.limit
    ]


def judge(found: list[Comparison], options: argparse.Namespace) -> list[str]:
    """The faults of the run: failed operations, elections, and costs beyond the limit."""
    wrong = []
    for comparison in found:
        for figures in (*comparison.other, *comparison.this):
            if figures["errors"] or figures["term_changes"]:
                wrong.append(f"{comparison.load.name}: errors {figures['errors']}, terms {figures['term_changes']}")
        wrong += overspent(comparison, options)
    return wrong


def start(folder: Path, options: argparse.Namespace, stack: ExitStack) -> list[Side]:
    """Starts the other one and this one; the stack ends them.

    Raises:
        ClusterError: One of them cannot be started.
    """
    if options.auth:
        return _start_facades(folder, options, stack)
    other = take_out(options.ref) if options.ref else ROOT
    ours = native() if options.compiled else {}
    sides: list[Side] = []
    for name, root, variables in (("other", other, dict(options.other_setting)), ("this", ROOT, ours)):
        # The first one runs before the second one looks for free ports.
        cluster = Cluster(
            folder / name,
            shards=options.shards,
            nodes=options.nodes,
            command=(str(root / ".venv" / "bin" / "dougctl"), "dev"),
            environment=variables,
        )
        stack.callback(cluster.close)
        cluster.start()
        sides.append(Side(cluster, Meter(cluster)))
    return sides


def native() -> dict[str, str]:
    """What makes a cluster run on native modules, which are made first where they are not up to date.

    Raises:
        ClusterError: They cannot be made.
    """
    try:
        return {"PYTHONPATH": str(building.make(MODULES))}
    except building.BuildError as error:
        raise ClusterError(str(error)) from error


def _start_facades(folder: Path, options: argparse.Namespace, stack: ExitStack) -> list[Side]:
    """Starts a cluster, and two facades of it: the other one asks nobody who they are."""
    command = (str(ROOT / ".venv" / "bin" / "dougctl"), "dev")
    cluster = Cluster(folder / "this", shards=options.shards, nodes=options.nodes, options=("--auth",), command=command)
    stack.callback(cluster.close)
    guarded.show_token(cluster)
    cluster.start()
    token, secure = guarded.principal(cluster), guarded.secure(cluster)
    sides: list[Side] = []
    for headers in ((), token):
        url, process = guarded.start_facade(cluster, headers, stack, guarded=bool(headers))
        sides.append(Side(cluster, Meter(cluster, secure, [process]), headers, url))
    return sides


def _setting(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.startswith("DOUGDB_"):
        raise argparse.ArgumentTypeError(f"{text!r} is no setting, as DOUGDB_NAME=VALUE")
    return name, value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares this version with another one, in turn.")
    parser.add_argument("--ref", default="", help="the commit to compare with")
    parser.add_argument(
        "--other-setting",
        nargs="+",
        type=_setting,
        default=[],
        metavar="NAME=VALUE",
        help="what only the other one has",
    )
    parser.add_argument("--compiled", action="store_true", help="this one runs on native modules")
    parser.add_argument("--auth", action="store_true", help="two facades of one cluster; only this one authenticates")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each load lasts")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--only", nargs="+", choices=(*SINGLE, "batch"), default=SINGLE)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=100)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument(
        "--limit", type=float, default=0.0, help="fail above this ratio of CPU or messages, or of the facade's CPU"
    )
    parser.add_argument(
        "--attempts", type=int, default=1, help="how often a load that exceeds it is measured until it counts"
    )
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args()
    if not (options.ref or options.other_setting or options.compiled or options.auth):
        parser.error("there is nothing to compare with: --ref, --other-setting, --compiled, or --auth")
    if options.auth and (options.ref or options.other_setting or options.compiled):
        parser.error("--auth compares two facades of this version: leave --ref, --other-setting and --compiled out")
    return options


def main() -> int:
    """Runs the command line."""
    options = _options()
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dougdb-ab-", ignore_cleanup_errors=True))
            found = compare(start(Path(folder), options, stack), options)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(["", *(comparison.means() for comparison in found)]))
    if options.json:
        figures = [comparison.summary() for comparison in found]
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    wrong = judge(found, options)
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
