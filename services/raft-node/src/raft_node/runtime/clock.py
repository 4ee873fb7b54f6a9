"""The clock that a leader stamps log entries with: it may be wrong, and never goes back while it leads."""

from __future__ import annotations

import time


class WallClock:
    """The leader's clock for log timestamps: the wall clock at its election, moved on by the monotonic clock."""

    def __init__(self) -> None:
        """Starts from now."""
        self.rebase()

    def rebase(self) -> None:
        """Looks at the wall clock again; done when this node becomes leader."""
        self._wall_us = time.time_ns() // 1000
        self._monotonic_us = time.monotonic_ns() // 1000

    def now_us(self) -> int:
        """Microseconds since the epoch."""
        return self._wall_us + time.monotonic_ns() // 1000 - self._monotonic_us
