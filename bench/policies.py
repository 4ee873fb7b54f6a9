"""Simulates policies of compaction: ``python -m bench.policies``. docs/adr has the decisions that followed.

Tables are sets of keys, and time is counted in memtables, so that hours of writes take seconds. Ours is the real one,
``raft_node.storage.merges.compaction.pick``, on real versions; the leveled one is the policy of before (docs/adr/0005);
the tiered ones merge a fixed number of runs of one tier into one run of the next. Everything is 74 times smaller than
with default options: a memtable holds 1,000 records.

Amplifications are counted in records: written by flushes and compactions for each one that a user wrote; stored for
each live one; and sorted runs that a read of a missing key, or a scan, has to search.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from raft_node.storage.merges.compaction import Compaction, Run, pick, pick_idle
from raft_node.storage.options import EngineOptions
from raft_node.storage.tables.version import LEVELS, TableMeta, Version, VersionEdit

RECORD_BYTES = 74
MEMTABLE_RECORDS = 1000
SCALE = 74
DEFAULT = EngineOptions()
OPTIONS = replace(
    DEFAULT,
    merge_bytes_max=DEFAULT.merge_bytes_max // SCALE,
    level_base_bytes=DEFAULT.level_base_bytes // SCALE,
    table_bytes=DEFAULT.table_bytes // SCALE,
)
LEVELED = replace(OPTIONS, level_base_bytes=(128 << 20) // SCALE)
"""The options of the leveled policy."""
Pick = Callable[[Version, EngineOptions], Compaction | None]
Records = dict[bytes, bool]
"""Maps each key to whether it is live; a key that is not is a tombstone."""


@dataclass
class Figures:
    """The costs of a policy."""

    written: int = 0
    user: int = 0
    runs: list[int] = field(default_factory=list)
    space: list[float] = field(default_factory=list)
    longest: int = 0

    def row(self) -> list[str]:
        """Write, read and space amplification, the space's worst moment, and the longest compaction in memtables."""
        mean_runs = sum(self.runs) / len(self.runs)
        return [
            f"{self.written / self.user:.1f}",
            f"{mean_runs:.1f}",
            f"{max(self.runs)}",
            f"{sum(self.space) / len(self.space):.2f}",
            f"{max(self.space):.2f}",
            f"{self.longest / MEMTABLE_RECORDS:.0f}",
        ]


def leveled(version: Version, options: EngineOptions) -> Compaction | None:
    """The policy of before: a full level 0 goes into level 1, and a level over its size gives a table to the next."""

    def bound(level: int) -> int:
        size: int = options.level_base_bytes * options.level_multiplier ** (level - 1)
        return size

    scores = [len(version.levels[0]) / options.l0_tables_trigger]
    scores += [version.level_bytes(level) / bound(level) for level in range(1, LEVELS - 1)]
    level = scores.index(max(scores))
    if scores[level] < 1 or (level and scores[level] == 1):
        return None

    def overlap(table: TableMeta) -> tuple[float, int]:
        below = version.overlapping(level + 1, table.smallest, table.largest)
        return sum(each.size_bytes for each in below) / table.size_bytes, table.number

    upper = version.levels[0][-options.l0_inputs_max :] if level == 0 else (min(version.levels[level], key=overlap),)
    smallest, largest = min(table.smallest for table in upper), max(table.largest for table in upper)
    lower = version.overlapping(level + 1, smallest, largest)
    tables = (*upper, *lower)
    smallest, largest = min(table.smallest for table in tables), max(table.largest for table in tables)
    deeper = tuple(
        (table.smallest, table.largest)
        for below in range(level + 2, LEVELS)
        for table in version.overlapping(below, smallest, largest)
    )
    if len(tables) == 1 and (not upper[0].tombstones or deeper):
        return Compaction((), level + 1, deeper, upper)
    return Compaction((*((table,) for table in upper), lower), level + 1, deeper, ())


class Levels:
    """A policy for the levels of a version, on tables that are dicts."""

    def __init__(self, policy: Pick, options: EngineOptions, policy_idle: Pick | None = None) -> None:
        self._pick = policy
        self._pick_idle = policy_idle or policy
        self._options = options
        self.version = Version.empty()
        self.tables: dict[int, Records] = {}

    def flush(self, records: Records) -> tuple[int, int]:
        """Takes a memtable, and compacts until nothing is due; returns the records written, and the most at once."""
        self._apply((), (), [(0, records)])
        written, longest = self._compact(self._pick)
        return len(records) + written, max(len(records), longest)

    def rest(self) -> tuple[int, int]:
        """Runs the compactions of an idle node; returns the same as ``flush``."""
        return self._compact(self._pick_idle)

    def _compact(self, policy: Pick) -> tuple[int, int]:
        written = longest = 0
        while (compaction := policy(self.version, self._options)) is not None:
            inputs = [table for run in compaction.runs for table in run]
            merged: Records = {}
            for table in reversed(inputs):
                merged.update(self.tables[table.number])
            kept = sorted(
                key
                for key, lives in merged.items()
                if lives or any(first <= key <= last for first, last in compaction.deeper)
            )
            size = self._options.table_bytes // RECORD_BYTES
            outputs = [{key: merged[key] for key in kept[start : start + size]} for start in range(0, len(kept), size)]
            written += len(kept)
            longest = max(longest, len(kept))
            level = compaction.output_level
            self._apply(tuple(inputs), compaction.moved, [(level, each) for each in outputs], level)
        return written, longest

    def runs(self) -> int:
        """The number of sorted runs."""
        return len(self.version.levels[0]) + sum(bool(level) for level in self.version.levels[1:])

    def stored(self) -> int:
        """The number of records in all tables."""
        return sum(map(len, self.tables.values()))

    def _apply(self, removed: Run, moved: Run, added: list[tuple[int, Records]], level: int = 0) -> None:
        number = self.version.next_table_number
        metas = [(level, table) for table in moved]
        for output_level, records in added:
            self.tables[number] = records
            tombstones = len(records) - sum(records.values())
            meta = TableMeta(number, len(records) * RECORD_BYTES, len(records), tombstones, min(records), max(records))
            metas.append((output_level, meta))
            number += 1
        gone = tuple(table.number for table in (*removed, *moved))
        self.version = self.version.apply(VersionEdit(gone, tuple(metas), 0, 0, number))
        for table in removed:
            del self.tables[table.number]


