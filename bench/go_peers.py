"""The systems beside DougDB in ``make bench``: etcd, NATS JetStream and Redis, five members each on loopback.

etcd and NATS are linked into one program with their own Go clients (``bench/peers``), which is built where Go is.
Without Go, the ``etcd`` of the machine is asked by its JSON gateway. Redis is the ``redis-server`` of the machine. Each
runs with its own defaults, except that NATS and Redis, which sync only now and then, are told to sync always. Each
member is a process of its own.
"""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.cluster import ClusterError, free_ports, wait_for
from bench.go_client import GoClient
from bench.meter import family, family_pss_bytes
from bench.systems import MEMBERS, Figures, Load, Spent, lua_arguments, run_wrk, wrk_figures

PORTS = (25_000, 26_000)
START_S = 40


def is_listening(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Members:
    """The five processes of a peer; they are ended by their pids."""

    def __init__(self, commands: Sequence[Sequence[str]], ports: Sequence[int], folder: Path) -> None:
        self._commands = commands
        self._ports = ports
        self._folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            for number in range(len(commands)):
                self.processes.append(self._start(number))
            self.await_all()
        except BaseException:
            self.close()
            raise

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        with (self._folder / f"member-{number}.log").open("ab") as log:
            return subprocess.Popen(
                self._commands[number], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )

    def await_all(self) -> None:
        """Waits until all of them accept connections.

        Raises:
            ClusterError: One has ended, or does not listen in time.
        """
        ends = time.monotonic() + START_S
        while not all(is_listening(port) for port in self._ports):
            if time.monotonic() > ends or any(process.poll() is not None for process in self.processes):
                raise ClusterError(f"{self._commands[0][0]} did not start; its logs are in {self._folder}")
            time.sleep(0.1)

    def kill(self, number: int) -> None:
        """Kills one by SIGKILL and waits until it is gone."""
        self.processes[number].kill()
        self.processes[number].wait()

    def start_again(self, number: int) -> None:
        """Starts one again that was killed, with the command and the data that it had."""
        self.processes[number] = self._start(number)

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


class GoPeer:
    """A peer that is loaded by its own Go client."""

    peer = ""
    name = ""

    def __init__(self, program: Path, members: Members, ports: Sequence[int]) -> None:
        self.members = members
        self.client: GoClient = GoClient(program, self.peer, ports)
        self._killed = 0

    def kinds(self) -> frozenset[str]:
        """The kinds that its client supports."""
        raise NotImplementedError

    def fill(self, load: Load) -> None:
        """Puts every key once."""
        errors = self.client.closed(load._replace(kind="put", connections=256), "-fill")["errors"]
        if errors:
            raise ClusterError(f"{self.name}: the keys could not be put: {errors}")

    def run(self, load: Load) -> Figures:
        """Puts one load on it by its client."""
        spent = Spent({"members": self.members.families()})
        found = self.client.closed(load)
        rate = found["operations_per_s"]
        cpu = spent.per_operation_us(rate * load.seconds)
        cpu["generator"] = round(found["generator_cpu_us"], 1)
        return Figures(rate, found["p50_ms"], found["p99_ms"], found["p99.9_ms"], found["errors"], cpu)

    def memory_mb(self) -> float:
        """The PSS of its five members, in MB."""
        return self.members.memory_mb()

    def kill_leader(self) -> float:
        """Kills the member that leads."""
        self._killed = self.client.leader()
        killed_s = time.time()
        self.members.kill(self._killed)
        return killed_s

    def start_again(self) -> None:
        """Starts it again."""
        self.members.start_again(self._killed)

    def await_whole(self) -> None:
        """Waits until all members listen and one of them leads."""
        self.members.await_all()
        wait_for(self._has_leader, START_S, f"a leader of {self.name}")

    def _has_leader(self) -> bool:
        try:
            return self.client.leader() >= 0
        except ClusterError:
            return False

    def close(self) -> None:
        """Ends the processes."""
        self.members.close()


def start_etcd(command: Sequence[str], folder: Path) -> tuple[Members, list[int]]:
    """Starts five members of etcd with its defaults; returns them and the ports of their clients.

    Args:
        command: What runs etcd's own command line: the program of ``bench/peers``, or Debian's ``etcd``.
        folder: Where their data are kept.
    """
    base = free_ports(*PORTS, 2 * MEMBERS)
    ports = [base + 2 * number for number in range(MEMBERS)]
    names = [f"m{number}" for number in range(MEMBERS)]
    cluster = ",".join(f"{name}=http://127.0.0.1:{port + 1}" for name, port in zip(names, ports, strict=True))
    place = folder / "etcd"
    place.mkdir()
    commands = [
        (
            *(*command, "--name", name, "--data-dir", str(place / name), "--log-level", "warn"),
            *("--listen-client-urls", f"http://127.0.0.1:{port}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{port}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{port + 1}"),
            *("--initial-advertise-peer-urls", f"http://127.0.0.1:{port + 1}"),
            *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
        )
        for name, port in zip(names, ports, strict=True)
    ]
    return Members(commands, ports, place), ports


class EtcdGrpc(GoPeer):
    """etcd by its own gRPC, as most of its users reach it."""

    peer = "etcd"
    name = "etcd gRPC"

    def __init__(self, program: Path, folder: Path) -> None:
        members, self.ports = start_etcd((str(program), "etcd"), folder)
        super().__init__(program, members, self.ports)

    def kinds(self) -> frozenset[str]:
        """Transactions stand for batches."""
        return frozenset({"put", "linearizable", "stale", "mixed", "batch", "scan", "open", "failover", "watch"})


class EtcdJson:
    """etcd by its JSON gateway, loaded by wrk at its first member."""

    name = "etcd JSON"
    client = None

    def __init__(self, members: Members, ports: Sequence[int], *, alone: bool) -> None:
        """Asks members that run.

        Args:
            members: The members, which ``EtcdGrpc`` may have started.
            ports: The ports of their clients.
            alone: Whether they are nobody else's: then their keys are put and they are ended here.
        """
        self._members = members
        self._ports = ports
        self._alone = alone

    def kinds(self) -> frozenset[str]:
        """The kinds for which the gateway is measured."""
        return frozenset({"put", "linearizable", "stale", "mixed", "scan"})

    def fill(self, load: Load) -> None:
        """Puts every key once by transactions, unless ``EtcdGrpc`` has done it: both interfaces have the same store."""
        if not self._alone:
            return
        value = base64.b64encode(b"v" * load.value_bytes).decode()
        for first in range(0, load.keys, load.batch):
            numbers = range(first, min(load.keys, first + load.batch))
            keys = [base64.b64encode(b"bench/%08d" % number).decode() for number in numbers]
            puts = [{"requestPut": {"key": key, "value": value}} for key in keys]
            body = json.dumps({"success": puts}).encode()
            connection = http.client.HTTPConnection("127.0.0.1", self._ports[0], timeout=START_S)
            try:
                connection.request("POST", "/v3/kv/txn", body)
                answer = connection.getresponse()
                told = answer.read()
            finally:
                connection.close()
            if answer.status != 200:
                raise ClusterError(f"{self.name}: the keys could not be put: {told[:300]!r}")

    def run(self, load: Load) -> Figures:
        """Puts one load on it by wrk."""
        spent = Spent({"members": self._members.families()})
        value = base64.b64encode(b"v" * load.value_bytes).decode()
        found, spent_s = run_wrk(f"http://127.0.0.1:{self._ports[0]}", load, ("etcd", *lua_arguments(load), value))
        return wrk_figures(found, spent_s, spent, 1)

    def memory_mb(self) -> float:
        """The PSS of the five members, in MB."""
        return self._members.memory_mb()

    def kill_leader(self) -> float:
        """Is never asked for: the kind ``failover`` is that of ``EtcdGrpc``."""
        raise NotImplementedError

    def start_again(self) -> None:
        """Is never asked for."""
        raise NotImplementedError

    def await_whole(self) -> None:
        """Is never asked for."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends the processes if they are its own; ``EtcdGrpc`` ends them otherwise."""
        if self._alone:
            self._members.close()


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
                f'jetstream {{ store_dir: "{place / f"m{number}"}", sync_interval: always, '
                # Watches of earlier turns are counted for minutes after their clients have gone; 1,000 are the default.
                "limits { default_max_consumers: -1 } }\n"
                f'cluster {{ name: bench, listen: "127.0.0.1:{port + 1}", routes: [{routes}] }}\n',
                encoding="utf-8",
            )
            commands.append((str(program), "nats", str(file)))
        super().__init__(program, Members(commands, ports, place), ports)

    def kinds(self) -> frozenset[str]:
        """A bucket's reads may come from any replica, and there are no batches."""
        return frozenset({"put", "stale", "open", "failover", "watch"})


