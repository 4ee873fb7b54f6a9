"""The figures of the last hour, in a bounded part of memory: a ring of samples for the facade and for each shard.

Must not know who asks. Invariants: (1) at most ``SAMPLES`` samples of at most ``SHARDS_MAX`` shards are kept, 4 bytes a
figure; (2) what nobody knew at a sample is null.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from math import nan
from typing import Any

STEP_S = 5
SAMPLES = 3600 // STEP_S
SHARDS_MAX = 64
FACADE = ("requests", "errors", "p50_ms", "p99_ms", "inflight", "loop_lag_ms")
SHARD = ("term", "commits", "lag", "sync_ms", "commit_ms", "memory_bytes", "compaction_bytes", "free_share", "up")


def percentile_ms(counts: Sequence[int], bounds_s: Sequence[float], share: float) -> float:
    """About the longest time that a share of all requests took; NaN without requests.

    Within a bucket all lengths are taken to be equally many; what is beyond the last bound counts as that bound.
    """
    total = sum(counts)
    if total == 0:
        return nan
    wanted, below, low_s = share * total, 0, 0.0
    for count, bound_s in zip(counts, bounds_s, strict=False):
        if count and below + count >= wanted:
            return 1000 * (low_s + (bound_s - low_s) * (wanted - below) / count)
        below, low_s = below + count, bound_s
    return 1000 * bounds_s[-1]


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def shard_sample(nodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The figures of one shard, by what its nodes said."""
    up = [node for node in nodes if node["role"] != "unreachable"]
    if not up:
        return dict.fromkeys(SHARD, nan) | {"up": 0}
    commit = max(node["commit"] for node in up)
    free = [disk["free_bytes"] / disk["total_bytes"] for n in up for disk in n.get("disks", ()) if disk["total_bytes"]]
    leading = [node for node in up if node["role"] == "leader"]
    return {
        "term": max(node["term"] for node in up),
        "commits": max(_known(node.get("commit_rate") for node in up), default=nan),
        "lag": max(commit - node["applied"] for node in up),
        "sync_ms": max(_known(node.get("sync_ms") for node in up), default=nan),
        "commit_ms": max(_known(node.get("commit_ms") for node in leading), default=nan),
        "memory_bytes": max(_known(node.get("memory_bytes") for node in up), default=nan),
        "compaction_bytes": sum(_known(node.get("compaction_rate") for node in up)),
        "free_share": min(free, default=nan),
        "up": len(up),
    }


class _Table:
    """A ring of rows of figures."""

    def __init__(self, names: Sequence[str], at: int) -> None:
        """Begins behind ``at`` samples of which no figures are known."""
        self._columns = {name: array("f", [nan]) * min(at, SAMPLES) for name in names}

    def add(self, row: Mapping[str, float]) -> None:
        for name, column in self._columns.items():
            column.append(row.get(name, nan))
            if len(column) > SAMPLES:
                del column[0]

    def columns(self) -> dict[str, list[float]]:
        return {name: column.tolist() for name, column in self._columns.items()}


class History:
    """The figures of the last hour.

    Attributes:
        times: When each sample was taken, seconds since the epoch.
    """

    def __init__(self) -> None:
        self.times: list[int] = []
        self._facade = _Table(FACADE, 0)
        self._shards: dict[int, _Table] = {}

    def add(self, time_s: int, facade: Mapping[str, float], shards: Mapping[int, Mapping[str, float]]) -> None:
        """Adds a sample; shards beyond the first ``SHARDS_MAX`` are left out."""
        before = len(self.times)
        self.times.append(time_s)
        del self.times[:-SAMPLES]
        self._facade.add(facade)
        for shard in shards:
            if shard not in self._shards and len(self._shards) < SHARDS_MAX:
                self._shards[shard] = _Table(SHARD, before)
        for shard, table in self._shards.items():
            table.add(shards.get(shard, {}))

    def document(self, shards: Iterable[int]) -> dict[str, Any]:
        """The figures of the facade and of some shards, as a document."""
        return {
            "source": "facade",
            "step_s": STEP_S,
            "times": self.times,
            "kept_shards": sorted(self._shards),
            "facade": self._facade.columns(),
            "shards": {str(each): self._shards[each].columns() for each in shards if each in self._shards},
        }
