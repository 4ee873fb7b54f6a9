"""The systems that ``make bench`` compares: DougDB, etcd and NATS JetStream, five members each on loopback.

etcd and NATS are linked into one program with their own Go clients (``bench/peers``), which is built where Go is;
DougDB and etcd's JSON gateway are loaded by wrk. Every system runs with its own defaults, and each must have a put on
the disks of a majority before it acknowledges it: NATS syncs only now and then by default and is told to sync always.

Each load gives the same figures for every system: rate, latencies, errors, CPU by group of processes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil

from bench.cluster import Cluster, ClusterError, free_ports
from bench.meter import cpu_s, family, family_pss_bytes
from bench.smoke import Meter

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = 5
PORTS = (25_000, 26_000)
START_S = 40
GRACE_S = 30
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

    def kinds(self) -> frozenset[str]:
        """The kinds of load that the system supports."""

    def fill(self, load: Load) -> None:
        """Puts every key once."""

    def run(self, load: Load) -> Figures:
        """Puts one load on it."""

    def memory_mb(self) -> float:
        """The PSS of all members together, without that of clients, in MB."""

    def close(self) -> None:
        """Ends all processes of the system."""


def peers_program() -> Path | None:
    """The program with etcd, NATS and their clients, built if needed; None without Go."""
    go = shutil.which("go")
    if go is None:
        return None
    target = ROOT / "out" / "peers"
    target.parent.mkdir(exist_ok=True)
    command = (go, "build", "-buildvcs=false", "-o", str(target), ".")
    if subprocess.run(command, cwd=ROOT / "bench" / "peers", check=False).returncode:
        raise ClusterError("bench/peers could not be built")
    return target


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
    command = [wrk, "-t", "1", "-c", str(load.connections), "-d", f"{load.seconds:g}s", "--timeout", "15s"]
    before = os.times()
    told = subprocess.run(
        [*command, "-s", str(SCRIPT), url, "--", *arguments],
        capture_output=True,
        text=True,
        timeout=load.seconds + GRACE_S,
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

    def __init__(self, folder: Path, facades: int = 1) -> None:
        self._cluster = Cluster(folder / "dougdb", shards=1, nodes=MEMBERS, facades=facades).start()
        self._meter = Meter(self._cluster)

    def kinds(self) -> frozenset[str]:
        """All kinds."""
        return frozenset({"put", "linearizable", "stale", "mixed", "batch", "scan"})

    def fill(self, load: Load) -> None:
        """Puts every key once, by batches."""
        value = "v" * load.value_bytes
        for first in range(0, load.keys, 1000):
            operations = [
                {"op": "put", "key": f"bench/{number:08d}", "value": value}
                for number in range(first, min(load.keys, first + 1000))
            ]
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

    def close(self) -> None:
        """Ends the processes."""
        self._cluster.close()


def lua_arguments(load: Load) -> tuple[str, ...]:
    """The arguments of ``load.lua`` for a load."""
    many = load.entries if load.kind == "scan" else load.batch
    return (load.kind, str(load.keys), str(load.value_bytes), str(many))


def is_listening(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Members:
    """The five processes of a peer; they are ended by their pids."""

    def __init__(self, commands: Sequence[Sequence[str]], ports: Sequence[int], folder: Path) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            for number, command in enumerate(commands):
                with (folder / f"member-{number}.log").open("wb") as log:
                    self.processes.append(
                        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
                    )
            ends = time.monotonic() + START_S
            while not all(is_listening(port) for port in ports):
                if time.monotonic() > ends or any(process.poll() is not None for process in self.processes):
                    raise ClusterError(f"{commands[0][0]} did not start; its logs are in {folder}")
                time.sleep(0.1)
        except BaseException:
            self.close()
            raise

    def families(self) -> list[psutil.Process]:
        """The processes, to be measured."""
        return [each for process in self.processes for each in family(psutil.Process(process.pid))]

    def memory_mb(self) -> float:
        """The PSS of all five together, in MB."""
        return sum(family_pss_bytes(psutil.Process(process.pid)) for process in self.processes) / 1e6

    def close(self) -> None:
        """Ends the processes."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def run_client(program: Path, arguments: Sequence[str], seconds: float) -> dict[str, Any]:
    """One run of the Go load generator.

    Raises:
        ClusterError: The program failed.
    """
    told = subprocess.run(
        (str(program), "load", *arguments), capture_output=True, text=True, timeout=seconds + 120, check=False
    )
    if told.returncode:
        raise ClusterError(f"the Go client failed: {told.stderr[-500:]}")
    figures: dict[str, Any] = json.loads(told.stdout)
    return figures


class GoPeer:
    """A peer that is loaded by its own Go client."""

    peer = ""
    name = ""

    def __init__(self, program: Path, members: Members, ports: Sequence[int]) -> None:
        self._program = program
        self.members = members
        self._endpoints = ",".join(f"127.0.0.1:{port}" for port in ports)

    def _client(self, load: Load, *more: str) -> dict[str, Any]:
        arguments = ("-peer", self.peer, "-endpoints", self._endpoints, "-kind", load.kind)
        sizes = ("-workers", str(load.connections), "-keys", str(load.keys), "-value-bytes", str(load.value_bytes))
        run = ("-seconds", f"{load.seconds:g}", "-batch", str(load.batch), "-entries", str(load.entries))
        return run_client(self._program, (*arguments, *sizes, *run, *more), load.seconds)

    def kinds(self) -> frozenset[str]:
        """The kinds that its client supports."""
        raise NotImplementedError

    def fill(self, load: Load) -> None:
        """Puts every key once."""
        errors = self._client(load._replace(kind="put", connections=256), "-fill")["errors"]
        if errors:
            raise ClusterError(f"{self.name}: the keys could not be put: {errors}")

    def run(self, load: Load) -> Figures:
        """Puts one load on it by its client."""
        spent = Spent({"members": self.members.families()})
        found = self._client(load)
        rate = found["operations_per_s"]
        cpu = spent.per_operation_us(rate * load.seconds)
        cpu["generator"] = round(found["generator_cpu_us"], 1)
        return Figures(rate, found["p50_ms"], found["p99_ms"], found["p99.9_ms"], found["errors"], cpu)

    def memory_mb(self) -> float:
        """The PSS of its five members, in MB."""
        return self.members.memory_mb()

    def close(self) -> None:
        """Ends the processes."""
        self.members.close()


