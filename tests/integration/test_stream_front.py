"""One port for both servers: who gets which connection, in plaintext and under TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import uvloop
from tools.certs import Authority, write

from doug_stream.accepting import Pace
from doug_stream.client import connect, offer_alpn
from doug_stream.connection import Connection
from doug_stream.errors import CallError
from doug_stream.front import Front, is_own_hello, is_own_plaintext
from doug_stream.limits import Limits
from doug_stream.server import Method, Server
from doug_wire import tls
from doug_wire.auth.certificates import Certificate, shown_to_grpc
from doug_wire.networks import network_of
from raft_testing.calls import counted

pytestmark = [pytest.mark.integration, pytest.mark.light]

PATH = "/test.Test/Talk"


def same(message: bytes) -> bytes:
    return message


def talk(who: bytes) -> Any:
    """Says who serves, whom the certificate is for, and what was sent."""

    async def behaviour(_: object, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            names = context.auth_context().get("x509_subject_alternative_name", [])
            await context.write(b" ".join([who, *names, message]))

    return behaviour


def certificates(folder: Path, authority: Authority, names: list[str]) -> tls.Certificates:
    """A certificate of an authority, as a node or facade has it."""
    folder.mkdir()
    write(folder / "ca.crt", authority.pem)
    authority.write_certificate(folder, names)
    return tls.Certificates(tls.Files(folder / "tls.crt", folder / "tls.key", folder / "ca.crt"))


@contextlib.asynccontextmanager
async def serving(certificates: tls.Certificates | None, **options: Any) -> AsyncIterator[tuple[Front, Server]]:
    grpcio = grpc.aio.server()
    handler: Any = grpc.stream_stream_rpc_method_handler(talk(b"grpcio"))
    grpcio.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Test", {"Talk": handler})])
    port = tls.add_port(certificates, grpcio, "127.0.0.1:0")
    await grpcio.start()
    own = Server({PATH: Method(talk(b"own"), same, same)})
    front = Front(own, ("127.0.0.1", port), None if certificates is None else certificates.stream_context, **options)
    await front.listen("127.0.0.1", 0)
    try:
        yield front, own
    finally:
        await front.stop()
        await own.stop(0.1)
        await grpcio.stop(0)
        front.cut_off()


async def ask_own(front: Front, context: ssl.SSLContext | None = None) -> Any:
    endpoint = await connect("127.0.0.1", front.port, context, timeout_s=30.0)
    try:
        call = endpoint.call(PATH, same, same)
        await call.write(b"hi")
        return await call.read()
    finally:
        endpoint.close()
        await endpoint.closed


async def ask_grpcio(front: Front, certificates: tls.Certificates | None = None) -> Any:
    async with tls.open_channel(certificates, f"127.0.0.1:{front.port}", ()) as channel:
        call: Any = channel.stream_stream(PATH)()
        await call.write(b"hi")
        answer = await call.read()
        await call.write(b"x" * 2_000_000)
        assert len(await call.read()) > 2_000_000
        return answer


async def test_each_client_finds_its_server() -> None:
    async with serving(None) as (front, own):
        assert await ask_own(front) == b"own hi"
        assert await ask_grpcio(front) == b"grpcio hi"
        async with asyncio.timeout(60):
            while front.connections or own.endpoints:
                await asyncio.sleep(0.01)


async def test_what_grpc_tells_of_a_certificate_is_what_names_its_owner(tmp_path: Path) -> None:
    """grpcio's own server is where clients come that nodes judge by their certificates."""
    authority = Authority.make()
    shown: list[Certificate] = []

    async def tell(_: object, context: Any) -> None:
        shown.append(shown_to_grpc(context.auth_context()))
        await context.write(b"")

    grpcio = grpc.aio.server()
    handler: Any = grpc.stream_stream_rpc_method_handler(tell)
    grpcio.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Test", {"Talk": handler})])
    port = tls.add_port(certificates(tmp_path / "server", authority, ["localhost"]), grpcio, "127.0.0.1:0")
    await grpcio.start()
    ann = certificates(tmp_path / "ann", authority, ["ann"])
    async with tls.open_channel(ann, f"localhost:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        call: Any = channel.stream_stream(PATH)()
        await call.read()
    await grpcio.stop(0)
    assert shown == [Certificate("ann", ann.expires_s())]


async def test_where_a_client_is_stays_known_behind_the_front() -> None:
    """Members are told apart by where they are, too: the address in between must not stand for theirs."""
    seen: list[str] = []

    async def tell(_: object, context: Any) -> None:
        await context.read()
        seen.append(context.peer())
        await context.write(b"")

    grpcio = grpc.aio.server()
    handler: Any = grpc.stream_stream_rpc_method_handler(tell)
    grpcio.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Test", {"Talk": handler})])
    port = grpcio.add_insecure_port("127.0.0.1:0")
    await grpcio.start()
    server = Server({PATH: Method(tell, same, same)})
    front = Front(server, ("127.0.0.1", port), None)
    await front.listen("127.0.0.1", 0)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{front.port}", [("grpc.use_local_subchannel_pool", 1)])
    call: Any = channel.stream_stream(PATH)()
    await call.write(b"x")
    assert await call.read() == b""
    real = front.caller(seen[0])
    assert real.startswith("ipv4:127.0.0.1:") and real != seen[0]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as inside:
        call = inside.stream_stream(PATH)()
        await call.write(b"x")
        await call.read()
        assert front.caller(seen[1]) == "unknown", "whoever comes in by the inner port is nobody"
    await channel.close()
    async with asyncio.timeout(60):
        while front.connections:
            await asyncio.sleep(0.01)
    assert front.caller(seen[0]) == "unknown"
    endpoint = await connect("127.0.0.1", front.port)
    own = endpoint.call(PATH, same, same)
    await own.write(b"x")
    await own.read()
    host, its_port = endpoint.about("sockname")
    assert seen[2] == f"ipv4:{host}:{its_port}"
    endpoint.close()
    await front.stop()
    await server.stop(0.1)
    await grpcio.stop(0)


async def test_what_says_nothing_sensible_is_grpcios() -> None:
    async with serving(None) as (front, own):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.read()
        assert not own.endpoints
        writer.close()


async def test_what_comes_in_pieces_is_waited_for() -> None:
    async with serving(None) as (front, own):
        client = Connection(client=True, limits=Limits(), mark=True)
        client.request(PATH, "x", "http")
        data = client.data_to_send()
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        for at in range(0, 70):
            writer.write(data[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)
        assert not own.endpoints
        writer.write(data[70:])
        while not client.ready:
            client.receive(await reader.read(1000), 0.0)
        assert len(own.endpoints) == 1
        writer.close()


async def test_connections_are_bounded() -> None:
    async with serving(None, connections_max=1) as (front, _):
        endpoint = await connect("127.0.0.1", front.port)
        with pytest.raises(CallError):
            await connect("127.0.0.1", front.port)
        endpoint.close()


async def test_one_address_leaves_places_to_others() -> None:
    async with serving(None, connections_max=4) as (front, _):
        own = await connect("127.0.0.1", front.port)
        silent = [await asyncio.open_connection("127.0.0.1", front.port)]
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        # Not for the own server: it is carried on to the other one.
        writer.write(b"GET / HTTP/1.1\r\n")
        async with asyncio.timeout(60):
            while not (front.connections == 3 and front._pipes):
                await asyncio.sleep(0)
        assert front._begin("127.0.0.1") is None
        other = front._begin("10.0.0.1")
        assert other is not None
        other()
        refused, fourth = await asyncio.open_connection("127.0.0.1", front.port)
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):
                assert await refused.read() == b""
        for each in (silent[0][1], writer, fourth):
            each.close()
        own.close()
        async with asyncio.timeout(60):
            while front.connections:
                await asyncio.sleep(0)
        assert not front._of_network, "who has gone is not counted"


async def test_addresses_of_one_ipv6_network_are_one_in_this() -> None:
    """Whoever has one address of IPv6 has 2^64 of them, and could take all places otherwise."""
    front = Front(Server({PATH: Method(talk(b"own"), same, same)}), ("127.0.0.1", 1), None, 4)
    for number in range(3):
        assert front._begin(network_of(f"2001:db8::{number}")) is not None
    assert front._begin(network_of("2001:db8::99")) is None
    assert front._begin(network_of("2001:db8:0:1::99")) is not None


async def test_a_crowd_is_taken_without_a_look_at_those_who_are_there() -> None:
    """A whole crowd is taken in one turn of the loop; to count all connections for each of them took seconds of it."""
    front = Front(Server({}), ("127.0.0.1", 1), None, 4096)
    for number in range(4000):
        assert front._begin(f"10.0.{number >> 8}.{number & 255}") is not None
    client, other = socket.socketpair()
    with client, other, counted("doug_stream", "doug_wire") as calls:
        front._take(client, "192.0.2.1")
    await front.stop()
    assert calls.total() < 20, calls


def old_client(authority: Authority, folder: Path, *, alpn: bool) -> ssl.SSLContext:
    """A client that knows no newer TLS than 1.1, in spite of the limits of OpenSSL itself."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    if alpn:
        offer_alpn(context)
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
async def test_old_versions_of_tls_are_refused_by_every_server(tmp_path: Path) -> None:
    """The own one, grpcio's, and that of HTTP; another one shows that the client would speak with them."""
    authority = Authority.make()
    held = certificates(tmp_path / "server", authority, ["localhost"])

    async def speaks(port: int, *, alpn: bool) -> bool:
        client = old_client(authority, tmp_path / "server", alpn=alpn)
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
        except (ssl.SSLError, ConnectionError):
            return False
        writer.close()
        return True

    async def alone(context: ssl.SSLContext) -> bool:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        async with server:
            return await speaks(server.sockets[0].getsockname()[1], alpn=False)

    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.load_cert_chain(tmp_path / "server" / "tls.crt", tmp_path / "server" / "tls.key")
    assert await alone(old)
    for permissive in (held.https_context(), held.stream_context()):
        permissive.set_ciphers("DEFAULT@SECLEVEL=0")
        assert not await alone(permissive), "not because of the ciphers alone"
    async with serving(held) as (front, _):
        assert [await speaks(front.port, alpn=alpn) for alpn in (True, False)] == [False, False]


async def test_a_taken_port_is_said() -> None:
    async with serving(None) as (front, own):
        second = Front(own, ("127.0.0.1", 1), None)
        with pytest.raises(OSError, match="in use"):
            await second.listen("127.0.0.1", front.port)


async def test_a_wildcard_listens_on_both_families() -> None:
    own = Server({PATH: Method(talk(b"own"), same, same)})
    front = Front(own, ("127.0.0.1", 1), None)
    await front.listen("0.0.0.0", 0)
    assert await ask_own(front) == b"own hi"
    await front.stop()
    await own.stop(0.1)


def hello(alpn: list[str] | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if alpn is None:
        offer_alpn(context)
    elif alpn:
        context.set_alpn_protocols(alpn)
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def test_hellos_are_told_apart() -> None:
    assert is_own_hello(hello(None)) is True
    assert is_own_hello(hello(["h2"])) is False
    assert is_own_hello(hello([])) is False


def test_nothing_is_decided_too_early() -> None:
    whole = hello(None)
    for end in range(1, len(whole)):
        needed = is_own_hello(whole[:end])
        assert needed is not False and needed is not True and end < needed <= len(whole)
    client = Connection(client=True, limits=Limits(), mark=True).data_to_send()
    plain = Connection(client=True, limits=Limits(), mark=False).data_to_send()
    for end in range(1, 60):
        needed = is_own_plaintext(client[:end])
        assert not isinstance(needed, bool) and end < needed
    assert is_own_plaintext(client) is True and is_own_plaintext(plain) is False
    assert is_own_plaintext(b"GET /") is False


def test_no_hello_breaks_the_reader() -> None:
    whole = hello(None)
    for at in range(len(whole)):
        for value in (0, 255):
            is_own_hello(whole[:at] + bytes([value]) + whole[at + 1 :])


async def test_under_tls_both_ends_prove_who_they_are(tmp_path: Path) -> None:
    authority = Authority.make()
    node = certificates(tmp_path / "node", authority, ["127.0.0.1", "s0-0.peers"])
    facade = certificates(tmp_path / "facade", authority, ["facade.ns"])
    stranger = certificates(tmp_path / "stranger", Authority.make(), ["127.0.0.1"])
    nameless = certificates(tmp_path / "nameless", authority, ["other.name"])
    without = ssl.create_default_context(cadata=authority.pem.decode())
    offer_alpn(without)
    async with serving(node) as (front, own):
        assert await ask_own(front, facade.dialling_context()) == b"own facade.ns hi"
        assert await ask_grpcio(front, facade) == b"grpcio facade.ns hi"
        for context in (stranger.dialling_context(), without, None):
            with pytest.raises(CallError):
                await ask_own(front, context)
        with pytest.raises(grpc.aio.AioRpcError):
            await ask_grpcio(front, stranger)
        async with asyncio.timeout(60):
            while own.tasks:
                await asyncio.sleep(0.01)
    async with serving(nameless) as (front, _):
        # The server is of the right authority and is not the one that was dialled.
        with pytest.raises(CallError, match=r"other|match"):
            await ask_own(front, facade.dialling_context())


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_connections_under_tls_count_as_long_as_they_last(factory: Callable[[], Any], tmp_path: Path) -> None:
    errors: list[dict[str, Any]] = []

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        ours = certificates(tmp_path / "node", Authority.make(), ["localhost", "127.0.0.1"])
        async with serving(ours) as (front, _):
            for _ in range(3):
                endpoint = await connect("127.0.0.1", front.port, ours.dialling_context(), timeout_s=30.0)
                call = endpoint.call(PATH, same, same)
                await call.write(b"hi")
                assert (await call.read()).endswith(b"hi")
                assert front.connections == 1
                endpoint.close()
                async with asyncio.timeout(60):
                    while front.connections:
                        await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(ask())
    assert not errors


async def test_a_handshake_waits_for_its_turn_and_nothing_else_does(tmp_path: Path) -> None:
    waited = list[str]()

    class Turns:
        async def turn(self, network: str) -> None:
            waited.append(network)

        def over(self, network: str, *, failed: bool) -> None:
            assert (network, failed) == (waited[-1], False)

    authority = Authority.make()
    node = certificates(tmp_path / "node", authority, ["127.0.0.1"])
    facade = certificates(tmp_path / "facade", authority, ["facade.ns"])
    for secure, count in ((node, 1), (None, 0)):
        async with serving(secure) as (front, _):
            front._pace = cast("Pace", Turns())
            await ask_own(front, None if secure is None else facade.dialling_context())
            await ask_grpcio(front, None if secure is None else facade)
        assert waited == count * ["127.0.0.1"]
        waited.clear()


async def test_new_certificates_count_for_new_connections(tmp_path: Path) -> None:
    authority = Authority.make()
    node = certificates(tmp_path / "node", authority, ["127.0.0.1"])
    facade = certificates(tmp_path / "facade", authority, ["old.name"])
    async with serving(node) as (front, _):
        assert await ask_own(front, facade.dialling_context()) == b"own old.name hi"
        authority.write_certificate(tmp_path / "facade", ["new.name"])
        assert facade.refresh()
        assert await ask_own(front, facade.dialling_context()) == b"own new.name hi"


async def test_who_sends_a_byte_and_its_end_is_looked_at_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket of such a client is always readable: 1,000 of them took a fifth of a processor."""
    pauses: list[float] = []
    pass_by = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 9:
            raise TimeoutError  # As if its ten seconds were over.
        await pass_by(0)

    async with serving(None) as (front, _):
        monkeypatch.setattr(asyncio, "sleep", sleep)
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"P")
        writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        monkeypatch.undo()
        writer.close()
    assert pauses == [0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0, 1.0, 1.0]
