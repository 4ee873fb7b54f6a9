"""Directed scenarios of snapshots: followers left behind, transfers that go wrong, crashes at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raft_testing.cluster import Cluster
from raft_testing.disk import MemoryLog, WalLog
from raft_testing.engine_store import EngineStore
from raft_testing.environment import Habits
from raft_testing.machine import MemoryStore
from raft_testing.node import SimulatedNode
from raft_testing.scenarios import (
    COMPACTS,
    agreed,
    cut_off,
    fill,
    followers_of,
    in_step,
    leader_of,
    put,
    run_for,
    term_of,
    wait_for,
)

SEEDS = range(1, 4)
STEPS = ("files", "wait", "switch", "reset")
KINDS = pytest.mark.parametrize(
    ("log", "store"), [(MemoryLog, MemoryStore), (WalLog, EngineStore)], ids=["memory", "real"]
)


def left_behind(
    seed: int,
    log: type[MemoryLog] | type[WalLog] = MemoryLog,
    store: type[MemoryStore] | type[EngineStore] = MemoryStore,
    habits: Habits = COMPACTS,
) -> tuple[Cluster, SimulatedNode]:
    """A follower that was cut off while the others dropped what it lacks."""
    cluster = agreed(seed, habits=habits, log=log, store=store)
    victim = followers_of(cluster)[0]
    cut_off(cluster, [victim.name])
    # The real log drops whole segments only.
    fill(cluster, 20 if log is MemoryLog else 260)
    assert leader_of(cluster).log.first_index > victim.log.last_index + 1
    return cluster, victim


def installing(node: SimulatedNode, step: str) -> Callable[[], bool]:
    return lambda: node.installation.step == step


@pytest.mark.simulation
@KINDS
@pytest.mark.parametrize("seed", SEEDS)
def test_a_follower_whose_entries_are_gone_is_brought_back_by_a_snapshot(
    seed: int, log: type[MemoryLog], store: type[MemoryStore]
) -> None:
    cluster, victim = left_behind(seed, log, store)
    leader, term = leader_of(cluster), term_of(leader_of(cluster))
    cluster.heal()
    assert wait_for(cluster, lambda: in_step(cluster, victim))
    assert cluster.counters["snapshot_installed"] == 1
    assert (leader_of(cluster), term_of(leader)) == (leader, term)
    fill(cluster, 3)
    assert wait_for(cluster, lambda: in_step(cluster, victim))
    assert cluster.counters["snapshot_installed"] == 1


@pytest.mark.simulation
@KINDS
@pytest.mark.parametrize("step", [step for step in STEPS if step != "wait"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_crash_at_any_step_of_an_installation_is_recovered_from(
    seed: int, step: str, log: type[MemoryLog], store: type[MemoryStore]
) -> None:
    cluster, victim = left_behind(seed, log, store)
    before = victim.store.durable_index
    cluster.heal()
    assert wait_for(cluster, installing(victim, step))
    victim.crash()
    # The old state or the new one; never something between, and never an earlier one.
    assert victim.store.durable_index in (before, leader_of(cluster).store.durable_index)
    victim.start()
    assert victim.log.first_index - 1 <= victim.store.durable_index <= victim.log.last_index
    assert wait_for(cluster, lambda: in_step(cluster, victim))
    assert cluster.counters[f"install_cut_{step}"] == 1


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(1, 9))
def test_a_log_behind_a_state_that_was_switched_begins_anew_at_the_start(seed: int) -> None:
    """The crash came between switching to the snapshot and resetting the log."""
    cluster, victim = left_behind(seed)
    cluster.heal()
    assert wait_for(cluster, installing(victim, "reset"))
    index = victim.store.durable_index
    victim.crash()
    cut_off(cluster, [victim.name])
    victim.start()
    assert (victim.log.first_index, victim.log.last_index) == (index + 1, index)
    assert victim.raft is not None
    assert victim.raft.commit_index == victim.raft.applied_index == index


@pytest.mark.simulation
def test_an_installation_waits_for_the_log_write_under_way() -> None:
    cluster, victim = left_behind(1)
    cluster.heal()
    victim.fsync_max_us = 300_000
    assert wait_for(cluster, installing(victim, "files"))
    # Somebody's votes or terms keep the disk busy while the snapshot is taken over.
    leader_of(cluster).crash()
    waited = wait_for(cluster, installing(victim, "wait"), 2_000)
    cluster.heal()
    assert wait_for(cluster, lambda: in_step(cluster, victim), 10_000)
    assert waited or cluster.counters["snapshot_installed"] >= 1


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_acknowledged_before_a_snapshot_is_in_force(seed: int) -> None:
    """The core has taken it over, the disk has not: appends that come now are answered only afterwards."""
    cluster, victim = left_behind(seed, habits=replace(COMPACTS, install_max_us=400_000))
    cluster.heal()
    assert wait_for(cluster, lambda: victim.installation.restoring)
    leader = leader_of(cluster)
    assert leader.raft is not None
    assert victim.raft is not None
    # A newer leader probes it at once, since it knows nothing of the transfer.
    leader.crash()
    while victim.installation.restoring:
        run_for(cluster, 5)
    leader.start()
    assert wait_for(cluster, lambda: in_step(cluster, victim))


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_transfer_that_is_cut_goes_on_where_it_stopped(seed: int) -> None:
    cluster, victim = left_behind(seed)
    cluster.heal()
    assert wait_for(cluster, lambda: victim.installation.busy)
    cut_off(cluster, [victim.name])
    run_for(cluster, 100)
    cluster.heal()
    assert wait_for(cluster, lambda: in_step(cluster, victim))
    assert cluster.counters["snapshot_sent"] == 1


@pytest.mark.simulation
def test_a_receiver_that_crashes_keeps_what_it_had_synced() -> None:
    resumed = 0
    for seed in range(1, 9):
        cluster, victim = left_behind(seed)
        cluster.heal()
        assert wait_for(cluster, lambda node=victim: node.installation.busy and not node.installation.step)  # type: ignore[misc]
        victim.crash()
        victim.start()
        assert wait_for(cluster, lambda node=victim, shard=cluster: in_step(shard, node))  # type: ignore[misc]
        resumed += cluster.counters["snapshot_resumed"]
    assert resumed > 0


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_chunk_is_refused_and_sent_again(seed: int) -> None:
    cluster, victim = left_behind(seed)
    cluster.heal()
    cluster.network.damage_permille = 600
    assert wait_for(cluster, lambda: in_step(cluster, victim), 20_000)
    cluster.network.damage_permille = 1000
    assert cluster.counters["snapshot_damaged"] > 0


@pytest.mark.simulation
def test_what_a_disk_spoiled_of_a_snapshot_is_refused_as_a_whole() -> None:
    spoiled = 0
    for seed in range(1, 9):
        cluster, victim = left_behind(seed)
        cluster.heal()
        victim.spoils = True
        assert wait_for(cluster, lambda node=victim: node.installation.busy and not node.installation.step)  # type: ignore[misc]
        victim.crash()
        victim.start()
        assert wait_for(cluster, lambda node=victim, shard=cluster: in_step(shard, node))  # type: ignore[misc]
        spoiled += cluster.counters["snapshot_spoiled"]
    assert spoiled > 0


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_dies_while_it_sends_is_followed_by_another_that_sends(seed: int) -> None:
    cluster, victim = left_behind(seed)
    cluster.heal()
    assert wait_for(cluster, lambda: victim.installation.busy)
    sender = leader_of(cluster)
    sender.crash()
    assert wait_for(cluster, lambda: cluster.leader is not None and in_step(cluster, victim))
    assert leader_of(cluster) is not sender
    sender.start()
    assert wait_for(cluster, lambda: cluster.converged)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_shard_serves_while_a_follower_gets_a_snapshot_and_writes_race_with_it(seed: int) -> None:
    cluster, victim = left_behind(seed, habits=replace(COMPACTS, install_max_us=100_000))
    cluster.heal()
    assert wait_for(cluster, lambda: victim.installation.busy)
    while victim.installation.busy:
        assert put(cluster, leader_of(cluster)) == "ok"
    assert wait_for(cluster, lambda: cluster.converged)


@pytest.mark.simulation
def test_a_whole_shard_restarts_behind_its_snapshots() -> None:
    cluster = agreed(1, habits=COMPACTS)
    fill(cluster, 30)
    for node in cluster.nodes.values():
        node.crash()
        assert node.log.first_index > 20
    cluster.start()
    assert wait_for(cluster, lambda: cluster.converged)
    assert put(cluster, leader_of(cluster)) == "ok"
