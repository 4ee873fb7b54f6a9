"""Linearizable reads by rounds of heartbeats (ReadIndex).

A round proves that its leader still led after the round began: a quorum answered heartbeats that carried the round's
token. Every read that was waiting when it began may then be served at the commit index that it began with.

Invariants:

1. A token stands for one round and is never used again by this process, so a late answer to an earlier round confirms
   nothing. (Answers carry the term too, and no process leads one term twice.)
2. One round is in flight; reads that come meanwhile wait for the next, which begins after they came.
3. The read index of a round is not below the first entry of the leader's own term; the caller begins none before that
   entry is committed.
4. Of each member that forwards its reads, one request waits and one is in the round in flight, however often it asks.

Reference: the thesis, 6.4.
"""

from __future__ import annotations

from collections.abc import Collection

from raft_node.raft.lease import Reading
from raft_node.raft.quorum import is_quorum
from raft_node.raft.types import NodeId, ReadState


class ReadRound:
    """One round of heartbeats with a token, and the nodes that have answered it.

    Attributes:
        token: The token that its heartbeats carry.
        read_index: The commit index when the round began.
        contexts: The leader's own reads.
        forwarded: The requests of members that follow, by their sender.
        asked: The nodes that the round's heartbeats were sent to when it began or since; for the leader to keep.
        acknowledged: The nodes that have answered, with the leader itself.
        keep_votes: Those of them that promised to keep their votes for a while.
        began: A reading of the clocks from before the round's heartbeats left; None without leases.
    """

    __slots__ = ("acknowledged", "asked", "began", "contexts", "forwarded", "keep_votes", "read_index", "token")

    def __init__(
        self,
        token: int,
        read_index: int,
        contexts: list[int],
        forwarded: dict[NodeId, int],
        leader: NodeId,
        began: Reading | None,
    ) -> None:
        self.token = token
        self.read_index = read_index
        self.contexts = contexts
        self.forwarded = forwarded
        self.asked = set[NodeId]()
        self.acknowledged = {leader}
        self.keep_votes = {leader}
        self.began = began

    @property
    def read_states(self) -> list[ReadState]:
        """The leader's own reads. Requires: the round is confirmed."""
        return [ReadState(context, self.read_index) for context in self.contexts]


class ReadIndexRounds:
    """The linearizable reads of one leader: those of the round in flight, and those that wait for the next.

    Attributes:
        current: The round in flight.
        waiting: The leader's own reads that wait.
        asked: A reading of the clocks from after the newest waiting read came; None without one.
    """

    __slots__ = ("_forwarded", "_token", "asked", "current", "waiting")

    def __init__(self, last_token: int) -> None:
        self._token = last_token
        self._forwarded: dict[NodeId, int] = {}
        self.current: ReadRound | None = None
        self.waiting: list[int] = []
        self.asked: Reading | None = None

    @property
    def last_token(self) -> int:
        """The newest token; the next leadership of this process goes on from it."""
        return self._token

    @property
    def token(self) -> int:
        """The token of the round in flight; 0 when there is none."""
        return self.current.token if self.current else 0

    @property
    def due(self) -> bool:
        """Whether a round may begin: reads wait, and no round is in flight."""
        return self.current is None and bool(self.waiting or self._forwarded)

    def forward(self, member: NodeId, token: int) -> None:
        """Notes that a member which follows asks for a read index; its newest request counts."""
        self._forwarded[member] = token

    def begin(self, commit_index: int, leader: NodeId) -> None:
        """Begins a round with all reads that wait.

        Requires: a round is due, and an entry of the leader's own term is committed.
        """
        assert self.due, "one round at a time, and none without reads"
        self._token += 1
        # Only the leader's own reads bring a reading of the clock.
        began = self.asked if self.waiting else None
        self.current = ReadRound(self._token, commit_index, self.waiting, self._forwarded, leader, began)
        self.waiting = []
        self._forwarded = {}

    def acknowledge(self, node: NodeId, token: int, *, keeps_vote: bool = False) -> None:
        """Notes that a node answered a token; tokens of other rounds are ignored."""
        if self.current and token == self.current.token:
            self.current.acknowledged.add(node)
            if keeps_vote:
                self.current.keep_votes.add(node)

    def take_confirmed(self, voters: Collection[NodeId]) -> ReadRound | None:
        """Ends the round and returns it if a quorum has answered; else returns None."""
        confirmed = self.current
        if confirmed is None or not is_quorum(voters, confirmed.acknowledged):
            return None
        self.current = None
        return confirmed

    def drop(self) -> list[int]:
        """Gives up all reads; returns the leader's own in the order in which they came.

        Members that forwarded theirs ask the next leader.
        """
        dropped = (self.current.contexts if self.current else []) + self.waiting
        self.current = None
        self.waiting = []
        self._forwarded = {}
        return dropped
