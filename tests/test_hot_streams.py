"""The two hot streams under TLS between own streams and grpcio: each end by each, served by what serves them in a node.

``protos/tests/stream/test_stream_interop.py`` has what calls may do, and ``tests/integration/test_stream_front.py`` who
serves whom. Here are ``Doug.Pipe`` and ``Raft.Replicate`` themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from tools.certs import Authority, write

from doug.v1 import doug_pb2, doug_pb2_grpc, raft_pb2, raft_pb2_grpc
from doug_stream.client import connect
from doug_stream.errors import CallError
from doug_stream.limits import Limits
from doug_stream.server import Method, Server
from doug_wire import command as commands
from doug_wire import pipe, tls
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.kv.keyspace import StoredValue
from raft_node.observability.metrics import Metrics
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse, Message
from raft_node.raft.types import NodeId
from raft_node.rpc.channels import CHANNEL_OPTIONS, MESSAGE_BYTES_MAX, SERVER_OPTIONS
from raft_node.rpc.doug.replica import Replica
from raft_node.rpc.doug.service import DougService
from raft_node.rpc.hot_streams import PIPE, REPLICATE, HotStream, encode
from raft_node.rpc.raft import codec
from raft_node.rpc.raft.peers import LocalMember, Peers
from raft_node.rpc.raft.service import RaftService
from raft_node.runtime.log.commit_times import NodeTimes
from raft_node.runtime.writes.proposals import Submission

pytestmark = pytest.mark.sockets

LEADER, FOLLOWER = NodeId("a", 1), NodeId("localhost", 2)
SIZES = (0, 100, 70_000, 1_000_000)
"""Of values: below and above a frame of HTTP/2, and above its windows."""


class Driver:
    """Decides every write at once, and confirms every read."""

    machine = SimpleNamespace(created=True, owns=lambda slot, epoch: True)
    applied_index = 7

    def __init__(self) -> None:
        self.times = NodeTimes()
        self.values: dict[bytes, StoredValue] = {}

    def read(self, callback: Callable[[bool], None], *, forward: bool = False) -> None:
        callback(True)

    def submit(self, submissions: Sequence[Submission]) -> None:
        for each in submissions:
            found = commands.decode(each.command)
            self.values[found.key] = StoredValue(len(self.values) + 1, b"", found.value)
            each.sink.resolve(each.record_id, Status.OK, len(self.values))


def replica() -> Any:
    driver = Driver()
    return SimpleNamespace(
        number=0, is_leader=True, takes_requests=True, serves_local_reads=True, driver=driver,
        reader=SimpleNamespace(get=driver.values.get), freshness=SimpleNamespace(proven_s=-inf),
        receipt=lambda proven_s=-inf: doug_pb2.Receipt(node_id="n", term=3),
    )  # fmt: skip


def raft_service() -> RaftService:
    """A follower that agrees to everything."""
    metrics = Metrics(0)
    peers = Peers(LocalMember(FOLLOWER, b"cluster", 0, ""), metrics)

    def agree(message: Message) -> None:
        assert isinstance(message, AppendEntries)
        last = message.prev_log_index + len(message.entries)
        peers.send([AppendEntriesResponse(FOLLOWER, LEADER, message.term, True, last, 0, 0, 0)])

    service = RaftService(FOLLOWER, 0, metrics)
    service.attach(peers, agree)
    return service


class Ends:
    """Both ends of a connection: certificates, and which library each of them has."""

    def __init__(self, folder: Path, client: str, server: str) -> None:
        self.client, self.server = client, server
        authority = Authority.make()
        self.of_server = self._certificates(folder / "server", authority, ["localhost", "127.0.0.1"])
        self.of_client = self._certificates(folder / "client", authority, [LEADER.name])

    @staticmethod
    def _certificates(folder: Path, authority: Authority, names: list[str]) -> tls.Certificates:
        folder.mkdir()
        write(folder / "ca.crt", authority.pem)
        authority.write_certificate(folder, names)
        return tls.Certificates(tls.Files(folder / "tls.crt", folder / "tls.key", folder / "ca.crt"))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        doug, raft = DougService(Metrics(0)), raft_service()
        doug.attach(cast("Replica", replica()))
        if self.server == "grpcio":
            server = grpc.aio.server(options=SERVER_OPTIONS)
            doug_pb2_grpc.add_DougServicer_to_server(doug, server)
            raft_pb2_grpc.add_RaftServicer_to_server(raft, server)
            port = tls.add_port(self.of_server, server, "127.0.0.1:0")
            await server.start()
            yield port
            await server.stop(0)
            return
        methods: dict[str, Method] = {
            PIPE.path: Method(cast("Any", doug.Pipe), PIPE.decode_request, encode),
            REPLICATE.path: Method(cast("Any", raft.Replicate), REPLICATE.decode_request, encode),
        }
        own = Server(methods, Limits(message_bytes_max=MESSAGE_BYTES_MAX))
        context = self.of_server.stream_context()
        listening = await asyncio.get_running_loop().create_server(own.endpoint, "127.0.0.1", 0, ssl=context)
        yield listening.sockets[0].getsockname()[1]
        listening.close()
        await own.stop(0.1)

    @contextlib.asynccontextmanager
    async def call(self, port: int, stream: HotStream) -> AsyncIterator[Any]:
        if self.client == "grpcio":
            async with tls.open_channel(self.of_client, f"localhost:{port}", CHANNEL_OPTIONS) as channel:
                yield channel.stream_stream(stream.path, encode, stream.decode_answer)()
            return
        context, limits = self.of_client.dialling_context(), Limits(message_bytes_max=MESSAGE_BYTES_MAX)
        endpoint = await connect("localhost", port, context, limits=limits, timeout_s=30.0)
        yield endpoint.call(stream.path, encode, stream.decode_answer)
        endpoint.close()
        await endpoint.closed


@pytest.fixture(params=["own to own", "own to grpcio", "grpcio to own", "grpcio to grpcio"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Ends:
    client, server = request.param.split(" to ")
    return Ends(tmp_path, client, server)


def put(number: int, size: int) -> bytes:
    command = commands.encode(Opcode.PUT, b"key-%d" % number, b"", bytes(size))
    return pipe.encode_write(number, commands.checksum(command), command)


async def results(call: Any, wanted: int) -> dict[int, pipe.ResultRecord]:
    found: dict[int, pipe.ResultRecord] = {}
    while len(found) < wanted:
        message = await call.read()
        assert message.receipt.term == 3
        found.update((result.id, result) for result in pipe.decode_results(message.results))
    return found


async def test_pipe(ends: Ends) -> None:
    async with ends.serving() as port, ends.call(port, PIPE) as call:
        for number, size in enumerate(SIZES):
            await call.write(doug_pb2.Batch(kind=doug_pb2.BATCH_KIND_WRITE, records=put(number, size)))
        told = await results(call, len(SIZES))
        assert {each.status for each in told.values()} == {Status.OK} and len(told) == len(SIZES)
        reads = b"".join(pipe.encode_read(number, 0, b"key-%d" % number) for number in range(len(SIZES)))
        await call.write(doug_pb2.Batch(kind=doug_pb2.BATCH_KIND_READ_LINEARIZABLE, records=reads))
        told = await results(call, len(SIZES))
        assert [len(told[number].value) for number in range(len(SIZES))] == list(SIZES)
        await call.write(doug_pb2.Batch(kind=doug_pb2.BATCH_KIND_WRITE, records=b"\xff"))
        assert await ends_with(call) == "INVALID_ARGUMENT"


def append(index: int, size: int, envelope: raft_pb2.Envelope) -> raft_pb2.AppendEntriesRequest:
    made = [entries.encode(index, 1, EntryKind.COMMAND, index, bytes(size))]
    message = AppendEntries(LEADER, FOLLOWER, 1, index - 1, 0, 0, made)
    return codec.encode_append(message, envelope, entries.join(made))


async def test_replicate(ends: Ends) -> None:
    envelope = LocalMember(LEADER, b"cluster", 0, "").envelope(FOLLOWER)
    async with ends.serving() as port, ends.call(port, REPLICATE) as call:
        for index, size in enumerate(SIZES, 1):
            await call.write(append(index, size, envelope))
        told = [await call.read() for _ in SIZES]
        assert [codec.decode_append_response(each, FOLLOWER, LEADER).match_index for each in told] == [1, 2, 3, 4]
        await call.write(append(9, 0, LocalMember(LEADER, b"other", 0, "").envelope(FOLLOWER)))
        assert await ends_with(call) == "INVALID_ARGUMENT"


async def test_a_certificate_of_somebody_else_does_not_replicate(ends: Ends) -> None:
    envelope = LocalMember(NodeId("stranger", 3), b"cluster", 0, "").envelope(FOLLOWER)
    async with ends.serving() as port, ends.call(port, REPLICATE) as call:
        await call.write(append(1, 0, envelope))
        assert await ends_with(call) == "FAILED_PRECONDITION"


async def ends_with(call: Any) -> str:
    """The status with which a call ends, by its name."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except CallError as error:
        return error.status.name
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"
