"""A node that comes back with another address behind the same name is reached within 3 seconds.

gRPC itself resolves the name, with the options that raft-nodes and facades use for their channels, at a small name
server on loopback. The node moves from 127.0.0.2 to 127.0.0.3.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from bench.witness import TooLate, Witness
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from facade.client.channels import Channels
from facade.discovery.targets import Target
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.channels import open_channel as open_peer_channel

pytestmark = [pytest.mark.integration, pytest.mark.seconds]

DNS_PORT, NODE_PORT = 25_990, 25_991
OLD, NEW = "127.0.0.2", "127.0.0.3"
NAME = "s0-0.s0-peers.ns.svc.cluster.local"
LIMIT_S = 3.0
STALL_S = 0.1

OPENERS: dict[str, Callable[[str], grpc.aio.Channel]] = {
    "raft-node": open_peer_channel,
    "facade": lambda address: Channels().open(Target(address)),
}


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for an IPv4 address with ``address``; None is NXDOMAIN. The time to live is 0."""

    address: str | None = OLD
    transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        end = data.index(b"\0", 12) + 5
        question, kind = data[12:end], struct.unpack_from(">H", data, end - 4)[0]
        found = self.address is not None and kind == 1
        flags = 0x8180 if self.address is not None else 0x8183
        response = data[:2] + struct.pack(">HHHHH", flags, 1, int(found), 0, 0) + question
        if found:
            assert self.address is not None
            response += struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(self.address)
        self.transport.sendto(response, sender)


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, ("127.0.0.1", DNS_PORT))
    yield server
    transport.close()


async def serve(address: str) -> grpc.aio.Server:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"{address}:{NODE_PORT}")
    await server.start()
    return server


async def ask(channel: grpc.aio.Channel) -> bool:
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=0.2)
    except grpc.aio.AioRpcError:
        return False
    return True


async def reach_in_time(channel: grpc.aio.Channel, folder: Path) -> None:
    """Asks as Raft does, again and again, until there is an answer, which comes in time on a machine that goes on."""
    with Witness(folder) as witness:
        started_s = time.monotonic()
        while not await ask(channel):
            if time.monotonic() - started_s > LIMIT_S + 60:
                raise TooLate("it is never reached")
            await asyncio.sleep(0.05)
        ended_s = time.monotonic()
    print(witness.told())
    # An attempt that a stall spoils is followed by a pause of gRPC's own.
    if ended_s - started_s >= LIMIT_S and witness.stalled_s(started_s, ended_s) <= STALL_S:
        raise TooLate(f"it was reached after {ended_s - started_s:.1f} s")


@contextlib.contextmanager
def cut_off(address: str) -> Iterator[None]:
    """Nobody answers at an address, not even with a refusal, as when its machine is gone: the kernel drops what comes.

    A listening socket whose queue is full does that.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, NODE_PORT))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((address, NODE_PORT))
        yield


@pytest.mark.parametrize(
    ("opener", "silent"),
    [
        pytest.param(
            opener,
            silent,
            id=f"{opener}-{'silent' if silent else 'refusing'}",
            marks=pytest.mark.slow if silent == (opener == next(iter(OPENERS))) else (),
        )
        for opener in OPENERS
        for silent in (False, True)
    ],
)
async def test_it_is_reached_within_3_s(names: NameServer, opener: str, silent: bool, tmp_path: Path) -> None:
    channel = OPENERS[opener](f"dns://127.0.0.1:{DNS_PORT}/{NAME}:{NODE_PORT}")
    server = await serve(OLD)
    await reach_in_time(channel, tmp_path)
    await server.stop(None)
    with cut_off(OLD) if silent else contextlib.nullcontext():
        # Long enough for every backoff to have grown as far as it does; the name gives the old address meanwhile.
        ends_s = time.monotonic() + 4
        while time.monotonic() < ends_s:
            assert not await ask(channel)
            await asyncio.sleep(0.1)
        server = await serve(NEW)
        names.address = NEW
        await reach_in_time(channel, tmp_path)
    await channel.close()
    await server.stop(None)


async def test_a_name_that_does_not_exist_yet_is_no_obstacle(names: NameServer, tmp_path: Path) -> None:
    names.address = None
    channel = open_peer_channel(f"dns://127.0.0.1:{DNS_PORT}/{NAME}:{NODE_PORT}")
    ends_s = time.monotonic() + 4
    while time.monotonic() < ends_s:
        assert not await ask(channel)
        await asyncio.sleep(0.1)
    server = await serve(NEW)
    names.address = NEW
    await reach_in_time(channel, tmp_path)
    await channel.close()
    await server.stop(None)
