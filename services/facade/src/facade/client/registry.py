"""Owns every operation from its admission to its answer: its deadline, its bytes, its tries, its shard.

Shards, nodes and links below it keep queues and windows, and report what became of operations; only the registry ends
one. Must not know HTTP, streams or who leads.

Invariants:
    1. Every admitted operation is ended exactly once: by an answer, or by its own deadline within one tick.
    2. Items and bytes of a shard are bounded; beyond the bound nothing is queued.
    3. An operation that was never proposed ends as NotAppliedError; a write that may have been, as OutcomeUnknownError.
    4. A write that may have been applied is sent again only when it is repeatable: it carries an idempotency token.

Source: ARCHITECTURE.md, The way of a write; docs/api.md, Errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import count

from doug_wire import pipe
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from facade.client.answers import RETRIED, gave_up, malformed, too_late, unknown
from facade.client.directory import Directory
from facade.client.hedging import Hedging
from facade.client.metrics import Metrics
from facade.client.modes import Kind
from facade.client.node import Node
from facade.client.operation import Load, Operation
from facade.client.sessions import foreign_session
from facade.client.shard import Answer, Shard
from facade.client.tracing import OperationTracing
from facade.client.turns import RESERVE, Turns
from facade.client.waits import MANY
from facade.errors import NotAppliedError, ProblemError
from facade.settings import Settings

TICK_S = 0.025
"""How exact deadlines and ageing windows are; no timer runs while nothing is pending."""

BACKOFF_MIN_S = 0.01
BACKOFF_MAX_S = 0.2

ABANDONED_S = 0.1
"""An operation that has waited so long is dropped when its client leaves."""

REROUTES_MAX = 20

DISK_FULL_TRIES = 7
"""Tries of a write that finds a leader's disk full: about a second, in which leadership can move."""


