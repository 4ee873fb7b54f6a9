"""What a stranger may make gRPC's own server do, with the options of a node: so many calls, so few pings."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import Any

import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from doug.v1 import doug_pb2_grpc
from raft_node.app.readiness import Readiness
from raft_node.observability.metrics import Metrics
from raft_node.rpc import others
from raft_node.rpc.channels import IDLE, MESSAGE_BYTES_MAX, SERVER_OPTIONS
from raft_node.rpc.doug.service import DougService
from raft_node.rpc.interceptor import CountingInterceptor
from raft_node.rpc.others import ASKING_MAX
from raft_node.rpc.requests import OF_ONE, Requests
from raft_testing.guests import Aborted, FakeContext

pytestmark = pytest.mark.sockets

QUIET_S = 1.0


@pytest.mark.seconds
async def test_calls_and_pings_of_one_connection_are_bounded() -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.initiate_connection()
    for _ in range(64):
        peer.ping(b"x" * 8)
    writer.write(peer.data_to_send())
    ended = None
    async with asyncio.timeout(60):
        while ended is None and (data := await reader.read(4096)):
            for event in peer.receive_data(data):
                if isinstance(event, h2.events.ConnectionTerminated):
                    ended = event
    assert ended is not None, "who pings all the time is told to go"
    assert ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert peer.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 256
    writer.close()
    await server.stop(None)


def announced(peer: h2.connection.H2Connection, size: int, path: str = "/doug.v1.Doug/Put") -> int:
    """A call whose one message is announced and does not come whole; the number of its stream."""
    stream = int(peer.get_next_available_stream_id())
    head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    peer.send_headers(stream, [*head.items(), ("content-type", "application/grpc")])
    peer.send_data(stream, b"\0" + struct.pack(">I", size))
    return stream


@pytest.mark.seconds
async def test_messages_that_do_not_come_take_little_memory() -> None:
    """Of 40 calls that each announce 8 MiB a server took all, 320 MiB, before anybody had looked who calls."""
    counting = CountingInterceptor(Metrics(0), lambda error: None, requests=Requests())
    server = grpc.aio.server(interceptors=(counting,), options=SERVER_OPTIONS)
    doug_pb2_grpc.add_DougServicer_to_server(DougService(Metrics(0)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.initiate_connection()
    writer.write(peer.data_to_send())
    sent = await sent_in_all(peer, reader, writer, [announced(peer, MESSAGE_BYTES_MAX - 1) for _ in range(40)])
    assert OF_ONE * (MESSAGE_BYTES_MAX - 2) <= sent < OF_ONE * MESSAGE_BYTES_MAX + 40 * (32 << 10), f"{sent >> 20} MiB"
    writer.close()
    await server.stop(None)


async def sent_in_all(
    peer: h2.connection.H2Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, streams: list[int]
) -> int:
    """How many bytes of these messages, all but the last one of each, a server takes before it opens no window."""
    left, sent, piece = dict.fromkeys(streams, MESSAGE_BYTES_MAX - 2), 0, bytes(16 << 10)
    with contextlib.suppress(TimeoutError):
        while True:
            for stream in list(left):
                while (size := min(left[stream], peer.local_flow_control_window(stream), len(piece))) > 0:
                    peer.send_data(stream, piece[:size])
                    left[stream], sent = left[stream] - size, sent + size
            writer.write(peer.data_to_send())
            await writer.drain()
            async with asyncio.timeout(QUIET_S):
                for event in peer.receive_data(await reader.read(1 << 16)):
                    if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        left.pop(event.stream_id or 0, None)
    return sent


@pytest.mark.seconds
async def test_whoever_looks_at_what_is_served_takes_little_memory() -> None:
    """Reflection and health ask nobody who calls: 40 messages that do not come whole were 320 MiB, too."""
    counting, readiness = CountingInterceptor(Metrics(0), lambda error: None, requests=Requests()), Readiness()
    server = grpc.aio.server(interceptors=(counting,), options=SERVER_OPTIONS)
    reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)
    health_pb2_grpc.add_HealthServicer_to_server(readiness.servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.initiate_connection()
    writer.write(peer.data_to_send())
    path = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
    streams = [announced(peer, MESSAGE_BYTES_MAX - 1, path) for _ in range(40)]
    sent = await sent_in_all(peer, reader, writer, streams)
    assert sent < ASKING_MAX * others.PART * MESSAGE_BYTES_MAX + 40 * (32 << 10), f"{sent >> 20} MiB"
    writer.close()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()) for _ in range(4)]
        assert {(await call.read()).status for call in calls} == {health_pb2.HealthCheckResponse.SERVING}
    await server.stop(None)


async def test_calls_of_others_that_last_are_few_and_those_that_end_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "WATCHING_MAX", 4)
    going_on, callers = asyncio.Event(), iter("aaaabbcac")

    async def watch(_: object, context: object) -> None:
        await going_on.wait()

    limited: Any = others.few(grpc.unary_stream_rpc_method_handler(watch), lambda context: next(callers))

    async def refused() -> None:
        context = FakeContext()
        with pytest.raises(Aborted):
            await limited.unary_stream(None, context)
        assert context.status is grpc.StatusCode.RESOURCE_EXHAUSTED

    held = [asyncio.create_task(limited.unary_stream(None, FakeContext())) for _ in range(3)]
    await asyncio.sleep(0)
    await refused()
    held.append(asyncio.create_task(limited.unary_stream(None, FakeContext())))
    await asyncio.sleep(0)
    assert not held[-1].done(), "one caller leaves some to others"
    await refused()
    await refused()
    going_on.set()
    await asyncio.gather(*held)
    for _ in range(2):
        await limited.unary_stream(None, FakeContext())


async def test_a_connection_without_calls_is_ended() -> None:
    """With a shorter time than a node's; an option that is not among a node's is not added."""
    server = grpc.aio.server(options=[(name, 100 if name == IDLE else value) for name, value in SERVER_OPTIONS])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.initiate_connection()
    writer.write(peer.data_to_send())
    async with asyncio.timeout(60):
        while data := await reader.read(4096):
            peer.receive_data(data)
            writer.write(peer.data_to_send())
    writer.close()
    await server.stop(None)
