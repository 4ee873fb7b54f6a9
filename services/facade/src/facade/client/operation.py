"""One read or write on its way through the facade.

An operation gets its record's bytes once, when it comes in; links only join them. Must not know HTTP or sockets.

Invariants:
    1. ``future`` is resolved exactly once, at the latest at ``deadline_s``.
    2. ``batch`` is set exactly while the record is on a stream and its answer is missing. So an operation without it is
       certainly not proposed by anybody, and may be sent (again).
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from doug_wire import command, pipe
from doug_wire.trace_context import TraceContext

if TYPE_CHECKING:
    from facade.client.link import OpenBatch

Headers = tuple[tuple[bytes, bytes], ...]


class Kind(IntEnum):
    """What windows tell apart. The values are those of doug.v1.BatchKind."""

    WRITE = 1
    READ_LINEARIZABLE = 2
    READ_LOCAL = 3


class OperationTrace(Protocol):
    """What a sampled operation tells of its way.

    Attributes:
        context: What the node that serves it is told.
    """

    context: TraceContext

    def sent(self, node: str, items: int) -> None:
        """It leaves for a node, in a batch of so many."""

    def sent_back(self, reason: str) -> None:
        """It left no trace there, and is tried again."""


class Operation:
    """One read or write.

    Attributes:
        id: Unique in this facade.
        kind: Its window.
        shard: The shard that it is counted under.
        key: The key's bytes.
        record: The encoded record (doug_wire.pipe); empty once the operation is over.
        deadline_s: When it must be answered, on the loop's clock.
        future: Resolved with the result record, or with a ProblemError.
        batch: The batch that it is in flight with.
        receipt: The response headers that say who answered; set before ``future`` is resolved.
        reason: Why it was last sent back: the code to report when time runs out.
        tries: How often it was sent back.
        trace: Where it tells of its way, if it is sampled.
    """

    __slots__ = (
        "batch",
        "deadline_s",
        "future",
        "id",
        "key",
        "kind",
        "reason",
        "receipt",
        "record",
        "shard",
        "trace",
        "tries",
    )

    def __init__(  # One caller, on the hot path: positional arguments are cheaper.
        self,
        operation_id: int,
        kind: Kind,
        shard: int,
        key: bytes,
        record: bytes,
        deadline_s: float,
        future: asyncio.Future[pipe.ResultRecord],
    ) -> None:
        self.id = operation_id
        self.kind = kind
        self.shard = shard
        self.key = key
        self.record = record
        self.deadline_s = deadline_s
        self.future = future
        self.batch: OpenBatch | None = None
        self.receipt: Headers = ()
        self.reason = ""
        self.tries = 0
        self.trace: OperationTrace | None = None

    def set_epoch(self, epoch: int) -> None:
        """Encodes the record anew for another epoch of its slot.

        Requires: it is not in flight.
        """
        assert self.batch is None
        if self.kind is Kind.WRITE:
            old = command.decode(self.record, pipe.WRITE.size)
            new = command.encode(*old._replace(epoch=epoch))
            self.record = pipe.encode_write(self.id, command.checksum(new), new)
        else:
            (read,) = pipe.decode_reads(self.record)
            self.record = pipe.encode_read(*read._replace(epoch=epoch))