class Registry:
    """All operations that are not over.

    Attributes:
        timeout_s: How long an operation may take that has no deadline of its own.
        next_id: Gives the id of the next operation, which its record carries.
        on_refused: Called with the limit and the client of an operation that is refused for its client's share.
    """

    def __init__(
        self, directory: Directory, settings: Settings, metrics: Metrics, tracing: OperationTracing | None
    ) -> None:
        """Requires: a running loop."""
        self._directory = directory
        self._metrics = metrics
        self._tracing = tracing
        self._loop = asyncio.get_running_loop()
        self.timeout_s = settings.request_timeout_ms / 1000
        self._hedging: Hedging | None = None
        if settings.hedge_reads_ms:
            self._hedging = Hedging(self, metrics, settings.hedge_reads_ms / 1000, settings.hedge_reads_percent / 100)
        self._items_max = settings.queue_items_max
        self._bytes_max = settings.queue_bytes_max
        self._window = settings.fair_window_items
        self._client_bytes_max = settings.client_bytes_max
        # Without turns no client would be kept out of the reserve.
        reserve = RESERVE if self._window or self._client_bytes_max else 0.0
        self._items_limit = int(self._items_max * (1 + reserve))
        self._bytes_limit = int(self._bytes_max * (1 + reserve))
        self.next_id: Callable[[], int] = count(1).__next__
        self._pending: dict[int, Operation] = {}
        self._due: dict[int, list[int]] = {}
        """Ids by the number of the tick at which their time is over; those that are over stay until then."""
        self._next_tick = 0
        self._ticking = False
        self._stranded: list[Operation] = []
        self._loads: dict[int, Load] = {}
        self.on_refused: Callable[[str, str], None] = lambda limit, client: None

    def load(self, shard_id: int) -> Load:
        """The operations of a shard that wait or are in flight, in numbers and bytes."""
        load = self._loads.get(shard_id)
        if load is None:
            turns = None
            if self._window or self._client_bytes_max:
                window = self._window or self._items_max
                turns = Turns(window, self._items_max, self._bytes_max, self._client_bytes_max)
                turns.on_refused = self._tell_refused
            load = self._loads[shard_id] = Load(turns)
        return load

    def _tell_refused(self, limit: str, client: str) -> None:
        self.on_refused(limit, client)

    def sample_turns(self) -> None:
        """Sets the metrics of the operations that wait for their turn, and of those refused for a share."""
        turns = [load.turns for load in self._loads.values() if load.turns is not None]
        self._metrics.turns(
            sum(each.waiting for each in turns), sum(each.waited for each in turns), sum(each.refused for each in turns)
        )

    # Operations come in.

    def check_room(self, shard: Shard, size: int) -> Load:
        """Refuses an operation for which its shard has no room.

        Raises:
            NotAppliedError: Too much of this shard is waiting.
        """
        load = self._loads.get(shard.id) or self.load(shard.id)
        if load.items >= self._items_limit or load.size + size > self._bytes_limit:
            raise NotAppliedError("overloaded", "Too many requests wait for this shard.", shard=shard.id)
        return load

    def admit(
        self,
        shard: Shard,
        operation_id: int,
        kind: Kind,
        key: bytes,
        record: bytes,
        deadline_s: float,
        *,
        repeatable: bool,
        client: str = "",
        to: Node | None = None,
    ) -> Operation:
        """Takes an operation in and queues it; it is answered by its deadline, on the loop's clock.

        Args:
            shard: The shard that owns the key.
            operation_id: From ``next_id``; the record carries it.
            kind: The kind that says in which window the operation counts.
            key: The key that says where it belongs.
            record: The encoded record.
            deadline_s: When it must be answered; 0 for the usual time from now on.
            repeatable: Whether sending it twice does no harm.
            client: The principal or address whose share the operation takes.
            to: For the copy of a read, which takes no share: the node that is to serve it (``facade.client.hedging``).

        Raises:
            NotAppliedError: Too much of this shard is waiting, or for too long, or the deadline is over.
            TooManyRequestsError: The client has more under way than its share.
        """
        size = len(record)
        load = self.check_room(shard, size)
        loop = self._loop
        now_s = loop.time()
        late = not deadline_s and load.items >= MANY and shard.waits.are_long(kind, now_s)  # Batches come in whole.
        if not deadline_s:
            deadline_s = now_s + self.timeout_s
        elif deadline_s <= now_s:
            raise NotAppliedError("unavailable", "There was no time left to send it.", shard=shard.id)
        operation = Operation(
            operation_id, kind, shard.id, load, key, record, deadline_s, loop.create_future(), repeatable
        )
        operation.queued_s = now_s
        turns, entered = load.turns, True
        if late and turns is None:
            raise NotAppliedError("overloaded", "Requests wait too long for this shard.", shard=shard.id)
        if turns is not None and to is None:
            operation.client = turns.admit(client, load.items, size, load.size, late=late)
            entered = turns.enter(operation.client, operation)
        if self._tracing is not None:
            operation.trace = self._tracing.begin(operation)
        load.items += 1
        load.size += size
        self._pending[operation_id] = operation
        if not self._ticking:
            self._ticking = True
            self._next_tick = int(now_s / TICK_S)
            loop.call_later(TICK_S, self._tick)
        # Never among those that were checked already: they are not checked again.
        tick = max(int(deadline_s / TICK_S) + 1, self._next_tick)
        self._due.setdefault(tick, []).append(operation_id)
        if to is not None:
            to.copies.append(operation)
            to.wake()
            return operation
        if self._hedging is not None and kind is Kind.READ_LOCAL:
            self._hedging.admitted()
        if entered:
            shard.submit(operation)
        return operation

    # Operations end.

    def finish(self, operation: Operation, result: pipe.ResultRecord | ProblemError) -> None:
        """Ends an operation with its answer; does nothing if it is over already."""
        if self._pending.pop(operation.id, None) is None:
            return
        load, size = operation.load, len(operation.record)
        load.items -= 1
        load.size -= size
        operation.record = b""
        if operation.client is not None:
            self._pass_on(load, operation, size)
        future = operation.future
        if future.done():
            return  # The waiting caller was cancelled.
        if isinstance(result, ProblemError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def _pass_on(self, load: Load, operation: Operation, size: int) -> None:
        """Takes an operation out of its client's share, and queues those whose turn it is now."""
        client, turns = operation.client, load.turns
        assert client is not None and turns is not None
        operation.client = None
        for ready in turns.leave(client, operation, size):
            ready.queued_s = self._loop.time()
            self._directory.shards[ready.shard].submit(ready)

    def settle(self, answers: Iterable[Answer]) -> None:
        """Takes the answers of a node: ends the operations, or tries them again. They are not in flight any more."""
        if self._directory.sessions.recovered:
            answers = self._unless_recovered(answers)
        refused: list[Answer] = []
        finish, decided = self.finish, pipe.DECIDED
        for answer in answers:
            if answer[1].status in decided:
                finish(*answer)
            else:
                refused.append(answer)
        for operation, result in reversed(refused):
            self._refused(operation, result)

    def _unless_recovered(self, answers: Iterable[Answer]) -> list[Answer]:
        """The answers that count although a shard has been recovered without its quorum.

        Reads whose sessions have seen a lost entry get ``foreign_session``. What a node from before the recovery has
        decided, is asked of others.
        """
        sessions = self._directory.sessions
        left: list[Answer] = []
        for operation, result in answers:
            receipt = operation.receipt
            behind = receipt is not None and sessions.is_behind(receipt.shard, receipt.entry, operation.session)
            if operation.kind is not Kind.WRITE and sessions.is_foreign(operation.session):
                self.finish(operation, foreign_session())
            elif not behind or result.status not in pipe.DECIDED:
                left.append((operation, result))
            elif operation.kind is Kind.WRITE:
                self._unanswered(operation, "The node that answered is from before the shard was recovered.")
            else:
                self._retry(operation, RETRIED[Status.NOT_FRESH], backoff=True)
        return left

    def _refused(self, operation: Operation, result: pipe.ResultRecord) -> None:
        status = result.status
        if status == Status.WRONG_SHARD:
            self._reroute(operation)
        elif status == Status.INVALID:
            self.finish(operation, malformed(operation))
        elif status == Status.DISK_FULL and operation.tries >= DISK_FULL_TRIES:
            operation.reason = "disk_full"
            self.finish(operation, gave_up(operation))
        elif operation.kind is Kind.WRITE and status not in pipe.NOT_APPLIED:
            self._unanswered(operation, "The shard cannot say whether the write was applied.")
        else:
            # A node that does not lead has told the leader, or the search finds it soon; other refusals need a pause.
            backoff = status != Status.NOT_LEADER or operation.tries > 3
            self._retry(operation, RETRIED.get(status, "unavailable"), backoff=backoff)

    def lost(self, node_id: str, operations: Iterable[Operation]) -> None:
        """Takes the operations that were in flight on a node's stream when it ended, oldest first."""
        # A node that comes back may be of a restored cluster, whose session tokens are different.
        self._directory.stale.set()
        for operation in reversed(list(operations)):
            if operation.kind is Kind.WRITE:
                self._unanswered(operation, f"The connection to {node_id} broke while the write was under way.")
            else:
                self._retry(operation, "stream_broken", backoff=False)

    def _unanswered(self, operation: Operation, detail: str) -> None:
        """Handles a write that may have been applied: only with an idempotency token it is safe to send it again."""
        if not operation.repeatable:
            self.finish(operation, unknown(operation, detail))
            return
        operation.uncertain = True
        self._retry(operation, "unanswered", backoff=True)

    def _retry(self, operation: Operation, reason: str, *, backoff: bool) -> None:
        """Tries an operation again, in front of those that came later."""
        operation.sent_back(reason)
        self._metrics.retry(reason)
        if backoff:
            delay_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(operation.tries - 1, 10))
            self._loop.call_later(delay_s, self._requeue, operation)
        else:
            self._requeue(operation)

    def _requeue(self, operation: Operation) -> None:
        self._directory.shards[operation.shard].requeue(operation)

    # Time passes.

    def _tick(self) -> None:
        try:
            self._look_at_deadlines(self._loop.time())
        finally:
            # The next tick is set in any case: without it no request would ever time out again.
            self._ticking = bool(self._pending)
            if self._ticking:
                self._loop.call_later(TICK_S, self._tick)
            else:
                self._due.clear()

    def _look_at_deadlines(self, now_s: float) -> None:
        for tick in range(self._next_tick, int(now_s / TICK_S) + 1):
            for operation_id in self._due.get(tick, ()):
                operation = self._pending.get(operation_id)
                if operation is not None:
                    self._expire(operation)
            self._due.pop(tick, None)
            self._next_tick = tick + 1
        for shard in self._directory.shards.values():
            shard.tick(now_s)
            if self._hedging is not None:
                self._hedging.look(shard, now_s)

    def give_up(self, read: Operation, error: ProblemError) -> None:
        """Ends a read because its answer is not wanted any more."""
        if read.batch is not None:
            read.batch.link.take(read.id)
        self.finish(read, error)

    def abandon(self, operation: Operation) -> None:
        """Ends an operation whose client has left, if it was to wait longer: clients that give up must not fill queues.

        What was about to be sent is, so that it is done although the client does not wait for an answer.
        """
        if operation.batch is not None or self._loop.time() - operation.queued_s < ABANDONED_S:
            return
        what = "Its client has left."
        left = NotAppliedError("overloaded", what, shard=operation.shard)
        self.finish(operation, unknown(operation, what) if operation.uncertain else left)

    def _expire(self, operation: Operation) -> None:
        batch = operation.batch
        if batch is None:
            self.finish(operation, gave_up(operation))
        else:
            batch.link.take(operation.id)
            self.finish(operation, too_late(operation))

    # Slots move.

    def _reroute(self, operation: Operation) -> None:
        """Handles a shard's answer that it does not own the key: asks for a newer map, and tries again with that."""
        operation.sent_back("wrong_shard")
        self._metrics.retry("wrong_shard")
        self._directory.stale.set()
        if operation.tries > REROUTES_MAX or operation.opcode == Opcode.BATCH:
            # The keys of a batch may belong to several shards now: its maker splits it again.
            self.finish(operation, gave_up(operation))
            return
        self._stranded.append(operation)

    def send_stranded(self) -> None:
        """Sends the operations whose shards did not own their keys to the owners by the map that was just loaded."""
        stranded, self._stranded = self._stranded, []
        for operation in stranded:
            if operation.future.done():
                continue
            try:
                shard, epoch = self._directory.locate(operation.key)
            except NotAppliedError as error:
                self.finish(operation, gave_up(operation) if operation.uncertain else error)
                continue
            size = len(operation.record)
            old, new = operation.load, self.load(shard.id)
            operation.set_epoch(epoch)
            old.items, old.size = old.items - 1, old.size - size
            new.items, new.size = new.items + 1, new.size + len(operation.record)
            client = operation.client
            if client is not None:
                self._pass_on(old, operation, size)
            operation.load = new
            operation.shard = shard.id
            if client is not None and new.turns is not None:
                operation.client = new.turns.take(client.name, operation, len(operation.record))
            shard.submit(operation)
