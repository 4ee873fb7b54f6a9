"""GET /v1/shards/{id}/backup: the state of a shard as a tar archive, made while it is sent.

The first member, ``SHARD.json``, lists the others: the file CHECKPOINT and the SSTables (docs/formats.md,
Backup). Must not know gRPC.

Invariant: the answer has exactly as many bytes as its Content-Length says, or its connection breaks: whoever got all
bytes got the whole state.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator

import orjson
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from doug.v1 import admin_pb2
from doug_wire.auth.grants import Verb
from facade.client.access import allowed, current
from facade.client.operators.backup import BackupBrokenError, ShardBackup, open_backup
from facade.client.router import Router
from facade.errors import BadRequestError, NotAppliedError
from facade.models import Problem
from facade.routes.operators.shard_id import ShardId
from facade.settings import Settings

FORMAT = 1
FACTS = "SHARD.json"
MEDIA_TYPE = "application/x-tar"

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_ANSWERS: dict[int | str, dict[str, object]] = {
    200: {"description": "A tar archive", "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
    400: {"model": Problem},
    404: {"model": Problem},
    503: {"model": Problem},
}


def facts_of(header: admin_pb2.BackupHeader) -> bytes:
    """The content of ``SHARD.json``."""
    facts = {
        "format": FORMAT,
        "cluster_id": header.cluster_id.decode(),
        "shard": header.shard,
        "initial_shards": header.initial_shards,
        "index": header.index,
        "term": header.term,
        "log_time_us": header.log_time_us,
        "voters": list(header.voters),
        "learners": list(header.learners),
        "node": header.node_id,
        "version": header.version,
        "files": [
            {"name": file.name, "size_bytes": file.size_bytes, "xxh3": f"{file.xxh3:016x}"} for file in header.files
        ],
    }
    return orjson.dumps(facts, option=orjson.OPT_INDENT_2) + b"\n"


def _head(name: str, size_bytes: int, time_s: int) -> bytes:
    """The tar header of a file, in GNU's format, which has no limit on sizes."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size_bytes, time_s, 0o600
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _BLOCK)


def archive_bytes(header: admin_pb2.BackupHeader, facts: bytes) -> int:
    """The size of the whole archive in bytes."""
    sizes = [len(facts), *(file.size_bytes for file in header.files)]
    return sum(_BLOCK + size + len(_padding(size)) for size in sizes) + len(_END)


async def archive(backup: ShardBackup, facts: bytes, still_allowed: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The archive, piece by piece.

    Raises:
        BackupBrokenError: The node's stream broke off, or the client may not have a backup any more.
    """
    header = backup.header
    time_s = header.log_time_us // 1_000_000
    yield _head(FACTS, len(facts), time_s) + facts + _padding(len(facts))
    began = -1
    async for number, data in backup.chunks():
        if not still_allowed():
            raise BackupBrokenError("the right to it has ended")
        if number != began:
            began = number
            before = _padding(header.files[number - 1].size_bytes) if number else b""
            yield before + _head(header.files[number].name, header.files[number].size_bytes, time_s)
        yield data
    yield _padding(header.files[-1].size_bytes) + _END


class _Archive(StreamingResponse):
    """The answer; the node's stream ends with it, however it ends."""

    def __init__(
        self, backup: ShardBackup, facts: bytes, stack: contextlib.AsyncExitStack, still_allowed: Callable[[], bool]
    ) -> None:
        header = backup.header
        headers = {
            "content-length": str(archive_bytes(header, facts)),
            "content-disposition": f'attachment; filename="shard-{header.shard}.tar"',
            "doug-shard": str(header.shard),
            "doug-served-by": header.node_id,
        }
        super().__init__(archive(backup, facts, still_allowed), media_type=MEDIA_TYPE, headers=headers)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        async with self._stack:
            await super().__call__(scope, receive, send)


class _Slots:
    """Limits the backups at a time: each holds a connection to a node, and the bytes that its client has not taken."""

    def __init__(self, most: int) -> None:
        self._free = most

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Takes a slot for the time of the block.

        Raises:
            NotAppliedError: No slot is free.
        """
        if not self._free:
            raise NotAppliedError("overloaded", "As many backups as may be are being sent already.")
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def make_router(router: Router, settings: Settings) -> APIRouter:
    """Makes the route."""
    routes = APIRouter(tags=["shards"])
    slots = _Slots(settings.backups_max)

    @routes.get("/v1/shards/{shard}/backup", responses=_ANSWERS, response_class=StreamingResponse)
    async def backup(shard: ShardId, request: Request) -> StreamingResponse:
        """Back up a shard: a tar archive with every write that was acknowledged before the request."""
        for name in request.query_params:
            raise BadRequestError("unknown_parameter", f"Unknown query parameter {name[:64]!r}; there are none.")
        known = router.shards.get(shard)
        if known is None:
            raise BadRequestError("unknown_shard", f"There is no shard {shard}.", status=404)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(slots.taken())
            opened = await stack.enter_async_context(open_backup(known))
            facts = facts_of(opened.header)
            caller = current.get()
            return _Archive(opened, facts, stack.pop_all(), lambda: not router.guarded or allowed(caller, Verb.BACKUP))

    return routes
