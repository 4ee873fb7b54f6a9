"""What a stranger may make gRPC's own server do, with the options of a node: so many calls, so few pings."""

from __future__ import annotations

import asyncio

import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from raft_node.rpc.channels import IDLE, SERVER_OPTIONS

pytestmark = pytest.mark.sockets


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
    assert peer.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 1024
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
