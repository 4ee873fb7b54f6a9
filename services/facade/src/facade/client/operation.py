"""One read or write on its way through the facade.

An operation gets its record's bytes once, when it comes in; links only join them. Must not know HTTP or sockets.

Invariants:
    1. ``future`` is resolved exactly once, at the latest at ``deadline_s``; ``facade.client.registry`` alone does it.
    2. ``batch`` is set exactly while the record is on a stream and its answer is missing. So an operation without it is
       not under way to anybody.
    3. A write that was once under way and got no answer is ``uncertain`` from then on: whatever follows, it is never
       reported as not applied.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from doug_wire import command, pipe
from doug_wire.trace_context import TraceContext
from facade.client.modes import Kind

if TYPE_CHECKING:
    from facade.client.link import OpenBatch
    from facade.client.receipts import Receipt
    from facade.client.sessions import Session
    from facade.client.turns import Client, Turns


class OperationTrace(Protocol):
    """The trace of a sampled operation, which is told of every step on its way.

    Attributes:
        context: The trace context that is sent to the node with the operation.
    """

    context: TraceContext

    def sent(self, node: str, items: int) -> None:
        """Notes that the operation is sent to a node, in a batch of ``items`` operations."""

    def sent_back(self, reason: str) -> None:
        """Notes that the operation was not carried out there, and is tried again."""


class Load:
    """How much of one shard waits or is in flight.

    Attributes:
        items: The number of its operations.
        size: The bytes of the operations' records.
        turns: The shares of the shard's clients; None where clients have no shares.
    """

    __slots__ = ("items", "size", "turns")

    def __init__(self, turns: Turns | None = None) -> None:
        self.items = 0
        self.size = 0
        self.turns = turns


class Operation:
    """One read or write.

    Attributes:
        id: Unique in this facade.
        kind: The kind that says in which window the operation counts.
        shard: The shard that it is counted under.
        load: The load of the shard under which the operation is counted.
        key: The key's bytes.
        record: The encoded record (doug_wire.pipe); empty once the operation is over.
        deadline_s: When it must be answered, on the loop's clock.
        future: Resolved with the result record, or with a ProblemError.
        repeatable: Whether sending it twice does no harm: it is a read, or a write with an idempotency token.
        uncertain: Whether an earlier try of this write may have been applied.
        client: The client that sent it, as the shard's ``Turns`` counts it; None where clients have no shares.
        inside: Whether it counts in the window of ``Turns``, so that it does not wait for its turn.
        batch: The batch that it is in flight with.
        hedged: Whether it has a copy, or is one (``facade.client.hedging``).
        bound_ms: How old the answer to a bounded read may be; 0 for other operations.
        session: What the client's session token says; None without one.
        queued_s: When it was first queued for a node, so that its turn had come; before that, when it was admitted.
        sent_s: When it was last sent to a node.
        receipt: What the node that answered last said of itself; set before ``future`` is resolved.
        reason: Why it was last sent back: the code to report when time runs out.
        tries: How often it was sent back.
        trace: The operation's trace if it is sampled, else None.
    """

    __slots__ = (
        "batch",
        "bound_ms",
        "client",
        "deadline_s",
        "future",
        "hedged",
        "id",
        "inside",
        "key",
        "kind",
        "load",
        "queued_s",
        "reason",
        "receipt",
        "record",
        "repeatable",
        "sent_s",
        "session",
        "shard",
        "trace",
        "tries",
        "uncertain",
    )

    def __init__(  # One caller, on the hot path: positional arguments are cheaper.
        self,
        operation_id: int,
        kind: Kind,
        shard: int,
        load: Load,
        key: bytes,
        record: bytes,
        deadline_s: float,
        future: asyncio.Future[pipe.ResultRecord],
        repeatable: bool,  # As above.
    ) -> None:
        self.id = operation_id
        self.kind = kind
        self.shard = shard
        self.load = load
        self.key = key
        self.record = record
        self.deadline_s = deadline_s
        self.future = future
        self.repeatable = repeatable
        self.uncertain = False
        self.client: Client | None = None
        self.inside = False
        self.batch: OpenBatch | None = None
        self.hedged = False
        self.bound_ms = 0
        self.session: Session | None = None
        self.queued_s = 0.0
        self.sent_s = 0.0
        self.receipt: Receipt | None = None
        self.reason = ""
        self.tries = 0
        self.trace: OperationTrace | None = None

    @property
    def opcode(self) -> int:
        """The opcode of a write; 0 for a read."""
        return self.record[pipe.WRITE.size] if self.kind is Kind.WRITE else 0

    @property
    def extended(self) -> bool:
        """Whether the record needs a node newer than the first version: it has another opcode, or options."""
        if self.kind is Kind.WRITE:
            return self.opcode > command.Opcode.DELETE or self.record[pipe.WRITE.size + 1] != 0
        return self.record[pipe.READ.size - 1] != 0

    def is_fresh(self, staleness_ms: int | None, now_s: float) -> bool:
        """Whether an answer to a bounded read is young enough, counted with all the time that it may have travelled."""
        if staleness_ms is None:
            return False
        return staleness_ms + 1000 * (now_s - self.sent_s) <= self.bound_ms

    def sent_back(self, reason: str) -> None:
        """Notes that the operation is to be tried again, and why."""
        self.reason = reason
        self.tries += 1
        if self.trace is not None:
            self.trace.sent_back(reason)

    def set_epoch(self, epoch: int) -> None:
        """Encodes the record anew for another epoch of its slot.

        Requires: it is not in flight.
        """
        assert self.batch is None
        if self.kind is Kind.WRITE:
            new = command.encode(*command.decode(self.record, pipe.WRITE.size)._replace(epoch=epoch))
            self.record = pipe.encode_write(self.id, command.checksum(new), new)
        else:
            (old,) = pipe.decode_reads(self.record)
            if old.min_index:
                # The index belongs to another shard's log.
                self.kind = Kind.READ_LINEARIZABLE
            self.record = pipe.encode_read(*old._replace(epoch=epoch, min_index=0))
