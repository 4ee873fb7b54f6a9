"""Latencies in a bounded number of buckets, each at most 1/32 as wide as the latencies in it, as in HdrHistogram.

Pure. Invariant: every percentile lies within 1/32 of a latency that was recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_SUB_BITS = 5
_SUB = 1 << _SUB_BITS
BAR = 40
ROWS_MAX = 24


def _bucket(us: int) -> int:
    shift = max(0, us.bit_length() - _SUB_BITS - 1)
    return (shift << _SUB_BITS) + (us >> shift)


def _upper_us(bucket: int) -> int:
    """The greatest latency that a bucket holds."""
    shift = max(0, (bucket >> _SUB_BITS) - 1)
    return (((bucket - (shift << _SUB_BITS)) + 1) << shift) - 1


class Histogram:
    """A set of latencies.

    Attributes:
        count: How many latencies.
        max_s: The longest latency.
    """

    def __init__(self) -> None:
        self.count = 0
        self.max_s = 0.0
        self._sum_s = 0.0
        self._buckets: Counter[int] = Counter()

    def record(self, seconds: float) -> None:
        """Adds a latency."""
        self.count += 1
        self._sum_s += seconds
        self.max_s = max(self.max_s, seconds)
        self._buckets[_bucket(max(0, int(seconds * 1e6)))] += 1

    def merge(self, other: Histogram) -> None:
        """Adds all latencies of another histogram."""
        self.count += other.count
        self._sum_s += other._sum_s
        self.max_s = max(self.max_s, other.max_s)
        self._buckets += other._buckets

    @property
    def mean_s(self) -> float:
        """The mean latency; 0 if there are none."""
        return self._sum_s / self.count if self.count else 0.0

    def percentile_s(self, part: float) -> float:
        """The latency that the fraction ``part`` (0 to 1) of all does not exceed; 0 if there are none."""
        wanted, seen = part * self.count, 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(self.max_s, _upper_us(bucket) / 1e6)
        return self.max_s

    def rows(self) -> list[tuple[float, int]]:
        """Bounds, each twice the one before, each with the number of latencies from the bound before up to it."""
        found: Counter[int] = Counter()
        for bucket, count in self._buckets.items():
            found[max(1, _upper_us(bucket)).bit_length()] += count
        if not found:
            return []
        return [((1 << bits) / 1e6, found[bits]) for bits in range(min(found), max(found) + 1)]


def shown(seconds: float) -> str:
    """A latency with its unit, in at most seven columns."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def drawn(rows: Sequence[tuple[float, int]]) -> list[str]:
    """The histogram as lines of less than 80 columns."""
    total = sum(count for _, count in rows)
    most = max((count for _, count in rows), default=0)
    lines = []
    for upper_s, count in rows[:ROWS_MAX]:
        bar = "#" * max(1 if count else 0, round(BAR * count / most))
        lines.append(f"  < {shown(upper_s):>7}  {bar:<{BAR}} {count:>9} {100 * count / total:5.1f}%")
    return lines
