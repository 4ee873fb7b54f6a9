"""Hedged reads: an eventual read that takes long is sent to a second replica, too, and the first answer counts.

Off unless a setting says after how long. Must not know HTTP or streams. Invariants:

1. Only reads are hedged that any replica may serve in whatever state it is; each once.
2. A read has one answer: the second copy is an operation of its own, which ends with the first.
3. Copies are at most so large a part of all such reads, with a small reserve for the beginning of trouble: a cluster
   that is slow as a whole does not get twice the load.

Source: Dean and Barroso, "The Tail at Scale".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from doug_wire import pipe
from facade.client.metrics import Metrics
from facade.client.modes import Kind
from facade.client.node import Node
from facade.client.operation import Operation
from facade.client.shard import Shard
from facade.errors import NotAppliedError

if TYPE_CHECKING:
    from facade.client.registry import Registry

RESERVE = 10.0
"""So many copies may be sent at once after a quiet time."""


class Hedging:
    """Sends a copy of an eventual read that takes long to a second replica."""

    def __init__(self, registry: Registry, metrics: Metrics, after_s: float, share: float) -> None:
        """Sends no copy before ``look`` is called.

        Args:
            registry: The owner of the operations, by which copies are admitted and ended.
            metrics: The metrics in which copies are counted.
            after_s: How long a read may take before a copy is sent.
            share: The largest share of all reads that may be copied, from 0 to 1.
        """
        self._registry = registry
        self._metrics = metrics
        self._after_s = after_s
        self._share = share
        self._reserve = RESERVE

    def admitted(self) -> None:
        """Counts a read that may be hedged, which allows for more copies."""
        self._reserve = min(RESERVE, self._reserve + self._share)

    def look(self, shard: Shard, now_s: float) -> None:
        """Sends copies of the reads of a shard that have taken too long by now."""
        limit_s = now_s - self._after_s
        for node in tuple(shard.nodes.values()):
            if not node.up or not node.link.items(Kind.READ_LOCAL):
                continue
            for operation in tuple(node.link.in_flight.values()):
                late = operation.kind is Kind.READ_LOCAL and operation.sent_s <= limit_s
                if late and not operation.hedged and not self._hedge(shard, node, operation, now_s):
                    return

    def _hedge(self, shard: Shard, node: Node, operation: Operation, now_s: float) -> bool:
        """Sends a copy of one read; False if no copy of any read can be sent now."""
        if self._reserve < 1:
            self._metrics.hedged("over_budget")
            return False
        other = shard.replicas.choose(Kind.READ_LOCAL, now_s, node)
        if other is None:
            return False
        registry, copy_id = self._registry, self._registry.next_id()
        (read,) = pipe.decode_reads(operation.record)
        record = pipe.encode_read(*read._replace(id=copy_id))
        try:
            copy = registry.admit(
                shard,
                copy_id,
                Kind.READ_LOCAL,
                operation.key,
                record,
                operation.deadline_s,
                repeatable=True,
                to=other,
            )
        except NotAppliedError:
            return False
        self._reserve -= 1
        operation.hedged = copy.hedged = True
        self._metrics.hedged("sent")
        copy.future.add_done_callback(lambda _: self._copy_ended(copy, operation))
        operation.future.add_done_callback(lambda _: self._end(copy))
        return True

    def _copy_ended(self, copy: Operation, operation: Operation) -> None:
        if copy.future.cancelled() or copy.future.exception() is not None or operation.future.done():
            return
        self._metrics.hedged("won")
        operation.receipt, operation.sent_s = copy.receipt, copy.sent_s
        self._take_back(operation)
        self._registry.finish(operation, copy.future.result())

    def _end(self, copy: Operation) -> None:
        """Ends a copy, because its read was answered."""
        if not copy.future.done():
            self._take_back(copy)
            copy.future.cancel()
            self._registry.finish(copy, NotAppliedError("unavailable", "The read was answered by another replica."))

    @staticmethod
    def _take_back(operation: Operation) -> None:
        if operation.batch is not None:
            operation.batch.link.take(operation.id)
