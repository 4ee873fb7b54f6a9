"""A cluster of real processes on loopback, started by ``dougctl dev``, for tests and benchmarks.

It uses only what users have: the command, its pid files and logs below ``<data>/run``, and the facade's HTTP routes.

Invariants:
    1. ``close`` leaves no process of this cluster behind, whatever state it is in: every process inherits a variable
       with a random token in its environment, and is found by that, never by its name.
    2. A process id from a pid file is used only while the process behind it carries that token.
    3. Ports are taken from the range of the tests and are free at the moment of the choice.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from bench.http11 import HttpError, Response, fetch
from bench.launch import Launch

TOKEN_VARIABLE = "BENCH_CLUSTER_TOKEN"
STATUS_AGE_S = 0.6
"""How old the facade's view of a cluster may be: it asks the nodes at most every half second."""
NODE_PORTS = (22_000, 24_000)
FACADE_PORTS = (24_000, 25_000)
NODE_PORTS_STRIDE = 50
FACADE_PORTS_STRIDE = 10
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.05
EXEC_LOOKS = 50
"""How often a process without an environment is read again; few have none for long."""

T = TypeVar("T")


class ClusterError(Exception):
    """The cluster did not do as it was told; the message ends with its output."""


class ClusterTooLate(ClusterError):  # noqa: N818 - it says what happened, as TooLate does
    """A condition did not become true in time; this does not mean that data are lost or wrong."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as ``GET /v1/cluster`` shows it."""

    id: str
    shard: str
    address: str
    admin: str
    role: str
    term: int
    commit_index: int
    applied_index: int

    @property
    def admin_port(self) -> int:
        """The port of ``/metrics``."""
        return int(self.admin.rpartition(":")[2].rstrip("/"))


def wait_for(condition: Callable[[], T | None], timeout_s: float, what: str) -> T:
    """Waits until ``condition`` returns a true value, and returns that.

    Raises:
        ClusterTooLate: The condition did not become true in time.
    """
    ends = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > ends:
            raise ClusterTooLate(f"waited {timeout_s} s in vain: {what}")
        time.sleep(POLL_S)
    return found


