"""Linearizable reads by rounds of heartbeats (ReadIndex).

A round proves that its leader still led after the round began: a quorum answered heartbeats that carried the round's
token. Every read that was waiting when it began may then be served at the commit index that it began with.

Invariants:

1. A token stands for one round and is never used again by this process, so a late answer to an earlier round confirms
   nothing. (Answers carry the term too, and no process leads one term twice.)
2. One round is in flight; reads that come meanwhile wait for the next, which begins after they came.
3. The read index of a round is not below the first entry of the leader's own term; the caller begins none before that
   entry is committed.

Reference: the thesis, 6.4.
"""

from __future__ import annotations

from collections.abc import Collection

from raft_node.raft.quorum import is_quorum
from raft_node.raft.types import NodeId, ReadState


class ReadRound:
    """One round: who has answered its token."""

    __slots__ = ("acknowledged", "contexts", "read_index", "token")

    def __init__(self, token: int, read_index: int, contexts: list[int], leader: NodeId) -> None:
        self.token = token
        self.read_index = read_index
        self.contexts = contexts
        self.acknowledged = {leader}


class ReadIndexRounds:
    """The reads of one leader: those of the round in flight, and those that wait for the next."""

    __slots__ = ("_token", "current", "waiting")

    def __init__(self, last_token: int) -> None:
        self._token = last_token
        self.current: ReadRound | None = None
        self.waiting: list[int] = []

    @property
    def last_token(self) -> int:
        """The newest token; the next leadership of this process goes on from it."""
        return self._token

    @property
    def token(self) -> int:
        """The token of the round in flight; 0 when there is none."""
        return self.current.token if self.current else 0

    def begin(self, commit_index: int, leader: NodeId) -> None:
        """Begins a round with all that is waiting.

        Requires: none is in flight, something is waiting, and an entry of the leader's own term is committed.
        """
        assert self.current is None and self.waiting, "one round at a time, and none without reads"
        self._token += 1
        self.current = ReadRound(self._token, commit_index, self.waiting, leader)
        self.waiting = []

    def acknowledge(self, node: NodeId, token: int) -> None:
        """Notes that a node answered a token; tokens of other rounds are ignored."""
        if self.current and token == self.current.token:
            self.current.acknowledged.add(node)

    def take_confirmed(self, voters: Collection[NodeId]) -> list[ReadState]:
        """Ends the round if a quorum has answered, and gives its reads."""
        confirmed = self.current
        if confirmed is None or not is_quorum(voters, confirmed.acknowledged):
            return []
        self.current = None
        return [ReadState(context, confirmed.read_index) for context in confirmed.contexts]

    def drop(self) -> list[int]:
        """Gives up all reads, in the order in which they came."""
        dropped = (self.current.contexts if self.current else []) + self.waiting
        self.current = None
        self.waiting = []
        return dropped
