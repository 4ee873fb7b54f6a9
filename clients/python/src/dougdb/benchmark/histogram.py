"""Latencies in a bounded number of buckets, each at most 1/32 wide of what it holds, as HdrHistogram has them.

Pure. Invariant: a figure that is told lies within 1/32 of one that was recorded.
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
    """Some latencies.

    Attributes:
        count: How many.
        max_s: The longest.
    """

    def __init__(self) -> None:
        self.count = 0
        self.max_s = 0.0
        self._sum_s = 0.0
        self._buckets: Counter[int] = Counter()

    def record(self, seconds: float) -> None:
        """Takes a latency."""
        self.count += 1
        self._sum_s += seconds
        self.max_s = max(self.max_s, seconds)
        self._buckets[_bucket(max(0, int(seconds * 1e6)))] += 1

    def merge(self, other: Histogram) -> None:
        """Takes all that another one has."""
        self.count += other.count
        self._sum_s += other._sum_s
        self.max_s = max(self.max_s, other.max_s)
        self._buckets += other._buckets

    @property
    def mean_s(self) -> float:
        """The mean; 0 of none."""
        return self._sum_s / self.count if self.count else 0.0

    def percentile_s(self, part: float) -> float:
        """The latency that so large a part (of 1) stays within; 0 of none."""
        wanted, seen = part * self.count, 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(self.max_s, _upper_us(bucket) / 1e6)
        return self.max_s

    def rows(self) -> list[tuple[float, int]]:
        """Latencies, each twice the one before, and how many lie within it and not within the one before."""
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
