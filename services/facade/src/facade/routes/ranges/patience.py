"""How long something that breaks is tried again: reads of ranges over shards that change.

Invariant: it ends, and then says what was in the way the last time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from facade.client.scan import ScanBrokenError
from facade.errors import NotAppliedError, ProblemError, ReadTimeoutError

T = TypeVar("T")

BACKOFF_MIN_S, BACKOFF_MAX_S = 0.01, 0.2

DETAILS = {
    "no_leader": "No leader of a shard served the scan in time.",
    "overloaded": "A shard had too many scans under way.",
    "wrong_shard": "Slots are being moved, and the shards together did not own all of them in time.",
    "not_fresh_enough": "No replica of a shard was as fresh as the scan asks for, and could prove it, in time.",
    "unavailable": "A node that was asked for its keys did not serve them in time.",
}


class Patience:
    """Decides whether a scan that broke is begun again: for some time since it last made progress."""

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._delay_s = BACKOFF_MIN_S
        self._broken: ScanBrokenError | None = None
        self.ends_s = self._loop.time() + timeout_s

    def progress(self) -> None:
        """Notes that the scan made progress."""
        self._delay_s = BACKOFF_MIN_S
        self.ends_s = self._loop.time() + self._timeout_s

    async def wait(self, error: ScanBrokenError) -> None:
        """Waits a moment before the next try.

        Raises:
            ProblemError: There is no time left.
        """
        self._broken = error
        if self._loop.time() + self._delay_s >= self.ends_s:
            raise self.late()
        await asyncio.sleep(self._delay_s)
        self._delay_s = min(BACKOFF_MAX_S, 2 * self._delay_s)

    def late(self) -> ProblemError:
        """The error for a scan that gave no answer in time."""
        error = self._broken
        if error is None:
            return ReadTimeoutError("deadline_exceeded", "The range could not be read in time.")
        return NotAppliedError(error.reason, DETAILS[error.reason], shard=error.shard)


async def again(timeout_s: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """Calls ``attempt`` until its scan does not break, or the time is over.

    Raises:
        ProblemError: The attempt failed, or there was no time left.
    """
    patience = Patience(timeout_s)
    try:
        async with asyncio.timeout_at(patience.ends_s):
            while True:
                try:
                    return await attempt()
                except ScanBrokenError as error:
                    await patience.wait(error)
    except TimeoutError:
        raise patience.late() from None
