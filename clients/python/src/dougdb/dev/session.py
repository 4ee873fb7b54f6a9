"""One run of ``dougctl dev`` from the checks to the orderly end: puts the parts together, and owns signals and time.

Nothing is written before every check has passed, so that a refused start leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from dougdb.client import DougClient
from dougdb.dev import certificates, controls
from dougdb.dev.layout import DataDirectory, Layout, RefusedError
from dougdb.dev.ports import Listener, PortPlan, facade_id, join, loopback_hosts, taken
from dougdb.dev.processes import Launcher
from dougdb.dev.specs import CA_FILE, ChildSpec, Options, facade_specs, node_specs
from dougdb.dev.supervisor import Supervisor
from dougdb.errors import DougdbError
from dougdb.streams import Speaker

STEP_S = 0.1
ASK_EVERY_S = 0.25
REPORT_EVERY_S = 10.0
ORPHANS_S = 8.0
"""How long the processes of a killed supervisor may take to follow it."""
SAME_SIGNAL_S = 0.5
"""Two signals closer than this are one: some senders signal both the process and its group."""
EXIT_FORCED = 130


@dataclass(slots=True)
class Signals:
    """Notes the signals that have come. After ``install`` they arrive here instead of ending the process."""

    clock: Callable[[], float] = time.monotonic
    first_at: float | None = field(default=None)
    urgent: bool = field(default=False)

    def install(self) -> None:
        """Takes SIGINT, SIGTERM and SIGHUP."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.receive)

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Notes a signal. A second Ctrl-C asks for an immediate end."""
        now = self.clock()
        if self.first_at is None:
            self.first_at = now
        elif number == signal.SIGINT and now - self.first_at >= SAME_SIGNAL_S:
            self.urgent = True

    @property
    def stopping(self) -> bool:
        """Whether to stop."""
        return self.first_at is not None


say = Speaker()
"""Prints lines. A closed stdout or a full disk must not end the supervisor, since its children would be left alone."""


def require_modules(names: tuple[str, ...] = ("raft_node", "facade")) -> None:
    """Checks that the programs to start are installed.

    Raises:
        RefusedError: One of them is not.
    """
    missing = [name for name in names if not _is_runnable(name)]
    if missing:
        raise RefusedError(
            f"{' and '.join(missing)} cannot be imported by {sys.executable}: dougctl dev starts the nodes and "
            "the facade from the same environment; in a checkout, run `make setup`, elsewhere install dougdb[dev]"
        )


def _is_runnable(name: str) -> bool:
    try:
        return importlib.util.find_spec(f"{name}.__main__") is not None
    except ModuleNotFoundError:
        return False


def prepare(data: DataDirectory, plan: PortPlan, hosts: list[str], stopping: Callable[[], bool]) -> None:
    """Makes every check, then claims the data directory.

    Raises:
        RefusedError: The cluster cannot be started so; nothing was touched.
    """
    data.inspect(plan.layout)
    listeners = plan.listeners(hosts)
    waited_until = time.monotonic() + ORPHANS_S
    while True:
        blocked = taken(listeners)
        running = data.running_pids()
        orphans = {listener.owner for listener, _ in blocked} & running.keys()
        # The nodes of a killed supervisor are about to stop; other processes will not stop if we wait.
        if not orphans or time.monotonic() > waited_until or stopping():
            break
        for owner in orphans:
            # A paused node does not notice that its supervisor is gone.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(running[owner], signal.SIGCONT)
        time.sleep(ASK_EVERY_S)
    if blocked:
        raise RefusedError("\n".join(_describe_taken(listener, why, running) for listener, why in blocked[:8]))
    data.claim(plan.layout)


def _describe_taken(listener: Listener, why: str, running: Mapping[str, int]) -> str:
    text = f"{join(listener.host, listener.port)}, the {listener.purpose} port of {listener.owner}, is {why}"
    pid = running.get(listener.owner)
    by = f"; {listener.owner} of an earlier start still runs (pid {pid})" if pid else ""
    option = "--port" if listener.owner.startswith("facade") else "--base-port"
    return f"{text}{by}; choose others with {option}"


def run(
    layout: Layout,
    *,
    data_path: Path,
    port: int,
    base_port: int,
    facades: int,
    shared_port: int | None = None,
    options: Options,
    restart: bool,
    launcher: Launcher,
) -> int:
    """Runs a local cluster until a signal comes.

    Returns:
        The exit code: 0 after an orderly end.

    Raises:
        RefusedError: The cluster cannot be started so; nothing was touched.
    """
    signals = Signals()
    hosts = loopback_hosts()
    plan = PortPlan(layout, base_port, port, facades, hosts[0], shared_port)
    with DataDirectory(data_path) as data:
        signals.install()
        prepare(data, plan, hosts, lambda: signals.stopping)
        if signals.stopping:
            return 0
        options = replace(_with_access(options, plan, data), controls=controls.path_in(data.run))
        nodes = node_specs(plan, data, os.environ, options)
        entries = facade_specs(plan, data, hosts, os.environ, options)
        supervisor = Supervisor(
            nodes,
            entries,
            run=data.run,
            launcher=launcher,
            clock=time.monotonic,
            sleep=time.sleep,
            say=say,
            restart=restart,
        )
        return _supervise(supervisor, signals, plan, data, entries, options)


def _with_access(options: Options, plan: PortPlan, data: DataDirectory) -> Options:
    """The options, with certificates and a first token if clients have to authenticate themselves."""
    if not options.auth:
        return options
    names = [plan.layout.node_id(*place) for place in plan.layout.places()]
    try:
        access = certificates.prepare(data.run, names, [facade_id(number) for number in range(plan.facades)])
    except OSError as error:
        raise RefusedError(f"{error.filename or data.run}: {error.strerror}") from None
    return replace(options, access=access)


def _supervise(
    supervisor: Supervisor,
    signals: Signals,
    plan: PortPlan,
    data: DataDirectory,
    facades: list[ChildSpec],
    options: Options,
) -> int:
    say(
        f"starting {plan.layout} (ports {plan.base_port}-{plan.node_port_end - 1}) and "
        f"{len(facades)} facade{'s' * (len(facades) != 1)} (port {plan.facade_port}); data and logs are in {data.root}"
    )
    orderly = True
    try:
        with contextlib.ExitStack() as stack:
            asked = _controls(stack, options.controls, supervisor)
            supervisor.start()
            token = None if options.access is None else options.access.token
            readiness = stack.enter_context(Readiness(plan, options.tls, token))
            while not signals.stopping and not supervisor.misused:
                supervisor.step()
                asked()
                if not readiness.done:
                    readiness.step(time.monotonic())
                time.sleep(STEP_S)
    finally:
        say("stopping the facade, then the nodes")
        orderly = supervisor.stop(lambda: signals.urgent)
        say("stopped" if orderly else "stopped, not in order")
    if supervisor.misused and not signals.stopping:
        raise RefusedError(supervisor.misused)
    return EXIT_FORCED if signals.urgent else 0


def _controls(stack: contextlib.ExitStack, path: Path | None, supervisor: Supervisor) -> Callable[[], None]:
    """Opens the console's socket until the stack is closed; returns the function that serves its requests once."""
    if path is None:
        return lambda: None
    wishes = {
        "kill": supervisor.kill,
        "pause": supervisor.pause,
        "cut": supervisor.cut,
        "slow": supervisor.slow,
        "resume": supervisor.resume,
    }
    try:
        return stack.enter_context(controls.Controls(path, wishes, time.monotonic)).step
    except OSError as error:
        say(f"{path} cannot be listened at ({error.strerror or error}); the console cannot bring faults upon nodes")
        return lambda: None


