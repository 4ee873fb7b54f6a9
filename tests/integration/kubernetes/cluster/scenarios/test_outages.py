"""Pods that die, move, are cut off or are all gone: what the cluster does meanwhile, and that it recovers by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from integration.kubernetes.cluster.driver import Cluster, Unable, wait_for
from tools.helm_chart import CHART

WATCH_S = 12.0
"""How long a shard without a quorum is watched. A liveness probe is asked every 10 s."""
KEYS = 40


@pytest.fixture(autouse=True)
def sound(cluster: Cluster) -> None:
    """Each begins with a cluster in which everybody is there."""
    cluster.heal()
    cluster.await_ready()
    for shard in range(cluster.shards):
        cluster.await_equal(shard)


def keys_of(cluster: Cluster, prefix: str) -> dict[str, str]:
    """Puts some keys, of both shards by their number, and gives what they hold."""
    values = {f"{prefix}/{number}": str(number) for number in range(KEYS)}
    assert {cluster.put(key, value) for key, value in values.items()} == {200}
    return values


def held(cluster: Cluster, values: dict[str, str]) -> dict[str, str | None]:
    return {key: cluster.get(key) for key in values}


def test_the_charts_own_test_passes(cluster: Cluster) -> None:
    """As its pod would run it: through the Service's name."""
    client = cluster.run((CHART / "files" / "smoke.py").read_text(), f"http://{cluster.service}:8080", "2")
    told, _ = client.communicate(timeout=120)
    assert client.returncode == 0, told
    for shard in range(2):
        assert f"shard {shard}: put, linearizable and eventual get, delete: ok" in told


def test_what_is_put_is_there(cluster: Cluster) -> None:
    values = keys_of(cluster, "there")
    assert held(cluster, values) == values
    shards = {cluster.call("GET", f"/v1/kv/{key}?consistency=eventual").status for key in values}
    assert shards <= {200, 404}
    assert cluster.get("never/put") is None


@pytest.mark.parametrize("shard", [0, 1])
def test_a_killed_leader_is_followed_by_another(shard: int, cluster: Cluster, figure: Callable[[str], None]) -> None:
    values = keys_of(cluster, f"killed/{shard}")
    leader = cluster.await_leader(shard)
    before = cluster.identity(leader)
    began_s = time.monotonic()
    cluster.kill(leader)
    cluster.await_leader(shard, but=leader)
    # Every key of both shards can be written again: a key of the shard is among them.
    wait_for(lambda: all(cluster.put(key, f"{value}!") == 200 for key, value in values.items()), 99, "writes go on")
    figure(f"shard {shard}: {KEYS} keys written again {time.monotonic() - began_s:.1f} s after its leader was killed")
    cluster.heal()
    cluster.await_ready()
    assert cluster.identity(leader) != before
    cluster.await_equal(shard)
    assert held(cluster, values) == {key: f"{value}!" for key, value in values.items()}


def test_three_of_five_are_killed(cluster: Cluster, figure: Callable[[str], None]) -> None:
    """The others stay alive and are not ready, nothing restarts them, and all is well when the three are back."""
    values = keys_of(cluster, "three")
    left = cluster.nodes(1)[:2]
    before = {pod: cluster.identity(pod) for pod in left}
    victims = cluster.take_down(1, 3)
    assert set(victims) | set(left) == set(cluster.nodes(1))
    wait_for(lambda: all(cluster.probe(pod, "readiness") == 503 for pod in left), 120, "they are not ready")
    ends_s = time.monotonic() + WATCH_S
    while time.monotonic() < ends_s:
        assert {pod: cluster.probe(pod, "liveness") for pod in left} == dict.fromkeys(left, 200)
        assert {pod: cluster.probe(pod, "readiness") for pod in left} == dict.fromkeys(left, 503)
        time.sleep(0.5)
    # The other shard does not notice; of this one nothing is acknowledged that cannot be kept.
    answers = [cluster.put(f"three/quick/{number}", "x") for number in range(2)]
    assert set(answers) <= {200, 503, 504}
    assert {pod: cluster.probe(pod, "liveness") for pod in cluster.facades()} == dict.fromkeys(cluster.facades(), 200)
    began_s = time.monotonic()
    cluster.heal()
    cluster.await_ready()
    figure(f"three of five back: all ready after {time.monotonic() - began_s:.1f} s")
    assert {pod: cluster.identity(pod) for pod in left} == before
    assert held(cluster, values) == values


def test_a_pod_that_comes_back_at_another_address_is_found(cluster: Cluster, figure: Callable[[str], None]) -> None:
    """Under its name and on its volumes, as a pod that was moved: it is the same node."""
    values = keys_of(cluster, "moved")
    leader = cluster.await_leader(0)
    try:
        before, after = cluster.replace(leader)
    except Unable as reason:
        pytest.skip(str(reason))
    assert before != after
    began_s = time.monotonic()
    cluster.await_ready()
    cluster.await_equal(0)
    figure(f"{leader} moved from {before} to {after}: caught up after {time.monotonic() - began_s:.1f} s")
    assert held(cluster, values) == values


def test_a_leader_that_is_cut_off_from_its_peers_gives_way(cluster: Cluster, figure: Callable[[str], None]) -> None:
    """The facades still reach it. It must not serve what it cannot confirm, and it must not be restarted."""
    values = keys_of(cluster, "cut")
    leader = cluster.await_leader(0)
    others = [pod for pod in cluster.nodes(0) if pod != leader]
    before = cluster.identity(leader)
    try:
        cluster.cut_off(leader, others)
    except Unable as reason:
        pytest.skip(str(reason))
    try:
        began_s = time.monotonic()
        cluster.await_leader(0, but=leader)
        wait_for(lambda: all(cluster.put(key, f"{value}?") == 200 for key, value in values.items()), 99, "writes go on")
        figure(f"leader cut off by iptables: {KEYS} keys written again after {time.monotonic() - began_s:.1f} s")
        assert held(cluster, values) == {key: f"{value}?" for key, value in values.items()}
        wait_for(lambda: cluster.probe(leader, "readiness") == 503, 120, "it is not ready")
        assert cluster.probe(leader, "liveness") == 200
    finally:
        cluster.join(leader)
    cluster.await_ready()
    cluster.await_equal(0)
    assert cluster.identity(leader) == before
    assert held(cluster, values) == {key: f"{value}?" for key, value in values.items()}


def test_volumes_outlive_every_pod(cluster: Cluster, figure: Callable[[str], None]) -> None:
    """An uninstallation and an installation over the claims that it left."""
    values = keys_of(cluster, "kept")
    began_s = time.monotonic()
    cluster.uninstall()
    ended_s = time.monotonic()
    cluster.install("facades", "names", "nodes")
    figure(
        f"every pod removed in {ended_s - began_s:.1f} s, made again and ready in {time.monotonic() - ended_s:.1f} s"
    )
    assert held(cluster, values) == values
