"""Directed scenarios: networks and crashes in which Raft without its extensions is known to fail."""

from __future__ import annotations

from itertools import combinations

import pytest

from raft_node.raft.config import RaftConfig
from raft_node.testing.cluster import Cluster
from raft_node.testing.node import SimulatedNode

NAMES = ("n1", "n2", "n3", "n4", "n5")
SEEDS = range(1, 6)


def five(seed: int) -> Cluster:
    """Five nodes that have elected a leader and agree."""
    cluster = Cluster(f"scenario {seed}", 5, RaftConfig())
    cluster.start()
    assert cluster.clock.run(lambda: cluster.converged, 3_000_000)
    return cluster


def run_for(cluster: Cluster, milliseconds: int) -> None:
    cluster.clock.run(lambda: False, cluster.clock.now_us + milliseconds * 1000)


def leader_of(cluster: Cluster) -> SimulatedNode:
    leader = cluster.leader
    assert leader is not None
    return leader


def term_of(node: SimulatedNode) -> int:
    assert node.raft is not None
    return node.raft.term


def put(cluster: Cluster, node: SimulatedNode, limit_ms: int = 1000) -> str:
    """Writes at a node; gives what it answered, or nothing."""
    answers: list[str] = []
    node.put([("k", f"v{cluster.clock.now_us}", lambda status, value=None, leader="": answers.append(status))])
    cluster.clock.run(lambda: bool(answers), cluster.clock.now_us + limit_ms * 1000)
    return answers[0] if answers else ""


def both_ways(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    return [link for a, b in pairs for link in ((a, b), (b, a))]


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_partially_connected_nodes_keep_one_leader(seed: int) -> None:
    """n1, n2 and n3 see each other; n4 sees only n2, and n5 only n3 (the outage of 2020 in a five-node etcd)."""
    cluster = five(seed)
    linked = {("n1", "n2"), ("n1", "n3"), ("n2", "n3"), ("n2", "n4"), ("n3", "n5")}
    cluster.network.cut(both_ways(*(pair for pair in combinations(NAMES, 2) if pair not in linked)), "partial")
    run_for(cluster, 5_000)
    leader = leader_of(cluster)
    term = term_of(leader)
    assert put(cluster, leader) == "ok"
    run_for(cluster, 10_000)
    assert leader_of(cluster) is leader
    assert term_of(leader) == term
    assert put(cluster, leader) == "ok"


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_cannot_hear_steps_down(seed: int) -> None:
    """Its heartbeats arrive and hold the others back; only check-quorum ends that."""
    cluster = five(seed)
    deaf = leader_of(cluster)
    cluster.network.cut([(name, deaf.name) for name in NAMES if name != deaf.name], "one_way")
    run_for(cluster, 1_500)
    leader = leader_of(cluster)
    assert leader is not deaf
    assert put(cluster, leader) == "ok"
    run_for(cluster, 5_000)
    assert leader_of(cluster) is leader


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("deaf", [True, False])
def test_a_follower_behind_a_one_way_link_disturbs_nobody(seed: int, deaf: bool) -> None:
    cluster = five(seed)
    leader = leader_of(cluster)
    term = term_of(leader)
    victim = next(name for name in NAMES if name != leader.name)
    others = [name for name in NAMES if name != victim]
    cluster.network.cut([(other, victim) if deaf else (victim, other) for other in others], "one_way")
    run_for(cluster, 5_000)
    assert put(cluster, leader) == "ok"
    cluster.heal()
    run_for(cluster, 2_000)
    assert leader_of(cluster) is leader
    assert term_of(leader) == term
    assert cluster.converged


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_an_isolated_node_that_comes_back_does_not_depose_the_leader(seed: int) -> None:
    cluster = five(seed)
    leader = leader_of(cluster)
    term = term_of(leader)
    victim = next(name for name in NAMES if name != leader.name)
    cluster.network.cut(both_ways(*((victim, name) for name in NAMES if name != victim)), "isolate")
    for _ in range(5):
        assert put(cluster, leader) == "ok"
        run_for(cluster, 1_000)
    cluster.heal()
    run_for(cluster, 1_000)
    assert leader_of(cluster) is leader
    assert term_of(leader) == term
    assert cluster.converged


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_all_nodes_restart_at_once_and_keep_everything(seed: int) -> None:
    cluster = five(seed)
    for _ in range(10):
        assert put(cluster, leader_of(cluster)) == "ok"
    last, terms = cluster.checkers.committed_index, {name: term_of(node) for name, node in cluster.nodes.items()}
    for node in cluster.nodes.values():
        node.crash()
    cluster.start()
    assert all(term_of(node) >= terms[name] for name, node in cluster.nodes.items())
    assert cluster.clock.run(lambda: cluster.converged, cluster.clock.now_us + 3_000_000)
    assert leader_of(cluster).store.head.applied_index > last


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_whose_disk_is_slow_keeps_leading(seed: int) -> None:
    """Heartbeats do not wait for the disk. Its own answers do: it applies nothing that its log may still lose."""
    cluster = five(seed)
    leader = leader_of(cluster)
    term = term_of(leader)
    for node in cluster.nodes.values():
        node.fsync_max_us = 1
    leader.fsync_max_us = 2_000_000
    run_for(cluster, 5_000)
    assert put(cluster, leader, limit_ms=4_000) == "ok"
    assert leader_of(cluster) is leader
    assert term_of(leader) == term


@pytest.mark.simulation
@pytest.mark.parametrize("down", [2, 3])
def test_two_of_five_may_be_down_and_three_may_not(down: int) -> None:
    cluster = five(1)
    leader = leader_of(cluster)
    for node in [node for node in cluster.nodes.values() if node is not leader][:down]:
        node.crash()
    answer = put(cluster, leader)
    if down == 2:
        assert answer == "ok"
        return
    assert answer != "ok"
    run_for(cluster, 1_000)
    assert cluster.leader is None
    cluster.start()
    run_for(cluster, 2_000)
    assert put(cluster, leader_of(cluster)) == "ok"