class Tiered:
    """A policy that merges a fixed number of runs of one tier into one run of the next."""

    def __init__(self, runs_max: int) -> None:
        self._runs_max = runs_max
        self._tiers: list[list[Records]] = []

    def flush(self, records: Records) -> tuple[int, int]:
        """See ``Levels.flush``."""
        written, longest = len(records), 0
        incoming, tier = records, 0
        while True:
            if tier == len(self._tiers):
                self._tiers.append([])
            runs = self._tiers[tier]
            runs.insert(0, incoming)
            if len(runs) < self._runs_max:
                return written, longest
            merged: Records = {}
            for run in reversed(runs):
                merged.update(run)
            if not any(self._tiers[tier + 1 :]):
                merged = {key: lives for key, lives in merged.items() if lives}
            runs.clear()
            written += len(merged)
            longest = max(longest, len(merged))
            incoming, tier = merged, tier + 1

    def rest(self) -> tuple[int, int]:
        """See ``Levels.rest``; does nothing."""
        return 0, 0

    def runs(self) -> int:
        """The number of sorted runs."""
        return sum(map(len, self._tiers))

    def stored(self) -> int:
        """The number of records in all runs."""
        return sum(len(run) for runs in self._tiers for run in runs)


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def fill(rng: random.Random) -> Iterator[tuple[bytes, bool]]:
    """New keys in random order."""
    while True:
        yield rng.randbytes(8), True


def overwrite(rng: random.Random) -> Iterator[tuple[bytes, bool]]:
    """Any of 60,000 keys, all equally often."""
    while True:
        yield _key(rng.randrange(60_000)), True


def hot(rng: random.Random) -> Iterator[tuple[bytes, bool]]:
    """A few of 60,000 keys again and again: nine of ten writes go to a hundredth of them."""
    while True:
        yield _key(rng.randrange(600) * 100 if rng.random() < 0.9 else rng.randrange(60_000)), True


def ascending(rng: random.Random) -> Iterator[tuple[bytes, bool]]:
    """Keys in ascending order, as those that begin with the time."""
    number = 0
    while True:
        number += rng.randrange(1, 5)
        yield _key(number), True


def queue(rng: random.Random) -> Iterator[tuple[bytes, bool]]:
    """Keys are put in order and deleted some 20,000 puts later."""
    for number in range(1 << 40):
        yield _key(number), True
        if number >= 20_000:
            yield _key(number - 20_000 + rng.randrange(2)), False


WORKLOADS: tuple[Callable[[random.Random], Iterator[tuple[bytes, bool]]], ...] = (
    fill,
    overwrite,
    hot,
    ascending,
    queue,
)


def simulate(policy: Levels | Tiered, changes: Iterator[tuple[bytes, bool]], memtables: int, rest: int) -> Figures:
    """Writes ``memtables`` memtables, with a pause after every ``rest`` of them (0: none); returns the costs."""
    figures = Figures()
    live: set[bytes] = set()
    for number in range(1, memtables + 1):
        records: Records = {}
        for _ in range(MEMTABLE_RECORDS):
            key, lives = next(changes)
            records[key] = lives
            if lives:
                live.add(key)
            else:
                live.discard(key)
        figures.user += MEMTABLE_RECORDS
        done = [policy.flush(records)]
        if rest and number % rest == 0:
            done.append(policy.rest())
        for written, longest in done:
            figures.written += written
            figures.longest = max(figures.longest, longest)
        figures.runs.append(policy.runs())
        figures.space.append(policy.stored() / len(live))
    return figures


def main() -> int:
    """Prints the table of the decision."""
    parser = argparse.ArgumentParser(prog="bench.policies", description=simulate.__doc__)
    parser.add_argument("--memtables", type=int, default=300, help="how many memtables are written")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ours", action="store_true", help="only ours, with rests behind so many memtables")
    arguments = parser.parse_args()
    print("| workload | policy | writes | runs, mean | runs, most | space, mean | space, most | longest compaction |")
    print("|---" * 8 + "|")
    for workload in WORKLOADS:
        policies: list[tuple[str, Levels | Tiered, int]] = [
            (f"ours, a rest every {rest}" if rest else "ours", Levels(pick, OPTIONS, pick_idle), rest)
            for rest in ((0, 57, 14, 4, 1) if arguments.ours else (0,))
        ]
        if not arguments.ours:
            policies += [
                ("leveled", Levels(leveled, LEVELED), 0),
                ("tiered, 4", Tiered(4), 0),
                ("tiered, 10", Tiered(10), 0),
            ]
        for name, policy, rest in policies:
            figures = simulate(policy, workload(random.Random(arguments.seed)), arguments.memtables, rest)
            print(f"| {workload.__name__} | {name} | " + " | ".join(figures.row()) + " |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
