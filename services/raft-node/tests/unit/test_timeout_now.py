"""TimeoutNow over a real channel: it reaches the core of the member that it is meant for, and no other."""

from __future__ import annotations

import asyncio

import pytest

from raft_node.observability.metrics import Metrics
from raft_node.raft.messages import Message, TimeoutNow
from raft_node.raft.types import NodeId
from raft_node.rpc.raft.peers import LocalMember, Peers

A, B = NodeId("a", 1), NodeId("b", 2)
SHARD = 3


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


@pytest.mark.seconds
async def test_it_arrives(received: tuple[asyncio.Queue[Message], str]) -> None:
    queue, address = received
    message = TimeoutNow(A, B, 7)
    sending = asyncio.create_task(send(message, address))
    async with asyncio.timeout(10):
        assert await queue.get() == message
    await sending
    assert queue.empty()


@pytest.mark.seconds
async def test_another_incarnation_is_not_asked(received: tuple[asyncio.Queue[Message], str]) -> None:
    queue, address = received
    await send(TimeoutNow(A, NodeId("b", 99), 7), address)
    assert queue.empty()
