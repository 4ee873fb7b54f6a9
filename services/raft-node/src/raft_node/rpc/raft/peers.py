"""The peers of a node: where Raft's messages go out, and where answers are matched with their streams.

Requests travel on this node's own streams, one for AppendEntries, one for heartbeats and one for forwarded reads to
each peer, so that bulk never delays a heartbeat or a read; answers go back on the stream that their request came in on.
Votes and TimeoutNow are unary calls. A stream is opened when there is something to say on it.

Peers come and go with the configuration: whoever the core writes to is connected then, if its address is known, and
disconnected by ``retain`` once the core is done with it.

Invariant: nothing reaches the core that is not from the peer it claims, in this cluster and shard, to this incarnation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any, assert_never

import grpc
import grpc.aio

from doug.v1 import raft_pb2 as pb
from doug.v1 import raft_pb2_grpc as pb_grpc
from doug_wire.tls import Certificates
from raft_node import entry as entries
from raft_node.observability.logs import get_logger
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.types import NodeId
from raft_node.rpc.channels import Dialled
from raft_node.rpc.hot_streams import HEARTBEAT, READ_INDEX, REPLICATE, HotStream, dial
from raft_node.rpc.raft import codec
from raft_node.rpc.raft.codec import MessageError
from raft_node.rpc.raft.local_member import LocalMember
from raft_node.rpc.raft.refusals import Refusals
from raft_node.rpc.raft.round_trips import RoundTrips
from raft_node.rpc.raft.streams import Call, ClientStream, SendQueue

_VOTE_TIMEOUT_S = 1.0
_RENEWAL_GRACE_S = 2.0
"""How long the calls on a replaced channel may go on: longer than any unary call to a peer."""
_APPENDS_WAITING_MAX = 64
_HEARTBEATS_WAITING_MAX = 8
_READS_WAITING_MAX = 8

_log = get_logger()


class Peer:
    """One peer: its streams, and a channel for votes and TimeoutNow."""

    def __init__(
        self,
        me: LocalMember,
        node_id: NodeId,
        address: str,
        metrics: Metrics,
        on_message: Callable[[Message], None],
        on_unreachable: Callable[[NodeId], None],
        certificates: Certificates | None = None,
        traces: NodeTraces | None = None,
    ) -> None:
        """Opens the connections; ``run`` sets the streams going."""
        self.node_id = node_id
        self.address = address
        self._me = me
        self._envelope = me.envelope(node_id)
        self._traces = traces
        self._metrics = metrics
        self._on_message = on_message
        self._certificates = certificates
        self._control = Dialled(address, certificates)
        self._calls: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._refusals = Refusals(_log.warning)
        self._round_trips = RoundTrips(metrics.peer_round_trip(node_id.name).observe)
        self._received_vote = metrics.received("Raft", "RequestVote")
        self._received_append = metrics.received("Raft", "Replicate")
        self._received_heartbeat = metrics.received("Raft", "Heartbeat")
        self._received_read = metrics.received("Raft", "ReadIndex")
        self._sent_vote = metrics.sent("Raft", "RequestVote")
        self._sent_timeout_now = metrics.sent("Raft", "TimeoutNow")
        self._appends: ClientStream[pb.AppendEntriesRequest, pb.AppendEntriesResponse] = ClientStream(
            partial(self._dial, REPLICATE),
            _APPENDS_WAITING_MAX,
            self._append_answered,
            metrics.sent("Raft", "Replicate").inc,
            partial(on_unreachable, node_id),
        )
        self._heartbeats: ClientStream[pb.HeartbeatRequest, pb.HeartbeatResponse] = ClientStream(
            partial(self._dial, HEARTBEAT),
            _HEARTBEATS_WAITING_MAX,
            self._heartbeat_answered,
            metrics.sent("Raft", "Heartbeat").inc,
            self._round_trips.broken,
            self._heartbeat_leaves,
            self._control.lost,
        )
        self._reads: ClientStream[pb.ReadIndexRequest, pb.ReadIndexResponse] = ClientStream(
            partial(self._dial, READ_INDEX),
            _READS_WAITING_MAX,
            self._read_answered,
            metrics.sent("Raft", "ReadIndex").inc,
            lambda: None,
        )

    async def run(self) -> None:
        """Runs the streams until cancelled, then closes the connections."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._appends.run())
                group.create_task(self._heartbeats.run())
                group.create_task(self._reads.run())
        finally:
            for call in self._calls:
                call.cancel()
            await self._control.close()

    async def _dial(self, stream: HotStream) -> Call:
        """Opens a stream. Each has a connection of its own: on a shared one heartbeats would wait behind entries."""
        return await dial(self.address, stream, self._certificates)

    def _stub(self) -> pb_grpc.RaftAsyncStub:
        """The stub for unary calls, with the newest certificates."""
        self._control.renew(_RENEWAL_GRACE_S)
        return pb_grpc.RaftStub(self._control.channel)

    def append(self, message: AppendEntries, blob: bytes) -> None:
        """Queues AppendEntries, whose entries are joined in ``blob``."""
        request = codec.encode_append(message, self._envelope, blob)
        if self._traces is not None and (traces := self._traces.encoded(message.entries)):
            request.traces = traces
        self._appends.outbox.put(request)

    def heartbeat(self, message: Heartbeat) -> None:
        """Queues a heartbeat."""
        self._heartbeats.outbox.put(codec.encode_heartbeat(message, self._envelope))

    def _heartbeat_leaves(self, request: pb.HeartbeatRequest) -> None:
        if not request.silent:
            self._round_trips.sent(self._loop.time())

    def read_index(self, message: ReadIndexRequest) -> None:
        """Queues a question for a read index."""
        self._reads.outbox.put(codec.encode_read_index(message, self._envelope))

    def vote(self, message: RequestVote) -> None:
        """Asks for a vote."""
        self._start(self._ask(message))

    def _start(self, call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def timeout_now(self, message: TimeoutNow) -> None:
        """Asks the peer to campaign. The core repeats its wish, so that a lost message needs no care here."""
        self._start(self._hand_over(message))

    async def _hand_over(self, message: TimeoutNow) -> None:
        self._sent_timeout_now.inc()
        request = codec.encode_timeout_now(message, self._envelope)
        try:
            await self._stub().TimeoutNow(request, timeout=_VOTE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            self._failed(error)
            self._metrics.messages_dropped.labels(self._metrics.shard, "timeout_now_failed").inc()
            _log.debug("raft.timeout_now_not_answered", peer=self.node_id.name, code=error.code().name)

    async def _ask(self, message: RequestVote) -> None:
        self._sent_vote.inc()
        try:
            response = await self._stub().RequestVote(
                codec.encode_vote(message, self._envelope), timeout=_VOTE_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            self._failed(error)
            self._metrics.messages_dropped.labels(self._metrics.shard, "vote_failed").inc()
            _log.debug("raft.vote_not_answered", peer=self.node_id.name, code=error.code().name)
            return
        self._received_vote.inc()
        if self._is_for_me(response.envelope):
            self._on_message(codec.decode_vote_response(response, self.node_id, self._me.node_id))

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        # A peer that does not answer this call counts as reached all the same.
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            self._control.lost()

    def _append_answered(self, response: pb.AppendEntriesResponse) -> None:
        self._received_append.inc()
        if self._is_for_me(response.envelope):
            self._on_message(codec.decode_append_response(response, self.node_id, self._me.node_id))

    def _heartbeat_answered(self, response: pb.HeartbeatResponse) -> None:
        self._received_heartbeat.inc()
        self._round_trips.answered(self._loop.time())
        if self._is_for_me(response.envelope):
            self._on_message(codec.decode_heartbeat_response(response, self.node_id, self._me.node_id))

    def _read_answered(self, response: pb.ReadIndexResponse) -> None:
        self._received_read.inc()
        if self._is_for_me(response.envelope):
            self._on_message(codec.decode_read_index_response(response, self.node_id, self._me.node_id))

    def _is_for_me(self, envelope: pb.Envelope) -> bool:
        try:
            fits = self._me.check(envelope) == self.node_id
        except MessageError as error:
            self._metrics.messages_dropped.labels(self._metrics.shard, "not_for_me").inc()
            self._refusals.tell(str(error))
            return False
        if fits:
            self._me.heard(envelope)
        return fits


class Peers:
    """All peers of a node: the driver's ``Transport``."""

    def __init__(
        self,
        me: LocalMember,
        metrics: Metrics,
        certificates: Certificates | None = None,
        traces: NodeTraces | None = None,
    ) -> None:
        """Starts without peers; ``connect`` says how to reach them. Plaintext without certificates."""
        self.me = me
        self._traces = traces
        self._certificates = certificates
        self._metrics = metrics
        self._peers: dict[NodeId, Peer] = {}
        self._running: dict[NodeId, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._find_address: Callable[[NodeId], str | None] = lambda node_id: None
        self._on_message: Callable[[Message], None] = lambda message: None
        self._on_unreachable: Callable[[NodeId], None] = lambda node_id: None
        self._unknown: set[NodeId] = set()
        self._append_answers: dict[NodeId, SendQueue[pb.AppendEntriesResponse]] = {}
        self._heartbeat_answers: dict[NodeId, SendQueue[pb.HeartbeatResponse]] = {}
        self._read_answers: dict[NodeId, SendQueue[pb.ReadIndexResponse]] = {}
        self._votes: dict[tuple[NodeId, int, bool], asyncio.Future[RequestVoteResponse]] = {}
        self._envelopes: dict[NodeId, pb.Envelope] = {}

    def connect(
        self,
        find_address: Callable[[NodeId], str | None],
        on_message: Callable[[Message], None],
        on_unreachable: Callable[[NodeId], None],
    ) -> None:
        """Takes the functions that find peers and that take their messages.

        Args:
            find_address: Gives a peer's Raft address; None while it is not known.
            on_message: Takes every answer of a peer.
            on_unreachable: Called when the messages under way to a peer are lost.
        """
        self._find_address = find_address
        self._on_message = on_message
        self._on_unreachable = on_unreachable

    @property
    def client_addresses(self) -> dict[str, str]:
        """The Doug addresses of members by name, as far as their messages have told them."""
        return self.me.client_addresses

    @property
    def connected(self) -> frozenset[NodeId]:
        """The peers that have a connection, whether or not they answer."""
        return frozenset(self._peers)

    def retain(self, peers: Collection[NodeId]) -> None:
        """Disconnects all peers but these, and those with another address: they are connected again when needed."""
        for node_id, peer in list(self._peers.items()):
            if node_id not in peers or self._find_address(node_id) not in (None, peer.address):
                self._disconnect(node_id)
        self._unknown.intersection_update(peers)

    def address_of(self, peer: NodeId) -> str | None:
        """A peer's Raft address, while it is connected."""
        known = self._peers.get(peer)
        return known.address if known is not None else None

    async def run(self) -> None:
        """Runs all streams until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for peer in self._peers.values():
                    self._start(peer)
                await asyncio.Event().wait()
        finally:
            self._group = None

    def _peer(self, node_id: NodeId) -> Peer | None:
        """The connection to a peer, opened now if there is none; None while the peer's address is not known."""
        peer = self._peers.get(node_id)
        if peer is not None:
            return peer
        address = self._find_address(node_id)
        if address is None:
            self._metrics.messages_dropped.labels(self._metrics.shard, "unknown_peer").inc()
            if node_id not in self._unknown:
                self._unknown.add(node_id)
                _log.warning("raft.unknown_peer", peer=node_id.name, incarnation=node_id.incarnation)
            return None
        peer = Peer(
            self.me,
            node_id,
            address,
            self._metrics,
            self._on_message,
            self._on_unreachable,
            self._certificates,
            self._traces,
        )
        self._peers[node_id] = peer
        _log.info("raft.peer_connected", peer=node_id.name, incarnation=node_id.incarnation, address=address)
        if self._group is not None:
            self._start(peer)
        return peer

    def _start(self, peer: Peer) -> None:
        assert self._group is not None
        self._running[peer.node_id] = self._group.create_task(peer.run())

    def _disconnect(self, node_id: NodeId) -> None:
        del self._peers[node_id]
        self._envelopes.pop(node_id, None)
        running = self._running.pop(node_id, None)
        if running is not None:
            running.cancel()
        _log.info("raft.peer_disconnected", peer=node_id.name, incarnation=node_id.incarnation)

    def send(self, messages: Sequence[Message]) -> None:
        """Queues each message on its peer's stream; drops those for peers whose address is not known."""
        # The core gives peers that are equally far the same list: it is joined once.
        blobs: dict[int, bytes] = {}
        for message in messages:
            match message:
                case AppendEntries() | Heartbeat() | RequestVote() | ReadIndexRequest() | TimeoutNow():
                    peer = self._peer(message.receiver)
                    if peer is not None:
                        self._request(peer, message, blobs)
                case RequestVoteResponse():
                    self._answer_vote(message)
                case _:
                    self._answer(message)

    def _answer(self, message: AppendEntriesResponse | HeartbeatResponse | ReadIndexResponse) -> None:
        """Puts an answer on the stream that the peer has opened; without one it is lost."""
        envelope = self.envelope(message.receiver)
        match message:
            case AppendEntriesResponse():
                if self._traces is not None:
                    self._traces.acknowledged(message)
                append_answers = self._append_answers.get(message.receiver)
                if append_answers is not None:
                    append_answers.put(codec.encode_append_response(message, envelope))
            case HeartbeatResponse():
                heartbeat_answers = self._heartbeat_answers.get(message.receiver)
                if heartbeat_answers is not None:
                    heartbeat_answers.put(codec.encode_heartbeat_response(message, envelope))
            case ReadIndexResponse():
                read_answers = self._read_answers.get(message.receiver)
                if read_answers is not None:
                    read_answers.put(codec.encode_read_index_response(message, envelope))
            case _:
                assert_never(message)

    @staticmethod
    def _request(
        peer: Peer,
        message: AppendEntries | Heartbeat | RequestVote | ReadIndexRequest | TimeoutNow,
        blobs: dict[int, bytes],
    ) -> None:
        match message:
            case AppendEntries():
                blob = blobs.get(id(message.entries))
                if blob is None:
                    blob = blobs[id(message.entries)] = entries.join(message.entries)
                peer.append(message, blob)
            case Heartbeat():
                peer.heartbeat(message)
            case RequestVote():
                peer.vote(message)
            case ReadIndexRequest():
                peer.read_index(message)
            case TimeoutNow():
                peer.timeout_now(message)
            case _:
                assert_never(message)

    def envelope(self, peer: NodeId) -> pb.Envelope:
        """The envelope of every answer to a peer."""
        envelope = self._envelopes.get(peer)
        if envelope is None:
            envelope = self._envelopes[peer] = self.me.envelope(peer)
        return envelope

    def open_append_answers(self, peer: NodeId) -> SendQueue[pb.AppendEntriesResponse]:
        """Makes the queue for answers to a peer's AppendEntries; it replaces that of an older stream."""
        outbox = self._append_answers[peer] = SendQueue(_APPENDS_WAITING_MAX)
        return outbox

    def open_heartbeat_answers(self, peer: NodeId) -> SendQueue[pb.HeartbeatResponse]:
        """Makes the queue for answers to a peer's heartbeats; it replaces that of an older stream."""
        outbox = self._heartbeat_answers[peer] = SendQueue(_HEARTBEATS_WAITING_MAX)
        return outbox

    def open_read_answers(self, peer: NodeId) -> SendQueue[pb.ReadIndexResponse]:
        """Makes the queue for answers to a peer's forwarded reads; it replaces that of an older stream."""
        outbox = self._read_answers[peer] = SendQueue(_READS_WAITING_MAX)
        return outbox

    def expect_vote(self, message: RequestVote) -> asyncio.Future[RequestVoteResponse]:
        """A future that takes the core's answer to a request for a vote."""
        key = (message.sender, message.term, message.pre_vote)
        future = self._votes.get(key)
        if future is None or future.done():
            future = self._votes[key] = asyncio.get_running_loop().create_future()
        return future

    def forget_vote(self, message: RequestVote) -> None:
        """Forgets the future of a request for a vote: nobody waits for the answer any more."""
        self._votes.pop((message.sender, message.term, message.pre_vote), None)

    def _answer_vote(self, message: RequestVoteResponse) -> None:
        # A refusal may carry a newer term than was asked for, so the term cannot always tell which question it answers.
        for (asker, term, pre_vote), future in list(self._votes.items()):
            fits = asker == message.receiver and pre_vote == message.pre_vote and (pre_vote or message.term >= term)
            if fits:
                del self._votes[asker, term, pre_vote]
                if not future.done():
                    future.set_result(message)


__all__ = ["LocalMember", "Peers"]
