"""The clocks of a node beside its ticks: one for log timestamps, one for leases.

Only the driver reads them; the core is given what they show.
"""

from __future__ import annotations

import time

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_s() -> float:
    """The seconds of a clock that nobody can set and that, where possible, goes on while the machine is suspended."""
    return time.clock_gettime(_BOOT_CLOCK)


class WallClock:
    """The leader's clock for log timestamps: the wall clock at its election, moved on by the monotonic clock.

    Where the log is ahead of the wall clock, because a leader's clock was once, it goes on from the log's time:
    standing still until the wall clock has caught up would stop every expiry for so long.
    """

    def __init__(self) -> None:
        """Begins with the wall clock of now."""
        self.rebase()

    def rebase(self, log_us: int = 0) -> int:
        """Reads the wall clock again, when this node becomes leader.

        Args:
            log_us: The time of the last entry in the log.

        Returns:
            By how many microseconds the log is ahead of the wall clock; 0 if it is not.
        """
        wall_us = time.time_ns() // 1000
        self._wall_us = max(wall_us, log_us)
        self._monotonic_us = time.monotonic_ns() // 1000
        return self._wall_us - wall_us

    def now_us(self) -> int:
        """The present time, in microseconds since the epoch."""
        return self._wall_us + time.monotonic_ns() // 1000 - self._monotonic_us


class LeaseClock:
    """The clock that leases are judged by, in ticks with fractions; nobody can set it.

    Where the system has one, it is the clock that goes on while the machine is suspended: a laptop that was shut must
    not wake up with a lease.
    """

    def __init__(self, tick_ms: int) -> None:
        """Takes the length of a tick."""
        self._tick_ns = tick_ms * 1_000_000
        self._clock = _BOOT_CLOCK

    def now(self) -> float:
        """The present time, in ticks."""
        return time.clock_gettime_ns(self._clock) / self._tick_ns
