"""Admin.Backup over a real channel: whole, as new as what was acknowledged, bounded, and let go however it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc.aio
import pytest
import xxhash
from crc32c import crc32c

from doug.v1 import admin_pb2 as pb
from doug.v1 import admin_pb2_grpc
from raft_node.entry import EntryKind
from raft_node.entry import encode as encode_entry
from raft_node.errors import CorruptionError, FatalError
from raft_node.kv.state_machine import StateMachine
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.types import Configuration, NodeId
from raft_node.rpc.admin_service import AdminService
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.raft.peers import LocalMember
from raft_node.rpc.snapshots.backup_stream import BackupStream
from raft_node.runtime.events import EventRing
from raft_node.runtime.reads.rounds import ReadCallback
from raft_node.runtime.snapshots import backups as backups_module
from raft_node.runtime.snapshots.backups import Backups
from raft_node.runtime.snapshots.keeper import Snapshots
from raft_node.settings import NodeSettings
from raft_node.storage.engine import Engine
from raft_node.storage.snapshots.checkpoint import CHECKPOINT, verify_checkpoint
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

A, B, C = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3)
SHARD, CHUNK = 3, 1024
SETTINGS = NodeSettings(
    node_id="a",
    shard_id=SHARD,
    initial_shards=4,
    peers="a=h:1",
    seeds="h:2",
    wal_dir="/wal",
    data_dir="/node",
    snapshot_chunk_bytes=CHUNK,
)

pytestmark = pytest.mark.seconds


class FakeDriver:
    """Confirms reads as the test says; ``pending`` is what a follower learns to be committed when it asks."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: list[bool] = []
        self.silent = False
        self.restoring = False
        self.pending = 0
        self.asked: list[bool] = []

    @property
    def applied_index(self) -> int:
        return self.engine.applied_index

    def read(self, callback: ReadCallback, *, forward: bool = False) -> None:
        self.asked.append(forward)
        if self.silent:
            return
        confirmed = self.answers.pop(0) if self.answers else True
        if confirmed and self.pending:
            put(self.engine, self.pending)
        asyncio.get_running_loop().call_soon(callback, confirmed)


def put(engine: Engine, index: int) -> None:
    for number in range(engine.applied_index + 1, index + 1):
        engine.write([(b"\x01key%d" % number, b"%d" % (number * 7919**20))], number, 4)


class Rig:
    """A node's end with a disk in memory, and a socket."""

    def __init__(self) -> None:
        self.fs = MemoryFileSystem()
        self.engine = Engine.open(self.fs, "/node", TINY_OPTIONS, "s1")
        machine = StateMachine.open(self.engine)
        machine.apply(
            [encode_entry(1, 1, EntryKind.CONFIGURATION, 10, encode_configuration(Configuration((A, B), (C,))))]
        )
        put(self.engine, 40)
        self.driver = FakeDriver(self.engine)
        self.threads = ThreadPoolExecutor(2)
        self.snapshots = Snapshots(self.fs, self.engine, "/node/tmp", self.threads, lambda: 0.0)
        self.events: list[tuple[str, dict[str, object]]] = []
        self.failures: list[FatalError] = []
        self.flushes = True
        stream = BackupStream(
            Backups(self.driver, self.flush, self.snapshots),
            LocalMember(A, b"cluster", SHARD, ""),
            SETTINGS,
            self.fs,
            self.threads,
            lambda name, **details: self.events.append((name, details)),
            self.failures.append,
        )
        self.operated: Any = type("Operated", (), {"backup": staticmethod(stream.send)})()
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        admin_pb2_grpc.add_AdminServicer_to_server(
            AdminService("a", SHARD, self.operated, EventRing(10, 10_000)), self.server
        )
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self.channel = grpc.aio.insecure_channel(self.address)
        self.admin: Any = admin_pb2_grpc.AdminStub(self.channel)

    async def flush(self, timeout_s: float) -> bool:
        if self.flushes:
            self.engine.rotate()
            settle(self.engine, self.fs, "/node")
        return self.flushes

    async def receive(self) -> tuple[pb.BackupHeader, dict[str, bytes]]:
        call = self.admin.Backup(pb.BackupRequest())
        first = await call.read()
        header = first.header
        files = {file.name: b"" for file in header.files}
        names = list(files)
        while (message := await call.read()) is not grpc.aio.EOF:
            chunk = message.chunk
            name = names[chunk.file]
            assert 0 < len(chunk.data) <= CHUNK and crc32c(chunk.data) == chunk.crc32c
            assert len(files[name]) == chunk.offset, "in order and without a gap"
            files[name] += chunk.data
        return header, files

    @property
    def users(self) -> int:
        return sum(held.users for held in self.snapshots._held)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    await made.server.start()
    yield made
    await made.channel.close()
    await made.server.stop(0)
    made.threads.shutdown()


