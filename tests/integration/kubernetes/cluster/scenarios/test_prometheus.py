"""A real Prometheus scrapes the containers by the annotations of their pods: every panel and every alert has data."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration.kubernetes.cluster.conftest import lacking
from integration.kubernetes.cluster.driver import Cluster, wait_for
from integration.kubernetes.cluster.podman import Podman
from integration.observed import Prometheus, alerts, vectors
from tools import dashboards
from tools.observe import Target, answers, start_prometheus, stop

LOAD_S = 8.0
SCRAPE_S = 2.0
"""A scrape may take as long: a busy machine needs more for eleven processes than for one."""
WITHOUT_DATA = {
    "DougDBCertificateExpiry": "a plaintext cluster has no certificate",
    "DougDBDiscoveryStale": "the default is static discovery, which cannot be stale",
}
"""Alerts about what this cluster does not have; promtool tests their rules."""


def targets(cluster: Cluster) -> list[Target]:
    """What a Prometheus without the operator finds, as Kubernetes' service discovery would: annotated pods."""
    found = []
    for pod in [*cluster.nodes(), *cluster.facades()]:
        annotations = cluster.owner(pod)["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/scrape"] == "true"
        assert annotations["prometheus.io/path"] == "/metrics"
        job = "dougdb-facades" if pod in cluster.facades() else "dougdb-nodes"
        found.append(Target(pod, f"{cluster.address(pod)}:{annotations['prometheus.io/port']}", job))
    return found


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


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if not isinstance(cluster, Podman):
        pytest.skip("a Prometheus outside of a real cluster reaches no pod: only podman's containers are scraped")
    program = shutil.which("prometheus")
    if program is None:
        lacking("prometheus is not installed (Debian: prometheus)")
        return
    cluster.heal()
    cluster.await_ready()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    scraped = targets(cluster)
    folder: Path = tmp_path_factory.mktemp("prometheus")
    process = start_prometheus(program, folder, scraped, port, SCRAPE_S)
    server = Prometheus(port)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), 60, "Prometheus to be ready")
        wait_for(lambda: len(server.query("up == 1")) == len(scraped), 60, "every pod is scraped")
        some_of_everything(cluster, LOAD_S)
        yield server
    finally:
        stop(process, 15)


def test_every_pod_is_scraped_by_its_name(prometheus: Prometheus, cluster: Cluster) -> None:
    assert {found["metric"]["pod"] for found in prometheus.query("dougdb_raft_term")} == set(cluster.nodes())
    assert {found["metric"]["pod"] for found in prometheus.query("up == 1")} == {*cluster.nodes(), *cluster.facades()}


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_every_panel_returns_data(name: str, prometheus: Prometheus) -> None:
    assert not prometheus.empty_panels(name)


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    rules = wait_for(prometheus.rules, 30, "every rule was evaluated without an error")
    assert {rule["name"] for rule in rules} == set(alerts())


def test_every_alert_compares_data_and_a_lost_quorum_is_told(
    prometheus: Prometheus, cluster: Cluster, figure: Callable[[str], None]
) -> None:
    """Three of five are killed: what is about that fires, and writes that fail are counted. Then all is compared."""
    cluster.take_down(1, 3)
    try:
        wait_for(lambda: prometheus.query(alerts()["DougDBQuorumAtRisk"].expr), 30, "the quorum is at risk")
        wait_for(lambda: prometheus.query(alerts()["DougDBNoLeader"].expr), 60, "there is no leader")
        statuses = {cluster.put(f"refused/{number}", "x") for number in range(4)}
        assert statuses & {503, 504}, statuses
    finally:
        cluster.heal()
    cluster.await_ready()
    some_of_everything(cluster, 3)
    compared = {name: vectors(alert.expr) for name, alert in alerts().items()}
    assert all(compared.values())
    empty = {
        name: [expr for expr in parts if not prometheus.query(expr)]
        for name, parts in compared.items()
        if name not in WITHOUT_DATA
    }
    assert not {name: parts for name, parts in empty.items() if parts}
    for name, why in WITHOUT_DATA.items():
        assert not prometheus.query(compared[name][0]), f"{name} has data now, though {why}"
    panels = sum(len(panel.queries) for one in dashboards.DASHBOARDS.values() for panel in one.panels)
    figure(f"{panels} expressions of panels and {sum(map(len, compared.values()))} vectors of {len(compared)} alerts")
