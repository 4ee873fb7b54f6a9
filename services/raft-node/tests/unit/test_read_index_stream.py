"""Forwarded reads over a real channel: a question arrives, and its answer comes back on the stream of the question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from doug.v1 import raft_pb2_grpc
from raft_node.observability.metrics import Metrics
from raft_node.raft.messages import Message, ReadIndexRequest, ReadIndexResponse
from raft_node.raft.types import NodeId
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.raft.peers import LocalMember, Peers
from raft_node.rpc.raft.service import RaftService

pytestmark = pytest.mark.sockets

A, B = NodeId("a", 1), NodeId("b", 2)
SHARD = 3


class Leader:
    """The server of member B, and what its core is given."""

    def __init__(self) -> None:
        metrics = Metrics(SHARD)
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.peers = Peers(LocalMember(B, b"cluster", SHARD, ""), metrics)
        service = RaftService(B, SHARD, metrics)
        service.attach(self.peers, self.received.put_nowait)
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        raft_pb2_grpc.add_RaftServicer_to_server(service, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"


@pytest.fixture
async def leader() -> AsyncIterator[tuple[Leader, str]]:
    made = Leader()
    await made.server.start()
    yield made, made.address
    await made.server.stop(0)


@pytest.mark.seconds
async def test_the_question_and_its_answer_arrive(leader: tuple[Leader, str]) -> None:
    made, address = leader
    answers: asyncio.Queue[Message] = asyncio.Queue()
    peers = Peers(LocalMember(A, b"cluster", SHARD, ""), Metrics(SHARD))
    peers.connect({B: address}.get, answers.put_nowait, lambda peer: None)
    running = asyncio.create_task(peers.run())
    try:
        async with asyncio.timeout(60):
            for token in (70, 71):
                peers.send([ReadIndexRequest(A, B, 4, token)])
                assert await made.received.get() == ReadIndexRequest(A, B, 4, token)
                made.peers.send([ReadIndexResponse(B, A, 4, token, 9)])
                assert await answers.get() == ReadIndexResponse(B, A, 4, token, 9)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.seconds
async def test_an_answer_to_nobody_is_lost_quietly(leader: tuple[Leader, str]) -> None:
    made, _ = leader
    made.peers.send([ReadIndexResponse(B, A, 4, 70, 9)])
    assert made.received.empty()
