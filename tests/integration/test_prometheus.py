"""A real Prometheus beside a real cluster, both started by what ``make observe`` runs."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from bench.cluster import FACADE_PORTS, NODE_PORTS_STRIDE, Cluster, free_ports, wait_for
from integration.observed import Prometheus, alerts
from tools import dashboards

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"),
]
NODES, FACADES = 6, 1
LOAD_S = 3.0
WAIT_S = 60.0


class Observed(Prometheus):
    """A cluster and its Prometheus."""

    def __init__(self, cluster: Cluster, port: int) -> None:
        super().__init__(port)
        self.cluster = cluster

    def up(self) -> bool:
        return len(self.query("up == 1")) == NODES + FACADES


@pytest.fixture(scope="module")
def observed(new_cluster: Callable[..., Cluster]) -> Iterator[Observed]:
    command = [sys.executable, str(ROOT / "tools" / "observe.py"), "--scrape-seconds", "0.5"]
    cluster = new_cluster(shards=2, nodes=3, command=command)
    cluster.base_port = free_ports(*FACADE_PORTS, NODE_PORTS_STRIDE)
    cluster.command += ["--prometheus-port", str(cluster.port + 5)]
    cluster.start()
    seen = Observed(cluster, cluster.port + 5)
    wait_for(lambda: b"Ctrl-C ends both" in cluster.output.read_bytes(), WAIT_S, "observe says where to look")
    wait_for(seen.up, WAIT_S, "every process is scraped")
    ends = time.monotonic() + LOAD_S
    number = 0
    # Some of everything, so that rates have something to tell.
    while time.monotonic() < ends:
        for key in (f"/v1/kv/observed/{number}", f"/v1/kv/observed/{number + 1}"):
            assert cluster.request("PUT", key, b"value").status == 200
            assert cluster.request("GET", key).status == 200
            assert cluster.request("GET", f"{key}?consistency=eventual").status in (200, 404)
        assert cluster.request("DELETE", f"/v1/kv/observed/{number}").status == 204
        assert cluster.request("GET", "/v1/version").status == 200
        number += 2
        time.sleep(0.05)
    yield seen


def test_every_process_is_scraped_by_its_name(observed: Observed) -> None:
    wait_for(observed.up, WAIT_S, "every process is scraped")
    targets = observed.api("targets")["activeTargets"]
    assert {target["labels"]["pod"] for target in targets} == {*observed.cluster.node_ids, "facade"}


def test_term_and_commit_index_are_there_for_every_node(observed: Observed) -> None:
    for metric in ("dougdb_raft_term", "dougdb_raft_commit_index"):
        series = observed.query(metric)
        assert {found["metric"]["pod"] for found in series} == set(observed.cluster.node_ids)
        assert all(float(found["value"][1]) >= 1 for found in series)
        assert all(found["metric"]["pod"].startswith(f"shard-{found['metric']['shard']}-") for found in series)
    # Somebody may just have been elected, which nodes tell one after the other.
    for expr in (
        "count by (shard) (count_values by (shard) ('term', dougdb_raft_term))",
        "sum by (shard) (dougdb_raft_is_leader)",
    ):
        wait_for(partial(is_one_in_each_shard, observed, expr), WAIT_S, f"one in each shard: {expr}")


def is_one_in_each_shard(observed: Observed, expr: str) -> bool:
    return {found["metric"]["shard"]: found["value"][1] for found in observed.query(expr)} == {"0": "1", "1": "1"}


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_every_expression_of_a_dashboard_returns_data(observed: Observed, name: str) -> None:
    wait_for(lambda: not observed.empty_panels(name), WAIT_S, f"data for {observed.empty_panels(name)}")


def test_choosing_one_shard_shows_that_shard(observed: Observed) -> None:
    (query,) = next(panel for panel in dashboards.DASHBOARDS["raft"].panels if panel.title == "Term").queries
    expr = query.expr.replace("$namespace", ".*").replace("$job", "dougdb-nodes").replace("$shard", "1")
    assert {found["metric"]["shard"] for found in observed.query(expr)} == {"1"}


def test_the_graphs_of_the_console_come_from_it_and_know_every_figure(observed: Observed) -> None:
    unknown: set[str] = set()

    def known() -> bool:
        answer = observed.cluster.request("GET", "/v1/console/history?shards=0,1")
        document = json.loads(answer.body)
        if document["source"] != "prometheus" or document["shards"].keys() != {"0", "1"}:
            return False
        tables = {"facade": document["facade"], **document["shards"]}
        unknown.clear()
        unknown.update(
            f"{table}: {name}"
            for table, columns in tables.items()
            for name, column in columns.items()
            if not any(value is not None for value in column)
        )
        # Nothing may have been compacted, and a rate of nothing is a figure, too.
        return not unknown

    wait_for(known, WAIT_S, f"every figure: {unknown}")


def test_the_rules_are_evaluated_and_nothing_fires(observed: Observed) -> None:
    rules = wait_for(observed.rules, WAIT_S, "every rule was evaluated without an error")
    assert {rule["name"] for rule in rules} == set(alerts())
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_a_node_that_dies_is_missed(observed: Observed) -> None:
    cluster = observed.cluster
    for node in cluster.node_ids[3:5]:
        cluster.member(node).suspend()
    try:
        expr = alerts()["DougDBQuorumAtRisk"].expr
        found = wait_for(lambda: observed.query(expr), WAIT_S, "two of three nodes are missed")
        assert [series["metric"]["shard"] for series in found] == ["1"]
    finally:
        for node in cluster.node_ids[3:5]:
            cluster.member(node).resume()
    wait_for(observed.up, WAIT_S, "they are back")


def test_ctrl_c_ends_both(observed: Observed) -> None:
    assert observed.cluster.processes()
    assert observed.cluster.interrupt() == 0
    assert observed.cluster.processes() == []
