"""Splits the operations of a batch into requests, and decides which are sent again. No network, no clock.

Invariants:

1. There is one result for each operation, in the order of the operations.
2. An operation that may have been applied is sent again only with the idempotency key of its first attempt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from dougdb.calls import Call, batch_of
from dougdb.errors import DougdbError, IdempotencyFullError, OutcomeUnknownError, UnavailableError
from dougdb.idempotency import EXPIRED
from dougdb.operations import Operation, Result, document_of

OPERATIONS_MAX = 10_000
BYTES_MAX = 15 << 20
"""The most bytes of operations in a request, which may have 16 MiB with all that stands around them."""

Group = Sequence[tuple[Operation, str]]


def groups(operations: Iterable[Operation]) -> Iterator[Group]:
    """Splits operations into groups, each small enough for one request; an operation comes with its JSON.

    Raises:
        TypeError: An operation has a wrong type.
        InvalidArgumentError: An operation has a wrong value.
    """
    group: list[tuple[Operation, str]] = []
    size = 0
    for operation in operations:
        text = json.dumps(document_of(operation), ensure_ascii=False)
        length = len(text.encode()) + 1
        if group and (len(group) == OPERATIONS_MAX or size + length > BYTES_MAX):
            yield group
            group, size = [], 0
        group.append((operation, text))
        size += length
    if group:
        yield group


class BatchRun:
    """One group of a batch, until every operation of the group has a result.

    Args:
        group: The operations.
        token: The idempotency key of the group; None without one.
        own_key: Whether the client made the key: then the group may be sent without it if a shard has no room for keys.

    Attributes:
        call: The call to be sent next.
        answered: Whether any operation was answered.
    """

    def __init__(self, group: Group, token: str | None, *, own_key: bool) -> None:
        self._group = group
        self._own_key = own_key
        self._left = list(range(len(group)))
        self._results = [Result(0)] * len(group)
        self._token = token
        self.answered = False
        self.call = self._next_call()

    @property
    def results(self) -> list[Result]:
        """The results of all operations."""
        return self._results

    def take(self, found: list[Result]) -> DougdbError | None:
        """Notes an answer; returns the error for which the rest is to be sent again after a pause, or None."""
        self.answered = True
        for place, result in zip(self._left, found, strict=True):
            self._results[place] = result
        if self._own_key and any(isinstance(each.error, IdempotencyFullError) for each in found):
            self._token = None
        if self._token is None:
            # Without a key, only operations that were certainly not applied are sent again.
            self._left = [place for place in self._left if self._was_refused(place)]
        again = [error for place in self._left if (error := self._results[place].error) and self._may_help(error)]
        if not again:
            return None
        self.call = self._next_call()
        first = again[0]
        return first if isinstance(first, OutcomeUnknownError) else UnavailableError(str(first))

    def fail(self, error: DougdbError) -> None:
        """Gives this error to all operations without a result; they are not sent again."""
        for place in self._left:
            before = self._results[place].error
            if before is not None and self._may_help(before):
                self._results[place] = Result(error.status or 0, error)

    def _was_refused(self, place: int) -> bool:
        error = self._results[place].error
        return isinstance(error, UnavailableError) and (self._own_key or not isinstance(error, IdempotencyFullError))

    def _may_help(self, error: DougdbError) -> bool:
        if isinstance(error, IdempotencyFullError):
            return self._own_key
        if isinstance(error, OutcomeUnknownError):
            return self._token is not None and error.code != EXPIRED
        return isinstance(error, UnavailableError)

    def _next_call(self) -> Call[list[Result]]:
        chosen = [self._group[place] for place in self._left]
        return batch_of([text for _, text in chosen], [operation for operation, _ in chosen], self._token)
