"""The agreement of a majority: pure functions of numbers and votes.

Reference: the paper, 5.2 and 5.3. Joint configurations are not used: members change one at a time (thesis, 4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from raft_node.raft.types import NodeId


def majority(members: int) -> int:
    """The smallest number of ``members`` members that is a majority."""
    return members // 2 + 1


def quorum_value(values: Sequence[int]) -> int:
    """The greatest value that a majority has reached; ``values`` holds one for each voter."""
    assert values, "there is no quorum of nobody"
    return sorted(values)[(len(values) - 1) // 2]


def vote_outcome(voters: Collection[NodeId], votes: Mapping[NodeId, bool]) -> bool | None:
    """True if a majority granted its votes, False if none can do so any more, None while it is open.

    Votes of others than the voters do not count.
    """
    granted = refused = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is not None:
            granted += vote
            refused += not vote
    needed = majority(len(voters))
    if granted >= needed:
        return True
    if len(voters) - refused < needed:
        return False
    return None


def is_quorum(voters: Collection[NodeId], nodes: Collection[NodeId]) -> bool:
    """Whether a majority of the voters is among the nodes."""
    return sum(voter in nodes for voter in voters) >= majority(len(voters))