def is_free(port: int) -> bool:
    """Whether nothing listens on a loopback port, IPv6 included."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.2)
            if probe.connect_ex((host, port)) == 0:
                return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(first: int, end: int, stride: int) -> int:
    """The first port of a block in ``[first, end)`` in which every port is free."""
    blocks = list(range(first, end - stride + 1, stride))
    random.shuffle(blocks)
    for block in blocks:
        if all(is_free(port) for port in range(block, block + stride)):
            return block
    raise ClusterError(f"no {stride} free ports in a row between {first} and {end}")


def dougctl() -> str:
    """The command, beside the interpreter that runs this."""
    return str(Path(sys.executable).parent / "dougctl")


def carries_token(process: psutil.Process, token: str) -> bool:
    """Whether a process was started for the cluster with this token."""
    try:
        environment = process.environ()
        for _ in range(EXEC_LOOKS):
            # In the middle of an exec a process has its program already, but not its environment yet. Its starter may
            # believe already that it runs.
            if environment or not process.exe():
                break
            time.sleep(0.001)
            environment = process.environ()
        return environment.get(TOKEN_VARIABLE) == token
    except (psutil.Error, OSError):
        return False


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that ended and was not yet collected by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Cluster:
    """One ``dougctl dev`` and everything that it starts."""

    def __init__(
        self,
        folder: Path,
        *,
        shards: int = 2,
        nodes: int = 5,
        facades: int = 1,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """Describes a cluster; ``start`` starts it.

        Args:
            folder: The folder of its data and its output.
            shards: How many shards it has.
            nodes: How many nodes each shard has.
            facades: How many facades there are; several of them serve one port together.
            options: Further options of ``dougctl dev``.
            environment: Variables set for every process.
            command: The command to run in place of ``dougctl dev``; None for that one.
        """
        self.folder = folder
        self.data = folder / "data"
        self.shards = shards
        self.nodes = nodes
        self.port = free_ports(*FACADE_PORTS, FACADE_PORTS_STRIDE)
        self.base_port = free_ports(*NODE_PORTS, NODE_PORTS_STRIDE)
        self.facades = facades
        self.options = list(options)
        if facades > 1:
            self.options += ["--facades", str(facades), "--shared-port", str(self.shared_port)]
        self.command = list(command or (dougctl(), "dev"))
        self.token = secrets.token_hex(8)
        self.environment = {**os.environ, **(environment or {}), TOKEN_VARIABLE: self.token}
        self.proof: Callable[[], Mapping[str, str]] = dict  # The headers that show who asks.
        self.output = folder / "dev.out"
        self.process: subprocess.Popen[bytes] | None = None
        self._extra: list[subprocess.Popen[bytes]] = []

    # -- start and stop ---------------------------------------------------------------------------------------------

    @property
    def shared_port(self) -> int:
        """The port that all facades serve: that of the only facade, or the one after the facades' own ports."""
        return self.port if self.facades == 1 else self.port + self.facades

    @property
    def url(self) -> str:
        """The first facade's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def shared_url(self) -> str:
        """The address of all facades."""
        return f"http://127.0.0.1:{self.shared_port}"

    @property
    def node_ids(self) -> list[str]:
        """The names of all nodes."""
        return [f"shard-{shard}-{node}" for shard in range(self.shards) for node in range(self.nodes)]

    def argv(self) -> list[str]:
        """The command line."""
        return [
            *self.command,
            *("--shards", str(self.shards), "--nodes", str(self.nodes)),
            *("--port", str(self.port), "--base-port", str(self.base_port), "--data", str(self.data)),
            *self.options,
        ]

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the command without waiting for anything."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.argv(),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.process

    def start(self, timeout_s: float = START_TIMEOUT_S) -> Cluster:
        """Starts the cluster and waits until it has printed its address and every shard has a leader.

        Raises:
            ClusterError: The cluster ended, or was not ready in time.
        """
        printed_before = self.output.stat().st_size if self.output.exists() else 0
        process = self.launch()
        ends = time.monotonic() + timeout_s
        while not self._is_ready(printed_before):
            if process.poll() is not None:
                raise ClusterError(f"dev ended with exit code {process.returncode}\n{self.tail()}")
            if time.monotonic() > ends:
                raise ClusterTooLate(f"not ready within {timeout_s} s\n{self.tail()}")
            time.sleep(POLL_S)
        return self

    def _is_ready(self, printed_before: int) -> bool:
        if f":{self.port}".encode() not in self.output.read_bytes()[printed_before:]:
            return False
        try:
            ready = self.request("GET", "/readyz", timeout_s=2).status == 200
        except HttpError:
            return False
        return ready and all(self._seen(partial(self.leader, shard)) is not None for shard in self.shard_ids())

    def stop(self, signal_number: int = signal.SIGTERM, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Asks the cluster to stop and returns its exit code; raises ``ClusterTooLate`` if it does not end in time."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal_number)
        return self._await_end(self.process, timeout_s)

    def interrupt(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Does what Ctrl-C in a terminal does: SIGINT to the whole foreground group. Returns the exit code."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)
        return self._await_end(self.process, timeout_s)

    def _await_end(self, process: subprocess.Popen[bytes], timeout_s: float) -> int:
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ClusterTooLate(f"did not stop within {timeout_s} s\n{self.tail()}") from error

    def kill_all(self) -> None:
        """Kills every process of the cluster with SIGKILL, at one moment as far as they can tell.

        The supervisor is paused first, so that it restarts none, and then all others, before any is killed: a node that
        saw its supervisor die would stop in good order, and flush the memtable, which is to be lost.
        """
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    process.suspend()
            self.process.kill()
        ends = time.monotonic() + 60
        while left := self.processes():
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            for extra in self._extra:
                extra.poll()
            assert time.monotonic() < ends, f"processes that SIGKILL does not end: {left}"
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait()

    def close(self) -> None:
        """Ends all processes of the cluster that are left."""
        self.kill_all()
        for extra in self._extra:
            extra.wait()
            if extra.stdin is not None:
                extra.stdin.close()
        self._extra.clear()

    # -- its processes ----------------------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Every living process that was started for this cluster."""
        return [
            process for process in psutil.process_iter() if carries_token(process, self.token) and is_alive(process)
        ]

    def pid_file(self, name: str) -> Path:
        """The pid file of a node or facade."""
        return self.data / "run" / f"{name}.pid"

    def find(self, name: str) -> psutil.Process | None:
        """The living process of a node or facade, or None."""
        try:
            process = psutil.Process(int(self.pid_file(name).read_text().split()[0]))
        except (OSError, ValueError, IndexError, psutil.Error):
            return None
        return process if is_alive(process) and carries_token(process, self.token) else None

    def member(self, name: str) -> psutil.Process:
        """The living process of a node or facade.

        Raises:
            ClusterError: No such process runs.
        """
        process = self.find(name)
        if process is None:
            raise ClusterError(f"{name} is not running\n{self.tail()}")
        return process

    def kill(self, name: str) -> psutil.Process:
        """Kills a node or facade with SIGKILL and waits until it is gone."""
        process = self.member(name)
        process.kill()
        wait_for(lambda: not is_alive(process), 30, f"{name} to be gone")
        return process

    def launch_of(self, name: str) -> Launch:
        """The command and the environment with which a running node or facade was started."""
        process = self.member(name)
        return Launch(process.cmdline(), process.environ(), process.cwd())

    def start_again(self, name: str, launch: Launch) -> subprocess.Popen[bytes]:
        """Starts a node that is down as the supervisor had started it, and rewrites its pid file."""
        process = launch.start(self.data / "run" / f"{name}.log")
        self._extra.append(process)
        self.pid_file(name).write_text(f"{process.pid}\n")
        return process

    # -- what it says -----------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        timeout_s: float = 15.0,
    ) -> Response:
        """One request to the facade."""
        return fetch(self.port, method, target, body, {**self.proof(), **(headers or {})}, timeout_s=timeout_s)

    def status(self) -> dict[str, Any]:
        """``GET /v1/cluster``."""
        if (response := self.request("GET", "/v1/cluster")).status != 200:
            raise ClusterError(f"/v1/cluster answered {response.status}: {response.body[:300]!r}")
        document: dict[str, Any] = response.json()
        return document

    def views(self) -> list[NodeView]:
        """All nodes as the facade sees them."""
        return [
            NodeView(
                id=node["id"],
                shard=str(shard["id"]),
                address=node["address"],
                admin=node["admin"],
                role=node["role"],
                term=int(node["term"] or 0),
                commit_index=int(node["commit_index"] or 0),
                applied_index=int(node["applied_index"] or 0),
            )
            for shard in self.status()["shards"]
            for node in shard["nodes"]
        ]

    def shard_ids(self) -> list[str]:
        """The shards' ids, in order."""
        return [str(shard) for shard in range(self.shards)]

    def shard_views(self, shard: str) -> list[NodeView]:
        """The nodes of one shard."""
        return [view for view in self.views() if view.shard == shard]

    def leader(self, shard: str) -> NodeView | None:
        """The leader of a shard: of several nodes that claim to lead, the one with the highest term; None if none does.

        A node that was killed or restarted meanwhile does not count: the facade may tell an older state.
        """
        claims = [view for view in self.shard_views(shard) if view.role == "leader"]
        leaders = [view for view in claims if self._was_seen_alive(view.id)]
        return max(leaders, key=lambda view: view.term, default=None)

    def _was_seen_alive(self, name: str) -> bool:
        """Whether the facade's view of a node is of the process that runs now."""
        process = self.find(name)
        return process is not None and time.time() - process.create_time() > STATUS_AGE_S

    def await_leader(self, shard: str, timeout_s: float = 60.0) -> NodeView:
        """Waits until a shard has a leader; a facade that was just killed may be on its way back."""
        return wait_for(lambda: self._seen(lambda: self.leader(shard)), timeout_s, f"a leader of shard {shard}")

    @staticmethod
    def _seen(look: Callable[[], T | None]) -> T | None:
        """The result of a look at the facade; None while no facade answers."""
        try:
            return look()
        except (HttpError, ClusterError):
            return None

    def await_equal(self, shard: str, timeout_s: float = 120.0) -> list[NodeView]:
        """Waits until every node of a shard answers and has applied all entries that its leader has committed."""
        return self.await_all_equal([shard], timeout_s)[shard]

    def await_all_equal(self, shards: Sequence[str] = (), timeout_s: float = 120.0) -> dict[str, list[NodeView]]:
        """Does the same for several shards at one moment; for all shards if the list is empty."""
        begun_s, wanted = time.monotonic(), shards or self.shard_ids()

        def equal() -> dict[str, list[NodeView]] | None:
            seen = self.views()
            found = {shard: [view for view in seen if view.shard == shard] for shard in wanted}
            # The facade may answer with an older state.
            fresh = time.monotonic() - begun_s > STATUS_AGE_S
            return found if fresh and all(map(_is_settled, found.values())) else None

        return wait_for(lambda: self._seen(equal), timeout_s, f"all nodes of the shards {wanted} to apply the same")

    def terms(self) -> dict[str, int]:
        """The term of each shard: the highest that one of its nodes knows by now."""
        time.sleep(STATUS_AGE_S)
        views = self.views()
        return {shard: max(view.term for view in views if view.shard == shard) for shard in self.shard_ids()}

    def slot_owners(self) -> Callable[[int], str]:
        """A function from a slot to the id of the shard that owns it, by ``GET /v1/partitions``."""
        ranges = [
            (int(entry["from"]), int(entry["to"]), str(entry["shard"]))
            for entry in self.request("GET", "/v1/partitions").json()["slots"]
        ]
        return lambda slot: next(shard for first, last, shard in ranges if first <= slot <= last)

    def tail(self, lines: int = 25) -> str:
        """The last lines of everything that the cluster printed and logged."""
        parts = []
        for path in [self.output, *sorted((self.data / "run").glob("*.log"))]:
            with contextlib.suppress(OSError):
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - 200 * lines))
                    last = file.read().decode(errors="replace").splitlines()[-lines:]
                parts.append("\n".join([f"---- {path.name}", *last]))
        return "\n".join(parts)

    def files(self, node_id: str, pattern: str) -> list[Path]:
        """Files below a node's folder."""
        return sorted((self.data / node_id).glob(pattern))


def _is_settled(views: Sequence[NodeView]) -> bool:
    """Whether the nodes of a shard are all there, one leads, and all have applied what is committed."""
    commit = max((view.commit_index for view in views), default=0)
    settled = all(view.role in ("leader", "follower") and view.applied_index == commit for view in views)
    return settled and any(view.role == "leader" for view in views)


@contextlib.contextmanager
def paused(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stops processes with SIGSTOP and lets them go on at the end."""
    try:
        for process in processes:
            # A process that was about to end may have ended.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
