"""Snapshots over a real channel: whole, cut and resumed, damaged, refused, superseded; and peers out of reach."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest

from doug.v1 import raft_pb2 as pb
from doug.v1 import raft_pb2_grpc
from raft_node.entry import EntryKind
from raft_node.entry import encode as encode_entry
from raft_node.errors import CorruptionError, DiskError
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.types import Configuration, NodeId, Role
from raft_node.rpc.channels import SERVER_OPTIONS, open_channel
from raft_node.rpc.raft.peers import LocalMember, Peers
from raft_node.rpc.raft.service import RaftService
from raft_node.rpc.snapshots import sender as snapshot_sender
from raft_node.rpc.snapshots import service as snapshot_service
from raft_node.rpc.snapshots.codec import encode_chunk, encode_header
from raft_node.rpc.snapshots.sender import SenderLimits, SnapshotSender
from raft_node.rpc.snapshots.service import SnapshotService
from raft_node.runtime.snapshots.keeper import Snapshots
from raft_node.storage.engine import Engine
from raft_node.storage.snapshots.checkpoint import verify_checkpoint
from raft_node.storage.snapshots.incoming import INCOMING, IncomingSnapshot, SnapshotHeader
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

A, B = NodeId("a", 1), NodeId("b", 2)
SHARD, TERM, INDEX = 3, 5, 40
CHUNK = 64

pytestmark = pytest.mark.seconds


class FakeInstaller:
    """Checks what it is given; ``gate`` holds it up."""

    def __init__(self, fs: MemoryFileSystem) -> None:
        self.fs = fs
        self.busy = False
        self.commit_index = 0
        self.installed: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: CorruptionError | None = None

    def wants(self, header: SnapshotHeader) -> bool:
        return header.last_index > self.commit_index

    async def install(self, incoming: IncomingSnapshot) -> bool:
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        checkpoint = incoming.finish()
        assert verify_checkpoint(self.fs, f"/data/{INCOMING}") == checkpoint
        self.installed.append(checkpoint.applied_index)
        self.commit_index = checkpoint.applied_index
        return True


class FakeDriver:
    """A leader."""

    def __init__(self) -> None:
        log = SimpleNamespace(first_index=30)
        leadership = SimpleNamespace(progress={B: None})
        self.node: Any = SimpleNamespace(role=Role.LEADER, term=TERM, log=log, leadership=leadership)
        self.ends: asyncio.Queue[tuple[str, NodeId, int]] = asyncio.Queue()

    def snapshot_sent(self, peer: NodeId, index: int) -> None:
        self.ends.put_nowait(("sent", peer, index))

    def snapshot_failed(self, peer: NodeId) -> None:
        self.ends.put_nowait(("failed", peer, 0))

    async def end(self) -> tuple[str, NodeId, int]:
        async with asyncio.timeout(60):
            return await self.ends.get()


def a_store(fs: MemoryFileSystem) -> Engine:
    engine = Engine.open(fs, "/sender", TINY_OPTIONS, "s1")
    machine = StateMachine.open(engine)
    configuration = encode_configuration(Configuration((A, B)))
    machine.apply([encode_entry(1, 1, EntryKind.CONFIGURATION, 10, configuration)])
    for index in range(2, INDEX + 1):
        engine.write([(b"\x01key%d" % index, b"%d" % (index * 7919**20))], index, 4)
    engine.rotate()
    settle(engine, fs, "/sender")
    return engine


class Rig:
    """A sender and a receiver with a disk of their own each, and a socket between them."""

    def __init__(self, address: str) -> None:
        self.address: str | None = address
        self.events: list[tuple[str, dict[str, object]]] = []
        self.failures: list[object] = []
        self.sender_fs, self.fs = MemoryFileSystem(), MemoryFileSystem()
        self.fs.make_directory("/data")
        self.threads, self.writer = ThreadPoolExecutor(2), ThreadPoolExecutor(1)
        self.installer, self.driver = FakeInstaller(self.fs), FakeDriver()
        self.metrics = Metrics(SHARD)
        self.term = TERM
        member = LocalMember(B, b"cluster", SHARD, "")
        self.service = SnapshotService(
            self.fs,
            "/data",
            self.installer,
            self.writer,
            member,
            lambda: self.term,
            self.metrics,
            self.record,
            self.failures.append,
        )
        self.raft = RaftService(B, SHARD, self.metrics)
        self.raft.attach(Peers(member, self.metrics), lambda message: None, self.service)
        self.snapshots = Snapshots(
            self.sender_fs,
            a_store(self.sender_fs),
            "/sender/tmp",
            self.threads,
            asyncio.get_running_loop().time,
            partial(self.metrics.snapshot_done, "create"),
        )
        self.me = LocalMember(A, b"cluster", SHARD, "")
        self.sender = self.a_sender()
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        raft_pb2_grpc.add_RaftServicer_to_server(self.raft, self.server)
        self.server.add_insecure_port(address)

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"shard": str(SHARD), **labels}) or 0.0

    def a_sender(self) -> SnapshotSender:
        return SnapshotSender(
            self.snapshots,
            self.driver,
            self.me,
            lambda peer: self.address,
            self.sender_fs,
            self.threads,
            SenderLimits(CHUNK, 2.0),
            self.metrics,
            self.record,
            self.failures.append,
        )

    def record(self, name: str, **details: object) -> None:
        self.events.append((name, details))

    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def details(self, name: str) -> dict[str, object]:
        return next(details for known, details in reversed(self.events) if known == name)

    async def close(self) -> None:
        await self.sender.close()
        await self.server.stop(0)
        await self.service.close()
        self.threads.shutdown()
        self.writer.shutdown()
        assert not self.failures

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(snapshot_sender, "PAUSE_FIRST_S", 0.01)
    monkeypatch.setattr(snapshot_sender, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(snapshot_service, "TELL_EVERY_S", 0.05)
    made = Rig(f"unix:{tmp_path}/raft")
    await made.server.start()
    try:
        yield made
    finally:
        await made.close()


def spoil_writes(rig: Rig, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]) -> None:
    """Changes what the receiver's thread is given, or stops it."""
    taken = IncomingSnapshot.write

    def write(incoming: IncomingSnapshot, file: int, offset: int, data: bytes) -> Any:
        chunk = SimpleNamespace(file=file, offset=offset, data=data)
        change(chunk)
        return taken(incoming, file, offset, chunk.data)

    monkeypatch.setattr(IncomingSnapshot, "write", write)


