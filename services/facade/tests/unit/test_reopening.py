"""A node whose name did not exist is looked up anew: gRPC's own look-ups pause for longer each time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from facade.client import node as nodes
from facade.client.link import Link
from facade.client.node import Node
from facade.discovery.targets import Target


class FakeChannel:
    """A channel of gRPC as far as a node uses it; ready only if its name existed when it was opened."""

    def __init__(self, exists: bool) -> None:
        self.exists = exists
        self.closed = False

    async def channel_ready(self) -> None:
        if not self.exists:
            await asyncio.Event().wait()

    async def close(self, grace_s: float | None = None) -> None:
        self.closed = True

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None


class FakeChannels:
    version = 0

    def __init__(self) -> None:
        self.exists = False
        self.opened: list[FakeChannel] = []

    def open(self, target: Target) -> FakeChannel:
        self.opened.append(FakeChannel(self.exists))
        return self.opened[-1]


async def test_a_channel_that_finds_nobody_is_opened_anew_until_the_name_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes, "REOPEN_MIN_S", 0.001)
    monkeypatch.setattr(nodes, "REOPEN_MAX_S", 0.002)
    channels = FakeChannels()
    node = Node("n", Target("n:1"), Link(1, 1), channels)  # type: ignore[arg-type]
    node.want()
    connecting = asyncio.create_task(node.connect())
    async with asyncio.timeout(10):
        while len(channels.opened) < 4:
            await asyncio.sleep(0)
        assert not connecting.done()
        channels.exists = True
        await connecting
    assert all(channel.closed for channel in channels.opened[:-1]), "none is left behind"
    assert not channels.opened[-1].closed
    await node.close()
