"""ExecuteBatch in parts: many operations in one call, and never many of them in one turn of the event loop.

A call may name thousands of operations that each read a value. All of them are understood before the first is proposed,
in slices; then part after part is an entry of its own, whose application takes each replica some milliseconds.

Invariants:
1. A request that makes no sense changes nothing.
2. Operations are carried out in the order of the request.
3. What the caller may not do (``operations.forbidden``) is in no entry, and refused in its place in the answer.
4. A part that is refused behind others makes the outcome unknown: nobody can tell the caller which were carried out.

Source: docs/api.md, gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire.command import Command, CommandError, Opcode
from doug_wire.payload import (
    BATCH_OPERATIONS_MAX,
    BATCH_PART,
    PAYLOAD_BYTES_MAX,
    RESULT_BYTES_MAX,
    decode_batch_result,
    encode_batch,
)
from doug_wire.pipe import ResultRecord, Status
from doug_wire.validity import validate
from raft_node.rpc.doug import operations

SLICE = 200
"""The number of operations that are decoded, or answered, in one turn of the event loop."""
_ANSWER_BYTES_MAX = 4 * RESULT_BYTES_MAX
"""The most bytes of the answer to one call, which must fit one message."""

Submit = Callable[[Command], Awaitable[ResultRecord]]


async def understand(request: pb.ExecuteBatchRequest, forbidden: Collection[int] = ()) -> list[Command]:
    """The batches that a call asks for, each for an entry of its own.

    Args:
        request: The call.
        forbidden: The places of the operations that are left out.

    Raises:
        CommandError: An operation makes no sense.
    """
    count = len(request.operations)
    if not 0 < count <= BATCH_OPERATIONS_MAX:
        raise CommandError(f"a batch has 1 to {BATCH_OPERATIONS_MAX} operations, not {count}")
    understood: list[tuple[bytes, bytes]] = []
    size = len(encode_batch(()))
    for place, asked in enumerate(request.operations, 1):
        wanted = operations.operation(place - 1, asked)
        encoded = commands.encode(*wanted)
        if place - 1 not in forbidden:
            understood.append((wanted.key, encoded))
        size += len(encode_batch((encoded,))) - len(encode_batch(()))
        if size > PAYLOAD_BYTES_MAX:
            raise CommandError(f"the operations of a batch have more than {PAYLOAD_BYTES_MAX} bytes")
        if place % SLICE == 0:
            await asyncio.sleep(0)
    parts = []
    for part in _parts(understood):
        validate(commands.encode(*part))
        parts.append(part)
        await asyncio.sleep(0)
    return parts


async def carry_out(
    parts: Sequence[Command], submit: Submit, forbidden: Collection[int] = ()
) -> list[pb.OperationResult] | ResultRecord:
    """Carries batches out, one behind the other; returns the results of all operations, or one result that refuses all.

    Args:
        parts: The batches, as ``understand`` returns them.
        submit: Has a command decided.
        forbidden: The places of the operations that were left out, and have refusals in the answer.
    """
    answers: list[pb.OperationResult] = []
    size = 0
    for number, part in enumerate(parts):
        result = await submit(part)
        size += len(result.value)
        if result.status != Status.OK or size > _ANSWER_BYTES_MAX:
            return ResultRecord(0, Status.UNKNOWN, 0, b"", b"") if number else result
        for place, each in enumerate(decode_batch_result(result.value), 1):
            answers.append(operations.result_message(each))
            if place % SLICE == 0:
                await asyncio.sleep(0)
    if not forbidden:
        return answers
    told, refused = iter(answers), pb.OperationResult(status=pb.OPERATION_STATUS_FORBIDDEN)
    return [refused if place in forbidden else next(told) for place in range(len(answers) + len(forbidden))]


def _parts(understood: Sequence[tuple[bytes, bytes]]) -> Iterator[Command]:
    for start in range(0, len(understood), BATCH_PART):
        part = understood[start : start + BATCH_PART]
        yield Command(Opcode.BATCH, part[0][0], b"", encode_batch([encoded for _, encoded in part]), 0)
