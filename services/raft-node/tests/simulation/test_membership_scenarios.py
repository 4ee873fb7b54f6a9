"""Directed scenarios of changes of the members: learners, removals, lost disks, and changes that are undone."""

from __future__ import annotations

import pytest

from raft_node.raft.membership import with_learner, with_voter, without
from raft_node.raft.types import Configuration, Role
from raft_testing.cluster import Cluster
from raft_testing.node import SimulatedNode
from raft_testing.scenarios import (
    COMPACTS,
    agreed,
    change,
    configuration_of,
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


def promote(cluster: Cluster, node: SimulatedNode) -> None:
    """Makes a learner a voter as soon as it has caught up."""

    def promoted() -> bool:
        leader = leader_of(cluster)
        assert leader.raft is not None
        assert leader.raft.leadership is not None
        if not leader.raft.leadership.caught_up(node.identity):
            return False
        return change(cluster, with_voter(configuration_of(leader), node.identity)) == "proposed"

    assert wait_for(cluster, promoted), "it never catches up"


@pytest.mark.simulation
@pytest.mark.parametrize("compacts", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_joins_as_a_learner_and_becomes_a_voter_once_it_has_caught_up(seed: int, compacts: bool) -> None:
    cluster = agreed(seed, spares=1, habits=COMPACTS if compacts else None)
    fill(cluster, 20)
    joining = cluster.nodes["n6"]
    first = configuration_of(leader_of(cluster))
    # A voter must have been a learner; an empty one would hold commits up.
    assert change(cluster, with_voter(first, joining.identity)) == "ConfigurationRefusedError"
    assert change(cluster, with_learner(first, joining.identity)) == "proposed"
    assert change(cluster, with_voter(configuration_of(leader_of(cluster)), joining.identity)) in (
        "ConfigurationRefusedError",
        "proposed",
    )
    if joining.identity not in configuration_of(leader_of(cluster)).voters:
        promote(cluster, joining)
    assert wait_for(cluster, lambda: in_step(cluster, joining))
    assert joining.identity in configuration_of(leader_of(cluster)).voters
    assert (cluster.counters["snapshot_installed"] > 0) == compacts


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_an_empty_node_that_joins_costs_no_availability(seed: int) -> None:
    """While the new node is a learner it counts for nothing: one of three may die, and the others go on."""
    cluster = agreed(seed, 3, spares=1)
    joining = cluster.nodes["n4"]
    cut_off(cluster, ["n4"])
    assert change(cluster, with_learner(configuration_of(leader_of(cluster)), joining.identity)) == "proposed"
    followers_of(cluster)[0].crash()
    fill(cluster, 3)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_removed_node_that_was_never_told_disturbs_nobody_also_after_a_restart(seed: int) -> None:
    cluster = agreed(seed)
    leader = leader_of(cluster)
    victim = followers_of(cluster)[0]
    cut_off(cluster, [victim.name])
    run_for(cluster, 400)
    assert change(cluster, without(configuration_of(leader), victim.identity)) == "proposed"
    # So long that the leader has given up telling it.
    run_for(cluster, 6_000)
    term = term_of(leader)
    cluster.heal()
    for _ in range(3):
        run_for(cluster, 2_000)
        victim.crash()
        victim.start()
        assert put(cluster, leader) == "ok"
    assert (leader_of(cluster), term_of(leader)) == (leader, term)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_removed_node_is_told_and_campaigns_no_more(seed: int) -> None:
    cluster = agreed(seed)
    victim = followers_of(cluster)[0]
    assert change(cluster, without(configuration_of(leader_of(cluster)), victim.identity)) == "proposed"
    assert wait_for(cluster, lambda: cluster.counters["removed"] == 1)
    # What it has learned is on its disk a moment later.
    run_for(cluster, 10)
    victim.crash()
    victim.start()
    cut_off(cluster, [victim.name])
    term = term_of(victim)
    run_for(cluster, 5_000)
    assert victim.raft is not None
    assert victim.raft.role is Role.LEARNER
    assert term_of(victim) == term


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_removes_itself_steps_down_and_another_leads(seed: int) -> None:
    cluster = agreed(seed)
    leader = leader_of(cluster)
    assert change(cluster, without(configuration_of(leader), leader.identity)) == "proposed"
    assert wait_for(cluster, lambda: cluster.leader not in (None, leader), 1_000)
    assert put(cluster, leader_of(cluster)) == "ok"
    assert wait_for(cluster, lambda: leader.raft is not None and leader.raft.role is Role.LEARNER)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_change_that_no_quorum_has_is_undone(seed: int) -> None:
    cluster = agreed(seed, spares=1)
    old = leader_of(cluster)
    first = configuration_of(old)
    cut_off(cluster, [old.name])
    answers: list[str] = []
    wanted = with_learner(first, cluster.nodes["n6"].identity)
    old.change_members(wanted, answers.append)
    assert answers == ["proposed"]
    assert configuration_of(old) == wanted
    assert wait_for(cluster, lambda: cluster.leader not in (None, old))
    fill(cluster, 3)
    assert configuration_of(old) == wanted
    cluster.heal()
    assert wait_for(cluster, lambda: cluster.converged)
    assert configuration_of(old) == first
    assert cluster.counters["configuration_rolled_back"] == 1
    # The node that was to join has heard of it, and is no member.
    assert cluster.checkers.configurations.newest == first


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_change_that_is_not_committed_is_undone_by_a_snapshot_too(seed: int) -> None:
    cluster = agreed(seed, spares=1, habits=COMPACTS)
    old = leader_of(cluster)
    first = configuration_of(old)
    cut_off(cluster, [old.name])
    old.change_members(with_learner(first, cluster.nodes["n6"].identity), lambda outcome: None)
    assert wait_for(cluster, lambda: cluster.leader not in (None, old))
    fill(cluster, 10)
    cluster.heal()
    assert wait_for(cluster, lambda: cluster.converged)
    assert cluster.counters["snapshot_installed"] > 0
    assert configuration_of(old) == first


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_two_leaders_cannot_both_change_the_members(seed: int) -> None:
    """The schedule of 2015: a deposed leader and a new one each remove another voter, by quorums that do not meet."""
    cluster = agreed(seed, 4)
    old = leader_of(cluster)
    first = configuration_of(old)
    one, two, three = followers_of(cluster)
    cut_off(cluster, [old.name])
    answers: list[str] = []
    old.change_members(without(first, one.identity), answers.append)
    assert answers == ["proposed"]
    assert wait_for(cluster, lambda: cluster.leader not in (None, old))
    new = leader_of(cluster)
    # Before an entry of its own term is committed, the new leader may not: it could not know of the other change.
    cut_off(cluster, [new.name])
    other = next(node for node in (one, two, three) if node is not new)
    answers.clear()
    assert new.raft is not None
    if new.raft.leadership is not None and not new.raft.leadership.established:
        new.change_members(without(first, other.identity), answers.append)
        assert answers == ["ConfigurationRefusedError"]
    cluster.heal()
    assert wait_for(cluster, lambda: cluster.converged)
    assert change(cluster, without(first, other.identity)) == "proposed"
    # One at a time: whatever the order, the checkers saw no two majorities that do not meet.
    assert cluster.checkers.configurations.newest == without(first, other.identity)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_only_one_change_is_under_way(seed: int) -> None:
    cluster = agreed(seed, spares=2)
    leader = leader_of(cluster)
    cut_off(cluster, [leader.name])
    answers: list[str] = []
    wanted = with_learner(configuration_of(leader), cluster.nodes["n6"].identity)
    leader.change_members(wanted, answers.append)
    leader.change_members(with_learner(wanted, cluster.nodes["n7"].identity), answers.append)
    assert answers == ["proposed", "ConfigurationRefusedError"]


@pytest.mark.simulation
@pytest.mark.parametrize("compacts", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_lost_disk_is_replaced_under_another_incarnation(seed: int, compacts: bool) -> None:
    cluster = agreed(seed, habits=COMPACTS if compacts else None)
    fill(cluster, 10)
    victim = followers_of(cluster)[0]
    old = victim.identity
    victim.crash()
    cluster.lose_disk(victim)
    victim.start()
    # Nobody takes it for what it was: it gets nothing, and counts for nothing.
    run_for(cluster, 2_000)
    assert victim.identity != old
    assert victim.log.last_index == 0
    assert change(cluster, without(configuration_of(leader_of(cluster)), old)) == "proposed"
    assert change(cluster, with_learner(configuration_of(leader_of(cluster)), victim.identity)) == "proposed"
    promote(cluster, victim)
    assert wait_for(cluster, lambda: in_step(cluster, victim))
    assert len(configuration_of(leader_of(cluster)).voters) == 5


@pytest.mark.simulation
@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_comes_back_after_its_removal_gets_a_snapshot_again(seed: int) -> None:
    """While it was leaving it was denied one; that must not stick to it."""
    cluster = agreed(seed, habits=COMPACTS)
    victim = followers_of(cluster)[0]
    victim.crash()
    run_for(cluster, 200)
    first: Configuration = configuration_of(leader_of(cluster))
    assert change(cluster, without(first, victim.identity)) == "proposed"
    fill(cluster, 10)
    victim.start()
    run_for(cluster, 500)
    assert change(cluster, with_learner(configuration_of(leader_of(cluster)), victim.identity)) == "proposed"
    assert wait_for(cluster, lambda: in_step(cluster, victim))
