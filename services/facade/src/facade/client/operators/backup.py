"""Has one replica of a shard send its state for a backup: which one is asked, and what of its stream is believed.

Must not know HTTP. Followers come before the leader, so that a backup costs those least who serve most. Each transfer
has a connection of its own, so that no request waits behind it.

Invariants:
1. Bytes are handed on only when their checksum fits, and only in the header's order and without a gap.
2. At most one chunk is held; the next is read when the one before it was taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import structlog
from crc32c import crc32c

from doug.v1 import admin_pb2
from facade.client.node import Node
from facade.client.shard import Shard
from facade.errors import FacadeError, NotAppliedError

STATUS_TIMEOUT_S = 0.5
HEADER_TIMEOUT_S = 120.0
"""How long a header is waited for: a node first flushes its memory, and reads all its tables for their checksums."""
CHUNK_TIMEOUT_S = 30.0
LAG_MAX = 10_000
"""The lag in entries beyond which a follower is asked only after the leader."""
CHUNK_BYTES_MAX = 256 << 10
_NAME = re.compile(r"CHECKPOINT|[0-9]{6,20}\.sst")

log = structlog.get_logger()


class BackupBrokenError(FacadeError):
    """The transfer broke off after it had begun; the part that was sent is of no use."""


class ShardBackup:
    """The state of a shard while it is received: a header, then the bytes of all files, one behind the other.

    Attributes:
        header: The parts of the state.
    """

    def __init__(self, node: Node, call: grpc.aio.UnaryStreamCall, header: admin_pb2.BackupHeader) -> None:  # type: ignore[type-arg]
        """For ``open_backup`` alone."""
        self.header = header
        self._node = node
        self._call = call

    async def chunks(self) -> AsyncIterator[tuple[int, bytes]]:
        """The number of a file and a piece of it, in order; ends only after the last byte of the last file.

        Raises:
            BackupBrokenError: The transfer broke off, or is not what the header announced.
        """
        try:
            for number, file in enumerate(self.header.files):
                offset = 0
                while offset < file.size_bytes:
                    data = await self._next(number, offset)
                    offset += len(data)
                    if offset > file.size_bytes:
                        raise BackupBrokenError(f"{self._node.id} sent more of {file.name} than it announced")
                    yield number, data
        except grpc.aio.AioRpcError as error:
            raise BackupBrokenError(f"{self._node.id}: {error.details()}") from None
        except TimeoutError:
            raise BackupBrokenError(f"{self._node.id} sent nothing for {CHUNK_TIMEOUT_S:.0f} s") from None

    async def _next(self, number: int, offset: int) -> bytes:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            message = await self._call.read()
        if not isinstance(message, admin_pb2.BackupResponse):
            raise BackupBrokenError(f"{self._node.id} ended the stream too early")
        chunk = message.chunk
        if (chunk.file, chunk.offset) != (number, offset) or not 0 < len(chunk.data) <= CHUNK_BYTES_MAX:
            raise BackupBrokenError(f"{self._node.id} sent another piece than was to come next")
        if crc32c(chunk.data) != chunk.crc32c:
            raise BackupBrokenError(f"{self._node.id} sent a piece whose checksum does not fit")
        return chunk.data


@contextlib.asynccontextmanager
async def open_backup(shard: Shard) -> AsyncIterator[ShardBackup]:
    """Opens the state of a shard as of now, from the best replica that can send it; the transfer ends with the block.

    Raises:
        NotAppliedError: 503; no replica can send it now. Nothing was begun.
    """
    nodes = await _candidates(shard)
    refusals = []
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            try:
                backup = await stack.enter_async_context(_ask(shard, node))
            except (grpc.aio.AioRpcError, TimeoutError, BackupBrokenError) as error:
                reason = (error.details() or "") if isinstance(error, grpc.aio.AioRpcError) else str(error)
                log.info("backup.refused", shard=shard.id, node=node.id, reason=reason or "no answer in time")
                refusals.append(f"{node.id}: {reason or 'no answer in time'}")
                continue
            log.info("backup.begun", shard=shard.id, node=node.id, index=backup.header.index)
            yield backup
            return
    detail = "; ".join(refusals) or "no node of the shard answers"
    raise NotAppliedError("unavailable", f"No replica can send its state now ({detail}).", shard=shard.id)


async def _candidates(shard: Shard) -> list[Node]:
    """The members that answer: followers that are up to date, the leader, then those that lag."""
    nodes = shard.expected
    answers = await asyncio.gather(*(node.status(STATUS_TIMEOUT_S) for node in nodes))
    known = [(node, status) for node, status in zip(nodes, answers, strict=True) if status is not None]
    furthest = max((status.applied_index for _, status in known), default=0)

    def rank(entry: tuple[Node, admin_pb2.StatusResponse]) -> tuple[int, int]:
        status = entry[1]
        if status.role == "leader":
            order = 1
        elif status.role == "follower" and furthest - status.applied_index <= LAG_MAX:
            order = 0
        else:
            order = 2
        return order, -status.applied_index

    return [node for node, _ in sorted(known, key=rank)]


@contextlib.asynccontextmanager
async def _ask(shard: Shard, node: Node) -> AsyncIterator[ShardBackup]:
    async with node.backup() as call:
        async with asyncio.timeout(HEADER_TIMEOUT_S):
            first = await call.read()
        if not isinstance(first, admin_pb2.BackupResponse) or not first.HasField("header"):
            raise BackupBrokenError("it did not begin with a header")
        header = first.header
        names = [file.name for file in header.files]
        sound = names.count("CHECKPOINT") == 1 and len(set(names)) == len(names) and all(map(_NAME.fullmatch, names))
        if header.shard != shard.id or not sound or not all(file.size_bytes for file in header.files):
            raise BackupBrokenError("its header is not that of a backup of this shard")
        yield ShardBackup(node, call, header)
