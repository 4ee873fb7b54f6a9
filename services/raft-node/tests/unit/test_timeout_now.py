"""TimeoutNow over a real channel: it reaches the core of the member that it is meant for, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from doug.v1 import raft_pb2_grpc
from raft_node.observability.metrics import Metrics
from raft_node.raft.messages import Message, TimeoutNow
from raft_node.raft.types import NodeId
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.peers import LocalMember, Peers
from raft_node.rpc.raft_service import RaftService

A, B = NodeId("a", 1), NodeId("b", 2)
SHARD = 3


@pytest.fixture
async def received(tmp_path: Path) -> AsyncIterator[tuple[asyncio.Queue[Message], str]]:
    """A server for member B, what its core is given, and where it listens."""
    queue: asyncio.Queue[Message] = asyncio.Queue()
    metrics = Metrics(SHARD)
    service = RaftService(B, SHARD, metrics)
    service.attach(Peers(LocalMember(B, b"cluster", SHARD, ""), metrics), queue.put_nowait)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    raft_pb2_grpc.add_RaftServicer_to_server(service, server)
    address = f"unix:{tmp_path}/raft"
    server.add_insecure_port(address)
    await server.start()
    yield queue, address
    await server.stop(0)


async def send(message: TimeoutNow, address: str) -> None:
    peers = Peers(LocalMember(A, b"cluster", SHARD, ""), Metrics(SHARD))
    peers.connect({message.receiver: address}.get, lambda answer: None, lambda peer: None)
    running = asyncio.create_task(peers.run())
    peers.send([message])
    try:
        await asyncio.sleep(0.3)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.slow
async def test_it_arrives(received: tuple[asyncio.Queue[Message], str]) -> None:
    queue, address = received
    message = TimeoutNow(A, B, 7)
    sending = asyncio.create_task(send(message, address))
    async with asyncio.timeout(10):
        assert await queue.get() == message
    await sending
    assert queue.empty()


@pytest.mark.slow
async def test_another_incarnation_is_not_asked(received: tuple[asyncio.Queue[Message], str]) -> None:
    queue, address = received
    await send(TimeoutNow(A, NodeId("b", 99), 7), address)
    assert queue.empty()
