"""The virtual clock: a queue of calls to make at times in microseconds. Nothing here waits.

Invariant: two calls due at the same time are made in the order in which they were asked for, so that a run depends on
its seed alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Virtual time. It stands still while a call is made."""

    def __init__(self) -> None:
        self.now_us = 0
        self.calls = 0
        self._order = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def call_later(self, delay_us: int, call: Callable[..., None], *arguments: Any) -> None:
        """Makes a call after some time; with a delay of zero, too, it is made after the present call has returned."""
        assert delay_us >= 0, delay_us
        self._order += 1
        heapq.heappush(self._queue, (self.now_us + delay_us, self._order, call, arguments))

    def run(self, until: Callable[[], bool], limit_us: int) -> bool:
        """Makes calls until ``until`` returns True, checked after each one, or the limit is reached.

        Returns:
            Whether ``until`` returned True.
        """
        while not until():
            if not self._queue or self._queue[0][0] > limit_us:
                self.now_us = max(self.now_us, limit_us)
                return False
            self.now_us, _, call, arguments = heapq.heappop(self._queue)
            self.calls += 1
            call(*arguments)
        return True
