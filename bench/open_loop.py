"""Open loads: requests are sent by a schedule, whether or not earlier ones have been answered.

A latency counts from when its request was due, not from when it was sent, so that a pause of the system shows in every
request that it delayed (a closed load omits them). First each system's capacity is measured, by a closed load of 64
from the same Go client; then it gets shares of that, or all systems get one common rate.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.load import percentile
from bench.systems import Load, System, in_turn

CAPACITY_CONNECTIONS = 64
PLACES = 512
"""How many requests of an open load may be under way; beyond, they wait, which counts as their latency."""
TIMEOUT_S = 5
HEAD = (
    "| open load | system | of its capacity | due /s | done /s | p50 ms | p99 ms | p99.9 ms | sent late, p99 ms | "
    "failed | unknown |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


class Request(NamedTuple):
    """One request of an open load; times in seconds since the start.

    Attributes:
        due: When the schedule wanted it sent.
        begun: When it was sent.
        ended: When it was answered or given up.
        outcome: ``done``, or ``failed: ...`` (certainly nothing was changed) or ``unknown: ...``.
    """

    due: float
    begun: float
    ended: float
    outcome: str

    @property
    def is_done(self) -> bool:
        """Whether it succeeded."""
        return self.outcome == "done"

    @property
    def latency_ms(self) -> float:
        """From when it was due."""
        return (self.ended - self.due) * 1000


@dataclass(frozen=True, slots=True)
class Requests:
    """All requests of one open load, in the order in which they were due, and the Unix time of its start."""

    started_unix_s: float
    all: list[Request]

    @classmethod
    def of(cls, told: dict[str, Any]) -> Requests:
        """Reads what the Go program prints: records of microseconds, whose last number is one of ``outcomes``."""
        outcomes = told["outcomes"]
        found = [
            Request(due / 1e6, begun / 1e6, ended / 1e6, outcomes[outcome])
            for due, begun, ended, outcome in told["records"]
        ]
        return cls(told["started_unix_s"], found)

    def outcomes(self) -> dict[str, int]:
        """How many requests did not succeed, by what they came to."""
        counts: dict[str, int] = {}
        for request in self.all:
            if not request.is_done:
                counts[request.outcome] = counts.get(request.outcome, 0) + 1
        return dict(sorted(counts.items()))


def count_of(outcomes: dict[str, int], kind: str) -> int:
    """How many requests came to ``failed`` or ``unknown``."""
    return sum(count for outcome, count in outcomes.items() if outcome.startswith(f"{kind}:"))


class OpenFigures(NamedTuple):
    """The figures of one open load: rates per second, latencies of requests that succeeded in ms."""

    due_per_s: float
    done_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    late_p99_ms: float
    outcomes: dict[str, int]


def figures_of(requests: Requests, seconds: float) -> OpenFigures:
    """Works out the figures of a load of so many seconds; late answers make it last longer."""
    done = [request.latency_ms for request in requests.all if request.is_done]
    lasted = max([seconds, *(request.ended for request in requests.all)])
    late = [(request.begun - request.due) * 1000 for request in requests.all]
    p50, p99, p999 = (percentile(done, share) for share in (0.5, 0.99, 0.999))
    rates = len(requests.all) / seconds, len(done) / lasted
    return OpenFigures(*rates, p50, p99, p999, percentile(late, 0.99), requests.outcomes())


def arguments_of(load: Load, rate: float, poisson: bool, seed: int) -> tuple[str, ...]:
    """The arguments of ``peers open`` for a load at a rate."""
    sizes = ("-keys", str(load.keys), "-value-bytes", str(load.value_bytes), "-workers", str(PLACES))
    when = ("-rate", f"{rate:.3f}", "-seconds", f"{load.seconds:g}", "-seed", str(seed))
    random = ("-poisson",) if poisson else ()
    return ("-kind", load.kind, "-timeout", f"{TIMEOUT_S}s", *sizes, *when, *random)


@dataclass(slots=True)
class OpenTable:
    """All runs of one open load of one system, in the order of the turns.

    Attributes:
        share: The share of its capacity; 0 for a rate that all systems get.
        rate: Requests per second.
    """

    load: Load
    system: str
    share: float
    rate: float
    runs: list[OpenFigures]

    def row(self) -> str:
        """One line of the Markdown table: medians; requests that did not succeed are those of all runs."""
        due, done, p50, p99, p999, late = (
            statistics.median(getattr(run, name) for run in self.runs) for name in OpenFigures._fields[:-1]
        )
        failed, unknown = (sum(count_of(run.outcomes, kind) for run in self.runs) for kind in ("failed", "unknown"))
        share = f"{self.share:.0%}" if self.share else ""
        return (
            f"| {self.load.kind} | {self.system} | {share} | {due:,.0f} | {done:,.0f} | {p50:.2f} | {p99:.1f} | "
            f"{p999:.1f} | {late:.1f} | {failed} | {unknown} |"
        )

    def document(self) -> dict[str, Any]:
        """All runs, for files."""
        head = {"load": self.load._asdict(), "system": self.system, "share": self.share, "rate": self.rate}
        return {**head, "runs": [run._asdict() for run in self.runs]}


def compare(systems: Sequence[System], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Puts open loads on all systems, in turn, and prints the table; returns all figures.

    Requires: each has a client and the kind ``open``.
    """
    how = f"at random distances, seed {options.seed}" if options.poisson else "at equal distances"
    capacity = f"; capacity by a closed load of {CAPACITY_CONNECTIONS} from the same client"
    print(f"\nOpen loads {how}{'' if options.open_rate else capacity}\n\n{HEAD}")
    documents = []
    for kind in options.open_kinds:
        load = Load(kind, CAPACITY_CONNECTIONS, options.value_bytes[0], options.keys, options.seconds)
        asked = {system.name: system for system in systems if kind in system.kinds()}
        wanted = {name: _wanted(system, load, options) for name, system in asked.items()}
        for number in range(len(options.open_shares) if not options.open_rate else 1):
            tables = {name: OpenTable(load, name, *wanted[name][number], []) for name in asked}
            for turn in range(options.turns):
                for system in in_turn(list(asked.values()), turn):
                    table = tables[system.name]
                    assert system.client is not None, "it was asked for"
                    arguments = arguments_of(load, table.rate, options.poisson, options.seed + turn)
                    told = Requests.of(system.client.ask("open", load.seconds, *arguments))
                    table.runs.append(figures_of(told, load.seconds))
            print("\n".join(table.row() for table in tables.values()), flush=True)
            documents += [table.document() for table in tables.values()]
    return documents


def _wanted(system: System, load: Load, options: argparse.Namespace) -> list[tuple[float, float]]:
    """The loads of one system as shares of its capacity and rates per second."""
    if options.open_rate:
        return [(0.0, options.open_rate)]
    assert system.client is not None, "it was asked for"
    capacity = system.client.closed(load)["operations_per_s"]
    return [(share, share * capacity) for share in options.open_shares]
