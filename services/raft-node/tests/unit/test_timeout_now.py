"""TimeoutNow over a real channel: it reaches the core of the member that it is meant for, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from raft_node.observability.metrics import Metrics
from raft_node.raft.messages import Message, TimeoutNow
from raft_node.raft.types import NodeId
from raft_node.rpc.raft.peers import LocalMember, Peers

A, B = NodeId("a", 1), NodeId("b", 2)
SHARD = 3


async def send(message: TimeoutNow, address: str, until: Awaitable[object]) -> None:
    """Sends a message, and stays connected until then."""
    peers = Peers(LocalMember(A, b"cluster", SHARD, ""), Metrics(SHARD))
    peers.connect({message.receiver: address}.get, lambda answer: None, lambda peer: None)
    running = asyncio.create_task(peers.run())
    peers.send([message])
    try:
        async with asyncio.timeout(60):
            await until
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.seconds
async def test_it_arrives(received: tuple[asyncio.Queue[Message], str]) -> None:
    queue, address = received
    message, taken = TimeoutNow(A, B, 7), asyncio.Event()
    sending = asyncio.create_task(send(message, address, taken.wait()))
    async with asyncio.timeout(60):
        assert await queue.get() == message
    taken.set()
    await sending
    assert queue.empty()


@pytest.mark.seconds
async def test_another_incarnation_is_not_asked(received: tuple[asyncio.Queue[Message], str]) -> None:
    queue, address = received
    await send(TimeoutNow(A, NodeId("b", 99), 7), address, asyncio.sleep(0.3))
    assert queue.empty()