def test_a_scrape_knows_every_message_that_is_counted() -> None:
    metrics = Metrics(SHARD)
    RaftService(B, SHARD, metrics)
    Peers(LocalMember(A, b"cluster", SHARD, ""), metrics)
    assert metrics.raft_messages_sent()["install_snapshot"] == 0


async def test_a_snapshot_arrives_and_is_installed(rig: Rig) -> None:
    rig.sender.wanted([B])
    assert await rig.driver.end() == ("sent", B, INDEX)
    assert rig.installer.installed == [INDEX]
    assert rig.metrics.raft_messages_sent()["install_snapshot"] > 1
    assert rig.names() == ["snapshot_sending", "snapshot_receiving", "snapshot_installed", "snapshot_sent"]
    counted = {op: rig.counted("dougdb_snapshot_duration_seconds_count", op=op) for op in ("create", "send", "install")}
    assert counted == {"create": 1, "send": 1, "install": 1}
    assert rig.counted("dougdb_snapshot_size_bytes") > 0
    # It stays for a while, and holds the log behind it; then its files go.
    assert list(rig.snapshots.indexes) == [INDEX]
    await rig.snapshots.tidy()
    assert list(rig.snapshots.indexes) == [INDEX]
    await rig.snapshots.tidy(linger_s=0)
    assert not rig.snapshots.indexes and not any("snapshot-" in path for path in rig.sender_fs.files())


