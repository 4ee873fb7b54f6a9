"""A real Prometheus beside containers of podman: whom it scrapes, how it is started, and requests for it to see."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from integration.kubernetes.cluster.conftest import lacking
from integration.kubernetes.cluster.driver import Cluster, wait_for
from integration.observed import Prometheus
from tools.observe import Secured, Target, answers, start_prometheus, stop

NODES, FACADES = "dougdb-nodes", "dougdb-facades"
SCRAPE_S = 2.0
"""A scrape may take as long: a busy machine needs more for eleven processes than for one."""


def targets(cluster: Cluster) -> list[Target]:
    """What a Prometheus without the operator finds, as Kubernetes' service discovery would: annotated pods."""
    found = []
    for pod in [*cluster.nodes(), *cluster.facades()]:
        annotations = cluster.owner(pod)["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/scrape"] == "true"
        assert annotations["prometheus.io/path"] == "/metrics"
        assert annotations["prometheus.io/scheme"] == ("https" if cluster.files else "http")
        job = FACADES if pod in cluster.facades() else NODES
        found.append(Target(pod, f"{cluster.address(pod)}:{annotations['prometheus.io/port']}", job))
    return found


@contextlib.contextmanager
def scrape(cluster: Cluster, folder: Path, secured: Mapping[str, Secured] | None = None) -> Iterator[Prometheus]:
    """A Prometheus that has scraped every pod once."""
    if not cluster.reachable:
        pytest.skip("a Prometheus outside of a real cluster reaches no pod")
    program = shutil.which("prometheus")
    if program is None:
        lacking("prometheus is not installed (Debian: prometheus)")
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    scraped = targets(cluster)
    process = start_prometheus(program, folder, scraped, port, SCRAPE_S, secured)
    server = Prometheus(port)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), 120, "Prometheus to be ready")
        wait_for(lambda: len(server.query("up == 1")) == len(scraped), 120, "every pod is scraped")
        yield server
    finally:
        stop(process, 15)


def some_of_everything(cluster: Cluster, seconds: float) -> None:
    """Requests of every kind, so that rates have something to tell."""
    ends_s, number = time.monotonic() + seconds, 0
    while time.monotonic() < ends_s:
        cluster.put(f"observed/{number}", "value")
        cluster.get(f"observed/{number}")
        cluster.call("GET", f"/v1/kv/observed/{number}?consistency=eventual")
        cluster.call("DELETE", f"/v1/kv/observed/{number}")
        cluster.call("GET", "/v1/version")
        number += 1
