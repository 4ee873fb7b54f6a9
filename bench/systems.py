"""What ``make bench`` can ask of a system, and DougDB as the first of them: five members on loopback.

``go_peers.py`` has the others. DougDB and etcd's JSON gateway are loaded by wrk; open loads, kills of leaders and
watches come to all systems from one Go program (``go_client.py``). Every system runs with its own defaults, except
where this is said.

Each closed load gives the same figures for every system: rate, latencies, errors, CPU by group of processes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil

from bench.cluster import Cluster, ClusterError
from bench.go_client import GoClient
from bench.launch import Launch
from bench.meter import cpu_s, family_pss_bytes
from bench.smoke import Meter

MEMBERS = 5
GRACE_S = 30
FILL_BYTES = 4 << 20
"""How many bytes of values and keys the batches have that fill DougDB; a facade takes 16 MiB in one."""
SCRIPT = Path(__file__).with_name("load.lua")


class Load(NamedTuple):
    """The load that every system gets.

    Attributes:
        kind: ``put``, ``linearizable`` or ``stale`` (reads), ``mixed`` (half puts, half linearizable reads), ``batch``,
            ``scan`` (linearizable, from a key on).
        connections: How many requests are under way at the same time.
        value_bytes: The size of each value.
        keys: How many keys are used; all of them exist.
        seconds: How many seconds the load lasts.
        batch: How many puts a batch has.
        entries: How many entries a scan reads.
    """

    kind: str
    connections: int
    value_bytes: int
    keys: int
    seconds: float
    batch: int = 128
    entries: int = 100

    @property
    def name(self) -> str:
        """The name of the load in tables."""
        size = "" if self.value_bytes == 100 else f", {self.value_bytes} B"
        return f"{self.kind} {self.connections}{size}"


class Figures(NamedTuple):
    """The figures of one load: rates per second, latencies in ms, CPU in us per operation by group of processes."""

    operations_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    errors: dict[str, int]
    cpu_us: dict[str, float]


class System(Protocol):
    """One of the systems while it runs."""

    name: str

    @property
    def client(self) -> GoClient | None:
        """Its Go client; None where Go is missing, and for an interface that has none."""

    def kinds(self) -> frozenset[str]:
        """The kinds of load that the system supports; ``open``, ``failover`` and ``watch`` are asked of its client."""

    def fill(self, load: Load) -> None:
        """Puts every key once."""

    def run(self, load: Load) -> Figures:
        """Puts one load on it."""

    def memory_mb(self) -> float:
        """The PSS of all members together, without that of clients, in MB."""

    def kill_leader(self) -> float:
        """Kills the member that leads by SIGKILL; returns when, in Unix seconds. Requires: the kind ``failover``."""

    def start_again(self) -> None:
        """Starts the member again that was killed."""

    def await_whole(self) -> None:
        """Waits until all members are there again."""

    def close(self) -> None:
        """Ends all processes of the system."""


def in_turn(systems: Sequence[System], turn: int) -> list[System]:
    """The systems in the order of a turn: the second one finds a warmer machine, so the order alternates."""
    first = turn % max(1, len(systems))
    return [*systems[first:], *systems[:first]]


def batches_of(load: Load) -> list[range]:
    """The numbers of the keys, cut into batches that every facade takes."""
    puts = max(1, min(1000, FILL_BYTES // (load.value_bytes + 100)))
    return [range(first, min(load.keys, first + puts)) for first in range(0, load.keys, puts)]


class Spent:
    """The CPU that groups of processes take while something runs."""

    def __init__(self, groups: Mapping[str, Sequence[psutil.Process]]) -> None:
        self._groups = groups
        self._before = {name: cpu_s(processes) for name, processes in groups.items()}

    def per_operation_us(self, operations: float) -> dict[str, float]:
        """The CPU microseconds per operation since this object was made, by group."""
        return {
            name: round((cpu_s(processes) - self._before[name]) * 1e6 / max(1.0, operations), 1)
            for name, processes in self._groups.items()
        }


def run_wrk(url: str, load: Load, arguments: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Asks an HTTP server by wrk; ``arguments`` go to ``load.lua``. Returns what it found and its CPU seconds.

    Raises:
        ClusterError: wrk is missing, or failed.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise ClusterError("wrk is not installed (Debian: wrk)")
    seconds = ceil(load.seconds)  # wrk takes whole ones alone; it says itself how long it took.
    command = [wrk, "-t", "1", "-c", str(load.connections), "-d", f"{seconds}s", "--timeout", "15s"]
    before = os.times()
    told = subprocess.run(
        [*command, "-s", str(SCRIPT), url, "--", *arguments],
        capture_output=True,
        text=True,
        timeout=seconds + GRACE_S,
        check=False,
    )
    after = os.times()
    found = re.search(r"^figures (\{.*\})$", told.stdout, re.MULTILINE)
    if told.returncode or found is None:
        raise ClusterError(f"wrk failed: {told.stdout}{told.stderr}")
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return json.loads(found[1]), spent


def wrk_figures(found: dict[str, Any], spent_s: float, spent: Spent, each: int) -> Figures:
    """Turns the results of wrk into figures; ``each`` is the number of operations in a request."""
    operations = found["requests"] * each
    errors = {name: count for name, count in found["errors"].items() if count}
    cpu = spent.per_operation_us(operations)
    cpu["generator"] = round(spent_s * 1e6 / max(1, operations), 1)
    rate = operations / (found["duration_us"] / 1e6)
    return Figures(rate, found["p50_us"] / 1000, found["p99_us"] / 1000, found["p999_us"] / 1000, errors, cpu)


class DougDB:
    """This checkout, one shard of five nodes and its facades, loaded by wrk over HTTP."""

    name = "DougDB"

    def __init__(self, folder: Path, facades: int = 1, program: Path | None = None) -> None:
        # A node that is killed is down for as long as members of the other systems.
        options = ["--no-restart"]
        self._cluster = Cluster(folder / "dougdb", shards=1, nodes=MEMBERS, facades=facades, options=options).start()
        self._meter = Meter(self._cluster)
        self.client = GoClient(program, "dougdb", [self._cluster.shared_port]) if program else None
        self._killed: tuple[str, Launch] | None = None

    def kinds(self) -> frozenset[str]:
        """All kinds."""
        return frozenset({"put", "linearizable", "stale", "mixed", "batch", "scan", "open", "failover", "watch"})

    def fill(self, load: Load) -> None:
        """Puts every key once, by batches."""
        value = "v" * load.value_bytes
        for numbers in batches_of(load):
            operations = [{"op": "put", "key": f"bench/{number:08d}", "value": value} for number in numbers]
            body = json.dumps({"operations": operations}).encode()
            answer = self._cluster.request("POST", "/v1/batch", body, {"content-type": "application/json"})
            if answer.status != 200 or any(each["status"] != 200 for each in answer.json()["results"]):
                raise ClusterError(f"the keys could not be put: {answer.body[:300]!r}")

    def run(self, load: Load) -> Figures:
        """Puts one load on it by wrk."""
        terms, spent = self._meter.terms(), Spent(self._meter.groups())
        found, spent_s = run_wrk(self._cluster.shared_url, load, ("dougdb", *lua_arguments(load)))
        figures = wrk_figures(found, spent_s, spent, load.batch if load.kind == "batch" else 1)
        if self._meter.terms() != terms:
            figures.errors["elections"] = 1
        return figures

    def memory_mb(self) -> float:
        """The PSS of the five nodes with their helper processes, in MB."""
        nodes = [self._cluster.member(name) for name in self._cluster.node_ids]
        return sum(family_pss_bytes(process) for process in nodes) / 1e6

    def kill_leader(self) -> float:
        """Kills the leader of the only shard."""
        name = self._cluster.await_leader("0").id
        self._killed = name, self._cluster.launch_of(name)
        killed_s = time.time()
        self._cluster.kill(name)
        return killed_s

    def start_again(self) -> None:
        """Starts it again as it was started."""
        assert self._killed is not None, "nothing was killed"
        self._cluster.start_again(*self._killed)

    def await_whole(self) -> None:
        """Waits until all nodes have applied the same; what is measured afterwards are the processes of now."""
        self._cluster.await_all_equal()
        self._meter = Meter(self._cluster)

    def close(self) -> None:
        """Ends the processes."""
        self._cluster.close()


def lua_arguments(load: Load) -> tuple[str, ...]:
    """The arguments of ``load.lua`` for a load."""
    many = load.entries if load.kind == "scan" else load.batch
    return (load.kind, str(load.keys), str(load.value_bytes), str(many))
