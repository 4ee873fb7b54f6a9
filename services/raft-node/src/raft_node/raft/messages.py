"""The messages between the nodes of a shard.

Frozen facts; ``raft_node.rpc.raft.codec`` turns them into protobuf and back. Each carries who says it to whom; the
receiver's ``RaftNode.step`` ignores what is addressed to another incarnation or comes from a non-member.
Reference: the paper, figure 2; the thesis, 3.10 (transfer), 6.4 (ReadIndex) and 9.6 (pre-vote).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from raft_node.entry import Entry
from raft_node.raft.types import NodeId


class RequestVote(NamedTuple):
    """Asks for a vote, or (``pre_vote``) whether one would be given; then ``term`` is the one it would start.

    With ``transfer`` the leader itself has asked for this campaign, so that its protection gives way.
    """

    sender: NodeId
    receiver: NodeId
    term: int
    last_log_index: int
    last_log_term: int
    pre_vote: bool
    transfer: bool = False


class RequestVoteResponse(NamedTuple):
    """Answers RequestVote."""

    sender: NodeId
    receiver: NodeId
    term: int
    granted: bool
    pre_vote: bool


class TimeoutNow(NamedTuple):
    """The leader of ``term`` asks a voter whose log is complete to campaign at once (thesis, 3.10)."""

    sender: NodeId
    receiver: NodeId
    term: int


class AppendEntries(NamedTuple):
    """Replicates entries, or, without any, moves the commit index on or probes."""

    sender: NodeId
    receiver: NodeId
    term: int
    prev_log_index: int
    prev_log_term: int
    commit_index: int
    entries: Sequence[Entry]


class AppendEntriesResponse(NamedTuple):
    """Answers AppendEntries once the entries that it acknowledges are durable.

    With ``watched`` somebody waits at the sender for what is committed next: a matter of time alone, not of the log.
    """

    sender: NodeId
    receiver: NodeId
    term: int
    success: bool
    match_index: int
    rejected_index: int
    hint_index: int
    hint_term: int
    watched: bool = False


class Heartbeat(NamedTuple):
    """Says that the leader lives, tells the commit index clipped to what the receiver holds, and carries a read token.

    Without ``answer`` it is a mere notice of a new commit index: a receiver in the same term keeps silent.
    """

    sender: NodeId
    receiver: NodeId
    term: int
    commit_index: int
    read_token: int
    answer: bool = True


class HeartbeatResponse(NamedTuple):
    """Answers a heartbeat at once, before any fsync: it acknowledges the leader's term and nothing of the log.

    With ``keeps_vote`` it promises that its sender gives nobody a vote for the shortest election timeout from now on,
    even if it restarts meanwhile; a leader's lease rests on that. ``watched`` is as in AppendEntriesResponse.
    """

    sender: NodeId
    receiver: NodeId
    term: int
    read_token: int
    last_log_index: int
    keeps_vote: bool = False
    watched: bool = False


class ReadIndexRequest(NamedTuple):
    """A member that does not lead asks the leader of ``term`` which entry it must have applied to serve its reads.

    ``token`` is unique for each request of this sender; a request that is repeated keeps it.
    """

    sender: NodeId
    receiver: NodeId
    term: int
    token: int


class ReadIndexResponse(NamedTuple):
    """Answers ReadIndexRequest with the index of a round that began after it came; ``token`` is the request's."""

    sender: NodeId
    receiver: NodeId
    term: int
    token: int
    read_index: int


Message = (
    RequestVote
    | RequestVoteResponse
    | TimeoutNow
    | AppendEntries
    | AppendEntriesResponse
    | Heartbeat
    | HeartbeatResponse
    | ReadIndexRequest
    | ReadIndexResponse
)
