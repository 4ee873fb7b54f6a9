"""What a stranger may make gRPC's own server do, with the options of a node: so many calls, so few pings."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from doug.v1 import doug_pb2_grpc
from raft_node.observability.metrics import Metrics
from raft_node.rpc.channels import IDLE, MESSAGE_BYTES_MAX, SERVER_OPTIONS
from raft_node.rpc.doug.service import DougService
from raft_node.rpc.interceptor import CountingInterceptor
from raft_node.rpc.requests import OF_ONE, Requests

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


def announced(peer: h2.connection.H2Connection, size: int) -> int:
    """A call whose one message is announced and does not come whole; the number of its stream."""
    stream = int(peer.get_next_available_stream_id())
    head = {":method": "POST", ":scheme": "http", ":path": "/doug.v1.Doug/Put", ":authority": "x", "te": "trailers"}
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
    left = {announced(peer, MESSAGE_BYTES_MAX - 1): MESSAGE_BYTES_MAX - 2 for _ in range(40)}
    sent, piece = 0, bytes(16 << 10)
    with contextlib.suppress(TimeoutError):
        while True:  # Until the server has opened no window for a while.
            for stream in list(left):
                while (size := min(left[stream], peer.local_flow_control_window(stream), len(piece))) > 0:
                    peer.send_data(stream, piece[:size])
                    left[stream], sent = left[stream] - size, sent + size
            writer.write(peer.data_to_send())
            await writer.drain()
            async with asyncio.timeout(QUIET_S):
                peer.receive_data(await reader.read(1 << 16))
    assert OF_ONE * (MESSAGE_BYTES_MAX - 2) <= sent < OF_ONE * MESSAGE_BYTES_MAX + 40 * (32 << 10), f"{sent >> 20} MiB"
    writer.close()
    await server.stop(None)


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
