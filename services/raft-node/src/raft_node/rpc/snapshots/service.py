"""The receiving end of InstallSnapshot: takes a snapshot piece by piece to the disk, and has it installed.

One transfer is served at a time: a newer one takes the place of one that is still receiving, and is refused while one
is being installed. What was received stays on the disk when a transfer ends, so that the next one goes on from there.
Files are written on a thread; a chunk is read from the stream only when the one before is written, so that gRPC's flow
control slows the sender down, and memory holds one chunk.

Invariant: nothing reaches the installer but a snapshot whose every byte has the checksum that was announced.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, Protocol, TypeVar

import grpc
import grpc.aio

from doug.v1 import raft_pb2 as pb
from raft_node.errors import CorruptionError, DiskError, FatalError
from raft_node.observability.logs import get_logger
from raft_node.observability.metrics import Metrics
from raft_node.raft.types import NodeId
from raft_node.rpc.raft.codec import MessageError
from raft_node.rpc.raft.peers import LocalMember
from raft_node.rpc.raft.streams import BROKEN
from raft_node.rpc.snapshots.codec import decode_header, is_sound
from raft_node.runtime.events import Recorder
from raft_node.storage.files import FileSystem
from raft_node.storage.snapshots.incoming import INCOMING, IncomingError, IncomingSnapshot, SnapshotHeader, Taken

TELL_EVERY_S = 1.0
"""The time between two messages that tell the sender that a long step is still under way."""
DAMAGES_MAX = 8
"""The most damaged chunks and files of a transfer; with more it is refused, for the sender's files may be damaged."""
INSTALL_PATIENCE_S = 10.0
"""How long a stop waits for an installation; the next start does the rest of it."""

_log = get_logger()
Result = TypeVar("Result")
Context = grpc.aio.ServicerContext[Any, Any]


