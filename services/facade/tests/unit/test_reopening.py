"""A node that is not to be reached is tried again, and looked up anew: gRPC's own look-ups pause for longer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from doug_stream.codes import StatusCode
from doug_stream.errors import CallError
from facade.client import node as nodes
from facade.client.link import Link
from facade.client.node import Node
from facade.discovery.targets import Target


class FakeChannel:
    """A channel of gRPC as far as a node uses it: no call reaches anybody."""

    code, details = grpc.StatusCode.UNAVAILABLE, "failed to connect"

    def __init__(self) -> None:
        self.closed = False

    async def close(self, grace_s: float | None = None) -> None:
        self.closed = True

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        async def call(*arguments: Any, **options: Any) -> None:
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(self.code, nothing, nothing, self.details)

        return call

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None


class FakeChannels:
    version = 0

    def __init__(self) -> None:
        self.exists = False
        self.tries = 0
        self.opened: list[FakeChannel] = []

    def open(self, target: Target) -> FakeChannel:
        self.opened.append(FakeChannel())
        return self.opened[-1]

    async def open_pipe(self, target: Target) -> str:
        self.tries += 1
        if not self.exists:
            raise CallError(StatusCode.UNAVAILABLE, "no such name")
        return "a stream"


async def test_the_stream_is_tried_until_the_name_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "RETRY_MIN_S", 0.001)
    monkeypatch.setattr(nodes, "RETRY_MAX_S", 0.002)
    channels = FakeChannels()
    node = Node("n", Target("n:1"), Link(1, 1), channels)  # type: ignore[arg-type]
    opening: asyncio.Task[Any] = asyncio.create_task(node.open_pipe())
    async with asyncio.timeout(60):
        while channels.tries < 4:
            await asyncio.sleep(0)
        assert not opening.done()
        channels.exists = True
        assert await opening == "a stream"
    await node.close()


async def test_a_channel_that_finds_nobody_is_opened_anew() -> None:
    channels = FakeChannels()
    node = Node("n", Target("n:1"), Link(1, 1), channels)  # type: ignore[arg-type]
    for _ in range(3):
        assert await node.status(1.0) is None
    await node.close()
    await asyncio.sleep(0)
    assert len(channels.opened) == 4
    assert all(channel.closed for channel in channels.opened), "none is left behind"


async def test_why_a_node_cannot_be_reached_is_kept_until_it_is_known_better(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = FakeChannels()
    node = Node("n", Target("n:1"), Link(1, 1), channels)  # type: ignore[arg-type]
    ended = "Tls handshake failed: CERTIFICATE_VERIFY_FAILED: certificate has expired: OK"
    late, away = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE
    for code, details, trouble in (
        (away, "connection refused", None),
        (away, ended, "certificate_expired"),
        (late, "", "certificate_expired"),
        (away, "CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "certificate_refused"),
        (away, "Custom verification check failed: Hostname Verification Check failed.", "certificate_refused"),
        (away, "", None),
    ):
        monkeypatch.setattr(FakeChannel, "code", code)
        monkeypatch.setattr(FakeChannel, "details", details)
        assert await node.status(1.0) is None
        assert node.trouble == trouble
    await node.close()
