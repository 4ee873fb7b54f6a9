"""Decides whether and when a request is sent again. Pure arithmetic on errors and seconds, no clock, no network.

Invariants:

1. A write whose outcome is unknown is repeated only under the same idempotency key, or when repeating it is harmless.
2. Once an attempt may have been applied, a later refusal is not reported as "not applied", unless the shard decided it:
   the shard would then have found the first attempt's result under the idempotency key.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from dougdb.errors import (
    DougdbError,
    IdempotencyFullError,
    KeyNotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    RejectedError,
    UnavailableError,
)
from dougdb.idempotency import EXPIRED

PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0
_DECIDED_CODES = frozenset({"precondition_failed", "not_a_number", "overflow", "not_found", "result_too_large"})
_PASSING_STATUSES = frozenset({408, 429})


class Attempts:
    """The attempts of one request.

    Args:
        repeatable: Whether a write may be sent again although it may have been applied.
        deadline_s: The time from the first attempt on in which further ones may begin.
        now_s: When the first attempt begins, by any clock that only goes forward.
        draw: Gives a random number from 0 to 1, so that clients do not all repeat their requests at once.
    """

    def __init__(
        self, *, repeatable: bool, deadline_s: float, now_s: float, draw: Callable[[], float] = random.random
    ) -> None:
        self._repeatable = repeatable
        self._deadline_s = deadline_s
        self._ends_s = now_s + deadline_s
        self._draw = draw
        self._pause_s = PAUSE_MIN_S
        self._uncertain: OutcomeUnknownError | None = None

    @property
    def uncertain(self) -> bool:
        """Whether an attempt so far may have been applied."""
        return self._uncertain is not None

    def progress(self, now_s: float) -> None:
        """Restarts the deadline, because a part of the answer has arrived; used for streams."""
        self._ends_s = now_s + self._deadline_s
        self._pause_s = PAUSE_MIN_S

    def pause_after(self, error: DougdbError, now_s: float) -> float:
        """How long to wait before the next attempt.

        Raises:
            DougdbError: There is no further attempt; the error tells the outcome of the whole request.
        """
        if isinstance(error, OutcomeUnknownError):
            self._uncertain = error
        pause_s = self._pause_s * (0.5 + self._draw())
        if isinstance(error, UnavailableError):
            pause_s = max(pause_s, error.retry_after_s * (0.5 + self._draw()))
        if not self._may_be_repeated(error) or now_s + pause_s > self._ends_s:
            raise self._told(error)
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)
        return pause_s

    def _may_be_repeated(self, error: DougdbError) -> bool:
        if isinstance(error, OutcomeUnknownError):
            # The shard has forgotten the key, and another attempt would not change that.
            return self._repeatable and error.code != EXPIRED
        if isinstance(error, UnavailableError):
            return error.passing and not isinstance(error, IdempotencyFullError)
        return error.status in _PASSING_STATUSES

    def _told(self, error: DougdbError) -> DougdbError:
        if self._uncertain is None or self._uncertain is error or _is_decided(error):
            return error
        told = OutcomeUnknownError(f"{self._uncertain}; then: {error}")
        told.status, told.code, told.request_id = error.status, error.code, error.request_id
        return told


def _is_decided(error: DougdbError) -> bool:
    if isinstance(error, KeyNotFoundError | PreconditionFailedError):
        return True
    return isinstance(error, RejectedError) and error.code in _DECIDED_CODES
