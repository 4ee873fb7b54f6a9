"""The simulated operator: changes the members, has disks replaced, and hands leadership over.

It works as a person with ``dougctl`` does: it asks the leader, checks the result, and asks again. A node joins
as a learner and becomes a voter once it has caught up; a node that has lost its disk is removed under its old
incarnation and joins under its new one. It never asks for a change that would leave a shard without a quorum for
good, but sometimes for two steps at once, which must be refused.

``OPERATIONS`` are what a run can draw; each goal that was reached counts under its name.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from raft_node.raft.membership import members_of, with_learner, with_voter, without
from raft_node.raft.types import Configuration, NodeId
from raft_testing.cluster import Cluster
from raft_testing.configurations import majority
from raft_testing.node import SimulatedNode

OPERATIONS = ("add", "remove", "replace", "hand_over")

MEMBERS_MAX = 8
_POLL_US = 30_000
_PATIENCE_US = 4_000_000


@dataclass(slots=True)
class Goal:
    """A goal of the operator.

    Attributes:
        kind: One of ``OPERATIONS`` that take several steps.
        joins: The node that is to be a voter at the end.
        leaves: The node that is to be no member at the end.
        deadline_us: When the goal is given up.
    """

    kind: str
    joins: NodeId | None
    leaves: NodeId | None
    deadline_us: int


class Operator:
    """Changes the members of a cluster until it is told to stop.

    Attributes:
        begun: How many operations were begun.
        active: Whether it may go on; once False, it begins no operation and gives up the present one.
    """

    def __init__(self, cluster: Cluster, kinds: tuple[str, ...], gap_us: int) -> None:
        self.begun = 0
        self.active = True
        self._cluster = cluster
        self._chance = cluster.chance
        self._kinds = kinds
        self._gap_us = gap_us
        self._goal: Goal | None = None
        # These have a random generator of their own, so that the operator's other choices do not depend on them.
        self._whims = random.Random("whims")  # noqa: S311
        if kinds:
            self._wait()

    def _wait(self) -> None:
        self._cluster.clock.call_later(int(self._gap_us * (0.3 + 1.4 * self._chance.random())), self._begin)

    def _begin(self) -> None:
        if not self.active:
            return
        kind = self._chance.choice(self._kinds)
        if kind == "hand_over":
            self._hand_over()
            self._wait()
            return
        self._goal = goal = self._new_goal(kind)
        if goal is None:
            self._wait()
            return
        self.begun += 1
        self._cluster.trace.add(f"operator {kind} joins={goal.joins} leaves={goal.leaves}")
        self._pursue(goal)

    def _hand_over(self) -> None:
        leader = self._cluster.leader
        if leader is None or leader.raft is None:
            return
        others = [voter for voter in leader.raft.configuration.voters if voter != leader.identity]
        if others:
            self.begun += 1
            leader.transfer(self._chance.choice([None, *others]))

    def _new_goal(self, kind: str) -> Goal | None:
        cluster, chance = self._cluster, self._chance
        configuration = cluster.checkers.configurations.newest
        assert configuration is not None
        deadline_us = cluster.clock.now_us + _PATIENCE_US
        members = members_of(configuration)
        if kind == "add":
            outside = [node for node in cluster.nodes.values() if node.identity not in members]
            if not outside or len(members) >= MEMBERS_MAX:
                return None
            node = chance.choice(outside)
            old = next((member for member in sorted(members) if member.name == node.name), None)
            return Goal(kind, node.identity, old, deadline_us)
        voter = chance.choice(configuration.voters)
        if kind == "remove":
            return Goal(kind, None, voter, deadline_us) if len(configuration.voters) > 3 else None
        node = cluster.nodes[voter.name]
        if node.identity == voter and not self._lose_disk(node):
            return None
        return Goal(kind, node.identity, voter, deadline_us)

    def _lose_disk(self, node: SimulatedNode) -> bool:
        """Lets a disk die; returns False if some possible configuration could not go on without it."""
        cluster, configurations = self._cluster, self._cluster.checkers.configurations
        newest = configurations.newest
        assert newest is not None
        for configuration in (newest, *configurations.pending()):
            alive = [voter for voter in cluster.alive(configuration) if voter.name != node.name]
            if len(alive) < majority(configuration):
                return False
        if node.raft is not None:
            node.crash()
        cluster.lose_disk(node)
        cluster.counters["disk_lost"] += 1
        node.start()
        return True

    def _pursue(self, goal: Goal) -> None:
        if not self.active or self._goal is not goal:
            return
        cluster = self._cluster
        leader = cluster.leader
        if cluster.clock.now_us > goal.deadline_us:
            cluster.trace.add(f"operator gives {goal.kind} up")
            cluster.counters[f"{goal.kind}_given_up"] += 1
        elif leader is not None and leader.raft is not None and self._reached(goal, leader):
            cluster.trace.add(f"operator {goal.kind} done")
            cluster.counters[goal.kind] += 1
        else:
            if leader is not None and leader.raft is not None:
                self._ask_too_much(leader, leader.raft.configuration)
                wanted = self._next_step(goal, leader.raft.configuration)
                if wanted is not None:
                    leader.change_members(wanted, self._heard)
            cluster.clock.call_later(_POLL_US, self._pursue, goal)
            return
        self._goal = None
        self._wait()

    def _ask_too_much(self, leader: SimulatedNode, configuration: Configuration) -> None:
        """Sometimes asks for the removal of two voters at once, which has to be refused."""
        left = configuration.voters[2:]
        if left and self._whims.random() < 0.05:
            leader.change_members(Configuration(left, configuration.learners), self._heard)

    def _reached(self, goal: Goal, leader: SimulatedNode) -> bool:
        raft = leader.raft
        if raft is None or raft.configuration_index > raft.commit_index:
            return False
        left = goal.leaves is None or goal.leaves not in members_of(raft.configuration)
        return left and goal.joins in (None, *raft.configuration.voters)

    def _next_step(self, goal: Goal, configuration: Configuration) -> Configuration | None:
        """The next configuration on the way to a goal; None when there is none."""
        if goal.leaves is not None and goal.leaves in members_of(configuration):
            return self._leave(goal.leaves, configuration)
        if goal.joins is None or goal.joins in configuration.voters:
            return None
        if self._cluster.nodes[goal.joins.name].identity != goal.joins:
            return None
        if goal.joins in configuration.learners:
            return with_voter(configuration, goal.joins)
        return with_learner(configuration, goal.joins)

    def _leave(self, node: NodeId, configuration: Configuration) -> Configuration | None:
        if configuration.voters == (node,):
            return None
        wanted = without(configuration, node)
        return wanted if len(self._cluster.alive(wanted)) >= majority(wanted) else None

    def _heard(self, outcome: str) -> None:
        self._cluster.counters[f"change_{outcome}"] += 1
