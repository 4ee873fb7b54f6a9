"""Installations from nothing: the order does not matter, and a node serves health at once. All at once is the cluster
that the other scenarios use."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from integration.kubernetes.cluster.driver import Cluster, wait_for
from integration.kubernetes.cluster.podman import Podman, seconds_to_health
from integration.kubernetes.cluster.scenarios.conftest import NewCluster

SMALL = ("--set", "shards=1,raft.replicas=3,facade.replicas=1")
HEALTH_MAX_S = 3.0
ALIVE_S = 120.0
WITHOUT_S = 4.0
"""How long pods are left without what they wait for: longer than DNS is cached and channels back off."""


def await_alive(cluster: Cluster, pods: list[str]) -> None:
    wait_for(lambda: all(cluster.probe(pod, "liveness") == 200 for pod in pods), ALIVE_S, f"{pods} to be alive")


def install_slowly(cluster: Cluster, *steps: str) -> None:
    """Makes one step after the other and leaves the pods alone for a while: alive, not ready, not restarted."""
    for place, step in enumerate(steps):
        cluster.apply(step)
        if place == len(steps) - 1:
            break
        done = steps[: place + 1]
        pods = [*(cluster.nodes() if "nodes" in done else []), *cluster.facades()]
        await_alive(cluster, pods)
        runs = {pod: cluster.identity(pod) for pod in pods}
        time.sleep(WITHOUT_S)
        assert {pod: cluster.probe(pod, "liveness") for pod in pods} == dict.fromkeys(pods, 200)
        if {"nodes", "names"} <= set(done):
            cluster.await_ready()
        else:
            assert {pod: cluster.probe(pod, "readiness") for pod in pods} == dict.fromkeys(pods, 503)
        assert {pod: cluster.identity(pod) for pod in pods} == runs
    cluster.await_ready()
    assert cluster.put("order", "x") == 200
    assert cluster.get("order") == "x"


@pytest.mark.parametrize(
    "steps",
    [("nodes", "names", "facades"), ("facades", "nodes", "names")],
    ids=["nodes before their names exist", "facade before nodes, names last"],
)
def test_the_order_does_not_matter(steps: tuple[str, ...], new_release: NewCluster) -> None:
    with new_release(*SMALL) as cluster:
        install_slowly(cluster, *steps)


def test_a_cold_start_with_an_empty_volume_serves_health_within_3_s(
    new_release: NewCluster, figure: Callable[[str], None]
) -> None:
    """The best of three nodes: the start is to be measured, not what else the machine does."""
    with new_release(*SMALL) as cluster:
        if not isinstance(cluster, Podman):
            pytest.skip(
                "a real cluster schedules, attaches and pulls before it starts; only podman's start is the node's"
            )
        times = [seconds_to_health(cluster, pod) for pod in cluster.nodes()]
        figure(f"cold start of a node until /livez is 200: {', '.join(f'{one:.2f}' for one in times)} s")
        assert min(times) < HEALTH_MAX_S