class Redis(GoPeer):
    """Redis, a primary and four replicas, all with an append-only file that is synced always.

    A put is acknowledged once ``WAIT`` has counted two replicas, which is no commit (bench/README.md).
    """

    peer = "redis"
    name = "Redis WAIT"

    def __init__(self, program: Path, folder: Path) -> None:
        server = shutil.which("redis-server")
        if server is None:
            raise ClusterError("redis-server is not installed (Debian: redis-server)")
        base = free_ports(*PORTS, MEMBERS)
        ports = [base + number for number in range(MEMBERS)]
        commands = []
        for number, port in enumerate(ports):
            place = folder / "redis" / f"m{number}"
            place.mkdir(parents=True)
            durable = ("--appendonly", "yes", "--appendfsync", "always")
            follows = ("--replicaof", f"127.0.0.1 {base}") if number else ()
            own = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(place))
            commands.append((server, *own, *durable, *follows))
        super().__init__(program, Members(commands, ports, folder / "redis"), ports)
        try:
            wait_for(lambda: replicas_online(replication_of(base)) == MEMBERS - 1, START_S, "the replicas of Redis")
        except ClusterError:
            self.close()
            raise

    def kinds(self) -> frozenset[str]:
        """Reads of the primary may show what is lost later, so they are stale ones; nobody takes over for it."""
        return frozenset({"put", "stale", "batch", "open"})


def replication_of(port: int) -> str:
    """What a Redis says of its replicas; empty while it does not answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as connection:
            connection.sendall(b"INFO replication\r\n")
            return connection.recv(1 << 16).decode()
    except OSError:
        return ""


def replicas_online(told: str) -> int:
    """How many replicas have the whole state and get each write, as the primary's ``INFO replication`` tells."""
    return sum(line.startswith("slave") and "state=online" in line for line in told.splitlines())
