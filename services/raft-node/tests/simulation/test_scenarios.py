"""Directed scenarios: networks and crashes in which Raft without its extensions is known to fail."""

from __future__ import annotations

from itertools import combinations

import pytest

from raft_testing.history import History
from raft_testing.linearizability import check_history
from raft_testing.scenarios import (
    agreed,
    both_ways,
    fill,
    followers_of,
    leader_of,
    put,
    run_for,
    term_of,
    wait_for,
)

NAMES = ("n1", "n2", "n3", "n4", "n5")
SEEDS = range(1, 6)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_partially_connected_nodes_keep_one_leader(seed: int) -> None:
    """n1, n2 and n3 see each other; n4 sees only n2, and n5 only n3 (the outage of 2020 in a five-node etcd)."""
    cluster = agreed(seed)
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
    cluster = agreed(seed)
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
    cluster = agreed(seed)
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
    cluster = agreed(seed)
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
    cluster = agreed(seed)
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
    cluster = agreed(seed)
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
    cluster = agreed(1)
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


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_clocks_that_jump_about_endanger_nothing_and_time_in_the_log_never_goes_back(seed: int) -> None:
    """Every node's clock runs at another speed every few milliseconds, and the leader's stands still now and then."""
    cluster = agreed(seed)
    chance = cluster.chance
    for _ in range(60):
        for node in cluster.nodes.values():
            node.tick_us = chance.choice((2_000, 5_000, 10_000, 20_000, 40_000))
        if (leader := cluster.leader) is not None and chance.random() < 0.2:
            leader.pause()
            run_for(cluster, 300)
            leader.resume(leader.life)
        if cluster.leader is not None:
            put(cluster, cluster.leader, limit_ms=50)
    for node in cluster.nodes.values():
        node.tick_us = 10_000
    assert wait_for(cluster, lambda: cluster.converged)
    log = leader_of(cluster).log
    times = [entry.timestamp_us for entry in log.entries(1, log.last_index + 1, 1 << 30)]
    assert times == sorted(times)
    assert put(cluster, leader_of(cluster)) == "ok"


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_reads_during_a_transfer_are_fresh_or_refused(seed: int) -> None:
    cluster, history = agreed(seed), History()
    asked = 0

    def read(name: str) -> None:
        operation = history.begin(asked, "get", "k", None, cluster.clock.now_us)

        def answered(status: str, value: str | None = None, leader: str = "") -> None:
            if status == "ok":
                history.succeed(operation, cluster.clock.now_us, value)
            else:
                history.refuse(operation, cluster.clock.now_us)

        cluster.nodes[name].get("k", answered)

    def write(name: str) -> None:
        value = f"v{asked}"
        operation = history.begin(asked, "put", "k", value, cluster.clock.now_us)

        def answered(status: str, value: str | None = None, leader: str = "") -> None:
            if status == "ok":
                history.succeed(operation, cluster.clock.now_us)
            elif status == "refused":
                history.refuse(operation, cluster.clock.now_us)

        cluster.nodes[name].put([("k", value, answered)])

    for _ in range(10):
        assert wait_for(cluster, lambda: cluster.leader is not None)
        leader_of(cluster).transfer(None)
        for _ in range(20):
            asked += 1
            # Also who has just lost the lead is asked, and who is about to get it.
            read(cluster.chance.choice(NAMES))
            write(cluster.chance.choice(NAMES))
            run_for(cluster, 1)
    run_for(cluster, 1_000)
    assert cluster.counters["hand_over"] >= 8
    assert sum(operation.ok and operation.kind == "get" for operation in history.operations) > 20
    assert check_history(history.operations) == []


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_shard_of_one_node_acknowledges_only_what_a_crash_cannot_take(seed: int) -> None:
    cluster = agreed(seed, 1)
    node = cluster.nodes["n1"]
    for _ in range(10):
        fill(cluster, 1)
        last = cluster.checkers.committed_index
        # A write is under way that nobody has been told of.
        node.put([("k", f"lost{last}", lambda status, value=None, leader="": None)])
        node.crash()
        assert node.log.last_index >= last
        node.start()
        assert wait_for(cluster, lambda: cluster.converged)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_was_paused_past_an_election_serves_nothing_stale(seed: int) -> None:
    cluster = agreed(seed)
    old = leader_of(cluster)
    fill(cluster, 1)
    old.pause()
    assert wait_for(cluster, lambda: cluster.leader not in (None, old))
    new = leader_of(cluster)
    answers: list[tuple[str, str | None]] = []
    new.put([("k", "new", lambda status, value=None, leader="": answers.append((status, value)))])
    assert wait_for(cluster, lambda: bool(answers))
    assert answers == [("ok", None)]
    answers.clear()
    # It is asked before it has heard of anything that happened.
    old.get("k", lambda status, value=None, leader="": answers.append((status, value)))
    old.resume(old.life)
    assert wait_for(cluster, lambda: bool(answers))
    assert answers[0][0] == "refused" or answers == [("ok", "new")]


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_hands_over_to_a_node_that_dies_leads_on(seed: int) -> None:
    cluster = agreed(seed)
    leader, target = leader_of(cluster), followers_of(cluster)[0]
    target.crash()
    leader.transfer(target.identity)
    assert put(cluster, leader) == "refused"
    assert wait_for(cluster, lambda: cluster.counters["transfer_aborted"] == 1, 400)
    assert put(cluster, leader) == "ok"
