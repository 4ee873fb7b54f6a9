"""Trace contexts between leader and follower, over real gRPC: only of sampled entries, and only where tracing is on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from doug.v1 import raft_pb2 as pb
from doug.v1 import raft_pb2_grpc
from doug_wire.trace_context import TraceContext
from doug_wire.tracing import Tracing
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse, Message
from raft_node.raft.types import NodeId
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.raft.peers import LocalMember, Peers
from raft_node.rpc.raft.service import RaftService

A, B = NodeId("a", 1), NodeId("b", 2)
SHARD = 3
CONTEXT = TraceContext(7, 8)

pytestmark = pytest.mark.seconds


def make_traces() -> tuple[NodeTraces, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return NodeTraces(Tracing(provider, "test", "0"), lambda: 0.0), exporter


class Recorder(RaftService):
    """The server of b, which keeps the requests as they came."""

    requests: list[pb.AppendEntriesRequest]

    def _decode_traced(self, request: pb.AppendEntriesRequest, source: NodeId, target: NodeId) -> AppendEntries:
        self.requests.append(request)
        return super()._decode_traced(request, source, target)


class Rig:
    """The leader a and the follower b."""

    def __init__(self, leader: NodeTraces | None, follower: NodeTraces) -> None:
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.answers: asyncio.Queue[Message] = asyncio.Queue()
        self.follower = Peers(LocalMember(B, b"cluster", SHARD, ""), Metrics(SHARD), traces=follower)
        self.service = Recorder(B, SHARD, Metrics(SHARD), follower)
        self.service.requests = []
        self.service.attach(self.follower, self.received.put_nowait)
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        raft_pb2_grpc.add_RaftServicer_to_server(self.service, self.server)
        address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.leader = Peers(LocalMember(A, b"cluster", SHARD, ""), Metrics(SHARD), traces=leader)
        self.leader.connect({B: address}.get, self.answers.put_nowait, lambda peer: None)

    async def append(self, index: int) -> pb.AppendEntriesRequest:
        """Sends an entry and has it acknowledged; gives the request as the follower got it."""
        entry = entries.encode(index, 1, EntryKind.COMMAND, 1, b"command")
        async with asyncio.timeout(60):
            self.leader.send([AppendEntries(A, B, 1, index - 1, 1, 0, [entry])])
            message = await self.received.get()
            assert isinstance(message, AppendEntries)
            self.follower.send([AppendEntriesResponse(B, A, 1, True, index, 0, 0, 0)])
            await self.answers.get()
        return self.service.requests[-1]


@pytest.fixture
async def start() -> AsyncIterator[Any]:
    rigs: list[tuple[Rig, asyncio.Task[None]]] = []

    async def make(leader: NodeTraces | None, follower: NodeTraces) -> Rig:
        rig = Rig(leader, follower)
        await rig.server.start()
        rigs.append((rig, asyncio.create_task(rig.leader.run())))
        return rig

    yield make
    for rig, running in rigs:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await rig.server.stop(0)


async def test_a_sampled_entry_takes_its_context_along_and_others_take_nothing(start: Any) -> None:
    leader, _ = make_traces()
    follower, exporter = make_traces()
    rig = await start(leader, follower)
    leader.entries.note(2, 1, CONTEXT)
    assert (await rig.append(1)).traces == b""
    assert exporter.get_finished_spans() == ()
    assert len((await rig.append(2)).traces) == 32
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert (span.name, span.parent.trace_id, span.parent.span_id) == ("raft append", 7, 8)
    assert (await rig.append(3)).traces == b""
    assert len(exporter.get_finished_spans()) == 1


async def test_a_leader_without_tracing_sends_not_a_byte_more(start: Any) -> None:
    follower, exporter = make_traces()
    rig = await start(None, follower)
    request = await rig.append(1)
    bare = pb.AppendEntriesRequest(
        envelope=request.envelope,
        term=request.term,
        prev_log_index=request.prev_log_index,
        prev_log_term=request.prev_log_term,
        entries=request.entries,
    )
    assert request.SerializeToString() == bare.SerializeToString()
    assert exporter.get_finished_spans() == ()


async def test_a_follower_takes_damaged_contexts_for_none(start: Any) -> None:
    follower, exporter = make_traces()
    rig = await start(None, follower)
    entry = entries.encode(1, 1, EntryKind.COMMAND, 1, b"command")
    request = pb.AppendEntriesRequest(envelope=LocalMember(A, b"cluster", SHARD, "").envelope(B), entries=entry.data)
    request.traces = b"nonsense"
    async with asyncio.timeout(60), grpc.aio.insecure_channel(rig.leader._find_address(B) or "") as channel:
        call = raft_pb2_grpc.RaftStub(channel).Replicate()
        await call.write(request)
        message = await rig.received.get()
        call.cancel()
    assert isinstance(message, AppendEntries)
    assert list(message.entries) == [entry]
    assert exporter.get_finished_spans() == ()
