"""The client: every operation on keys.

What a request looks like is in ``dougdb.calls``, how it is sent in ``sender``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from dougdb import calls
from dougdb.aio.locks import AsyncLocks
from dougdb.aio.sender import Session
from dougdb.aio.watches import AsyncWatches
from dougdb.batches import BatchRun, Group, groups
from dougdb.calls import Counter, OperationState, conditions
from dougdb.checks import OCTET_STREAM, Bytes
from dougdb.errors import DougdbError, InvalidArgumentError
from dougdb.idempotency import AUTO, IdempotencyKey
from dougdb.operations import Compare, Operation, Result, Ttl, TxnResult
from dougdb.patience import Attempts
from dougdb.shapes import Consistency, Receipt, Value


class AsyncDougClient(AsyncWatches, AsyncLocks):
    """A client for asyncio. Use it in an ``async with`` block, or call ``close``.

    A call that failed is repeated by itself, within ``deadline_s``, where that is safe: reads always; writes that were
    certainly not applied; and, since the client makes an idempotency key for each, writes that may have been applied.
    The arguments are those of ``AsyncSender``.
    """

    async def get(
        self,
        key: str | Bytes,
        *,
        consistency: Consistency | str | None = None,
        if_revision: str | int | None = None,
    ) -> Value:
        """Reads a value.

        Args:
            key: The key.
            consistency: The consistency of the read; None for linearizable.
            if_revision: Read only if the key has this revision.

        Raises:
            KeyNotFoundError: There is no such key.
            PreconditionFailedError: The key has another revision.
            UnavailableError: No node could serve the read in this consistency.
        """
        return await self._call(calls.get(key, consistency=consistency, if_revision=if_revision))

    async def get_if_changed(
        self, key: str | Bytes, revision: str | int, *, consistency: Consistency | str | None = None
    ) -> Value | None:
        """Reads a value, or returns None if it has the revision that the caller knows already.

        Raises:
            KeyNotFoundError: There is no such key.
            UnavailableError: No node could serve the read in this consistency.
        """
        return await self._call(calls.get_if_changed(key, revision, consistency=consistency))

    async def put(
        self,
        key: str | Bytes,
        value: Bytes,
        *,
        content_type: str = OCTET_STREAM,
        content_encoding: str | None = None,
        ttl: Ttl | None = None,
        if_revision: str | int | None = None,
        if_absent: bool = False,
        if_exists: bool = False,
        idempotency_key: IdempotencyKey = AUTO,
    ) -> Receipt:
        """Stores a value under a key.

        Args:
            key: The key.
            value: The value.
            content_type: The content type, which is kept with the value.
            content_encoding: The content encoding, which is kept with the value; the value stays as it is.
            ttl: How long the key lives: seconds, a ``timedelta``, text like ``500ms``, or ``keep`` for the expiry that
                it had; None for ever.
            if_revision: Store only if the key has this revision: compare and set.
            if_absent: Store only if there is no such key.
            if_exists: Store only if there is such a key.
            idempotency_key: An idempotency key of the caller's own; None for none.

        Raises:
            PreconditionFailedError: The condition does not hold.
            UnavailableError: The value was certainly not stored.
            OutcomeUnknownError: The value may have been stored, or may be later.
        """
        condition = conditions(if_revision, if_absent=if_absent, if_exists=if_exists)
        call = calls.put(
            key,
            value,
            content_type=content_type,
            content_encoding=content_encoding,
            ttl=ttl,
            condition=condition,
            token=idempotency_key,
        )
        return await self._call(call)

    async def delete(
        self,
        key: str | Bytes,
        *,
        if_revision: str | int | None = None,
        if_exists: bool = False,
        idempotency_key: IdempotencyKey = AUTO,
    ) -> Receipt:
        """Removes a key; a missing key is no error.

        Args:
            key: The key.
            if_revision: Remove only if the key has this revision.
            if_exists: Make a missing key a ``PreconditionFailedError``.
            idempotency_key: An idempotency key of the caller's own; None for none.

        Raises:
            PreconditionFailedError: The condition does not hold.
            UnavailableError: The key was certainly not removed.
            OutcomeUnknownError: The key may have been removed, or may be later.
        """
        condition = conditions(if_revision, if_exists=if_exists)
        return await self._call(calls.delete(key, condition=condition, token=idempotency_key))

    async def increment(
        self,
        key: str | Bytes,
        by: int = 1,
        *,
        initial: int = 0,
        ttl: Ttl | None = None,
        if_revision: str | int | None = None,
        if_absent: bool = False,
        if_exists: bool = False,
        idempotency_key: IdempotencyKey = AUTO,
    ) -> Counter:
        """Adds to a value that is a decimal integer of 64 bits.

        Args:
            key: The key.
            by: The number to add; it may be negative.
            initial: The number that a missing key counts as.
            ttl: As for ``put``; without it the key keeps the expiry that it had.
            if_revision: Add only if the key has this revision.
            if_absent: Add only if there is no such key.
            if_exists: Add only if there is such a key.
            idempotency_key: An idempotency key of the caller's own; None for none.

        Raises:
            NotANumberError: The value is no decimal integer of 64 bits.
            CounterOverflowError: The sum does not fit into 64 bits.
            PreconditionFailedError: The condition does not hold.
            UnavailableError: The number was certainly not added.
            OutcomeUnknownError: The number may have been added, or may be later.
        """
        condition = conditions(if_revision, if_absent=if_absent, if_exists=if_exists)
        return await self._call(
            calls.increment(key, by, initial=initial, ttl=ttl, condition=condition, token=idempotency_key)
        )

    async def touch(
        self,
        key: str | Bytes,
        ttl: Ttl,
        *,
        if_revision: str | int | None = None,
        if_exists: bool = False,
        idempotency_key: IdempotencyKey = AUTO,
    ) -> Receipt:
        """Gives a key another expiry; its value stays.

        Args:
            key: The key.
            ttl: How long the key lives from now on.
            if_revision: Change it only if the key has this revision; so a lease is renewed.
            if_exists: Make a missing key a ``PreconditionFailedError``.
            idempotency_key: An idempotency key of the caller's own; None for none.

        Raises:
            KeyNotFoundError: There is no such key.
            PreconditionFailedError: The condition does not hold.
            UnavailableError: The key certainly kept the expiry that it had.
            OutcomeUnknownError: The key may have got the new expiry, or may get it later.
        """
        condition = conditions(if_revision, if_exists=if_exists)
        return await self._call(calls.touch(key, ttl, condition=condition, token=idempotency_key))

    async def batch(self, operations: Iterable[Operation], *, idempotency_key: IdempotencyKey = AUTO) -> list[Result]:
        """Carries out many operations, each as if alone; nothing is atomic. Their results come in the same order.

        Any number may be given: they are sent in requests of a size that the facade takes. An operation that failed is
        no exception here, but a result with an ``error``; operations that could not be served are repeated within the
        deadline, as single calls are.

        Args:
            operations: The operations. Those on one key happen in their order.
            idempotency_key: An idempotency key of the caller's own, for a batch of one request; None for none.

        Raises:
            UnavailableError: No operation was applied.
            OutcomeUnknownError: Nobody can tell which operations were applied.
        """
        split: Iterable[Group] = groups(operations)
        if isinstance(idempotency_key, str):
            split = list(split)
            if len(split) > 1:
                raise InvalidArgumentError("an idempotency key is for one request, and these operations take several")
        results: list[Result] = []
        for group in split:
            run = self._batch_run(group, idempotency_key)
            try:
                await self._carry_out(run)
            except DougdbError as error:
                if not results and not run.answered:
                    raise
                run.fail(error)
            results += run.results
        return results

    def _batch_run(self, group: Group, token: IdempotencyKey) -> BatchRun:
        own_key = token is AUTO
        key = self._own_key() if own_key else token
        return BatchRun(group, key if isinstance(key, str) else None, own_key=own_key)

    async def _carry_out(self, run: BatchRun) -> None:
        attempts = Attempts(repeatable=True, deadline_s=self._deadline_s, now_s=self._pace.now())
        while True:
            again = run.take(await self._call(run.call))
            if again is None:
                return
            try:
                pause_s = attempts.pause_after(again, self._pace.now())
            except DougdbError:
                # The results tell the errors, operation by operation.
                return
            await self._pace.sleep(pause_s)

    async def txn(
        self,
        *,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
        idempotency_key: IdempotencyKey = AUTO,
    ) -> TxnResult:
        """Carries out all of ``success`` when all comparisons hold, otherwise all of ``failure``, as a whole.

        All keys must belong to one shard: keys with the same ``{tag}`` do.

        Raises:
            CrossShardError: The keys belong to several shards.
            RejectedError: The transaction makes no sense.
            UnavailableError: The transaction was certainly not applied.
            OutcomeUnknownError: The transaction may have been applied, or may be later.
        """
        return await self._call(calls.txn(compare, success, failure, token=idempotency_key))

    async def operation_state(self, idempotency_key: str, key: str | Bytes) -> OperationState:
        """Asks for the outcome of a write with an idempotency key.

        Args:
            idempotency_key: The idempotency key that the write had.
            key: The key that the write was for.
        """
        return await self._call(calls.operation_state(idempotency_key, key))

    def session(self, token: str = "") -> AsyncDougClient:
        """A view of this client whose reads see what it has read and written, from whichever replica has caught up.

        It uses this client's connections, and sends one request at a time. A read that asks for a consistency gets
        that one.

        Args:
            token: The token of another session, also of another process, to go on with; empty begins anew.
        """
        view = copy.copy(self)
        view._session = Session(token)
        view._is_view = True
        return view

    async def limits(self) -> dict[str, Any]:
        """Every limit that a request can meet, by its name."""
        return await self._call(calls.limits())
