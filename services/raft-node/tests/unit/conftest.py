"""What more than one of the unit tests starts from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from doug.v1 import raft_pb2_grpc
from raft_node.observability.metrics import Metrics
from raft_node.raft.messages import Message
from raft_node.raft.types import NodeId
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.raft.peers import LocalMember, Peers
from raft_node.rpc.raft.service import RaftService

SHARD = 3


@pytest.fixture
async def received() -> AsyncIterator[tuple[asyncio.Queue[Message], str]]:
    """A Raft server of the member b of incarnation 2 in shard 3: what its core is given, and where it listens."""
    queue: asyncio.Queue[Message] = asyncio.Queue()
    member, metrics = NodeId("b", 2), Metrics(SHARD)
    service = RaftService(member, SHARD, metrics)
    service.attach(Peers(LocalMember(member, b"cluster", SHARD, ""), metrics), queue.put_nowait)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    raft_pb2_grpc.add_RaftServicer_to_server(service, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield queue, address
    await server.stop(0)
