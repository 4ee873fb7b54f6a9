"""Starts a local cluster and a real Prometheus that scrapes it, and prints their URLs; Ctrl-C ends both.

Usage: python tools/observe.py [--prometheus-port N] [OPTIONS OF dougctl dev]

The series are in a temporary folder that is removed at the end; the cluster's data stay in their usual place.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy" / "observability" / "rules" / "dougdb.yaml"
PORTS_PER_NODE = 3
SCRAPE_S = 2
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.2
CONSOLE_PROMETHEUS = "DOUGDB_CONSOLE_PROMETHEUS"

MISSING = """\
observe: there is no `prometheus` in PATH.
On Debian and Ubuntu: apt-get install prometheus (it also starts a service on port 9090; to get the program alone:
  apt-get download prometheus && dpkg-deb -x prometheus_*.deb DIR, then put DIR/usr/bin into PATH).
On macOS: brew install prometheus. Without it, `make run` starts the cluster; every process serves /metrics."""

Process = subprocess.Popen[bytes]


class Target(NamedTuple):
    """One process to scrape: its name, the address of its /metrics, and its job."""

    pod: str
    address: str
    job: str


class Secured(NamedTuple):
    """How a job is scraped over HTTPS: the file of the authority, and the name that every certificate must carry.

    Prometheus dials addresses, which certificates seldom carry.
    """

    ca_file: str
    server_name: str


def targets(shards: int, nodes: int, facades: int, port: int, base_port: int) -> list[Target]:
    """Every process of a local cluster; ``dougctl dev`` gives the ports in the same way."""
    found = []
    for shard in range(shards):
        for index in range(nodes):
            admin = base_port + PORTS_PER_NODE * (shard * nodes + index) + 2
            found.append(Target(f"shard-{shard}-{index}", f"127.0.0.1:{admin}", "dougdb-nodes"))
    for number in range(facades):
        name = f"facade-{number}" if number else "facade"
        found.append(Target(name, f"127.0.0.1:{port + number}", "dougdb-facades"))
    return found


def configuration(
    scraped: Sequence[Target], every_s: float = SCRAPE_S, secured: Mapping[str, Secured] | None = None
) -> str:
    """Prometheus' configuration, as JSON, which is YAML as well. The label ``pod`` is set as Kubernetes would.

    Args:
        scraped: The processes.
        every_s: The seconds between two scrapes, and the longest time that one may take.
        secured: The jobs that are scraped over HTTPS; the others are over HTTP.
    """
    interval = f"{round(every_s * 1000)}ms"
    jobs = sorted({target.job for target in scraped})
    return json.dumps(
        {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "5s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {
                    "job_name": job,
                    **(_secured(secured[job]) if secured and job in secured else {}),
                    "static_configs": [
                        {"targets": [target.address], "labels": {"pod": target.pod}}
                        for target in scraped
                        if target.job == job
                    ],
                }
                for job in jobs
            ],
        },
        indent=1,
    )


def _secured(job: Secured) -> dict[str, object]:
    return {"scheme": "https", "tls_config": {"ca_file": job.ca_file, "server_name": job.server_name}}


def start_prometheus(
    program: str,
    folder: Path,
    scraped: Sequence[Target],
    port: int,
    every_s: float,
    secured: Mapping[str, Secured] | None = None,
) -> Process:
    """Starts Prometheus on loopback; its data and its log are in ``folder``."""
    file = folder / "prometheus.yml"
    file.write_text(configuration(scraped, every_s, secured))
    with (folder / "prometheus.log").open("ab") as log:
        return subprocess.Popen(
            [
                program,
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'series'}",
                "--storage.tsdb.retention.time=1d",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def answers(url: str) -> bool:
    """Whether a GET of it is answered with 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stop(process: Process, number: int) -> int:
    """Sends a process a signal, and kills it if it takes too long to end; returns its exit code."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def is_taken(port: int) -> bool:
    """Whether a process listens on a loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this program, and the rest, which are for ``dougctl dev``."""
    parser = argparse.ArgumentParser(prog="make observe", description="A local cluster with a Prometheus beside it.")
    parser.add_argument("--prometheus-port", type=int, default=9090)
    parser.add_argument("--scrape-seconds", type=float, default=SCRAPE_S)
    for name, default in (("--shards", 2), ("--nodes", 5), ("--facades", 1), ("--port", 8080), ("--base-port", 21_000)):
        parser.add_argument(name, type=int, default=default)
    return parser.parse_known_args(arguments)


def tell(port: int, prometheus_port: int) -> None:
    """Prints the URLs once both answer."""
    here = f"http://127.0.0.1:{prometheus_port}"
    ends_s = time.monotonic() + READY_TIMEOUT_S
    while not (answers(f"http://127.0.0.1:{port}/readyz") and answers(f"{here}/-/ready")):
        if time.monotonic() > ends_s:
            print("observe: the cluster or Prometheus is not ready yet; see above", file=sys.stderr)
            return
        time.sleep(POLL_S)
    print(
        f"\nPrometheus      {here}\n"
        f"  Targets       {here}/targets\n"
        f"  Alerts        {here}/alerts\n"
        f"  Term          {here}/graph?g0.expr=dougdb_raft_term&g0.tab=0&g0.range_input=15m\n"
        f"  Commit index  {here}/graph?g0.expr=dougdb_raft_commit_index&g0.tab=0&g0.range_input=15m\n"
        f"Dashboards      deploy/observability/dashboards, for a Grafana with {here} as data source\n"
        "Ctrl-C ends both.",
        flush=True,
    )


def main(arguments: Sequence[str]) -> int:
    """Runs both until the cluster ends or a signal comes."""
    options, others = parse(arguments)
    program = shutil.which("prometheus")
    if program is None:
        print(MISSING, file=sys.stderr)
        return 2
    if is_taken(options.prometheus_port):
        print(f"observe: port {options.prometheus_port} is taken; choose another: --prometheus-port", file=sys.stderr)
        return 2
    scraped = targets(options.shards, options.nodes, options.facades, options.port, options.base_port)
    command = [str(Path(sys.executable).parent / "dougctl"), "dev", *others]
    for name in ("shards", "nodes", "facades", "port", "base_port"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    with tempfile.TemporaryDirectory(prefix="dougdb-prometheus-") as folder:
        # The console's graphs are taken from there, unless the user names another one.
        environment = {CONSOLE_PROMETHEUS: f"http://127.0.0.1:{options.prometheus_port}", **os.environ}
        cluster = subprocess.Popen(command, start_new_session=True, env=environment)
        prometheus = start_prometheus(program, Path(folder), scraped, options.prometheus_port, options.scrape_seconds)

        def end(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(ProcessLookupError):
                cluster.send_signal(signal.SIGINT)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, end)
        threading.Thread(target=tell, args=(options.port, options.prometheus_port), daemon=True).start()
        try:
            return _watch(cluster, prometheus, Path(folder))
        finally:
            stop(cluster, signal.SIGINT)
            stop(prometheus, signal.SIGTERM)


def _watch(cluster: Process, prometheus: Process, folder: Path) -> int:
    """Waits for the cluster's end; if Prometheus ends by itself, this is printed, and the cluster goes on."""
    told = False
    while True:
        try:
            return cluster.wait(1)
        except subprocess.TimeoutExpired:
            pass
        if prometheus.poll() is not None and not told:
            told = True
            print("observe: Prometheus has ended:", file=sys.stderr)
            print("\n".join((folder / "prometheus.log").read_text().splitlines()[-5:]), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
