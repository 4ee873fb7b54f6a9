"""Raft messages to protobuf and back.

The entries of an AppendEntries travel as one blob of finished bytes: nothing is built or parsed entry by entry but
their headers. What comes from the network is checked here; a message that does not decode changes nothing.
"""

from __future__ import annotations

from doug.v1 import raft_pb2 as pb
from raft_node import entry as entries
from raft_node.entry import EntryError
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.types import NodeId

FORMAT_VERSION = 1
"""The format that this version writes and reads; every envelope tells it."""


class MessageError(ValueError):
    """A message from the network is malformed, or not for this node."""


def sender(envelope: pb.Envelope) -> NodeId:
    """The node that sent a message."""
    return NodeId(envelope.sender.name, envelope.sender.incarnation)


def receiver(envelope: pb.Envelope) -> NodeId:
    """The node that a message is for."""
    return NodeId(envelope.receiver.name, envelope.receiver.incarnation)


def encode_append(message: AppendEntries, envelope: pb.Envelope, blob: bytes) -> pb.AppendEntriesRequest:
    """AppendEntries for the wire; ``blob`` is its entries joined, which several peers may share."""
    return pb.AppendEntriesRequest(
        envelope=envelope,
        term=message.term,
        prev_log_index=message.prev_log_index,
        prev_log_term=message.prev_log_term,
        commit_index=message.commit_index,
        entries=blob,
    )


def decode_append(request: pb.AppendEntriesRequest, source: NodeId, target: NodeId) -> AppendEntries:
    """AppendEntries from the wire, every entry checked.

    Raises:
        MessageError: An entry is damaged, or they do not follow each other.
    """
    try:
        decoded = entries.decode_all(request.entries)
    except EntryError as error:
        raise MessageError(f"AppendEntries from {source.name}: {error}") from error
    if decoded and (
        decoded[0].index != request.prev_log_index + 1 or decoded[-1].index != request.prev_log_index + len(decoded)
    ):
        raise MessageError(f"AppendEntries from {source.name}: the entries do not follow prev_log_index")
    return AppendEntries(
        source, target, request.term, request.prev_log_index, request.prev_log_term, request.commit_index, decoded
    )


def encode_append_response(message: AppendEntriesResponse, envelope: pb.Envelope) -> pb.AppendEntriesResponse:
    """AppendEntriesResponse for the wire."""
    return pb.AppendEntriesResponse(
        envelope=envelope,
        term=message.term,
        success=message.success,
        match_index=message.match_index,
        rejected_index=message.rejected_index,
        hint_index=message.hint_index,
        hint_term=message.hint_term,
        watched=message.watched,
    )


def decode_append_response(response: pb.AppendEntriesResponse, source: NodeId, target: NodeId) -> AppendEntriesResponse:
    """AppendEntriesResponse from the wire."""
    return AppendEntriesResponse(
        source,
        target,
        response.term,
        response.success,
        response.match_index,
        response.rejected_index,
        response.hint_index,
        response.hint_term,
        response.watched,
    )


def encode_vote(message: RequestVote, envelope: pb.Envelope) -> pb.RequestVoteRequest:
    """RequestVote for the wire."""
    return pb.RequestVoteRequest(
        envelope=envelope,
        term=message.term,
        last_log_index=message.last_log_index,
        last_log_term=message.last_log_term,
        pre_vote=message.pre_vote,
        transfer=message.transfer,
    )


def decode_vote(request: pb.RequestVoteRequest, source: NodeId, target: NodeId) -> RequestVote:
    """RequestVote from the wire."""
    return RequestVote(
        source,
        target,
        request.term,
        request.last_log_index,
        request.last_log_term,
        request.pre_vote,
        request.transfer,
    )


def encode_vote_response(message: RequestVoteResponse, envelope: pb.Envelope) -> pb.RequestVoteResponse:
    """RequestVoteResponse for the wire."""
    return pb.RequestVoteResponse(
        envelope=envelope, term=message.term, granted=message.granted, pre_vote=message.pre_vote
    )


def decode_vote_response(response: pb.RequestVoteResponse, source: NodeId, target: NodeId) -> RequestVoteResponse:
    """RequestVoteResponse from the wire."""
    return RequestVoteResponse(source, target, response.term, response.granted, response.pre_vote)


def encode_timeout_now(message: TimeoutNow, envelope: pb.Envelope) -> pb.TimeoutNowRequest:
    """TimeoutNow for the wire."""
    return pb.TimeoutNowRequest(envelope=envelope, term=message.term)


def decode_timeout_now(request: pb.TimeoutNowRequest, source: NodeId, target: NodeId) -> TimeoutNow:
    """TimeoutNow from the wire."""
    return TimeoutNow(source, target, request.term)


def encode_heartbeat(message: Heartbeat, envelope: pb.Envelope) -> pb.HeartbeatRequest:
    """Heartbeat for the wire."""
    return pb.HeartbeatRequest(
        envelope=envelope,
        term=message.term,
        commit_index=message.commit_index,
        read_token=message.read_token,
        silent=not message.answer,
    )


def decode_heartbeat(request: pb.HeartbeatRequest, source: NodeId, target: NodeId) -> Heartbeat:
    """Heartbeat from the wire."""
    return Heartbeat(source, target, request.term, request.commit_index, request.read_token, not request.silent)


def encode_heartbeat_response(message: HeartbeatResponse, envelope: pb.Envelope) -> pb.HeartbeatResponse:
    """HeartbeatResponse for the wire."""
    return pb.HeartbeatResponse(
        envelope=envelope,
        term=message.term,
        read_token=message.read_token,
        last_log_index=message.last_log_index,
        keeps_vote=message.keeps_vote,
        watched=message.watched,
    )


def decode_heartbeat_response(response: pb.HeartbeatResponse, source: NodeId, target: NodeId) -> HeartbeatResponse:
    """HeartbeatResponse from the wire."""
    return HeartbeatResponse(
        source,
        target,
        response.term,
        response.read_token,
        response.last_log_index,
        response.keeps_vote,
        response.watched,
    )


def encode_read_index(message: ReadIndexRequest, envelope: pb.Envelope) -> pb.ReadIndexRequest:
    """ReadIndexRequest for the wire."""
    return pb.ReadIndexRequest(envelope=envelope, term=message.term, token=message.token)


def decode_read_index(request: pb.ReadIndexRequest, source: NodeId, target: NodeId) -> ReadIndexRequest:
    """ReadIndexRequest from the wire."""
    return ReadIndexRequest(source, target, request.term, request.token)


def encode_read_index_response(message: ReadIndexResponse, envelope: pb.Envelope) -> pb.ReadIndexResponse:
    """ReadIndexResponse for the wire."""
    return pb.ReadIndexResponse(
        envelope=envelope, term=message.term, token=message.token, read_index=message.read_index
    )


def decode_read_index_response(response: pb.ReadIndexResponse, source: NodeId, target: NodeId) -> ReadIndexResponse:
    """ReadIndexResponse from the wire."""
    return ReadIndexResponse(source, target, response.term, response.token, response.read_index)
