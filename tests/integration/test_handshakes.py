"""TLS handshakes that do not come to their end take no place, no descriptor and no time from others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tools.certs import Authority, write

from doug_wire import tls
from doug_wire.handshakes import Handshakes
from raft_node.app.admin import AdminServer

pytestmark = [pytest.mark.integration, pytest.mark.light, pytest.mark.seconds]


class Greeter(asyncio.Protocol):
    """Greets whoever is connected."""

    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"hello")
        transport.close()


@pytest.fixture
def certificates(tmp_path: Path) -> tls.Certificates:
    authority = Authority.make()
    files = tls.Files(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    write(files.ca, authority.pem)
    authority.write_certificate(tmp_path, ["127.0.0.1", "localhost"])
    return tls.Certificates(files)


@contextlib.asynccontextmanager
async def listening(
    certificates: tls.Certificates, room: int, timeout_s: float
) -> AsyncIterator[tuple[Handshakes, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        handshakes = Handshakes(certificates.https_context(), Greeter, lambda: room, timeout_s)
        handshakes.listen([listener])
        try:
            yield handshakes, int(listener.getsockname()[1])
        finally:
            await handshakes.stop()


async def greeting(certificates: tls.Certificates, port: int) -> bytes:
    context = ssl.create_default_context(cafile=str(certificates._files.ca))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def until_ended(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


async def test_silent_clients_keep_nobody_out(certificates: tls.Certificates) -> None:
    """None of them would be given up by its time in this test: the newest connection takes the place of the oldest."""
    async with listening(certificates, room=4, timeout_s=600.0) as (handshakes, port):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        assert await greeting(certificates, port) == b"hello"
        assert handshakes.under_way <= 4
        assert handshakes.given_up >= 9
        for reader, _ in silent[:8]:
            await until_ended(reader)
        for _, writer in silent:
            writer.close()


async def test_a_crowd_of_one_address_makes_room_for_itself_alone(certificates: tls.Certificates) -> None:
    """The oldest of all had to go: beside a crowd nobody had the time that a handshake takes."""
    async with listening(certificates, room=4, timeout_s=600.0) as (handshakes, port):
        context = ssl.create_default_context(cafile=str(certificates._files.ca))
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(outgoing.read())
        incoming.write(await reader.read(16 << 10))
        crowd = [await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0)) for _ in range(12)]
        async with asyncio.timeout(60):
            while handshakes.given_up < 9:
                await asyncio.sleep(0)
        client.do_handshake()
        writer.write(outgoing.read())
        while (sent := await reader.read(16 << 10)) and not incoming.eof:
            incoming.write(sent)
            with contextlib.suppress(ssl.SSLWantReadError):
                assert client.read() == b"hello"
                break
        assert sent, "it was not given up"
        for _, each in (*crowd, (reader, writer)):
            each.close()


def shaken(client: ssl.SSLContext, server: ssl.SSLContext, behind: bytes = b"") -> bytes:
    """A handshake in memory; gives what the server reads behind it, of what the client sends with its last message."""
    incoming, outgoing, to_client, from_client = (ssl.MemoryBIO() for _ in range(4))
    near = client.wrap_bio(to_client, from_client, server_hostname="localhost")
    far = server.wrap_bio(incoming, outgoing, server_side=True)
    for _ in range(2):
        with contextlib.suppress(ssl.SSLWantReadError):
            near.do_handshake()
            near.write(behind)
        incoming.write(from_client.read())
        with contextlib.suppress(ssl.SSLWantReadError):
            far.do_handshake()
        to_client.write(outgoing.read())
    found = b""
    with contextlib.suppress(ssl.SSLWantReadError):
        while len(found) < len(behind):
            found += far.read(64 << 10)
    return found


def test_a_long_chain_of_certificates_is_not_read(certificates: tls.Certificates, tmp_path: Path) -> None:
    """Each took a quarter of a millisecond: forty strangers a second stopped a node, its heartbeats included."""
    (tmp_path / "other").mkdir()
    Authority.make().write_certificate(tmp_path / "other", ["stranger"])
    stranger = ssl.create_default_context(cafile=str(certificates._files.ca))
    long = tmp_path / "long.pem"
    long.write_bytes((tmp_path / "other" / "tls.crt").read_bytes() * 150)
    stranger.load_cert_chain(long, tmp_path / "other" / "tls.key")
    with pytest.raises(ssl.SSLError, match="sends too much before"):
        shaken(stranger, certificates.stream_context())


@pytest.mark.parametrize("size", [0, 100, 200_000])
def test_what_comes_with_the_end_of_a_handshake_is_not_lost(certificates: tls.Certificates, size: int) -> None:
    for server in (certificates.stream_context(), certificates.https_context()):
        behind = bytes(size)
        assert shaken(certificates.dialling_context(), server, behind) == behind


def test_a_certificate_with_the_names_of_very_many_shards_is_taken(tmp_path: Path) -> None:
    authority = Authority.make()
    files = tls.Files(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt")
    write(files.ca, authority.pem)
    names = [f"*.dougdb-shard-{number}-peers.production.svc.cluster.local" for number in range(700)]
    authority.write_certificate(tmp_path, ["localhost", *names])
    certificates = tls.Certificates(files)
    assert shaken(certificates.dialling_context(), certificates.stream_context(), b"hi") == b"hi"


async def test_a_handshake_ends_in_time(certificates: tls.Certificates) -> None:
    async with listening(certificates, room=4, timeout_s=0.2) as (handshakes, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01\x02\x00")
        await until_ended(reader)
        writer.close()
        async with asyncio.timeout(60):
            while handshakes.under_way:
                await asyncio.sleep(0)


async def test_what_is_no_handshake_ends_and_harms_nobody(certificates: tls.Certificates) -> None:
    async with listening(certificates, room=4, timeout_s=600.0) as (_, port):
        for sent in (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\0" * 100, b"\x16\x03\x01\x00\x05hello"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            async with asyncio.timeout(60):
                with contextlib.suppress(ConnectionResetError):
                    while await reader.read(4096):
                        pass
            writer.close()
        assert await greeting(certificates, port) == b"hello"


async def test_a_stop_gives_up_what_has_only_begun(certificates: tls.Certificates) -> None:
    async with listening(certificates, room=4, timeout_s=600.0) as (handshakes, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(60):
            while not handshakes.under_way:
                await asyncio.sleep(0)
    await until_ended(reader)
    writer.close()


async def test_probes_of_a_node_get_through_silent_handshakes(certificates: tls.Certificates) -> None:
    server = AdminServer(
        "127.0.0.1:0", CollectorRegistry(), lambda: "", lambda: True, certificates.https_context(), connections_max=3
    )
    port = server._socket.getsockname()[1]
    running = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(60):
            while not server._server.started:
                await asyncio.sleep(0)
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(9)]
        context = ssl.create_default_context(cafile=str(certificates._files.ca))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _, each in (*silent, (reader, writer)):
            each.close()
    finally:
        server.stop()
        await running