async def test_the_whole_state_arrives_with_what_the_manifest_needs(rig: Rig) -> None:
    header, files = await rig.receive()
    assert (header.node_id, header.shard, header.cluster_id, header.initial_shards) == ("a", SHARD, b"cluster", 4)
    assert (header.index, header.term, header.log_time_us) == (40, 4, 10)
    assert (list(header.voters), list(header.learners)) == (["a", "b"], ["c"])
    assert header.files[0].name == CHECKPOINT and len(files) > 2
    for file in header.files:
        assert (len(files[file.name]), xxhash.xxh3_64_intdigest(files[file.name])) == (file.size_bytes, file.xxh3)
    there = MemoryFileSystem()
    there.make_directory("/backup")
    for name, content in files.items():
        written = there.create(f"/backup/{name}")
        written.write_at(0, [content])
        written.close()
    assert verify_checkpoint(there, "/backup").applied_index == 40
    assert [name for name, _ in rig.events] == ["backup_sending", "backup_sent"] and rig.users == 0


async def test_a_follower_goes_as_far_as_its_leader_says(rig: Rig) -> None:
    await rig.receive()
    rig.driver.pending = 55
    header, _ = await rig.receive()
    assert header.index == 55, "an older snapshot that is still held does not do"
    assert all(rig.driver.asked), "followers ask too"


async def test_an_election_in_between_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups_module, "CONFIRM_RETRY_S", 0.001)
    rig.driver.answers = [False, False, True]
    header, _ = await rig.receive()
    assert header.index == 40 and len(rig.driver.asked) == 3


@pytest.mark.parametrize("trouble", ["silent", "refused", "restoring", "flush"])
async def test_what_cannot_be_made_now_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    monkeypatch.setattr(backups_module, "CONFIRM_TIMEOUT_S", 0.05)
    monkeypatch.setattr(backups_module, "CONFIRM_RETRY_S", 0.01)
    rig.driver.silent = trouble == "silent"
    rig.driver.restoring = trouble == "restoring"
    rig.flushes = trouble != "flush"
    if trouble == "refused":
        rig.driver.answers = [False] * 100
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.receive()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(refused.value.trailing_metadata() or ())["doug-code"] == "UNAVAILABLE"
    assert rig.users == 0 and not rig.failures


async def test_a_receiver_that_goes_away_lets_the_files_go(rig: Rig) -> None:
    put(rig.engine, 4000)
    call = rig.admin.Backup(pb.BackupRequest())
    await call.read()
    await call.read()
    assert rig.users == 1
    call.cancel()
    async with asyncio.timeout(60):
        while rig.users:
            await asyncio.sleep(0.01)
    await rig.snapshots.tidy(linger_s=0)
    assert not any("snapshot-" in path for path in rig.fs.files())


@pytest.mark.pure
async def test_a_damaged_table_stops_the_node_and_not_only_the_backup(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: str) -> Any:
        raise CorruptionError(path, 0, "it is rotten")

    monkeypatch.setattr(rig.engine, "checkpoint", broken)
    with pytest.raises(grpc.aio.AioRpcError, match="this node stops"):
        await rig.receive()
    assert [str(failure) for failure in rig.failures] and rig.users == 0


async def test_a_receiver_that_takes_nothing_is_given_up_in_good_order(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that nobody takes stays on its way: ending the call must not trip over it."""
    monkeypatch.setitem(globals(), "SETTINGS", SETTINGS.model_copy(update={"snapshot_timeout_ms": 300}))
    rig = Rig()
    await rig.server.start()
    large = random.Random(1).randbytes(100_000)
    for number in range(41, 61):
        rig.engine.write([(b"\x01large%d" % number, large)], number, 4)
    async with grpc.aio.insecure_channel(rig.address, options=[("grpc.http2.bdp_probe", 0)]) as channel:
        stub: Any = admin_pb2_grpc.AdminStub(channel)
        call = stub.Backup(pb.BackupRequest())
        await call.read()
        async with asyncio.timeout(60):
            while not any(name == "backup_failed" for name, _ in rig.events):
                await asyncio.sleep(0.02)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            while await call.read() is not grpc.aio.EOF:
                pass
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert rig.users == 0
    await rig.channel.close()
    await rig.server.stop(0)
    rig.threads.shutdown()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_call_that_is_cancelled_while_a_message_is_written_ends_quietly(rig: Rig) -> None:
    """gRPC's core then refuses both the message and the status, by an exception that only looks like a defect."""

    class Cancelled:
        async def write(self, message: object) -> None:
            raise grpc.aio.InternalError("Failed to start a batch")

        async def abort(self, *arguments: object) -> None:
            raise grpc.aio.InternalError("Failed to start a batch")

    gone: Any = Cancelled()
    await AdminService("a", SHARD, rig.operated, EventRing(10, 10_000)).Backup(pb.BackupRequest(), gone)
    assert [name for name, _ in rig.events][-1] == "backup_failed" and rig.users == 0
