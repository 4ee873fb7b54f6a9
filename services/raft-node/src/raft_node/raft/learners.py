"""How closely the learners of a shard follow its leader.

A leader measures each learner in rounds: a round ends when the learner holds what was the end of the log at the round's
beginning. One that needs no longer than an election timeout for it can become a voter without holding commits up. Must
not know messages or the log.

Invariant: a learner counts as caught up by its last round only, and never while it is silent.

Reference: the thesis, 4.2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from raft_node.raft.progress import Progress
from raft_node.raft.types import NodeId


@dataclass(slots=True)
class CatchUp:
    """The round of one learner.

    Attributes:
        goal_index: The last entry of the log when the round began.
        goal_tick: When the round began.
        caught_up: Whether the last round took no longer than an election timeout.
    """

    goal_index: int
    goal_tick: int
    caught_up: bool = False


class Learners:
    """The rounds of all learners."""

    def __init__(self, patience_ticks: int) -> None:
        """There are none yet.

        Args:
            patience_ticks: How long a round may take, and how long ago a learner may have been heard.
        """
        self._patience_ticks = patience_ticks
        self._rounds: dict[NodeId, CatchUp] = {}

    def __contains__(self, node: NodeId) -> bool:
        """Whether a node is a learner."""
        return node in self._rounds

    def __iter__(self) -> Iterator[NodeId]:
        """The learners."""
        return iter(self._rounds)

    def take(self, learners: Iterable[NodeId], last_index: int, now: int) -> None:
        """Goes on with these learners; the first round of a new one ends at ``last_index``."""
        self._rounds = {node: self._rounds.get(node) or CatchUp(last_index, now) for node in learners}

    def measure(self, learner: NodeId, peer: Progress, last_index: int, now: int) -> None:
        """Ends a learner's round if it is at its goal, and begins the next, which ends at ``last_index``."""
        catch_up = self._rounds[learner]
        in_time = now - catch_up.goal_tick <= self._patience_ticks
        if peer.match_index >= catch_up.goal_index:
            catch_up.caught_up = in_time and now - peer.heard_tick <= self._patience_ticks
            catch_up.goal_index, catch_up.goal_tick = last_index, now
        elif not in_time:
            catch_up.caught_up = False

    def caught_up(self, learner: NodeId) -> bool:
        """Whether a learner follows closely enough to become a voter without holding commits up."""
        catch_up = self._rounds.get(learner)
        return catch_up is not None and catch_up.caught_up
