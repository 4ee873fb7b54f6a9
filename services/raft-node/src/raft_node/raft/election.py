"""One election, or one pre-vote before it: whose votes are in, and whether a vote may be given.

Pure: ``raft_node.raft.node`` sends the messages and changes roles.
Reference: the paper, 5.2 and 5.4.1; the thesis, 9.6 (pre-vote) and 4.2.3 (a leader that was heard protects its term).
"""

from __future__ import annotations

from collections.abc import Collection

from raft_node.raft.quorum import vote_outcome
from raft_node.raft.types import NodeId


class Election:
    """The votes of one campaign.

    Attributes:
        term: The term for which the node campaigns; in a pre-vote the term that it would begin.
        pre_vote: Whether the campaign only asks who would vote.
    """

    __slots__ = ("_voters", "_votes", "pre_vote", "term")

    def __init__(self, term: int, pre_vote: bool, voters: Collection[NodeId]) -> None:
        self.term = term
        self.pre_vote = pre_vote
        self._voters = voters
        self._votes: dict[NodeId, bool] = {}

    def record(self, voter: NodeId, granted: bool) -> None:
        """Notes a vote; the first one of a voter counts."""
        self._votes.setdefault(voter, granted)

    @property
    def outcome(self) -> bool | None:
        """True if the election is won, False if it is lost, None while it is open."""
        return vote_outcome(self._voters, self._votes)


def up_to_date(last_log_term: int, last_log_index: int, own_last_term: int, own_last_index: int) -> bool:
    """Whether a candidate's log is at least as complete as the own one (the paper, 5.4.1)."""
    return (last_log_term, last_log_index) >= (own_last_term, own_last_index)
