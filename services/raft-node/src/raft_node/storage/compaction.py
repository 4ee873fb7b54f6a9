"""Which tables to merge next: a pure function of the version (leveled compaction).

Level 0 is merged into level 1 once it has ``l0_tables_trigger`` tables, a deeper level into the next one once it is
over its size, one table at a time, the one that overlaps least first. So every compaction is small, and flushes, which
share the worker, never wait long for one. This module knows no files.

Invariants:
1. The inputs hold every version of their keys down to the output level that is older than the newest input's.
2. No two outputs' ranges, nor theirs and a remaining table's of that level, can overlap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate

from raft_node.storage.options import EngineOptions
from raft_node.storage.version import LEVELS, TableMeta, Version


@dataclass(frozen=True, slots=True)
class Compaction:
    """What to merge.

    Attributes:
        runs: The inputs as sorted runs, newest first.
        output_level: Where the outputs go.
        deeper: The key ranges of deeper tables that may hold a key of the inputs.
        move: The one input can go down as it is.
    """

    runs: tuple[tuple[TableMeta, ...], ...]
    output_level: int
    deeper: tuple[tuple[bytes, bytes], ...]
    move: bool


def level_bytes_max(level: int, options: EngineOptions) -> int:
    """What a level below 0 may hold before a table of it moves down."""
    size: int = options.level_base_bytes * options.level_multiplier ** (level - 1)
    return size


def pending_bytes(version: Version, options: EngineOptions) -> int:
    """What waits to move down: a full level 0, and what deeper levels hold beyond their size."""
    waiting = version.level_bytes(0) if len(version.levels[0]) >= options.l0_tables_trigger else 0
    for level in range(1, LEVELS - 1):
        waiting += max(0, version.level_bytes(level) - level_bytes_max(level, options))
    return waiting


def pick(version: Version, options: EngineOptions) -> Compaction | None:
    """The most urgent compaction, or None."""
    scores = [len(version.levels[0]) / options.l0_tables_trigger]
    scores += [version.level_bytes(level) / level_bytes_max(level, options) for level in range(1, LEVELS - 1)]
    score = max(scores)
    level = scores.index(score)
    if level == 0:
        return _pick_level_0(version, options) if score >= 1 else None
    return _compact(version, level, ((_least_overlapping(version, level),),)) if score > 1 else None


def _pick_level_0(version: Version, options: EngineOptions) -> Compaction:
    # The oldest ones: a newer table may stay above an older one, never the other way round.
    tables = version.levels[0][-options.l0_inputs_max :]
    return _compact(version, 0, tuple((table,) for table in tables))


def _least_overlapping(version: Version, level: int) -> TableMeta:
    below = version.levels[level + 1]
    smallest = [table.smallest for table in below]
    largest = [table.largest for table in below]
    sums = list(accumulate((table.size_bytes for table in below), initial=0))

    def cost(table: TableMeta) -> tuple[float, int]:
        first = bisect_left(largest, table.smallest)
        last = bisect_right(smallest, table.largest)
        return (sums[max(first, last)] - sums[first]) / table.size_bytes, table.number

    return min(version.levels[level], key=cost)


def _compact(version: Version, level: int, upper: tuple[tuple[TableMeta, ...], ...]) -> Compaction:
    output_level = level + 1
    tables = [table for run in upper for table in run]
    smallest = min(table.smallest for table in tables)
    largest = max(table.largest for table in tables)
    lower = version.overlapping(output_level, smallest, largest)
    runs = (*upper, lower) if lower else upper
    if lower:
        smallest = min(smallest, lower[0].smallest)
        largest = max(largest, lower[-1].largest)
    deeper = tuple(
        (table.smallest, table.largest)
        for deeper_level in range(output_level + 1, LEVELS)
        for table in version.overlapping(deeper_level, smallest, largest)
    )
    # A lone table need not be rewritten, unless that would get rid of tombstones.
    move = len(tables) == 1 and not lower and (not tables[0].tombstones or bool(deeper))
    return Compaction(runs, output_level, deeper, move)
