"""The sending end of InstallSnapshot: brings peers up to date whose next entries are gone from the log.

One transfer to a peer at a time, each on a connection of its own, so that heartbeats and entries to others do not wait
behind it. It sends from where the receiver asks, one chunk after the other, as fast as gRPC's flow control lets it.
Every peer that the core named gets an end: ``Driver.snapshot_sent`` or, after a pause that grows, ``snapshot_failed``,
upon which the core names it again once it is heard. The snapshot is kept for a while, so that the next attempt goes on
where this one was cut.

Invariants:
1. Only the leader sends, and only in the term in which it was asked to.
2. A peer that cannot be reached costs nothing: no snapshot is made before its connection stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, Protocol

import grpc.aio

from doug.v1 import raft_pb2 as pb
from doug.v1 import raft_pb2_grpc as pb_grpc
from doug_wire.tls import Certificates
from raft_node.errors import DougError, FatalError, NoSpaceError
from raft_node.observability.logs import get_logger
from raft_node.observability.metrics import Metrics
from raft_node.raft.node import RaftNode
from raft_node.raft.types import NodeId, Role
from raft_node.rpc.channels import open_channel
from raft_node.rpc.raft.codec import MessageError
from raft_node.rpc.raft.peers import LocalMember
from raft_node.rpc.raft.streams import BROKEN, Call
from raft_node.rpc.snapshots.codec import encode_chunk, encode_header
from raft_node.runtime.events import Recorder
from raft_node.runtime.snapshots.keeper import HeldSnapshot, Snapshots
from raft_node.storage.files import FileSystem, ReadableFile

CONNECT_TIMEOUT_S = 2.0
PAUSE_FIRST_S = 0.2
PAUSE_MAX_S = 5.0
LOOK_EVERY_S = 0.5
"""While the sender waits for the receiver, it checks this often whether the node still leads."""

_log = get_logger()


class TransferError(DougError):
    """A peer did not get a snapshot this time; the message says why."""


class Sends(Protocol):
    """The driver as the sender sees it."""

    node: RaftNode

    def snapshot_sent(self, peer: NodeId, index: int) -> None:
        """A peer has everything up to an index."""

    def snapshot_failed(self, peer: NodeId) -> None:
        """A peer got no snapshot."""


class SenderLimits(NamedTuple):
    """The limits of a transfer: the size of a chunk, and when one without progress is given up."""

    chunk_bytes: int
    timeout_s: float


class _Answers:
    """The newest answer of the receiver."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.asked: tuple[int, int] | None = None
        self.installed = False
        self.failure = ""

    def fail(self, reason: str) -> None:
        self.failure = self.failure or reason
        self.news.set()


