"""The own stream and grpcio at either end: any gRPC client and server must understand it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from doug_stream.client import ClientEndpoint, connect
from doug_stream.codes import StatusCode
from doug_stream.errors import CallError
from doug_stream.limits import Limits
from doug_stream.server import Method, Server

pytestmark = pytest.mark.sockets

PATH = "/test.Test/Talk"

MORE_THAN_ALL_BUFFERS = 192
"""Mebibytes. The kernel's buffers grow to 32 MiB in each direction, and grpcio's windows with what they carry."""


def same(message: bytes) -> bytes:
    return message


async def echo(_: object, context: Any) -> None:
    """Answers each message by itself; ``abort`` and ``metadata`` do what they say."""
    while (message := await context.read()) is not grpc.aio.EOF:
        if message == b"abort":
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "nö %", (("doug-code", "no"), ("x-bin", b"\0\xff"))
            )
        if message == b"metadata":
            message = repr(sorted((k, v) for k, v in context.invocation_metadata() if k.startswith("x-"))).encode()
        if message == b"break":
            raise RuntimeError("a defect")
        if message == b"wait":
            await asyncio.Event().wait()
        await context.write(message)


class Place:
    """A server of each kind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.port = 0
        self.own = Server({PATH: Method(echo, same, same)})

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Place]:
        if self.kind == "grpcio":
            handler: Any = grpc.stream_stream_rpc_method_handler(echo)
            server = grpc.aio.server()
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Test", {"Talk": handler})])
            self.port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            try:
                yield self
            finally:
                await server.stop(0)
        else:
            loop = asyncio.get_running_loop()
            listener = await loop.create_server(self.own.endpoint, "127.0.0.1", 0)
            self.port = listener.sockets[0].getsockname()[1]
            try:
                yield self
            finally:
                listener.close()
                await self.own.stop(0.1)


class Caller:
    """A client of each kind, with what differs between them told alike."""

    def __init__(self, kind: str, port: int) -> None:
        self.kind, self.port = kind, port
        self.channel: grpc.aio.Channel | None = None
        self.endpoint: ClientEndpoint | None = None

    async def call(self, metadata: Any = (), timeout_s: float | None = None, path: str = PATH) -> Any:
        if self.kind == "grpcio":
            self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
            return self.channel.stream_stream(path)(metadata=metadata, timeout=timeout_s)
        self.endpoint = await connect("127.0.0.1", self.port)
        return self.endpoint.call(path, same, same, metadata, timeout_s)

    async def close(self) -> None:
        if self.channel is not None:
            await self.channel.close()
        if self.endpoint is not None:
            self.endpoint.close()
            await self.endpoint.closed


async def failure(call: Any) -> tuple[int, str, dict[str, Any]]:
    """How a call ends badly."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except CallError as error:
        return error.status, error.details, dict(error.trailers)
    except grpc.aio.AioRpcError as error:
        trailers = error.trailing_metadata() or ()
        return error.code().value[0], error.details() or "", dict(trailers)
    return 0, "", {}


@pytest.fixture(params=["own to own", "own to grpcio", "grpcio to own"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Place, Caller]]:
    client, server = request.param.split(" to ")
    async with Place(server).serving() as place:
        caller = Caller(client, place.port)
        try:
            yield place, caller
        finally:
            await caller.close()


Pair = tuple[Place, Caller]


async def test_messages_of_all_lengths_come_back_in_order(pair: Pair) -> None:
    call = await pair[1].call()
    sizes = [0, 1, 5, 16_379, 16_384, 70_000, 200_000, 3 << 20, 1]
    for size in sizes:
        await call.write(b"x" * size)
        assert await call.read() == b"x" * size


async def test_many_messages_under_way_at_once(pair: Pair) -> None:
    call = await pair[1].call()

    async def write() -> None:
        for number in range(2000):
            await call.write(b"%d" % number + b"." * (number % 50))

    writer = asyncio.create_task(write())
    for number in range(2000):
        assert await call.read() == b"%d" % number + b"." * (number % 50)
    await writer


async def test_the_end_of_the_messages_ends_the_call_well(pair: Pair) -> None:
    call = await pair[1].call()
    await call.write(b"one")
    await call.done_writing()
    assert await call.read() == b"one"
    assert await call.read() is grpc.aio.EOF


async def test_a_refusal_carries_code_details_and_metadata(pair: Pair) -> None:
    call = await pair[1].call()
    await call.write(b"abort")
    code, details, trailers = await failure(call)
    assert (code, details) == (StatusCode.FAILED_PRECONDITION, "nö %")
    assert trailers["doug-code"] == "no" and trailers["x-bin"] == b"\0\xff"


async def test_metadata_arrives(pair: Pair) -> None:
    call = await pair[1].call(metadata=(("x-trace", "00-ab-cd-01"), ("x-raw-bin", b"\1\2\3\0")))
    await call.write(b"metadata")
    assert await call.read() == repr([("x-raw-bin", b"\1\2\3\0"), ("x-trace", "00-ab-cd-01")]).encode()


@pytest.mark.parametrize("what", ["deadline", "unknown method", "defect"])
async def test_other_ends_have_their_codes(pair: Pair, what: str) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    if what == "unknown method":
        call = await pair[1].call(path="/test.Test/Unknown")
        assert (await failure(call))[0] == StatusCode.UNIMPLEMENTED
    elif what == "deadline":
        call = await pair[1].call(timeout_s=0.5)
        await call.write(b"wait")
        assert (await failure(call))[0] == StatusCode.DEADLINE_EXCEEDED
    else:
        call = await pair[1].call()
        await call.write(b"break")
        code, details, _ = await failure(call)
        assert code == StatusCode.UNKNOWN and "RuntimeError" in details


async def test_a_cancelled_call_cancels_its_method(pair: Pair) -> None:
    place, caller = pair
    call = await caller.call()
    await call.write(b"x")
    await call.read()
    call.cancel()
    if place.kind == "own":
        while place.own.tasks:
            await asyncio.sleep(0)


async def test_a_reader_that_does_not_read_holds_the_writer_up(pair: Pair) -> None:
    _, caller = pair
    call = await caller.call()
    written = 0
    piece = b"y" * (1 << 20)

    async def write() -> None:
        nonlocal written
        for _ in range(MORE_THAN_ALL_BUFFERS):
            await call.write(piece)
            written += 1

    writer = asyncio.create_task(write())
    # The server answers each message, and nobody reads the answers: so both directions fill up.
    before = -1
    while before != written:
        before = written
        await asyncio.wait((writer,), timeout=0.2)
    assert not writer.done(), f"all {written} MiB were taken"
    for _ in range(MORE_THAN_ALL_BUFFERS):
        assert len(await call.read()) == len(piece)
    await writer


async def test_a_server_that_stops_ends_the_calls() -> None:
    async with Place("own").serving() as place:
        caller = Caller("grpcio", place.port)
        call = await caller.call()
        await call.write(b"x")
        assert await call.read() == b"x"
        await place.own.stop(0.05)
        assert (await failure(call))[0] in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
        await caller.close()


async def test_a_message_beyond_the_limit_ends_the_call() -> None:
    place = Place("own")
    place.own.limits = Limits(message_bytes_max=1000)
    async with place.serving():
        for kind in ("grpcio", "own"):
            caller = Caller(kind, place.port)
            call = await caller.call()
            await call.write(b"x" * 1001)
            assert (await failure(call))[0] == StatusCode.RESOURCE_EXHAUSTED
            await caller.close()