class EtcdGrpc(GoPeer):
    """etcd by its own gRPC, as most of its users reach it."""

    peer = "etcd"
    name = "etcd gRPC"

    def __init__(self, program: Path, folder: Path) -> None:
        base = free_ports(*PORTS, 2 * MEMBERS)
        self.ports = [base + 2 * number for number in range(MEMBERS)]
        names = [f"m{number}" for number in range(MEMBERS)]
        cluster = ",".join(f"{name}=http://127.0.0.1:{port + 1}" for name, port in zip(names, self.ports, strict=True))
        place = folder / "etcd"
        place.mkdir()
        commands = [
            (
                *(str(program), "etcd", "--name", name, "--data-dir", str(place / name), "--log-level", "warn"),
                *("--listen-client-urls", f"http://127.0.0.1:{port}"),
                *("--advertise-client-urls", f"http://127.0.0.1:{port}"),
                *("--listen-peer-urls", f"http://127.0.0.1:{port + 1}"),
                *("--initial-advertise-peer-urls", f"http://127.0.0.1:{port + 1}"),
                *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
            )
            for name, port in zip(names, self.ports, strict=True)
        ]
        super().__init__(program, Members(commands, self.ports, place), self.ports)

    def kinds(self) -> frozenset[str]:
        """Transactions stand for batches."""
        return frozenset({"put", "linearizable", "stale", "batch", "scan"})


class EtcdJson:
    """The etcd of ``EtcdGrpc`` by its JSON gateway, loaded by wrk at its first member. Requires: that one runs."""

    name = "etcd JSON"

    def __init__(self, etcd: EtcdGrpc) -> None:
        self._etcd = etcd

    def kinds(self) -> frozenset[str]:
        """The kinds for which the gateway is measured."""
        return frozenset({"put", "linearizable", "stale", "scan"})

    def fill(self, load: Load) -> None:
        """Does nothing: the keys exist, since both interfaces have the same store."""

    def run(self, load: Load) -> Figures:
        """Puts one load on it by wrk."""
        spent = Spent({"members": self._etcd.members.families()})
        value = base64.b64encode(b"v" * load.value_bytes).decode()
        url = f"http://127.0.0.1:{self._etcd.ports[0]}"
        found, spent_s = run_wrk(url, load, ("etcd", *lua_arguments(load), value))
        return wrk_figures(found, spent_s, spent, 1)

    def memory_mb(self) -> float:
        """The PSS of the same five members, in MB."""
        return self._etcd.memory_mb()

    def close(self) -> None:
        """Does nothing: ``EtcdGrpc`` ends the processes."""


class Nats(GoPeer):
    """NATS JetStream's key-value store, five replicas, every write synced."""

    peer = "nats"
    name = "NATS KV"

    def __init__(self, program: Path, folder: Path) -> None:
        base = free_ports(*PORTS, 2 * MEMBERS)
        ports = [base + 2 * number for number in range(MEMBERS)]
        place = folder / "nats"
        place.mkdir()
        routes = ", ".join(f'"nats://127.0.0.1:{port + 1}"' for port in ports)
        commands = []
        for number, port in enumerate(ports):
            file = place / f"m{number}.conf"
            file.write_text(
                f'server_name: m{number}\nlisten: "127.0.0.1:{port}"\n'
                f'jetstream {{ store_dir: "{place / f"m{number}"}", sync_interval: always }}\n'
                f'cluster {{ name: bench, listen: "127.0.0.1:{port + 1}", routes: [{routes}] }}\n',
                encoding="utf-8",
            )
            commands.append((str(program), "nats", str(file)))
        super().__init__(program, Members(commands, ports, place), ports)

    def kinds(self) -> frozenset[str]:
        """A bucket's reads may come from any replica, and there are no batches."""
        return frozenset({"put", "stale"})


@contextlib.contextmanager
def running(names: Sequence[str], folder: Path, facades: int = 1) -> Iterator[list[System]]:
    """Starts the systems with these names (``dougdb``, ``etcd``, ``etcd-json``, ``nats``) and ends them.

    A peer that cannot be built here is left out, which is printed.
    """
    systems: list[System] = []
    program = peers_program() if set(names) - {"dougdb"} else None
    if program is None and set(names) - {"dougdb"}:
        print("Go is not installed: DougDB is measured alone", file=sys.stderr)
        names = ["dougdb"]
    try:
        if "dougdb" in names:
            systems.append(DougDB(folder, facades))
        if program is not None and {"etcd", "etcd-json"} & set(names):
            etcd = EtcdGrpc(program, folder)
            systems.append(etcd)
            if "etcd-json" in names:
                systems.append(EtcdJson(etcd))
        if program is not None and "nats" in names:
            systems.append(Nats(program, folder))
        yield systems
    finally:
        for system in reversed(systems):
            system.close()
