"""The bookkeeping of one stream to one raft-node: windows, batches, what is in flight.

Sans-I/O: it cuts batches and matches answers, and never touches a stream or a clock; times come in from outside.

Invariants:
    1. At most ``window_batches`` batches of a kind are open. A batch closes when all its items are answered, or when it
       is 50 ms old; so no kind waits behind another, and a slow item cannot hold the link up.
    2. At most ``items_max`` items of a kind are unanswered, open batch or not.
    3. A batch holds at most 1 MiB of records, or one record.
    4. A batch waits after the answers of the one before it only while fewer items wait than were waiting then and were
       answered: whoever is answered is likely to ask again at once. It waits for ``gather_s``, and behind a large
       batch until none has come for so long (``GATHER_BYTES``). Without that, those who were answered miss the next
       batch, and many clients run as two half batches that take turns.

Source: ARCHITECTURE.md, The way of a write; docs/formats.md, Pipe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from doug_wire import pipe
from doug_wire.trace_context import TRACES_MAX
from facade.client.modes import Kind
from facade.client.operation import Operation

GATHER_BYTES = 16 << 10
"""For so many bytes of the batch before it a batch waits ``gather_s`` longer, as long as items come: a request with
many operations takes about half a millisecond to be read, and those who were answered together ask one by one."""
GATHER_TIMES = 8
"""How many times ``gather_s`` a batch waits at most."""


class OpenBatch:
    """A batch with unanswered items.

    Attributes:
        id: The batch's number, unique on the stream.
        link: The link that it was cut for.
        kind: The kind of operations whose window the batch counts in.
        items: How many items it was cut with.
        size: How many bytes these had.
        remaining: How many of its items are unanswered.
        sent_at_s: When the batch was cut, on the loop's clock.
        open: Whether the batch still takes up room in its window.
    """

    __slots__ = ("id", "items", "kind", "link", "open", "remaining", "sent_at_s", "size")

    def __init__(self, batch_id: int, link: Link, kind: Kind, remaining: int, sent_at_s: float) -> None:
        self.id = batch_id
        self.link = link
        self.kind = kind
        self.items = self.remaining = remaining
        self.size = 0
        self.sent_at_s = sent_at_s
        self.open = True


class OutgoingBatch(NamedTuple):
    """A batch that is ready to be sent; ``traced`` are the first of its operations that are sampled."""

    batch_id: int
    kind: Kind
    records: bytes
    items: int
    traced: Sequence[Operation] = ()


class Link:
    """The windows of one stream.

    Attributes:
        in_flight: Unanswered operations by id.
        finished: Batches whose last item was taken out of flight; whoever reads them clears them.
        last_heard_s: When the node last said anything, or the stream was opened.
    """

    def __init__(self, window_batches: int, items_max: int, gather_s: float = 0.0) -> None:
        self._window_batches = window_batches
        self._items_max = items_max
        self._gather_s = gather_s
        self._wanted = [0] * (max(Kind) + 1)
        self._gather_until_s = [0.0] * (max(Kind) + 1)
        self._gather_end_s = [0.0] * (max(Kind) + 1)
        self._gathered = [0] * (max(Kind) + 1)
        self._batches: dict[int, OpenBatch] = {}
        self._open = [0] * (max(Kind) + 1)
        self._items = [0] * (max(Kind) + 1)
        self._ids = count(1)
        self.in_flight: dict[int, Operation] = {}
        self.finished: list[OpenBatch] = []
        self.last_heard_s = 0.0

    def items(self, kind: Kind) -> int:
        """How many operations of a kind are unanswered."""
        return self._items[kind]

    def has_room(self, kind: Kind) -> bool:
        """Whether another batch of this kind may be sent now."""
        return self._open[kind] < self._window_batches and self._items[kind] < self._items_max

    def gather(self, batch: OpenBatch, items: int, now_s: float) -> None:
        """Has the next batch wait, behind one that was answered, until ``items`` operations wait, or too few come."""
        kind = batch.kind
        self._wanted[kind] = max(items, batch.items)
        self._gathered[kind] = 0
        self._gather_until_s[kind] = now_s + self._gather_s
        self._gather_end_s[kind] = now_s + self._gather_s * min(GATHER_TIMES, 1 + batch.size // GATHER_BYTES)

    def gathers_until_s(self, kind: Kind, waiting: int, now_s: float) -> float:
        """Until when the next batch of the kind waits for more than the ``waiting`` items; 0 when it may go now."""
        if waiting >= self._wanted[kind]:
            return 0.0
        until_s = self._gather_until_s[kind]
        if waiting > self._gathered[kind]:
            # Some have come: the others are likely to be on their way, too.
            self._gathered[kind] = waiting
            until_s = self._gather_until_s[kind] = min(now_s + self._gather_s, self._gather_end_s[kind])
        return until_s if until_s > now_s else 0.0

    def cut(self, kind: Kind, queue: deque[Operation], now_s: float) -> OutgoingBatch | None:
        """Makes a batch of the operations at the front of a queue; drops those that are over already.

        Requires: ``has_room(kind)``.
        """
        batch = OpenBatch(next(self._ids), self, kind, 0, now_s)
        records: list[bytes] = []
        traced: list[Operation] | None = None
        size = 0
        room = self._items_max - self._items[kind]
        while queue and len(records) < room:
            operation = queue[0]
            if operation.future.done():
                queue.popleft()
                continue
            size += len(operation.record)
            if records and size > pipe.BATCH_BYTES_MAX:
                break
            queue.popleft()
            records.append(operation.record)
            operation.batch = batch
            operation.sent_s = now_s
            if operation.trace is not None:
                traced = [] if traced is None else traced
                traced.append(operation)
            self.in_flight[operation.id] = operation
        if not records:
            return None
        blob = records[0] if len(records) == 1 else b"".join(records)
        batch.items = batch.remaining = len(records)
        batch.size = len(blob)
        self._wanted[kind] = 0
        self._batches[batch.id] = batch
        self._open[kind] += 1
        self._items[kind] += len(records)
        if traced is None:
            return OutgoingBatch(batch.id, kind, blob, len(records))
        return OutgoingBatch(batch.id, kind, blob, len(records), traced[:TRACES_MAX])

    def take(self, operation_id: int) -> Operation | None:
        """Takes an operation out of flight: it was answered, has expired, or is tried elsewhere."""
        operation = self.in_flight.pop(operation_id, None)
        if operation is None:
            return None
        batch = operation.batch
        assert batch is not None
        operation.batch = None
        self._items[batch.kind] -= 1
        batch.remaining -= 1
        if not batch.remaining:
            self._close(batch)
            del self._batches[batch.id]
            self.finished.append(batch)
        return operation

    def _close(self, batch: OpenBatch) -> None:
        if batch.open:
            batch.open = False
            self._open[batch.kind] -= 1

    def close_aged(self, now_s: float) -> bool:
        """Has batches that are 50 ms old take up no room in their windows; returns whether there were any."""
        limit_s = now_s - pipe.WINDOW_OPEN_MS / 1000
        aged = [batch for batch in self._batches.values() if batch.open and batch.sent_at_s <= limit_s]
        for batch in aged:
            self._close(batch)
        return bool(aged)

    def silent_s(self, now_s: float) -> float:
        """For how many seconds the node has owed an answer and sent nothing at all; 0 when it owes none."""
        if not self._batches:
            return 0.0
        oldest = next(iter(self._batches.values()))
        return max(0.0, now_s - max(oldest.sent_at_s, self.last_heard_s))

    def reset(self, now_s: float) -> list[Operation]:
        """Forgets everything, because the stream is new; gives back what was in flight, oldest first."""
        lost = list(self.in_flight.values())
        for operation in lost:
            operation.batch = None
        self.in_flight.clear()
        self.finished.clear()
        self._batches.clear()
        self._open = [0] * len(self._open)
        self._items = [0] * len(self._items)
        self._wanted = [0] * len(self._wanted)
        self.last_heard_s = now_s
        return lost
