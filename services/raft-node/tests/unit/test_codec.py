"""Raft messages over the wire: the same on the other side, and damage refused."""

from __future__ import annotations

import pytest

from doug.v1 import raft_pb2 as pb
from raft_node import entry as entries
from raft_node.entry import EntryKind
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
from raft_node.rpc.raft import codec
from raft_node.rpc.raft.codec import MessageError
from raft_node.rpc.raft.peers import LocalMember

A, B = NodeId("a", 1), NodeId("b", 2)
ENVELOPE = LocalMember(A, b"cluster", 3, "127.0.0.1:1").envelope(B)


def test_every_message_survives_the_wire() -> None:
    log = [entries.encode(8, 4, EntryKind.NOOP, 1), entries.encode(9, 5, EntryKind.COMMAND, 2, b"x")]
    append = AppendEntries(A, B, 5, 7, 4, 6, log)
    wire = pb.AppendEntriesRequest.FromString(
        codec.encode_append(append, ENVELOPE, entries.join(log)).SerializeToString()
    )
    assert codec.decode_append(wire, A, B) == append
    for watched in (True, False):
        answer = AppendEntriesResponse(A, B, 5, False, 1, 2, 3, 4, watched)
        assert codec.decode_append_response(codec.encode_append_response(answer, ENVELOPE), A, B) == answer
    vote = RequestVote(A, B, 5, 9, 4, True, True)
    assert codec.decode_vote(codec.encode_vote(vote, ENVELOPE), A, B) == vote
    vote_answer = RequestVoteResponse(A, B, 5, True, False)
    assert codec.decode_vote_response(codec.encode_vote_response(vote_answer, ENVELOPE), A, B) == vote_answer
    timeout_now = TimeoutNow(A, B, 5)
    assert codec.decode_timeout_now(codec.encode_timeout_now(timeout_now, ENVELOPE), A, B) == timeout_now
    for wants_answer in (True, False):
        heartbeat = Heartbeat(A, B, 5, 6, 7, wants_answer)
        assert codec.decode_heartbeat(codec.encode_heartbeat(heartbeat, ENVELOPE), A, B) == heartbeat
    for keeps_vote in (True, False):
        beat = HeartbeatResponse(A, B, 5, 7, 9, keeps_vote, not keeps_vote)
        assert codec.decode_heartbeat_response(codec.encode_heartbeat_response(beat, ENVELOPE), A, B) == beat
    ask = ReadIndexRequest(A, B, 5, 1 << 62)
    assert codec.decode_read_index(codec.encode_read_index(ask, ENVELOPE), A, B) == ask
    told = ReadIndexResponse(A, B, 5, 1 << 62, 9)
    assert codec.decode_read_index_response(codec.encode_read_index_response(told, ENVELOPE), A, B) == told


def test_a_flipped_bit_in_the_entries_is_refused() -> None:
    blob = entries.encode(8, 4, EntryKind.COMMAND, 1, b"value").data
    for bit in range(8 * len(blob)):
        damaged = bytearray(blob)
        damaged[bit // 8] ^= 1 << bit % 8
        request = pb.AppendEntriesRequest(term=4, prev_log_index=7, prev_log_term=4, entries=bytes(damaged))
        with pytest.raises(MessageError):
            codec.decode_append(request, A, B)


def test_entries_that_do_not_follow_are_refused() -> None:
    request = pb.AppendEntriesRequest(term=4, prev_log_index=3, entries=entries.encode(8, 4, EntryKind.NOOP, 1).data)
    with pytest.raises(MessageError, match="do not follow"):
        codec.decode_append(request, A, B)


@pytest.mark.parametrize(
    "stranger",
    [
        LocalMember(A, b"another cluster", 3, "").envelope(B),
        LocalMember(A, b"cluster", 4, "").envelope(B),
        LocalMember(A, b"cluster", 3, "").envelope(NodeId("b", 99)),
        LocalMember(A, b"cluster", 3, "").envelope(NodeId("c", 2)),
    ],
)
def test_a_message_that_is_not_for_this_member_is_refused(stranger: pb.Envelope) -> None:
    me = LocalMember(B, b"cluster", 3, "")
    assert me.check(ENVELOPE) == A
    with pytest.raises(MessageError):
        me.check(stranger)


def test_a_newer_format_is_refused() -> None:
    envelope = LocalMember(A, b"cluster", 3, "").envelope(B)
    envelope.format_version += 1
    with pytest.raises(MessageError, match="newer"):
        LocalMember(B, b"cluster", 3, "").check(envelope)
