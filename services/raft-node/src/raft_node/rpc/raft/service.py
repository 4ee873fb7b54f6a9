"""The Raft service: what peers ask of this node.

Before the core runs, only ``Identify`` is answered; everything else is UNAVAILABLE, which peers take for a lost
message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, NamedTuple

import grpc
import grpc.aio

from doug.v1 import raft_pb2 as pb
from doug.v1 import raft_pb2_grpc as pb_grpc
from doug_wire.trace_context import decode_traces
from raft_node.entry import decode
from raft_node.observability.logs import get_logger
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces
from raft_node.raft.configuration import decode_configuration
from raft_node.raft.membership import members_of
from raft_node.raft.messages import AppendEntries, Message
from raft_node.raft.types import NO_MEMBERS, Configuration, NodeId
from raft_node.rpc.raft import codec
from raft_node.rpc.raft.certificate_names import names_of, speaks_for
from raft_node.rpc.raft.codec import MessageError
from raft_node.rpc.raft.peers import Peers
from raft_node.rpc.raft.refusals import REASON_CHARACTERS_MAX, Refusals
from raft_node.rpc.raft.streams import BROKEN, SendQueue
from raft_node.rpc.snapshots.service import SnapshotService

_VOTE_TIMEOUT_S = 1.0
_CUT_OFF = "the node is cut off from the others, as it was told to"
_METHODS = ("RequestVote", "TimeoutNow", "Replicate", "Heartbeat", "ReadIndex", "InstallSnapshot")

_log = get_logger()


class Attached(NamedTuple):
    """The running node that the service hands messages and snapshots to."""

    peers: Peers
    receive: Callable[[Message], None]
    snapshots: SnapshotService | None


class RaftService(pb_grpc.RaftServicer):
    """Serves the peers. ``attach`` gives it the node once that runs.

    Attributes:
        first_configuration: The final bytes of entry 1; empty before this member has that entry.
        cluster_id: The cluster's id; empty before this member knows it.
        disk_low: Whether this node refuses writes for want of space.
        stalled: Whether this node cannot apply what is committed.
        members: Gives the applied configuration, and the index that it is as of; without members before there is one.
        acknowledged: Gives the last entry that a member has acknowledged to this node; 0 if this node does not lead.
        address_of: Gives a member's address; None while it is not known.
        caller_of: Gives the address of a caller, as gRPC writes it.
        is_member: Tells whether a sender is a member, whose certificate has these names; asked where there are any.
        cut_off: Tells whether this node acts as if no other node reached it (``raft_node.runtime.faults``).
    """

    def __init__(self, node_id: NodeId, shard: int, metrics: Metrics, traces: NodeTraces | None = None) -> None:
        """Begins without a node: ``attach`` gives it one."""
        self._node_id = node_id
        self._shard = shard
        self._metrics = metrics
        self._traces = traces
        self._attached: Attached | None = None
        self.first_configuration = b""
        self.cluster_id = b""
        self.disk_low: Callable[[], bool] = lambda: False
        self.stalled: Callable[[], bool] = lambda: False
        self.members: Callable[[], tuple[Configuration, int]] = lambda: (NO_MEMBERS, 0)
        self.acknowledged: Callable[[NodeId], int] = lambda member: 0
        self.address_of: Callable[[NodeId], str | None] = lambda member: None
        self.caller_of: Callable[[grpc.aio.ServicerContext[Any, Any]], str] = lambda context: context.peer()
        self.is_member: Callable[[NodeId, Collection[str]], Awaitable[bool]] = _anybody
        self.cut_off: Callable[[], bool] = lambda: False
        self._refusals = Refusals(_log.warning)
        self._received = {name: metrics.received("Raft", name) for name in _METHODS}
        self._sent = {name: metrics.sent("Raft", name) for name in _METHODS}

    def attach(
        self, peers: Peers, receive: Callable[[Message], None], snapshots: SnapshotService | None = None
    ) -> None:
        """Gives the service its node: messages go to ``receive`` from now on, and snapshots to ``snapshots``."""
        self._attached = Attached(peers, receive, snapshots)

    async def Identify(  # noqa: N802 - the method's name in the proto file
        self, request: pb.IdentifyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.IdentifyResponse:
        """Tells who this node is and what the sender is to its shard; more to members."""
        if self.cut_off():
            await context.abort(grpc.StatusCode.UNAVAILABLE, _CUT_OFF)
        members, applied_index = self._members()
        sender = NodeId(request.sender, request.incarnation)
        standing = _standing(members, sender) if request.shard == self._shard else pb.STANDING_UNKNOWN
        address = self.address_of(sender) or ""
        trusted = standing == pb.STANDING_MEMBER and speaks_for(
            names_of(context), sender.name, address, self.caller_of(context)
        )
        # A node that is no member has no name to answer for, but the node that admits it must be able to ask it.
        open_to_all = self._node_id not in members_of(members)
        return pb.IdentifyResponse(
            member=pb.Member(
                name=self._node_id.name, incarnation=self._node_id.incarnation if trusted or open_to_all else 0
            ),
            shard=self._shard,
            cluster_id=self.cluster_id,
            first_configuration=self.first_configuration if trusted else b"",
            format_version=codec.FORMAT_VERSION,
            applied_index=applied_index,
            disk_low=self.disk_low(),
            stalled=self.stalled(),
            standing=standing,
            acknowledged=self.acknowledged(sender) if trusted else 0,
        )

    def _members(self) -> tuple[Configuration, int]:
        """The members as far as this node knows them; before the core runs, those of the first configuration."""
        members, applied_index = self.members()
        if members == NO_MEMBERS and self.first_configuration:
            return decode_configuration(decode(self.first_configuration).command), 0
        return members, applied_index

    async def RequestVote(  # noqa: N802
        self, request: pb.RequestVoteRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RequestVoteResponse:
        """Hands the question to the core and waits for its answer, which comes once the vote is durable."""
        attached, source = await self._admit(request.envelope, context)
        self._received["RequestVote"].inc()
        message = codec.decode_vote(request, source, self._node_id)
        answer = attached.peers.expect_vote(message)
        attached.receive(message)
        try:
            async with asyncio.timeout(_VOTE_TIMEOUT_S):
                response = await asyncio.shield(answer)
        except TimeoutError:
            attached.peers.forget_vote(message)
            # The core ignored the question: it comes from a stranger, or this node is bound to a living leader.
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the vote was not answered")
        self._sent["RequestVote"].inc()
        return codec.encode_vote_response(response, attached.peers.envelope(source))

    async def TimeoutNow(  # noqa: N802
        self, request: pb.TimeoutNowRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.TimeoutNowResponse:
        """Hands the leader's wish to the core, which campaigns if it is of the current term."""
        attached, source = await self._admit(request.envelope, context)
        self._received["TimeoutNow"].inc()
        attached.receive(codec.decode_timeout_now(request, source, self._node_id))
        self._sent["TimeoutNow"].inc()
        return pb.TimeoutNowResponse()

    async def Replicate(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.AppendEntriesRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Takes a leader's AppendEntries; the answers go back on this stream once they are durable."""
        await self._serve(
            context,
            "Replicate",
            lambda attached, source: attached.peers.open_append_answers(source),
            codec.decode_append if self._traces is None else self._decode_traced,
        )

    def _decode_traced(self, request: pb.AppendEntriesRequest, source: NodeId, target: NodeId) -> AppendEntries:
        message = codec.decode_append(request, source, target)
        if request.traces and self._traces is not None:
            self._traces.received(message, decode_traces(request.traces))
        return message

    async def Heartbeat(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.HeartbeatRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Takes a leader's heartbeats; the answers go back at once."""
        await self._serve(
            context,
            "Heartbeat",
            lambda attached, source: attached.peers.open_heartbeat_answers(source),
            codec.decode_heartbeat,
        )

    async def InstallSnapshot(  # type: ignore[override]  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.InstallSnapshotRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Takes a snapshot; see ``raft_node.rpc.snapshots.service``."""
        request = await context.read()
        if request is grpc.aio.EOF:
            return
        if request.WhichOneof("content") != "header":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a snapshot begins with its header")
        attached, source = await self._admit(request.header.envelope, context)
        self._received["InstallSnapshot"].inc()
        if attached.snapshots is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no snapshots are taken here")
        await attached.snapshots.serve(context, request.header, source)

    async def ReadIndex(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ReadIndexRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Takes the reads of a member that follows; the answers go back once a quorum has confirmed this leader."""
        await self._serve(
            context,
            "ReadIndex",
            lambda attached, source: attached.peers.open_read_answers(source),
            codec.decode_read_index,
        )

    async def _serve(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        method: str,
        open_outbox: Callable[[Attached, NodeId], SendQueue[Any]],
        decode: Callable[[Any, NodeId, NodeId], Message],
    ) -> None:
        received = self._received[method]
        request = await context.read()
        if request is grpc.aio.EOF:
            return
        known = request.envelope
        attached, source = await self._admit(known, context)
        outbox = open_outbox(attached, source)
        writer = asyncio.create_task(self._write(outbox, context, method))
        try:
            while request is not grpc.aio.EOF:
                received.inc()
                if request.envelope != known:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the envelope changed within a stream")
                attached.receive(decode(request, source, self._node_id))
                request = await context.read()
        except MessageError as error:
            self._metrics.messages_dropped.labels(self._metrics.shard, "malformed").inc()
            self._refusals.tell(str(error))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except BROKEN:
            # The peer has gone; it opens a new stream when it comes back.
            return
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, outbox: SendQueue[Any], context: grpc.aio.ServicerContext[Any, Any], method: str) -> None:
        sent = self._sent[method]
        try:
            while True:
                await context.write(await outbox.get())
                sent.inc()
        except BROKEN:
            return

    async def _admit(
        self, envelope: pb.Envelope, context: grpc.aio.ServicerContext[Any, Any]
    ) -> tuple[Attached, NodeId]:
        attached = self._attached
        if attached is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the node is starting")
        if self.cut_off():
            await context.abort(grpc.StatusCode.UNAVAILABLE, _CUT_OFF)
        try:
            source = attached.peers.me.check(envelope)
            names = names_of(context)
            if not speaks_for(names, source.name, self.address_of(source) or "", self.caller_of(context)):
                raise MessageError(f"{source.name} shows a certificate that is not made out to it")
            # In plaintext any node can claim to be a member, so that asking would prove nothing.
            if names is not None and not await self.is_member(source, names):
                raise MessageError(f"{source.name} of incarnation {source.incarnation} is no member that is known here")
            attached.peers.me.heard(envelope)
            return attached, source
        except MessageError as error:
            self._metrics.messages_dropped.labels(self._metrics.shard, "not_for_me").inc()
            # A leader goes on trying to reach an incarnation that is gone; once is enough for the log.
            self._refusals.tell(str(error))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error)[:REASON_CHARACTERS_MAX])


async def _anybody(sender: NodeId, names: Collection[str]) -> bool:
    return True


def _standing(members: Configuration, sender: NodeId) -> pb.Standing.ValueType:
    if members == NO_MEMBERS:
        return pb.STANDING_UNKNOWN
    known = next((member for member in members_of(members) if member.name == sender.name), None)
    if known is None:
        return pb.STANDING_NO_MEMBER
    return pb.STANDING_MEMBER if known == sender else pb.STANDING_OTHER_INCARNATION
