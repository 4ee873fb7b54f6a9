"""Fuzz targets of the messages of peers and clients, from the bytes of a gRPC message to values of the core.

Bytes that are no protobuf are refused by gRPC itself, before any code of ours; they are no finding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from doug.v1 import doug_pb2, raft_pb2
from doug_wire import pipe
from doug_wire.pipe import PipeError
from doug_wire.slots import SLOTS, slot_of
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.raft import messages
from raft_node.raft.types import NodeId
from raft_node.raft.validity import malformed
from raft_node.rpc.raft import codec
from raft_node.rpc.raft.codec import MessageError
from raft_node.rpc.raft.peers import LocalMember
from raft_node.rpc.snapshots import codec as snapshot_codec
from raft_node.storage.snapshots.checkpoint import CheckpointFile
from raft_node.storage.snapshots.incoming import SnapshotHeader
from raft_testing.fuzz.logs import repair_entries
from raft_testing.fuzz.target import Target
from raft_testing.lockstep import follower, leader_of, members

_PEER, _ME = NodeId("a", 1), NodeId("b", 2)
_CLUSTER = b"cluster"


def _append_again(message: messages.AppendEntries, envelope: raft_pb2.Envelope) -> raft_pb2.AppendEntriesRequest:
    return codec.encode_append(message, envelope, entries.join(message.entries))


_MESSAGES: tuple[tuple[Any, Callable[..., Any], Callable[..., Any]], ...] = (
    (raft_pb2.AppendEntriesRequest, codec.decode_append, _append_again),
    (raft_pb2.AppendEntriesResponse, codec.decode_append_response, codec.encode_append_response),
    (raft_pb2.RequestVoteRequest, codec.decode_vote, codec.encode_vote),
    (raft_pb2.RequestVoteResponse, codec.decode_vote_response, codec.encode_vote_response),
    (raft_pb2.TimeoutNowRequest, codec.decode_timeout_now, codec.encode_timeout_now),
    (raft_pb2.HeartbeatRequest, codec.decode_heartbeat, codec.encode_heartbeat),
    (raft_pb2.HeartbeatResponse, codec.decode_heartbeat_response, codec.encode_heartbeat_response),
    (raft_pb2.ReadIndexRequest, codec.decode_read_index, codec.encode_read_index),
    (raft_pb2.ReadIndexResponse, codec.decode_read_index_response, codec.encode_read_index_response),
)
"""Each message type with its decoder and its encoder; the first byte of an input chooses one."""


def _me() -> LocalMember:
    return LocalMember(_ME, _CLUSTER, 0, "host:1")


def check_peer(content: bytes) -> None:
    """A message of a peer is refused, or gives a value that makes the same message again."""
    if not content:
        return
    kind, decode, encode = _MESSAGES[content[0] % len(_MESSAGES)]
    try:
        wire = kind.FromString(content[1:])
    except DecodeError:
        return
    me = _me()
    try:
        source = me.check(wire.envelope)
    except MessageError:
        assert me.client_addresses == _me().client_addresses, "a message that is refused changes nothing"
        source = _PEER
    try:
        message = decode(wire, source, _ME)
    except MessageError:
        return
    again = kind.FromString(encode(message, wire.envelope).SerializeToString())
    for one in (wire, again):
        one.DiscardUnknownFields()
    wire.envelope.SetInParent()
    assert again == wire
    if isinstance(message, messages.AppendEntries) and not malformed(message, message.term):
        numbers = [one.index for one in message.entries]
        first = message.prev_log_index + 1
        assert numbers == list(range(first, first + len(numbers))), "entries leave one out"
        terms = [message.prev_log_term, *(one.term for one in message.entries), message.term]
        assert not numbers or terms == sorted(terms), "terms fall along the log"


def repair_peer(content: bytes) -> bytes:
    """Puts the right envelope on a message, and makes the checksums of its entries fit."""
    if not content:
        return content
    kind = _MESSAGES[content[0] % len(_MESSAGES)][0]
    try:
        wire = kind.FromString(content[1:])
    except DecodeError:
        return content
    wire.envelope.CopyFrom(LocalMember(_PEER, _CLUSTER, 0, "host:2").envelope(_ME))
    if isinstance(wire, raft_pb2.AppendEntriesRequest):
        wire.entries = repair_entries(wire.entries)
    return content[:1] + bytes(wire.SerializeToString())


def seeds_peer() -> Iterable[bytes]:
    """One of each kind."""
    envelope = LocalMember(_PEER, _CLUSTER, 0, "host:2").envelope(_ME)
    some = [entries.encode(index, 3, EntryKind.COMMAND, 9, b"command") for index in (5, 6)]
    values = (
        messages.AppendEntries(_PEER, _ME, 4, 4, 2, 4, some),
        messages.AppendEntriesResponse(_ME, _PEER, 4, False, 3, 9, 8, 2),
        messages.RequestVote(_PEER, _ME, 5, 6, 4, True),
        messages.RequestVoteResponse(_ME, _PEER, 5, True, True),
        messages.TimeoutNow(_PEER, _ME, 5),
        messages.Heartbeat(_PEER, _ME, 5, 6, 7),
        messages.HeartbeatResponse(_ME, _PEER, 5, 7, 6),
        messages.ReadIndexRequest(_PEER, _ME, 5, 9),
        messages.ReadIndexResponse(_ME, _PEER, 5, 9, 6),
    )
    for number, (value, (_, _, encode)) in enumerate(zip(values, _MESSAGES, strict=True)):
        yield bytes((number,)) + encode(value, envelope).SerializeToString()


def check_core(content: bytes) -> None:
    """Whatever members and strangers send, one message after the other, no node of the shard ends.

    The first byte chooses who it is; then come u8 kind | u8 size | the message, as often as it goes.
    """
    peer = follower(1, 1, 2, term=3)
    if content[:1] > b"\x7f":
        peer = leader_of(peer)
    position = 1
    while position + 2 <= len(content):
        (kind, decode, _), size = _MESSAGES[content[position] % len(_MESSAGES)], content[position + 1]
        position += 2 + size
        try:
            wire = kind.FromString(content[position - size : position])
            message = decode(wire, codec.sender(wire.envelope), peer.id)
        except (DecodeError, MessageError):
            continue
        peer.step(message)


def seeds_core() -> Iterable[bytes]:
    """Each kind, to a follower and to a leader."""
    envelope = LocalMember(members(5)[1], b"", 0, "").envelope(_ME)
    for role in (b"\0", b"\xff"):
        yield role + b"".join(_piece(content, envelope) for content in seeds_peer())


def _piece(content: bytes, envelope: raft_pb2.Envelope) -> bytes:
    wire = _MESSAGES[content[0]][0].FromString(content[1:])
    wire.envelope.CopyFrom(envelope)
    wire.envelope.ClearField("receiver")
    data: bytes = wire.SerializeToString()
    return bytes((content[0], len(data))) + data


def check_snapshot(content: bytes) -> None:
    """The messages of a snapshot are refused, or name files of one checkpoint only."""
    try:
        wire = raft_pb2.InstallSnapshotRequest.FromString(content)
    except DecodeError:
        return
    if wire.WhichOneof("content") == "chunk":
        assert snapshot_codec.is_sound(wire.chunk) in (False, True)
        return
    try:
        header = snapshot_codec.decode_header(wire.header)
    except MessageError:
        return
    assert header.size_bytes > 0 and all("/" not in file.name for file in header.files)
    again = snapshot_codec.encode_header(header, wire.header.envelope, wire.header.term)
    assert snapshot_codec.decode_header(again.header) == header


def seeds_snapshot() -> Iterable[bytes]:
    """A header and a piece."""
    files = (CheckpointFile("CHECKPOINT", 5, 1), CheckpointFile("000001.sst", 3, 2))
    header = SnapshotHeader("0a", 7, 2, b"members", 99, files)
    yield snapshot_codec.encode_header(header, _me().envelope(_PEER), 4).SerializeToString()
    yield snapshot_codec.encode_chunk(1, 0, b"abc").SerializeToString()


def check_request(content: bytes) -> None:
    """A batch of a client is refused, or its records are known one by one."""
    try:
        batch = doug_pb2.Batch.FromString(content)
    except DecodeError:
        return
    with contextlib.suppress(PipeError):
        assert all(0 <= slot_of(write.command) < SLOTS for write in pipe.decode_writes(batch.records))
    with contextlib.suppress(PipeError):
        assert all(0 <= slot_of(read.key) < SLOTS for read in pipe.decode_reads(batch.records))


def seeds_request() -> Iterable[bytes]:
    """Writes and reads."""
    writes = pipe.encode_write(1, 2, b"command") * 2
    yield doug_pb2.Batch(shard=1, kind=doug_pb2.BATCH_KIND_WRITE, records=writes).SerializeToString()
    reads = pipe.encode_read(1, 0, b"key")
    yield doug_pb2.Batch(kind=doug_pb2.BATCH_KIND_READ_LOCAL, records=reads, forward=True).SerializeToString()


TARGETS = (
    Target("peer", "messages of peers", check_peer, seeds_peer, repair_peer),
    Target("core", "messages of peers, one after the other, in the core", check_core, seeds_core),
    Target("snapshot", "messages of a snapshot", check_snapshot, seeds_snapshot),
    Target("request", "batches of clients", check_request, seeds_request),
)
