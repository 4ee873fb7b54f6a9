"""Which tables to merge next: a pure function of the version (docs/adr/0006, 0008).

Every level below 0 is one sorted run, and what lies higher is newer. Once level 0 has ``l0_tables_trigger`` tables,
they are merged together with the levels below them, as long as the next one is at most ``merge_ratio`` times as large
as what was taken so far. The outputs go as deep as they can: just above the first level that stays. So levels grow
like the digits of a counter: a record is written again when what it lies in has grown by a half at least, and the
levels stay few.

No merge of whole levels is larger than ``merge_bytes_max``. A level that has outgrown this gives the next one table by
table, the one that overlaps least first; then it may hold a ``level_multiplier``-th of the one below. So no compaction
is long, and a flush, which shares the worker, never waits for more than one. A tombstone counts for what it hides: a
record as large as those of the store are in the mean. So it goes down sooner, and what it hides does not lie about.

While little is written, reads count for more than what a merge writes. ``pick_idle`` goes on then: a merge may write up
to ``idle_merge_ratio`` times what it brings down, as in a leveled tree, and up to ``level_base_bytes`` in any case.
Levels that are too large to be merged whole give the next one table by table until nothing is left of them, and a store
of some hundred megabytes ends as one run. Tombstones that hide much go down whatever lies below them, in tables that
span no more keys than others do (``keys_max``). This module knows no files.

Invariants:
1. The inputs hold every version of their keys down to the output level that is older than the newest input's.
2. No two outputs' ranges, nor theirs and that of a table that stays at or moves to that level, can overlap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from raft_node.storage.options import EngineOptions
from raft_node.storage.tables.version import LEVELS, TableMeta, Version

Run = tuple[TableMeta, ...]

_TOMBSTONE_WEIGHT = 3
"""The number of records of its own table for which a tombstone counts more, at least: with it goes an older one, and
both their bytes come back."""

_SPANNED_KEYS_MIN = 256


@dataclass(frozen=True, slots=True)
class Compaction:
    """A merge that was chosen: its inputs, and the level of its outputs.

    Attributes:
        runs: The inputs as sorted runs, newest first; none if nothing is to be written.
        output_level: The level of the outputs.
        deeper: The key ranges of deeper tables that may hold a key of the inputs.
        moved: Tables that go to the output level as they are: they overlap no input, nor each other.
    """

    runs: tuple[Run, ...]
    output_level: int
    deeper: tuple[tuple[bytes, bytes], ...]
    moved: Run


def level_bytes_max(version: Version, level: int, options: EngineOptions) -> int | None:
    """The bytes that a level below 0 may hold before a table of it moves down; None if no level lies below it."""
    for below in range(level + 1, LEVELS):
        if version.levels[below]:
            share: int = version.level_bytes(below) // options.level_multiplier
            return max(options.level_base_bytes, share)
    return None


def pending_bytes(version: Version, options: EngineOptions) -> int:
    """The bytes that wait to move down: a full level 0, and the excess of deeper levels over their size."""
    waiting = version.level_bytes(0) if len(version.levels[0]) >= options.l0_tables_trigger else 0
    for level in range(1, LEVELS):
        bound = level_bytes_max(version, level, options)
        if bound is not None:
            waiting += min(version.level_bytes(level), max(0, int(_level_weight(version, level)) - bound))
    return waiting


def pick(version: Version, options: EngineOptions) -> Compaction | None:
    """The most urgent compaction; None if none is due."""
    urgent, urgency = 0, len(version.levels[0]) / options.l0_tables_trigger
    for level in range(1, LEVELS):
        bound = level_bytes_max(version, level, options)
        weight = _level_weight(version, level)
        if bound is not None and weight > bound * max(1, urgency):
            urgent, urgency = level, weight / bound
    if urgent:
        return _pick_table(version, urgent)
    return _pick_level_0(version, _Worth(options.merge_ratio, 0), options) if urgency >= 1 else None


def pick_idle(version: Version, options: EngineOptions) -> Compaction | None:
    """The most urgent compaction; or else one that makes the sorted runs fewer and is worth what it writes, or None."""
    urgent = pick(version, options)
    if urgent is not None:
        return urgent
    worth = _Worth(options.idle_merge_ratio, options.level_base_bytes)
    if (
        version.levels[0]
        and (
            len(_take_levels(version, 0, worth, options).runs) > 1
            # Alone, its output goes just above the first level that is too large; its tables go down from there one by
            # one.
            or (_frees_much(version, 0) and any(version.levels[1:]))
        )
    ):
        return _pick_level_0(version, worth, options)
    levels = [level for level in range(1, LEVELS) if version.levels[level]]
    for level in levels:
        runs, output_level = _take_levels(version, level, worth, options)
        if len(runs) > 1:
            return _merge(version, runs, output_level)
    record = record_bytes(version)
    for level, below in pairwise(levels):
        table = _least_overlapping(version, level, below)
        overlap_bytes = sum(each.size_bytes for each in version.overlapping(below, table.smallest, table.largest))
        small = table.size_bytes + overlap_bytes <= options.merge_bytes_max
        if small and overlap_bytes <= worth.ratio * _weight(table, record):
            return _pick_table(version, level)
    return None


class _Worth(NamedTuple):
    """The bounds within which a level is merged whole with the levels above it.

    Attributes:
        ratio: The most times as large as those above that the level may be.
        small_bytes: The size of both together up to which the ratio does not matter.
    """

    ratio: float
    small_bytes: int


class _Taken(NamedTuple):
    """Whole levels that are to be merged.

    Attributes:
        runs: The sorted runs of the levels, newest first.
        output_level: The level of the outputs: just above the first level that stays.
    """

    runs: list[Run]
    output_level: int


def _take_levels(version: Version, first: int, worth: _Worth, options: EngineOptions, last: int = 0) -> _Taken:
    """Takes a level, and the levels below it as long as each is above ``last`` or worth the merge."""
    # The oldest ones of level 0: a newer table may stay above an older one, never the other way round.
    tables = version.levels[first] if first else version.levels[0][-options.l0_inputs_max :]
    runs: list[Run] = [tables] if first else [(table,) for table in tables]
    size = sum(table.size_bytes for table in tables)
    record = record_bytes(version)
    weight = sum(_weight(table, record) for table in tables)
    output_level = first
    for level in range(first + 1, LEVELS):
        more = version.level_bytes(level)
        worthless = more > worth.ratio * weight and size + more > worth.small_bytes
        if level >= last and (worthless or (more > 0 and size + more > options.merge_bytes_max)):
            break
        if more:
            runs.append(version.levels[level])
        size += more
        weight += _level_weight(version, level)
        output_level = level
    return _Taken(runs, output_level)


def _pick_level_0(version: Version, worth: _Worth, options: EngineOptions) -> Compaction:
    room = next((level for level in range(1, LEVELS) if not version.levels[level]), LEVELS)
    runs, output_level = _take_levels(version, 0, worth, options, last=0 if room < LEVELS else 2)
    if not output_level:
        # There is no room in between. The tables above the first empty level make room by moving into it.
        return Compaction((), room, (), version.levels[room - 1])
    return _merge(version, runs, output_level)


def record_bytes(version: Version) -> float:
    """The mean bytes of a record that is no tombstone; 0 without one."""
    tables = version.tables()
    records = sum(table.entries - table.tombstones for table in tables)
    return sum(table.size_bytes for table in tables) / records if records else 0.0


def keys_max(version: Version, options: EngineOptions) -> int:
    """How many keys an output may have: with tombstones alone it would span so much that no merge could take it."""
    record = record_bytes(version)
    spanned = int(2 * options.table_bytes / record) if record else options.table_keys_max
    return min(options.table_keys_max, max(_SPANNED_KEYS_MIN, spanned))


def _weight(table: TableMeta, record: float) -> float:
    """The weight of a table in the choice whether to merge it with older ones: its tombstones count more.

    Args:
        table: The table.
        record: The bytes that a tombstone hides; see ``record_bytes``.
    """
    if not table.tombstones:
        return table.size_bytes
    hidden = max(_TOMBSTONE_WEIGHT * table.size_bytes / table.entries, record)
    return table.size_bytes + table.tombstones * hidden


def _level_weight(version: Version, level: int) -> float:
    tables = version.levels[level]
    if not any(table.tombstones for table in tables):
        return version.level_bytes(level)
    record = record_bytes(version)
    return sum(_weight(table, record) for table in tables)


def _frees_much(version: Version, level: int) -> bool:
    """Whether the tombstones of a level hide more than the level itself takes."""
    return _level_weight(version, level) >= 2 * version.level_bytes(level)


def _pick_table(version: Version, level: int) -> Compaction:
    below = next(deeper for deeper in range(level + 1, LEVELS) if version.levels[deeper])
    table = _least_overlapping(version, level, below)
    return _merge(version, [(table,), version.overlapping(below, table.smallest, table.largest)], below)


def _least_overlapping(version: Version, level: int, below: int) -> TableMeta:
    smallest = [table.smallest for table in version.levels[below]]
    largest = [table.largest for table in version.levels[below]]
    sums = list(accumulate((table.size_bytes for table in version.levels[below]), initial=0))

    def cost(table: TableMeta) -> tuple[float, int]:
        first = bisect_left(largest, table.smallest)
        last = bisect_right(smallest, table.largest)
        return (sums[max(first, last)] - sums[first]) / table.size_bytes, table.number

    return min(version.levels[level], key=cost)


def _merge(version: Version, runs: Sequence[Run], output_level: int) -> Compaction:
    """The compaction of these runs, of which those parts that overlap nothing are not written again.

    Requires: every table between the runs and the output level that overlaps one of them is among them.
    """
    at_output = {table.number for table in version.levels[output_level]}
    at_top = {table.number for table in version.levels[0]}
    tables = sorted((table for run in runs for table in run), key=lambda table: table.smallest)
    # Tables that overlap, directly or by others, are a group; groups do not overlap.
    groups: list[list[TableMeta]] = []
    end = b""
    for table in tables:
        if groups and table.smallest <= end:
            groups[-1].append(table)
            end = max(end, table.largest)
        else:
            groups.append([table])
            end = table.largest

    def rewritten(group: list[TableMeta]) -> bool:
        # Small tables of level 0 become larger ones, and tombstones that hide nothing go.
        (first, *others) = group
        if others or first.number in at_top:
            return True
        useless = first.tombstones > 0 and not _deeper(version, output_level, first.smallest, first.largest)
        return useless and first.number not in at_output

    places = [place for place, group in enumerate(groups) if rewritten(group)]
    # An output may reach from the first to the last of them, so what lies between is an input as well.
    first, last = (places[0], places[-1] + 1) if places else (0, 0)
    inputs = {table.number for group in groups[first:last] for table in group}
    left = [table for group in (*groups[:first], *groups[last:]) for table in group]
    deeper: tuple[tuple[bytes, bytes], ...] = ()
    if inputs:
        largest = max(table.largest for table in groups[last - 1])
        deeper = _deeper(version, output_level, groups[first][0].smallest, largest)
    kept = (tuple(table for table in run if table.number in inputs) for run in runs)
    moved = tuple(table for table in left if table.number not in at_output)
    return Compaction(tuple(run for run in kept if run), output_level, deeper, moved)


def _deeper(version: Version, output_level: int, smallest: bytes, largest: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (table.smallest, table.largest)
        for level in range(output_level + 1, LEVELS)
        for table in version.overlapping(level, smallest, largest)
    )
