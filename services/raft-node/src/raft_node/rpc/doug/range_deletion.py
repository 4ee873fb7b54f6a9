"""Doug.DeleteRange: the keys of a range in this shard, read and deleted a slice at a time.

It knows neither leaders nor gRPC's calls. Invariants:
1. A slice is read as of one point in the log and deleted by one entry; no entry is larger than a batch may be.
2. What is gone is gone: when a later slice fails, the answer says where to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire import scan as codec
from doug_wire.command import Command, CommandError, Opcode
from doug_wire.payload import decode_batch_result, encode_batch
from doug_wire.pipe import ResultRecord, Status
from raft_node.kv.scan import ScanOptions
from raft_node.rpc.doug.replica import Replica

LIMIT_DEFAULT, LIMIT_MAX = 10_000, 100_000
SLICE_KEYS = 500

Submit = Callable[[Command], Awaitable[ResultRecord]]


@dataclass(frozen=True, slots=True)
class RangeDeletion:
    """The range whose keys are to be deleted. ``end`` None means no end."""

    start: bytes
    end: bytes | None
    limit: int
    dry_run: bool

    @classmethod
    def of(cls, request: pb.DeleteRangeRequest) -> RangeDeletion:
        """Reads a request.

        Raises:
            CommandError: The request makes no sense, or would delete all keys and does not say so.
        """
        for name, bound in (("start", request.start), ("end", request.end)):
            if len(bound) > commands.KEY_BYTES_MAX + 1:
                raise CommandError(f"{name} has {len(bound)} bytes, and at most {commands.KEY_BYTES_MAX + 1}")
        if request.all == bool(request.start or request.end):
            raise CommandError("give start or end, or all alone to mean every key of the shard")
        if request.limit > LIMIT_MAX:
            raise CommandError(f"limit is {request.limit}, and at most {LIMIT_MAX}")
        return cls(request.start, request.end or None, request.limit or LIMIT_DEFAULT, request.dry_run)


async def delete(replica: Replica, asked: RangeDeletion, submit: Submit) -> pb.DeleteRangeResponse | Status:
    """Deletes or counts the keys of a range; returns the status that stopped it if nothing was deleted.

    Args:
        replica: The replica whose keys are deleted.
        asked: The range.
        submit: Has a command decided by the shard.

    Raises:
        OverloadedError: Too many scans are under way.
        UnavailableError: A block is damaged or cannot be read.
    """
    start, found, deleted, complete = asked.start, 0, 0, False
    while not complete and found < asked.limit:
        keys = await _keys(replica, asked, start, min(SLICE_KEYS, asked.limit - found))
        if keys and not asked.dry_run:
            result = await submit(_deletions(keys))
            if result.status != Status.OK:
                if not deleted:
                    return Status(result.status)
                break
            deleted += sum(each.status == Status.OK for each in decode_batch_result(result.value))
        found += len(keys)
        complete = len(keys) < SLICE_KEYS and found < asked.limit
        start = keys[-1] + b"\0" if keys else start
        # The only replica of a shard commits without waiting, and would not yield to other tasks without this.
        await asyncio.sleep(0)
    if not complete and found >= asked.limit:
        complete = not await _keys(replica, asked, start, 1)
    return pb.DeleteRangeResponse(
        found=found,
        deleted=deleted,
        complete=complete,
        next_start=b"" if complete else start,
        receipt=replica.receipt(),
    )


async def _keys(replica: Replica, asked: RangeDeletion, start: bytes, limit: int) -> list[bytes]:
    if asked.end is not None and start >= asked.end:
        return []
    options = ScanOptions(start=start, end=asked.end, limit=limit, keys_only=True)
    keys: list[bytes] = []
    scans = replica.reader.scans
    with scans.begin(replica.driver.machine, options) as held:
        while True:
            step = await scans.step(held.scan)
            keys += [record.key for record in codec.decode_page(b"".join(step.records))]
            if step.last:
                return keys


def _deletions(keys: list[bytes]) -> Command:
    operations = [commands.encode(Opcode.DELETE, key) for key in keys]
    return Command(Opcode.BATCH, keys[0], b"", encode_batch(operations), 0)
