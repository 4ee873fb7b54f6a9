"""A client's connection that carries many calls: how it ends, and that giving calls up cuts no other call off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from doug_stream.client import ClientEndpoint, connect
from doug_stream.codes import StatusCode
from doug_stream.errors import CallError
from doug_stream.limits import Limits
from doug_stream.server import Method, Server

pytestmark = pytest.mark.sockets

PATH = "/test.Test/Tell"
FEW = Limits(resets_burst=8, resets_per_s=0.001)


async def tell(_: object, call: Any) -> None:
    """Answers each message by itself, for as long as any come."""
    while (message := await call.read()) is not grpc.aio.EOF:
        await call.write(message)


def same(message: bytes) -> bytes:
    return message


@contextlib.asynccontextmanager
async def connected(limits: Limits = FEW) -> AsyncIterator[tuple[Server, ClientEndpoint]]:
    """A connection of two ends that both keep to the same limits."""
    server = Server({PATH: Method(tell, same, same)}, limits)
    listener = await asyncio.get_running_loop().create_server(server.endpoint, "127.0.0.1", 0)
    endpoint = await connect("127.0.0.1", listener.sockets[0].getsockname()[1], limits=limits)
    try:
        yield server, endpoint
    finally:
        endpoint.close()
        await endpoint.closed
        listener.close()
        await server.stop(0.1)


async def begun(endpoint: ClientEndpoint) -> Any:
    """A call that has had its first answer."""
    call = endpoint.call(PATH, same, same)
    await call.write(b"x")
    assert await call.read() == b"x"
    return call


async def test_a_retired_connection_closes_behind_its_last_call() -> None:
    async with connected() as (_, endpoint):
        call = await begun(endpoint)
        endpoint.retire()
        with pytest.raises(CallError) as refused:
            endpoint.call(PATH, same, same)
        assert refused.value.status == StatusCode.UNAVAILABLE
        await call.write(b"still")
        assert await call.read() == b"still"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await endpoint.closed


async def test_an_idle_connection_closes_when_it_is_retired() -> None:
    async with connected() as (_, endpoint):
        endpoint.retire()
        await endpoint.closed


async def test_more_calls_are_given_up_than_a_server_lets_be_reset_and_no_other_call_is_cut_off() -> None:
    """A server takes resets beyond its limit for an attack, and ends the connection with all that it carries."""
    async with connected() as (server, endpoint):
        other = await begun(endpoint)
        given_up = [await begun(endpoint) for _ in range(12)]
        for call in given_up:
            call.cancel()
        await other.write(b"still")
        assert await other.read() == b"still"
        assert len(server.endpoints) == 1
        with pytest.raises(CallError):
            endpoint.call(PATH, same, same)
        other.cancel()
        await endpoint.closed
        async with asyncio.timeout(60):
            while server.tasks:
                await asyncio.sleep(0)


async def test_a_call_that_ends_by_itself_is_no_reset() -> None:
    async with connected() as (_, endpoint):
        for _ in range(30):
            call = await begun(endpoint)
            await call.done_writing()
            call.limit(60.0)
            while endpoint.calls:
                await asyncio.sleep(0)
        await begun(endpoint)