def tour_of(url: str, curl: str, token_file: Path | None) -> list[str]:
    """Commands that show how to use a cluster, for a shell.

    Args:
        url: The URL of a facade.
        curl: How curl is called, to trust that facade.
        token_file: The file of the token that may do everything; None where nobody has to say who they are.
    """
    if token_file is None:
        return [f"{curl} -X PUT {url}/v1/kv/hello -d world", f"{curl} {url}/v1/kv/hello", f"{curl} {url}/v1/cluster"]
    return [
        # The token is for this cluster alone, and not for whoever listens at the usual port.
        f"export DOUGDB_URL={url}",
        f"export DOUGDB_TOKEN=$(cat {shlex.quote(str(token_file))})   # it may do everything: docs/auth.md",
        "dougctl auth token create my-app --allow read:config/",
    ]


class Readiness:
    """Asks the facades until every shard has a leader, then prints how to use the cluster."""

    def __init__(self, plan: PortPlan, tls: Path | None, token_file: Path | None = None) -> None:
        self._plan = plan
        self._token_file = token_file
        token = "" if token_file is None else token_file.read_text().strip()
        scheme, ca_file = ("http", None) if tls is None else ("https", str(tls / CA_FILE))
        self._curl = "curl" if tls is None else f"curl --cacert {ca_file}"
        urls = [f"{scheme}://{join(plan.host, plan.facade(number))}" for number in range(plan.facades)]
        self._clients = [DougClient(url, timeout_s=1.0, deadline_s=0.0, ca_file=ca_file, token=token) for url in urls]
        self._ask_at = 0.0
        self._report_at = time.monotonic() + REPORT_EVERY_S
        self.done = False

    def __enter__(self) -> Readiness:
        return self

    def __exit__(self, *details: object) -> None:
        for client in self._clients:
            client.close()

    def step(self, now: float) -> None:
        """Asks the facades, unless it is too early to ask again."""
        if now < self._ask_at:
            return
        self._ask_at = now + ASK_EVERY_S
        missing = self._missing()
        if not missing:
            self.done = True
            self._print_tour()
        elif now >= self._report_at:
            self._report_at = now + REPORT_EVERY_S
            say(f"still waiting: {missing}")

    def _missing(self) -> str:
        """The reason why the cluster is not ready yet; empty if it is."""
        if not all(client.is_ready() for client in self._clients):
            return "the facade is not ready"
        try:
            cluster = self._clients[0].cluster()
        except DougdbError as error:
            return str(error)
        leaderless = [shard.id for shard in cluster.shards if shard.leader is None]
        if leaderless or len(cluster.shards) < self._plan.layout.shards:
            return f"no leader yet in shard {', '.join(leaderless) or 'of those that are not known'}"
        return ""

    def _print_tour(self) -> None:
        url = self._clients[0].url
        others = "".join(f", {client.url}" for client in self._clients[1:])
        say(f"ready: {url}{others}   (Ctrl-C stops everything)")
        if self._plan.shared_port is not None:
            say(f"all facades: {url.rpartition(':')[0]}:{self._plan.shared_port}")
        for line in tour_of(url, self._curl, self._token_file):
            say(f"  {line}")