class SnapshotSender:
    """Sends the snapshots of one node."""

    def __init__(
        self,
        snapshots: Snapshots,
        driver: Sends,
        me: LocalMember,
        address_of: Callable[[NodeId], str | None],
        fs: FileSystem,
        threads: Executor,
        limits: SenderLimits,
        metrics: Metrics,
        record: Recorder,
        on_failure: Callable[[FatalError], None],
        certificates: Certificates | None = None,
    ) -> None:
        """Ties the parts together; ``wanted`` begins transfers."""
        self._snapshots = snapshots
        self._driver = driver
        self._me = me
        self._address_of = address_of
        self._fs = fs
        self._threads = threads
        self._limits = limits
        self._metrics = metrics
        self._sent = metrics.sent("Raft", "InstallSnapshot")
        self._record = record
        self._on_failure = on_failure
        self._certificates = certificates
        self._transfers: dict[NodeId, asyncio.Task[None]] = {}
        self._failures: dict[NodeId, int] = {}

    @property
    def count(self) -> int:
        """How many transfers are under way, pauses after a failure included."""
        return len(self._transfers)

    def wanted(self, peers: Sequence[NodeId]) -> None:
        """Sends a snapshot to each peer; a transfer that is still under way for an earlier term ends first."""
        for peer in peers:
            task = asyncio.create_task(self._serve(peer, self._driver.node.term, self._transfers.get(peer)))
            self._transfers[peer] = task
            task.add_done_callback(lambda done, peer=peer: self._ended(peer, done))  # type: ignore[misc]

    async def close(self) -> None:
        """Ends all transfers."""
        tasks = list(self._transfers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, peer: NodeId, task: asyncio.Task[None]) -> None:
        if self._transfers.get(peer) is task:
            del self._transfers[peer]
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def _serve(self, peer: NodeId, term: int, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            previous.cancel()
            await asyncio.gather(previous, return_exceptions=True)
        try:
            index = await self._send(peer, term)
        except FatalError as error:
            self._on_failure(error)
        except (TransferError, NoSpaceError, *BROKEN) as error:
            reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.info("snapshot.not_sent", peer=peer.name, reason=reason)
            failures = self._failures[peer] = self._failures.get(peer, 0) + 1
            # The core would name the peer again at its next answer.
            await asyncio.sleep(min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(failures, 8)))
            if self._driver.node.term == term:
                self._driver.snapshot_failed(peer)
        else:
            self._failures.pop(peer, None)
            self._driver.snapshot_sent(peer, index)

    async def _send(self, peer: NodeId, term: int) -> int:
        """Sends one snapshot; returns the last entry that it includes."""
        address = self._address_of(peer)
        if address is None:
            raise TransferError("it has no address")
        channel = open_channel(address, self._certificates)
        try:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await channel.channel_ready()
            except TimeoutError:
                raise TransferError("it cannot be reached") from None
            snapshot = await self._snapshots.acquire(self._driver.node.log.first_index)
            try:
                return await self._transfer(channel, peer, term, snapshot)
            finally:
                self._snapshots.release(snapshot)
        finally:
            await channel.close()

    async def _transfer(self, channel: grpc.aio.Channel, peer: NodeId, term: int, snapshot: HeldSnapshot) -> int:
        header = snapshot.header
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        self._record("snapshot_sending", peer=peer.name, index=header.last_index, bytes=header.size_bytes, term=term)
        call: Call = pb_grpc.RaftStub(channel).InstallSnapshot()
        answers = _Answers()
        reader = asyncio.create_task(self._listen(call, peer, answers))
        try:
            await self._write(call, encode_header(header, self._me.envelope(peer), term))
            await self._send_files(call, peer, term, snapshot, answers)
        except (TransferError, *BROKEN) as error:
            # The receiver may have ended the stream because it got that far by other means.
            if not answers.installed:
                reason = answers.failure or str(error)
                self._metrics.snapshots.labels(self._metrics.shard, "failed").inc()
                self._record("snapshot_failed", peer=peer.name, index=header.last_index, reason=reason, term=term)
                raise TransferError(reason) from error
        finally:
            reader.cancel()
            call.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        duration_s = loop.time() - started_s
        duration_ms = round(duration_s * 1000)
        self._metrics.snapshot_done("send", duration_s, header.size_bytes)
        self._metrics.snapshots.labels(self._metrics.shard, "sent").inc()
        self._record("snapshot_sent", peer=peer.name, index=header.last_index, duration_ms=duration_ms, term=term)
        _log.info("snapshot.sent", peer=peer.name, index=header.last_index, duration_ms=duration_ms)
        return header.last_index

    async def _send_files(self, call: Call, peer: NodeId, term: int, snapshot: HeldSnapshot, answers: _Answers) -> None:
        """Sends chunks from the position that the receiver asks for, until it says that it has all files."""
        files = snapshot.header.files
        loop = asyncio.get_running_loop()
        sent = self._metrics.snapshot_bytes.labels(self._metrics.shard, "sent")
        at = (len(files), 0)
        open_file: tuple[int, ReadableFile] | None = None
        try:
            while not answers.installed:
                self._require_lead(peer, term)
                if answers.failure:
                    raise TransferError(answers.failure)
                if answers.asked is not None:
                    at, answers.asked = answers.asked, None
                file, offset = at
                if file >= len(files):
                    await self._hear(peer, term, answers)
                    continue
                if open_file is None or open_file[0] != file:
                    if open_file is not None:
                        open_file[1].close()
                        open_file = None
                    path = f"{snapshot.path}/{files[file].name}"
                    open_file = file, await loop.run_in_executor(self._threads, self._fs.open_for_read, path)
                size = max(0, min(self._limits.chunk_bytes, files[file].size_bytes - offset))
                data = await loop.run_in_executor(self._threads, open_file[1].read_at, offset, size)
                if not data:
                    raise TransferError(f"{files[file].name} has no byte at {offset}")
                await self._write(call, encode_chunk(file, offset, data))
                sent.inc(len(data))
                offset += len(data)
                at = (file, offset) if offset < files[file].size_bytes else (file + 1, 0)
                # A window that never shuts must not keep the loop from heartbeats.
                await asyncio.sleep(0)
        finally:
            if open_file is not None:
                open_file[1].close()

    def _require_lead(self, peer: NodeId, term: int) -> None:
        node = self._driver.node
        if node.role is not Role.LEADER or node.term != term or node.leadership is None:
            raise TransferError("this node does not lead any more")
        if peer not in node.leadership.progress:
            raise TransferError("it is no member any more")

    async def _hear(self, peer: NodeId, term: int, answers: _Answers) -> None:
        """Waits for an answer."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._limits.timeout_s
        while not answers.news.is_set():
            self._require_lead(peer, term)
            if loop.time() > until_s:
                raise TransferError("it said nothing for too long")
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await answers.news.wait()
            except TimeoutError:
                continue
        answers.news.clear()

    async def _write(self, call: Call, request: Any) -> None:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                await call.write(request)
                self._sent.inc()
        except TimeoutError:
            raise TransferError("it took nothing for too long") from None

    async def _listen(self, call: Call, peer: NodeId, answers: _Answers) -> None:
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                if self._me.check(answer.envelope) != peer:
                    raise MessageError("another node answered")
                self._take(answer, answers)
        except MessageError as error:
            answers.fail(str(error))
        except BROKEN as error:
            answers.fail((error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)) or "it broke off")
        else:
            answers.fail("it ended the stream")

    def _take(self, answer: pb.InstallSnapshotResponse, answers: _Answers) -> None:
        match answer.state:
            case pb.SNAPSHOT_STATE_SEND:
                answers.asked = (answer.file, answer.offset)
            case pb.SNAPSHOT_STATE_WORKING:
                pass
            case pb.SNAPSHOT_STATE_INSTALLED:
                answers.installed = True
            case _:
                answers.fail(answer.reason or "it was refused")
        answers.news.set()
