"""Mutual TLS between real gRPC ends, HTTPS, and certificates that change while connections are open."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from tools.certs import Authority, write

from doug_wire import tls
from facade.client.channels import Channels
from facade.client.link import Link
from facade.client.node import Node
from facade.discovery.targets import Target
from raft_node.app.admin import AdminServer
from raft_node.rpc.channels import SERVER_OPTIONS, Dialled, open_channel

pytestmark = [pytest.mark.integration, pytest.mark.light, pytest.mark.seconds]

LOCAL = ["127.0.0.1", "localhost", "::1"]
POD = "s0-0.s0-peers.ns.svc"


class Place:
    """A folder with an authority and a certificate, as a node or facade finds them."""

    def __init__(self, folder: Path, authority: Authority, names: list[str]) -> None:
        folder.mkdir()
        self.folder = folder
        self.files = tls.Files(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
        write(self.files.ca, authority.pem)
        authority.write_certificate(folder, names)
        self.certificates = tls.Certificates(self.files)


@pytest.fixture
def authority() -> Authority:
    return Authority.make()


@pytest.fixture
def place(tmp_path: Path, authority: Authority) -> Place:
    return Place(tmp_path / "node", authority, [*LOCAL, POD])


class Server:
    """A gRPC server with the health service."""

    def __init__(self, certificates: tls.Certificates | None) -> None:
        self.servicer = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(self.servicer, self._server)
        self.address = f"127.0.0.1:{tls.add_port(certificates, self._server, '127.0.0.1:0')}"

    async def __aenter__(self) -> Server:
        await self.servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._server.stop(None)


@pytest.fixture
async def server(place: Place) -> AsyncIterator[Server]:
    async with Server(place.certificates) as server:
        yield server


async def ask(channel: grpc.aio.Channel) -> str:
    """What becomes of a call over a channel: ``served``, or why not."""
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE, error
        return error.details() or "refused"
    return "served"


async def dial(certificates: tls.Certificates | None, address: str, name: str = "") -> str:
    async with Channels(certificates).open(Target(address, name)) as channel:
        return await ask(channel)


def without_client_certificate(place: Place, address: str) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(place.files.ca.read_bytes())
    return grpc.aio.secure_channel(address, credentials, options=[("grpc.enable_http_proxy", 0)])


async def presented(address: str, place: Place) -> bytes:
    """The certificate that a port shows to a new connection."""
    context = ssl.create_default_context(cafile=str(place.files.ca))
    context.load_cert_chain(place.files.certificate, place.files.key)
    host, port = address.split(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    connection = writer.get_extra_info("ssl_object")
    found: bytes = connection.getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    return found


def der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


async def test_both_ends_prove_who_they_are(place: Place, server: Server, tmp_path: Path, authority: Authority) -> None:
    facade = Place(tmp_path / "facade", authority, ["facade.ns.svc"])
    assert await dial(facade.certificates, server.address) == "served"
    async with open_channel(server.address, facade.certificates) as channel:
        assert await ask(channel) == "served", "raft-nodes dial in the same way"
    assert await dial(facade.certificates, f"localhost:{server.address.split(':')[1]}") == "served"


async def test_a_stranger_of_another_authority_is_refused_by_either_end(
    place: Place, server: Server, tmp_path: Path
) -> None:
    stranger = Place(tmp_path / "stranger", Authority.make(), LOCAL)
    assert "CERTIFICATE_VERIFY_FAILED" in await dial(stranger.certificates, server.address)
    # The client would believe the server, but shows a certificate of its own authority.
    write(stranger.files.ca, place.files.ca.read_bytes())
    stranger.certificates.refresh()
    assert await dial(stranger.certificates, server.address) != "served"


async def test_clients_over_https_have_an_authority_of_their_own(
    place: Place, tmp_path: Path, authority: Authority
) -> None:
    people = Authority.make()
    files = place.files._replace(client_ca=tmp_path / "people.crt")
    both = people.pem + authority.pem
    for of_clients, of_nodes in ((authority.pem, authority.pem), (both, authority.pem), (authority.pem, both)):
        write(tmp_path / "people.crt", of_clients)
        write(place.files.ca, of_nodes)
        with pytest.raises(tls.TlsError, match="clients need another one"):
            tls.Certificates(files)
    write(place.files.ca, authority.pem)
    write(tmp_path / "people.crt", people.pem)
    context = tls.Certificates(files).client_context()
    shown: list[Any] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.append(writer.get_extra_info("ssl_object").getpeercert())
        writer.write(b"served")
        writer.close()

    async def visit(name: str, signer: Authority | None) -> bytes:
        own = ssl.create_default_context(cafile=str(place.files.ca))
        if signer is not None:
            (tmp_path / name).mkdir()
            signer.write_certificate(tmp_path / name, [name])
            own.load_cert_chain(tmp_path / name / "tls.crt", tmp_path / name / "tls.key")
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=own)
            found = await reader.read()
        except OSError:
            return b"refused"
        writer.close()
        return found

    port = 0
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as listening:
        port = listening.sockets[0].getsockname()[1]
        assert await visit("app.example", people) == b"served"
        assert await visit("nobody", None) == b"served"
        assert await visit("s0-1.node", authority) != b"served", "a node's certificate makes no client"
    assert ("DNS", "app.example") in shown[0]["subjectAltName"] and not shown[1] and len(shown) == 2


async def test_no_client_certificate_and_no_tls_at_all_are_refused(place: Place, server: Server) -> None:
    async with without_client_certificate(place, server.address) as channel:
        assert await ask(channel) != "served"
    assert await dial(None, server.address) != "served"
    async with Server(None) as plain:
        assert await dial(place.certificates, plain.address) != "served", "nor does a client with TLS fall back"


async def test_the_certificate_must_carry_the_name_that_is_dialled(
    place: Place, server: Server, tmp_path: Path, authority: Authority
) -> None:
    assert await dial(place.certificates, server.address, POD) == "served", (
        "an address from Kubernetes, and the pod's name"
    )
    assert "Hostname Verification Check failed" in await dial(
        place.certificates, server.address, "s0-1.s0-peers.ns.svc"
    )
    elsewhere = Place(tmp_path / "elsewhere", authority, ["s0-1.s0-peers.ns.svc"])
    async with Server(elsewhere.certificates) as other:
        assert "Hostname Verification Check failed" in await dial(place.certificates, other.address)
    wildcard = Place(tmp_path / "wildcard", authority, ["*.s0-peers.ns.svc"])
    async with Server(wildcard.certificates) as pod:
        assert await dial(place.certificates, pod.address, POD) == "served"
        assert await dial(place.certificates, pod.address, "s0-0.s1-peers.ns.svc") != "served"


async def test_new_certificates_count_for_new_connections_and_open_ones_stay(
    place: Place, server: Server, authority: Authority
) -> None:
    channel = open_channel(server.address, place.certificates)
    stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    assert (await stream.read()).status == health_pb2.HealthCheckResponse.SERVING
    old = der(place.files.certificate)
    assert await presented(server.address, place) == old
    authority.write_certificate(place.folder, [*LOCAL, POD])
    assert place.certificates.refresh()
    assert place.certificates.version == 2
    new = der(place.files.certificate)
    assert new != old
    assert await presented(server.address, place) == new
    await server.servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert (await stream.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING, "the stream has stayed open"
    await channel.close()


async def test_the_authority_itself_can_be_replaced_step_by_step(
    place: Place, server: Server, tmp_path: Path, authority: Authority
) -> None:
    successor = Authority.make()
    peer = Place(tmp_path / "peer", successor, LOCAL)
    write(peer.files.ca, authority.pem + successor.pem)
    peer.certificates.refresh()
    assert await dial(peer.certificates, server.address) != "served"
    write(place.files.ca, authority.pem + successor.pem)
    assert place.certificates.refresh()
    assert await dial(peer.certificates, server.address) == "served"


async def test_a_channel_takes_newer_certificates_when_it_is_renewed(tmp_path: Path, authority: Authority) -> None:
    place = Place(tmp_path / "old", Authority.make(), LOCAL)
    async with Server(Place(tmp_path / "new", authority, LOCAL).certificates) as server:
        dialled = Dialled(server.address, place.certificates)
        assert await ask(dialled.channel) != "served"
        write(place.files.ca, authority.pem)
        authority.write_certificate(place.folder, LOCAL)
        dialled.renew(1.0)
        assert await ask(dialled.channel) != "served", "nobody has looked at the files yet"
        assert place.certificates.refresh()
        dialled.renew(1.0)
        assert await ask(dialled.channel) == "served"
        before = dialled.channel
        dialled.renew(1.0)
        assert dialled.channel is before
        await dialled.close()


BROKEN: dict[str, Callable[[Place], object]] = {
    "another key": lambda place: write(place.files.key, Authority.make().issue(LOCAL)[1]),
    "half a certificate": lambda place: write(place.files.certificate, place.files.certificate.read_bytes()[:300]),
    "no authority": lambda place: write(place.files.ca, b"nothing\n"),
    "bytes": lambda place: write(place.files.ca, b"\xff\xfe"),
    "no file": lambda place: place.files.key.unlink(),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_files_that_cannot_be_used_leave_the_old_ones_in_use(place: Place, server: Server, fault: str) -> None:
    old = der(place.files.certificate)
    copy = [(path, path.read_bytes()) for path in place.files if path is not None]
    BROKEN[fault](place)
    told: list[tuple[str, Any]] = []
    watching = asyncio.create_task(
        place.certificates.watch(
            0.01, lambda event, **f: told.append((event, f)), lambda event, **f: told.append((event, f))
        )
    )
    async with asyncio.timeout(60):
        while not told:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert [event for event, _ in told] == ["tls.not_reloaded"], "told once"
    assert str(place.folder) in told[0][1]["reason"]
    with pytest.raises(tls.TlsError):
        tls.Certificates(place.files)
    assert await dial(place.certificates, server.address) == "served"
    for path, data in copy:
        write(path, data)
    assert await presented(server.address, place) == old
    assert place.certificates.version == 1
    Authority.make().write_certificate(place.folder, LOCAL)
    async with asyncio.timeout(60):
        while len(told) < 2:
            await asyncio.sleep(0.01)
    assert told[1][0] == "tls.reloaded"
    watching.cancel()


async def test_the_end_of_a_certificate_is_read_from_it(place: Place, authority: Authority) -> None:
    assert abs(place.certificates.expires_s() - (time.time() + 90 * 86_400)) < 60
    authority.write_certificate(place.folder, LOCAL, days=40_000)  # Beyond 2049 the date has another form.
    place.certificates.refresh()
    assert abs(place.certificates.expires_s() - (time.time() + 40_000 * 86_400)) < 60


async def test_the_port_for_probes_and_metrics_speaks_https(place: Place, authority: Authority) -> None:
    context = place.certificates.https_context()
    admin = AdminServer("127.0.0.1:0", CollectorRegistry(), lambda: "", lambda: True, context)
    address = f"127.0.0.1:{admin._socket.getsockname()[1]}"
    task = asyncio.create_task(admin.run())
    context = ssl.create_default_context(cafile=str(place.files.ca))
    host, port = address.split(":")
    async with asyncio.timeout(60):
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
        request = b"GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n"
        writer.write(request)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200"), "without a client certificate"
        authority.write_certificate(place.folder, LOCAL)
        place.certificates.refresh()
        assert await presented(address, place) == der(place.files.certificate), "no name is sent for an address"
        await reader.readuntil(b"ok\n")
        writer.write(request)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200"), "the connection has stayed open"
        writer.close()
        admin.stop()
        await task


LOOPBACK = ["127.0.0.1", "127.8.0.1", "::1", "localhost", "s0.localhost"]
BEYOND = ["0.0.0.0", "::", "10.0.0.1", "db.example", "localhost.example", ""]


@pytest.mark.parametrize("host", BEYOND)
def test_plaintext_leaves_the_machine_only_where_it_was_asked_for(host: str) -> None:
    with pytest.raises(tls.PlaintextError, match="DOUGDB_TLS_MODE"):
        tls.check_plaintext("", [*LOOPBACK, host])
    assert tls.check_plaintext("disabled", [*LOOPBACK, host]) == [host]
    assert tls.check_plaintext("mutual", [host]) == []
    assert tls.check_plaintext("", LOOPBACK) == tls.check_plaintext("disabled", LOOPBACK) == []


@pytest.mark.parametrize("trouble", ["certificate_expired", "certificate_refused"])
async def test_a_facade_knows_that_a_node_cannot_be_reached_for_its_certificate(
    authority: Authority, place: Place, trouble: str
) -> None:
    """By the words of gRPC, which are no promise of it: a version that says it otherwise is found here."""
    issuer, days = (authority, -0.001) if trouble == "certificate_expired" else (Authority.make(), 1.0)
    certificate, key = issuer.issue(LOCAL, days=days)
    server = grpc.aio.server()
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)], authority.pem, require_client_auth=True)
    )
    await server.start()
    node = Node("n", Target(f"127.0.0.1:{port}"), Link(1, 1), Channels(place.certificates))
    assert await node.status(30.0) is None
    assert node.trouble == trouble
    await node.close()
    await server.stop(None)