async def test_one_that_is_not_needed_any_more_ends_at_once(rig: Rig) -> None:
    rig.installer.commit_index = INDEX
    rig.sender.wanted([B])
    assert await rig.driver.end() == ("sent", B, INDEX)
    assert not rig.installer.installed and "snapshot_receiving" not in rig.names()


async def test_after_a_cut_the_rest_of_the_same_snapshot_is_sent(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    loop = asyncio.get_running_loop()

    def cut(chunk: Any) -> None:
        written.append(len(chunk.data))
        if len(written) == 12:
            loop.call_soon_threadsafe(rig.sender._transfers[B].cancel)

    spoil_writes(rig, monkeypatch, cut)
    rig.sender.wanted([B])
    await rig.until(lambda: len(written) >= 12 and not rig.sender.count and rig.service._session is None)
    assert rig.driver.ends.empty() and not rig.installer.installed
    rig.sender.wanted([B])
    assert await rig.driver.end() == ("sent", B, INDEX)
    had, size = rig.details("snapshot_receiving")["had_bytes"], rig.details("snapshot_receiving")["bytes"]
    assert isinstance(had, int) and had > 0
    assert sum(written) == size, "nothing was sent twice"
    assert rig.installer.installed == [INDEX]


async def test_a_damaged_chunk_is_sent_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def is_sound(chunk: Any) -> bool:
        seen.append(chunk)
        return len(seen) != 3

    monkeypatch.setattr(snapshot_service, "is_sound", is_sound)
    rig.sender.wanted([B])
    assert await rig.driver.end() == ("sent", B, INDEX)
    assert rig.names().count("snapshot_damaged") == 1 and rig.details("snapshot_damaged")["what"] == "chunk"


async def test_a_damaged_file_is_sent_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled: list[Any] = []

    def spoil(chunk: Any) -> None:
        if (chunk.file, chunk.offset) == (1, 0) and not spoiled:
            spoiled.append(chunk)
            chunk.data = b"\x00" * len(chunk.data)

    spoil_writes(rig, monkeypatch, spoil)
    rig.sender.wanted([B])
    assert await rig.driver.end() == ("sent", B, INDEX)
    assert spoiled and rig.details("snapshot_damaged")["what"] == "file"
    assert rig.installer.installed == [INDEX]


async def test_a_snapshot_that_is_damaged_at_its_sender_is_refused_in_the_end(rig: Rig) -> None:
    held = await rig.snapshots.acquire(1)
    rig.sender_fs.flip_bit(f"{held.path}/{held.header.files[1].name}", 99)
    rig.sender.wanted([B])
    assert (await rig.driver.end())[0] == "failed"
    assert "damaged" in str(rig.details("snapshot_failed")["reason"])
    assert rig.names().count("snapshot_damaged") == snapshot_service.DAMAGES_MAX + 1
    assert not rig.installer.installed


async def test_what_does_not_fit_its_header_is_refused(rig: Rig) -> None:
    rig.installer.error = CorruptionError("x", 0, "it is of another entry")
    rig.sender.wanted([B])
    assert (await rig.driver.end())[0] == "failed"
    assert "another entry" in str(rig.details("snapshot_failed")["reason"])
    assert rig.details("snapshot_damaged")["what"] == "snapshot"


async def test_a_snapshot_without_room_is_refused_and_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether that is known before, or only when the disk is full."""
    full = DiskError("/data", "write", OSError(errno.ENOSPC, "No space left on device"))

    def fails(*arguments: object) -> None:
        raise full

    for target, name, value in (
        (rig.service, "_room_bytes", lambda: 10),
        (IncomingSnapshot, "write", fails),
        (IncomingSnapshot, "_pass_over", fails),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            rig.sender.wanted([B])
            assert await rig.driver.end() == ("failed", B, 0)
        assert not rig.fs.exists(f"/data/{INCOMING}") and not rig.failures
    rig.sender.wanted([B])
    assert await rig.driver.end() == ("sent", B, INDEX)


async def test_a_leader_of_an_older_term_is_refused(rig: Rig) -> None:
    rig.term = TERM + 1
    rig.sender.wanted([B])
    assert (await rig.driver.end())[0] == "failed"
    assert "term 5 is over" in str(rig.details("snapshot_failed")["reason"])


async def test_the_sender_gives_up_when_it_does_not_lead_any_more(rig: Rig) -> None:
    rig.installer.gate.clear()
    rig.sender.wanted([B])
    await rig.until(lambda: bool(rig.service._installs))
    rig.driver.node.role = Role.FOLLOWER
    await rig.until(lambda: "snapshot_failed" in rig.names())
    # The installation goes on without it, and whoever asks again hears of it.
    rig.installer.gate.set()
    await rig.until(lambda: rig.installer.installed == [INDEX])
    await rig.driver.end()
    rig.driver.node.role = Role.LEADER
    rig.sender.wanted([B])
    assert await rig.driver.end() == ("sent", B, INDEX)
    assert rig.installer.installed == [INDEX]


async def test_nothing_is_taken_while_one_is_installed(rig: Rig) -> None:
    rig.installer.gate.clear()
    rig.sender.wanted([B])
    await rig.until(lambda: bool(rig.service._installs))
    other = rig.a_sender()
    other.wanted([B])
    assert await rig.driver.end() == ("failed", B, 0)
    assert "is being installed" in str(rig.details("snapshot_failed")["reason"])
    rig.installer.gate.set()
    assert await rig.driver.end() == ("sent", B, INDEX)
    await other.close()


async def test_a_newer_transfer_takes_the_place_of_one_that_hangs(rig: Rig) -> None:
    held = await rig.snapshots.acquire(1)
    async with open_channel(rig.address or "") as channel:
        hanging: Any = raft_pb2_grpc.RaftStub(channel).InstallSnapshot()
        await hanging.write(encode_header(held.header, rig.me.envelope(B), TERM))
        assert (await hanging.read()).state == pb.SNAPSHOT_STATE_SEND
        rig.sender.wanted([B])
        assert await rig.driver.end() == ("sent", B, INDEX)
        assert await hanging.code() is grpc.StatusCode.ABORTED


async def test_a_peer_that_cannot_be_reached_costs_no_snapshot(rig: Rig) -> None:
    await rig.server.stop(0)
    rig.sender.wanted([B])
    assert await rig.driver.end() == ("failed", B, 0)
    assert not rig.snapshots.indexes and not rig.events


async def test_a_peer_that_was_removed_is_not_sent_any(rig: Rig) -> None:
    rig.driver.node.leadership.progress.clear()
    rig.sender.wanted([B])
    assert await rig.driver.end() == ("failed", B, 0)
    assert not rig.installer.installed


@pytest.mark.parametrize("wrong", ["cluster", "incarnation", "no header", "chunk"])
async def test_what_no_correct_peer_sends_changes_nothing(rig: Rig, wrong: str) -> None:
    held = await rig.snapshots.acquire(1)
    envelope = rig.me.envelope(B if wrong != "incarnation" else NodeId("b", 9))
    if wrong == "cluster":
        envelope.cluster_id = b"another"
    header = encode_header(held.header, envelope, TERM)
    async with open_channel(rig.address or "") as channel:
        call: Any = raft_pb2_grpc.RaftStub(channel).InstallSnapshot()
        requests = [encode_chunk(0, 0, b"x")] if wrong == "no header" else [header]
        requests += [header] if wrong == "chunk" else []
        for request in requests:
            await call.write(request)
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        assert await call.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
    assert not rig.installer.installed


async def test_a_snapshot_is_shared_until_the_log_begins_behind_it(rig: Rig) -> None:
    first = await rig.snapshots.acquire(30)
    assert await rig.snapshots.acquire(INDEX + 1) is first
    assert first.users == 2
    assert await rig.snapshots.acquire(INDEX + 2) is not first