class Installs(Protocol):
    """The installer as this service sees it."""

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being installed."""

    def wants(self, header: SnapshotHeader) -> bool:
        """Whether a snapshot would bring this node forward."""

    async def install(self, incoming: IncomingSnapshot) -> bool:
        """Installs a received snapshot."""


class _Transfer(NamedTuple):
    """One transfer: its stream, its sender and its header."""

    context: Context
    source: NodeId
    header: SnapshotHeader


class SnapshotService:
    """Receives the snapshots of one node."""

    def __init__(
        self,
        fs: FileSystem,
        data_dir: str,
        installer: Installs,
        threads: Executor,
        me: LocalMember,
        term: Callable[[], int],
        metrics: Metrics,
        record: Recorder,
        on_failure: Callable[[FatalError], None],
        room_bytes: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Ties the parts together.

        Args:
            fs: The file system of the received files.
            data_dir: The data directory, below which they are written.
            installer: Installs complete snapshots.
            threads: One thread, which runs blocking work in order.
            me: This node.
            term: Gives this node's term.
            metrics: The metrics of the node.
            record: Notes events in the timeline.
            on_failure: Called when the node must stop.
            room_bytes: Tells how many bytes may be received without filling the disk.
        """
        self._room_bytes = room_bytes
        self._fs = fs
        self._data_dir = data_dir
        self._installer = installer
        self._threads = threads
        self._me = me
        self._term = term
        self._metrics = metrics
        self._received = metrics.received("Raft", "InstallSnapshot")
        self._sent = metrics.sent("Raft", "InstallSnapshot")
        self._record = record
        self._on_failure = on_failure
        self._session: asyncio.Task[None] | None = None
        self._installs: set[asyncio.Task[str]] = set()
        self._closed = False

    async def serve(self, context: Context, header: pb.SnapshotHeader, source: NodeId) -> None:
        """Serves one stream, whose first message was read and whose sender was checked."""
        try:
            transfer = _Transfer(context, source, decode_header(header))
        except MessageError as error:
            self._metrics.messages_dropped.labels(self._metrics.shard, "malformed").inc()
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        refusal = self._refusal(header.term)
        if refusal:
            await self._answer(transfer, pb.SNAPSHOT_STATE_REFUSED, reason=refusal)
            return
        while (previous := self._session) is not None:
            previous.cancel()
            await asyncio.gather(previous, return_exceptions=True)
            if self._session is previous:
                self._session = None
        session = self._session = asyncio.create_task(self._receive(transfer))
        try:
            await session
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            await context.abort(grpc.StatusCode.ABORTED, "another transfer took the place of this one")
        finally:
            if self._session is session:
                self._session = None

    async def close(self) -> None:
        """Ends the transfer, and waits until the installation that is under way has ended."""
        self._closed = True
        if self._session is not None:
            self._session.cancel()
            await asyncio.gather(self._session, return_exceptions=True)
        if self._installs:
            await asyncio.wait(self._installs, timeout=INSTALL_PATIENCE_S)

    def _refusal(self, term: int) -> str:
        if self._closed:
            return "the node stops"
        if term < self._term():
            return f"the sender's term {term} is over; this node is in {self._term()}"
        if self._installs or self._installer.busy:
            return "a snapshot is being installed"
        return ""

    async def _receive(self, transfer: _Transfer) -> None:
        if not self._installer.wants(transfer.header):
            # This node got as far by other means.
            await self._answer(transfer, pb.SNAPSHOT_STATE_INSTALLED)
            return
        try:
            opening = self._run(IncomingSnapshot.open, self._fs, self._data_dir, transfer.header)
            incoming = await self._while_telling(transfer, opening)
        except FatalError as error:
            if isinstance(error, DiskError) and error.no_space:
                await self._give_way(transfer)
                return
            self._on_failure(error)
            raise
        had_bytes = _bytes_before(incoming)
        if transfer.header.size_bytes - had_bytes > self._room_bytes():
            self._threads.submit(incoming.close)
            await self._give_way(transfer)
            return
        self._record(
            "snapshot_receiving",
            sender=transfer.source.name,
            index=transfer.header.last_index,
            bytes=transfer.header.size_bytes,
            had_bytes=had_bytes,
        )
        try:
            if await self._take_all(transfer, incoming):
                await self._install(transfer, incoming)
        except DiskError as error:
            if not error.no_space:
                self._on_failure(error)
                raise
            await self._give_way(transfer)
        except IncomingError as error:
            await transfer.context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except FatalError as error:
            self._on_failure(error)
            raise
        except BROKEN:
            # The sender has gone; it, or another, comes again.
            return
        finally:
            # Queued behind the thread's other work for this transfer.
            self._threads.submit(incoming.close)

    async def _give_way(self, transfer: _Transfer) -> None:
        """Refuses a snapshot that the disk has no room for, and removes what was received of it."""
        await self._run(self._fs.remove_tree, f"{self._data_dir}/{INCOMING}")
        await self._refuse(transfer, "the disk is full")

    async def _take_all(self, transfer: _Transfer, incoming: IncomingSnapshot) -> bool:
        """Takes chunks until all files are here; returns False if the stream ended before, or too much was damaged."""
        damages = 0
        received = self._metrics.snapshot_bytes.labels(self._metrics.shard, "received")
        await self._answer(transfer, pb.SNAPSHOT_STATE_SEND, *incoming.position)
        while not incoming.complete:
            request = await transfer.context.read()
            if request is grpc.aio.EOF:
                return False
            self._received.inc()
            if request.WhichOneof("content") != "chunk":
                raise IncomingError("something other than a chunk came")
            chunk = request.chunk
            place = (chunk.file, chunk.offset)
            if place != incoming.position:
                # This piece was under way when another place was asked for.
                continue
            if is_sound(chunk):
                received.inc(len(chunk.data))
                damaged_before = incoming.damaged_files
                writing = self._run(incoming.write, chunk.file, chunk.offset, chunk.data)
                taken = await self._while_telling(transfer, writing)
                if incoming.position in ((chunk.file, chunk.offset + len(chunk.data)), (chunk.file + 1, 0)):
                    continue
                if taken is Taken.DAMAGED:
                    self._note_damage(transfer, "file", chunk.file)
                    damages += incoming.damaged_files - damaged_before
            else:
                self._note_damage(transfer, "chunk", chunk.file)
                damages += 1
            if damages > DAMAGES_MAX:
                await self._refuse(transfer, "too much of it came damaged")
                return False
            await self._answer(transfer, pb.SNAPSHOT_STATE_SEND, *incoming.position)
        return True

    async def _install(self, transfer: _Transfer, incoming: IncomingSnapshot) -> None:
        # The installation goes on if the stream breaks; the sender learns the result when it asks again.
        task = asyncio.create_task(self._have_installed(transfer, incoming))
        self._installs.add(task)
        task.add_done_callback(self._installs.discard)
        refusal = await self._while_telling(transfer, asyncio.shield(task))
        if refusal:
            await self._refuse(transfer, refusal)
        else:
            await self._answer(transfer, pb.SNAPSHOT_STATE_INSTALLED)

    async def _have_installed(self, transfer: _Transfer, incoming: IncomingSnapshot) -> str:
        """Installs a received snapshot; returns the reason if it cannot be installed."""
        header = transfer.header
        started_s = asyncio.get_running_loop().time()
        try:
            done = await self._installer.install(incoming)
        except CorruptionError as error:
            self._metrics.snapshot_damages.labels(self._metrics.shard, "snapshot").inc()
            self._record("snapshot_damaged", sender=transfer.source.name, what="snapshot", reason=str(error))
            return str(error)
        except FatalError as error:
            self._on_failure(error)
            return str(error)
        if done:
            duration_s = asyncio.get_running_loop().time() - started_s
            duration_ms = round(duration_s * 1000)
            self._metrics.snapshot_done("install", duration_s, header.size_bytes)
            self._metrics.snapshots.labels(self._metrics.shard, "installed").inc()
            _log.info("snapshot.installed", index=header.last_index, duration_ms=duration_ms)
            self._record(
                "snapshot_installed",
                sender=transfer.source.name,
                index=header.last_index,
                bytes=header.size_bytes,
                duration_ms=duration_ms,
            )
        return ""

    def _note_damage(self, transfer: _Transfer, what: str, file: int) -> None:
        name = transfer.header.files[file].name
        self._metrics.snapshot_damages.labels(self._metrics.shard, what).inc()
        _log.warning("snapshot.damaged", sender=transfer.source.name, what=what, file=name)
        self._record("snapshot_damaged", sender=transfer.source.name, what=what, file=name)

    async def _refuse(self, transfer: _Transfer, reason: str) -> None:
        self._metrics.snapshots.labels(self._metrics.shard, "refused").inc()
        await self._answer(transfer, pb.SNAPSHOT_STATE_REFUSED, reason=reason)

    async def _answer(
        self,
        transfer: _Transfer,
        state: pb.SnapshotState.ValueType,
        file: int = 0,
        offset: int = 0,
        reason: str = "",
    ) -> None:
        await transfer.context.write(
            pb.InstallSnapshotResponse(
                envelope=self._me.envelope(transfer.source),
                term=self._term(),
                state=state,
                file=file,
                offset=offset,
                reason=reason,
            )
        )
        self._sent.inc()

    async def _while_telling(self, transfer: _Transfer, step: Awaitable[Result]) -> Result:
        """Waits for a step, and tells the sender now and then that it is under way."""
        future = asyncio.ensure_future(step)
        while not (await asyncio.wait({future}, timeout=TELL_EVERY_S))[0]:
            await self._answer(transfer, pb.SNAPSHOT_STATE_WORKING)
        return future.result()

    def _run(self, function: Callable[..., Result], *arguments: object) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _bytes_before(incoming: IncomingSnapshot) -> int:
    file, offset = incoming.position
    return sum(known.size_bytes for known in incoming.header.files[:file]) + offset
