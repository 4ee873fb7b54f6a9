"""A real Prometheus scrapes the containers by the annotations of their pods: every panel and every alert has data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from integration.kubernetes.cluster.driver import Cluster, wait_for
from integration.kubernetes.cluster.scenarios.scraped import scrape, some_of_everything
from integration.observed import Prometheus, alerts, vectors
from tools import dashboards

LOAD_S = 8.0
ELSEWHERE = {
    "DougDBCertificateExpiry": "a plaintext cluster has no certificate",
}
"""Alerts about what this cluster does not have. The release of test_tls.py has it, and gives them data."""


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    cluster.heal()
    cluster.await_ready()
    with scrape(cluster, tmp_path_factory.mktemp("prometheus")) as server:
        some_of_everything(cluster, LOAD_S)
        yield server


def test_every_pod_is_scraped_by_its_name(prometheus: Prometheus, cluster: Cluster) -> None:
    assert {found["metric"]["pod"] for found in prometheus.query("dougdb_raft_term")} == set(cluster.nodes())
    assert {found["metric"]["pod"] for found in prometheus.query("up == 1")} == {*cluster.nodes(), *cluster.facades()}


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_every_panel_returns_data(name: str, prometheus: Prometheus) -> None:
    wait_for(lambda: not prometheus.empty_panels(name), 120, f"data for {prometheus.empty_panels(name)}")


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    rules = wait_for(prometheus.rules, 120, "every rule was evaluated without an error")
    assert {rule["name"] for rule in rules} == set(alerts())


def test_every_alert_compares_data_and_a_lost_quorum_is_told(
    prometheus: Prometheus, cluster: Cluster, figure: Callable[[str], None]
) -> None:
    """Three of five are killed: what is about that fires, and writes that fail are counted. Then all is compared."""
    cluster.take_down(1, 3)
    try:
        wait_for(lambda: prometheus.query(alerts()["DougDBQuorumAtRisk"].expr), 120, "the quorum is at risk")
        wait_for(lambda: prometheus.query(alerts()["DougDBNoLeader"].expr), 120, "there is no leader")
        statuses = {cluster.put(f"refused/{number}", "x") for number in range(4)}
        assert statuses & {503, 504}, statuses
    finally:
        cluster.heal()
    cluster.await_ready()
    some_of_everything(cluster, 3)
    compared = {name: vectors(alert.expr) for name, alert in alerts().items()}
    assert all(compared.values())
    wanted = [part for name, parts in compared.items() if name not in ELSEWHERE for part in parts]

    def empty() -> list[str]:
        return [expr for expr in wanted if not prometheus.query(expr)]

    wait_for(lambda: not empty(), 120, f"data for {empty()}")
    for name, why in ELSEWHERE.items():
        assert not prometheus.query(compared[name][0]), f"{name} has data now, though {why}"
    panels = sum(len(panel.queries) for one in dashboards.DASHBOARDS.values() for panel in one.panels)
    figure(f"{panels} expressions of panels and {sum(map(len, compared.values()))} vectors of {len(compared)} alerts")
