"""The sending end of Admin.Backup: a header, then the bytes of a snapshot's files, chunk after chunk.

It goes as fast as the receiver takes it: a message is written only when gRPC's window lets the one before it go, so
that memory is bounded by one chunk. It knows nothing of HTTP, nor of what becomes of the bytes.

Invariants:
1. What is sent are the files that the header lists, whole and in its order; anything else ends the call with an error.
2. However the call ends, the snapshot is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor

from crc32c import crc32c

from doug.v1 import admin_pb2 as pb
from raft_node import __version__
from raft_node.errors import FatalError, UnavailableError
from raft_node.raft.configuration import decode_configuration
from raft_node.rpc.raft.peers import LocalMember
from raft_node.rpc.raft.streams import BROKEN
from raft_node.runtime.events import Recorder
from raft_node.runtime.snapshots.backups import Backups
from raft_node.runtime.snapshots.keeper import HeldSnapshot
from raft_node.settings import NodeSettings
from raft_node.storage.files import FileSystem

CHUNK_BYTES_MAX = 256 << 10

Write = Callable[[pb.BackupResponse], Awaitable[None]]


class BackupStream:
    """Sends the state of one node to a client that makes a backup."""

    def __init__(
        self,
        backups: Backups,
        me: LocalMember,
        settings: NodeSettings,
        fs: FileSystem,
        threads: Executor,
        record: Recorder,
        on_failure: Callable[[FatalError], None],
    ) -> None:
        """Ties the parts together.

        Args:
            backups: Makes the snapshots that are sent.
            me: This node.
            settings: The settings: how much goes into a message, and how long the receiver may take nothing.
            fs: The file system of the snapshots.
            threads: Runs blocking work.
            record: Notes events in the timeline.
            on_failure: Called when the node must stop.
        """
        self._backups = backups
        self._me = me
        self._initial_shards = settings.initial_shards
        self._fs = fs
        self._threads = threads
        self._chunk_bytes = min(settings.snapshot_chunk_bytes, CHUNK_BYTES_MAX)
        self._timeout_s = settings.snapshot_timeout_ms / 1000
        self._record = record
        self._on_failure = on_failure

    async def send(self, write: Write) -> None:
        """Sends the whole state.

        Raises:
            UnavailableError: The snapshot cannot be made, or not be sent, here and now.
        """
        try:
            await self._send(write)
        except FatalError as error:
            self._on_failure(error)
            raise UnavailableError(f"this node stops: {error}") from error
        except (UnavailableError, *BROKEN) as error:
            self._record("backup_failed", reason=str(error))
            raise UnavailableError(str(error)) from error

    async def _send(self, write: Write) -> None:
        loop = asyncio.get_running_loop()
        async with self._backups.hold() as snapshot:
            started_s, header = loop.time(), snapshot.header
            self._record("backup_sending", index=header.last_index, bytes=header.size_bytes)
            await self._write(write, pb.BackupResponse(header=self._header(snapshot)))
            async with contextlib.aclosing(self._chunks(snapshot)) as chunks:
                async for chunk in chunks:
                    await self._write(write, pb.BackupResponse(chunk=chunk))
        self._record("backup_sent", index=header.last_index, duration_ms=round((loop.time() - started_s) * 1000))

    def _header(self, snapshot: HeldSnapshot) -> pb.BackupHeader:
        header = snapshot.header
        members = decode_configuration(header.configuration)
        return pb.BackupHeader(
            node_id=self._me.node_id.name,
            shard=self._me.shard,
            cluster_id=self._me.cluster_id,
            initial_shards=self._initial_shards,
            index=header.last_index,
            term=header.last_term,
            log_time_us=header.timestamp_us,
            voters=[member.name for member in members.voters],
            learners=[member.name for member in members.learners],
            files=[pb.BackupFile(name=f.name, size_bytes=f.size_bytes, xxh3=f.xxh3) for f in header.files],
            version=__version__,
        )

    async def _chunks(self, snapshot: HeldSnapshot) -> AsyncGenerator[pb.BackupChunk]:
        loop = asyncio.get_running_loop()
        for number, listed in enumerate(snapshot.header.files):
            path = f"{snapshot.path}/{listed.name}"
            file = await loop.run_in_executor(self._threads, self._fs.open_for_read, path)
            try:
                offset = 0
                while offset < listed.size_bytes:
                    size = min(self._chunk_bytes, listed.size_bytes - offset)
                    data = await loop.run_in_executor(self._threads, file.read_at, offset, size)
                    if not data:
                        raise UnavailableError(f"{listed.name} has no byte at {offset}")
                    yield pb.BackupChunk(file=number, offset=offset, data=data, crc32c=crc32c(data))
                    offset += len(data)
            finally:
                file.close()

    async def _write(self, write: Write, message: pb.BackupResponse) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await write(message)
        except TimeoutError:
            raise UnavailableError("the receiver took nothing for too long") from None
        # A window that never shuts must not keep the loop from heartbeats.
        await asyncio.sleep(0)
