"""Reads the state of a node's core between two steps, and checks it against the invariants.

It changes nothing. ``raft_testing.node`` calls it before and after each step.
"""

from __future__ import annotations

from raft_node.raft.node import RaftNode
from raft_node.raft.types import Role
from raft_testing.environment import Environment


class Observer:
    """The observer of one node's core; keeps the state that it saw last.

    Attributes:
        commit_index: The core's commit index.
        asked_to_lead_term: The last term in which another leader asked it to stand for election.
    """

    def __init__(self, environment: Environment, name: str) -> None:
        """Creates the observer of the node ``name``; nothing is seen yet."""
        self._environment = environment
        self._name = name
        self.commit_index = 0
        self.asked_to_lead_term = 0
        self._led_term = 0
        self._configuration: tuple[int, int] = (0, 0)

    def started(self, raft: RaftNode) -> None:
        """The node has begun another life."""
        self._led_term = 0
        self.commit_index = raft.commit_index
        self.forget_configuration()

    def forget_configuration(self) -> None:
        """Does not compare the next configuration with the last one, since the state was replaced."""
        self._configuration = (0, 0)

    def look(self, raft: RaftNode, life: int) -> bool:
        """Reads the core's state and checks its changes; returns whether it has become leader since the last call."""
        raft.validate()
        environment = self._environment
        leads = raft.role is Role.LEADER
        checkers = environment.checkers
        commit_index = raft.commit_index
        checkers.observe(self._name, life, raft.term, commit_index, raft.last_index, leads=leads)
        if commit_index > self.commit_index and leads:
            checkers.leader_commits(self._name, commit_index, raft.log.term(commit_index), raft.configuration)
        self.commit_index = commit_index
        begins = leads and self._led_term != raft.term
        if begins:
            self._led_term = raft.term
            environment.trace(f"{self._name} LEADS term={raft.term} from={raft.last_index}")
            environment.counters["hand_over"] += self.asked_to_lead_term == raft.term
            first = raft.log.first_index - 1
            terms = [raft.log.term(index) for index in range(first, raft.last_index + 1)]
            checkers.led_log(self._name, raft.term, terms, first)
        place = raft.configuration_index, raft.last_index
        if place != self._configuration:
            if place[0] < self._configuration[0]:
                environment.counters["configuration_rolled_back"] += 1
            self._configuration = place
            checkers.configurations.in_force(self._name, raft)
        return begins
