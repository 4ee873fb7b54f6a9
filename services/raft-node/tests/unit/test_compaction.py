"""Compaction: which tables are chosen, what is dropped, and where outputs are cut."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_node.storage.files import OsFileSystem
from raft_node.storage.merges.compaction import Compaction, keys_max, pending_bytes, pick, pick_idle
from raft_node.storage.merges.tasks import CompactionTask, output_name, tmp_directory
from raft_node.storage.merges.worker import run_task
from raft_node.storage.options import EngineOptions, TableOptions
from raft_node.storage.tables.sstable import Table
from raft_node.storage.tables.sstable_writer import TableWriter
from raft_node.storage.tables.version import LEVELS, TableMeta, Version, VersionEdit, table_name
from raft_testing.files import MemoryFileSystem

OPTIONS = EngineOptions(
    l0_tables_trigger=2,
    l0_inputs_max=3,
    l0_tables_max=5,
    merge_ratio=2,
    merge_bytes_max=2000,
    level_base_bytes=1000,
    level_multiplier=10,
)
Records = list[tuple[bytes, bytes | None]]


def table(number: int, keys: str, size: int = 100, tombstones: int = 0) -> TableMeta:
    return TableMeta(number, size, 10, tombstones, keys[0].encode(), keys[-1].encode())


def version(*added: tuple[int, TableMeta]) -> Version:
    return Version.empty().apply(VersionEdit((), added, 1, 1, 1000))


def numbers(runs: tuple[tuple[TableMeta, ...], ...]) -> list[list[int]]:
    return [[entry.number for entry in run] for run in runs]


def test_a_small_store_needs_no_compaction() -> None:
    assert pick(Version.empty(), OPTIONS) is None
    assert pick(version((0, table(1, "az")), (1, table(2, "az", 1000)), (6, table(3, "az", 10**9))), OPTIONS) is None


def test_level_0_takes_its_tables_newest_first_with_what_they_overlap() -> None:
    compaction = pick(
        version(
            (0, table(1, "ce")), (0, table(2, "dh")), (1, table(3, "ab")), (1, table(4, "dk")), (1, table(5, "xz"))
        ),
        OPTIONS,
    )
    assert compaction is not None
    assert numbers(compaction.runs) == [[2], [1], [4]]
    assert numbers((compaction.moved,)) == [[3, 5]], "these need not be written again to go as deep"
    assert compaction.output_level == 6


def test_level_0_takes_levels_that_are_at_most_so_many_times_as_large_as_what_it_has() -> None:
    def levels(third: int, fifth: int) -> tuple[list[list[int]], int]:
        tables = [(0, table(1, "az")), (0, table(2, "az")), (3, table(3, "az", third)), (5, table(4, "az", fifth))]
        compaction = pick(version(*tables), OPTIONS)
        assert compaction is not None and not compaction.moved
        return numbers(compaction.runs), compaction.output_level

    assert levels(401, 401) == ([[2], [1]], 2)
    assert levels(400, 1201) == ([[2], [1], [3]], 4)
    assert levels(400, 1200) == ([[2], [1], [3], [4]], 6)


def test_whole_levels_are_merged_up_to_a_size() -> None:
    for size, output_level in ((900, 6), (901, 4)):
        compaction = pick(
            version((0, table(1, "az", 550)), (0, table(2, "az", 550)), (5, table(3, "az", size))), OPTIONS
        )
        assert compaction is not None
        assert compaction.output_level == output_level


def test_a_tombstone_counts_for_the_record_that_it_hides() -> None:
    """Two small tables of tombstones over ten records a hundred times as large as they: all of it can go."""
    above = [(0, table(1, "az", 10, 10)), (0, table(2, "az", 10, 10))]
    compaction = pick(version(*above, (5, table(3, "az", 1900))), OPTIONS)
    assert compaction is not None
    assert (numbers(compaction.runs), compaction.output_level) == ([[2], [1], [3]], 6)


def test_tombstones_that_hide_much_go_down_by_themselves() -> None:
    """What they hide is too large to be merged with them as a whole level."""
    below = (5, table(3, "az", 8100))
    for pick_one in (pick, pick_idle):
        merged = pick_one(version((4, table(9, "az", 10, 10)), below), OPTIONS)
        assert merged is not None and numbers(merged.runs) == [[9], [3]]
    moved = pick_idle(version((0, table(9, "az", 10, 10)), below), OPTIONS)
    assert moved is not None
    assert (numbers(moved.runs), moved.output_level) == ([[9]], 4)
    assert pick_idle(version((4, table(9, "az", 100, 1)), below), OPTIONS) is None, "one record in ten"


def test_a_table_of_tombstones_spans_no_more_keys_than_others() -> None:
    options = EngineOptions(table_bytes=1 << 20)
    records = (5, TableMeta(3, 100 << 20, 1000, 0, b"a", b"z"))
    assert keys_max(version(records), options) == 256
    small = (5, TableMeta(3, 100 << 10, 1000, 0, b"a", b"z"))
    tombstones = (0, TableMeta(4, 100, 500, 500, b"a", b"z"))
    assert keys_max(version(small, tombstones), options) == (2 << 20) * 1000 // ((100 << 10) + 100)
    assert keys_max(version(tombstones), options) == keys_max(Version.empty(), options) == options.table_keys_max


def test_levels_move_down_when_none_is_free_for_level_0() -> None:
    def tables(*levels: int) -> list[tuple[int, TableMeta]]:
        return [(level, table(level, "az", 900)) for level in levels]

    full = [(0, table(8, "az")), (0, table(9, "az"))]
    compaction = pick(version(*full, *tables(1, 2, 5)), OPTIONS)
    assert compaction is not None
    assert (compaction.runs, numbers((compaction.moved,)), compaction.output_level) == ((), [[2]], 3)
    compaction = pick(version(*full, *tables(1, 3, 5)), OPTIONS)
    assert compaction is not None
    assert (compaction.runs, numbers((compaction.moved,)), compaction.output_level) == ((), [[1]], 2)
    # Without room anywhere, level 1 has to take it; and what is large then goes on.
    compaction = pick(version(*full, *tables(1, 2, 3, 4, 5, 6)), OPTIONS)
    assert compaction is not None
    assert (numbers(compaction.runs), compaction.output_level) == ([[9], [8], [1], [2]], 2)


def test_what_lies_between_two_inputs_is_one_too() -> None:
    compaction = pick(
        version(
            (0, table(1, "bc")),
            (0, table(2, "xy")),
            (4, table(3, "aa")),
            (4, table(4, "mn")),
            (6, table(5, "de")),
            (6, table(6, "zz")),
        ),
        OPTIONS,
    )
    assert compaction is not None
    # A table that begins with b and ends with y must not reach over the others of its level.
    assert numbers(compaction.runs) == [[2], [1], [4], [5]]
    assert numbers((compaction.moved,)) == [[3]]


def test_level_0_takes_the_oldest_when_there_are_many() -> None:
    compaction = pick(version(*((0, table(number, "az")) for number in range(1, 6))), OPTIONS)
    assert compaction is not None
    assert numbers(compaction.runs) == [[3], [2], [1]]


def test_a_full_level_gives_the_table_that_overlaps_least() -> None:
    full = version(
        (1, table(1, "ac", 500)),
        (1, table(2, "df", 500)),
        (1, table(3, "gi", 500)),
        (2, table(4, "ad", 100)),
        (2, table(5, "ef", 900)),
        (2, table(6, "gz", 300)),
    )
    compaction = pick(full, OPTIONS)
    assert compaction is not None
    assert numbers(compaction.runs) == [[1], [4]]
    assert compaction.output_level == 2


def test_the_level_furthest_over_its_size_comes_first() -> None:
    full = [(0, table(1, "az")), (0, table(2, "az"))]
    compaction = pick(version(*full, (2, table(3, "az", 1001)), (4, table(4, "az", 1000))), OPTIONS)
    assert compaction is not None
    assert (numbers(compaction.runs), compaction.output_level) == ([[3], [4]], 4)
    compaction = pick(version(*full, (2, table(3, "az", 1000)), (4, table(4, "az", 1000))), OPTIONS)
    assert compaction is not None
    assert (numbers(compaction.runs), compaction.output_level) == ([[2], [1]], 1)


def test_a_level_gives_its_tables_to_the_next_one_that_has_any() -> None:
    tables = (2, table(1, "az", 1001)), (4, table(2, "az", 100)), (6, table(3, "az", 2000))
    compaction = pick(version(*tables), OPTIONS)
    assert compaction is not None
    assert (numbers(compaction.runs), compaction.output_level) == ([[1], [2]], 4)


def test_a_level_may_hold_a_share_of_the_one_below() -> None:
    for size, over in ((5000, False), (5001, True)):
        compaction = pick(version((2, table(1, "az", size)), (5, table(2, "az", 50_000))), OPTIONS)
        assert (compaction is not None) == over


def test_tombstones_go_down_sooner() -> None:
    for tombstones, over in ((0, False), (1, True)):
        compaction = pick(version((2, table(1, "az", 900, tombstones)), (5, table(2, "az", 900))), OPTIONS)
        assert (compaction is not None) == over
    for tombstones, levels in ((0, 2), (5, 3)):
        full = [(0, table(1, "az", 100, tombstones)), (0, table(2, "az", 100, tombstones))]
        compaction = pick(version(*full, (5, table(3, "az", 1000))), OPTIONS)
        assert compaction is not None and len(compaction.runs) == levels


def test_what_waits_is_a_full_level_0_and_what_is_over_its_size() -> None:
    deep = [(1, table(3, "az", 1200)), (2, table(4, "az", 1500)), (6, table(5, "az", 9000))]
    assert pending_bytes(version((0, table(1, "az")), *deep), OPTIONS) == 200 + 500
    assert pending_bytes(version((0, table(1, "az")), (0, table(2, "az")), *deep), OPTIONS) == 200 + 200 + 500
    dead = [(1, table(3, "az", 500, 10)), (6, table(5, "az", 9000))]
    assert pending_bytes(version(*dead), OPTIONS) == 500


def test_a_lone_table_is_moved_unless_a_rewrite_drops_its_tombstones() -> None:
    def moves(tombstones: int, *more: tuple[int, TableMeta]) -> bool:
        compaction = pick(version((1, table(1, "ac", 2000, tombstones)), (2, table(9, "xz")), *more), OPTIONS)
        assert compaction is not None and compaction.output_level == 2
        assert bool(compaction.moved) != bool(compaction.runs)
        return bool(compaction.moved)

    assert moves(0)
    assert not moves(1)
    assert moves(1, (3, table(2, "bz")))
    assert not moves(0, (2, table(2, "bf")))


def test_deeper_tables_are_named_as_far_as_they_overlap() -> None:
    compaction = pick(
        version(
            (0, table(1, "cd")),
            (0, table(2, "cd")),
            (1, table(3, "bm")),
            (2, table(4, "aa")),
            (2, table(5, "lp", 5000)),
            (5, table(6, "cz", 60_000)),
        ),
        OPTIONS,
    )
    assert compaction is not None
    assert compaction.output_level == 1
    assert compaction.deeper == ((b"l", b"p"), (b"c", b"z"))


def test_an_idle_store_merges_what_a_busy_one_leaves() -> None:
    def merged(*tables: tuple[int, TableMeta]) -> tuple[list[list[int]], int] | None:
        state = version(*tables)
        assert pick(state, OPTIONS) is None
        compaction = pick_idle(state, OPTIONS)
        return None if compaction is None else (numbers(compaction.runs), compaction.output_level)

    assert merged((0, table(1, "az"))) is None, "it is one run"
    assert merged((6, table(1, "az", 10**9))) is None
    assert merged((0, table(1, "az")), (6, table(2, "az", 1000))) == ([[1], [2]], 6)
    assert merged((0, table(1, "az")), (6, table(2, "az", 1001))) is None, "that writes more than ten times as much"
    assert merged((0, table(1, "az")), (3, table(2, "az", 10)), (6, table(3, "az", 1101))) == ([[1], [2]], 5)
    assert merged((0, table(1, "az", 10)), (6, table(2, "az", 990))) == ([[1], [2]], 6), "all of it is little"
    assert merged((0, table(1, "az", 10)), (6, table(2, "az", 991))) is None
    assert merged((3, table(1, "az", 100)), (5, table(2, "az", 1000))) == ([[1], [2]], 6)
    small, large = (3, table(1, "az", 99)), (4, table(2, "az", 991))
    assert merged(small, large, (6, table(3, "az", 900))) == ([[2], [3]], 6), "what lies deeper is not too large"


def test_an_idle_store_does_first_what_writes_wait_for() -> None:
    full = version((0, table(1, "az")), (0, table(2, "az")), (6, table(3, "az", 1900)))
    assert pick(full, OPTIONS) == pick_idle(full, OPTIONS)
    over = version((0, table(1, "az", 10)), (2, table(2, "az", 1001)), (4, table(3, "az", 1000)))
    assert pick(over, OPTIONS) == pick_idle(over, OPTIONS)


def test_levels_too_large_to_be_merged_whole_go_down_table_by_table_until_none_is_left() -> None:
    upper = [(5, table(number, keys, 250)) for number, keys in enumerate(("ab", "cd", "ef", "gh"), 1)]
    lower = [(6, table(number, keys, 500)) for number, keys in enumerate(("ab", "cd", "ef", "gz"), 5)]
    state = version(*upper, *lower)
    assert pick(state, OPTIONS) is None
    moves = []
    while (compaction := pick_idle(state, OPTIONS)) is not None:
        moves.append(numbers(compaction.runs))
        state = after(state, compaction)
    assert moves == [[[1], [5]], [[2], [6]], [[3], [7]], [[4], [8]]]
    assert not state.levels[5]


def test_no_idle_merge_is_longer_than_any_other() -> None:
    for size, small in ((1000, True), (1001, False)):
        compaction = pick_idle(version((4, table(1, "az", 1000)), (6, table(2, "az", size))), OPTIONS)
        assert (compaction is not None) == small


def test_an_idle_store_of_many_tombstones_gets_rid_of_them() -> None:
    for tombstones, worth in ((0, False), (10, True)):
        compaction = pick_idle(version((0, table(1, "az", 100, tombstones)), (6, table(2, "az", 1500))), OPTIONS)
        assert (compaction is not None) == worth


@pytest.mark.parametrize("policy", [pick, pick_idle])
@given(
    drawn=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 99), st.integers(0, 30), st.integers(1, 3000), st.booleans()),
        max_size=40,
    )
)
def test_every_compaction_of_any_version_keeps_the_order_of_writes(
    policy: Callable[[Version, EngineOptions], Compaction | None], drawn: list[tuple[int, int, int, int, bool]]
) -> None:
    state = Version.empty()
    for number, (level, first, span, size, dead) in enumerate(drawn, 1):
        meta = TableMeta(number, size, 10, int(dead), b"%03d" % first, b"%03d" % (first + span))
        if level == 0 or not state.overlapping(level, meta.smallest, meta.largest):
            state = state.apply(VersionEdit((), ((level, meta),), 1, 1, number + 1))
    steps = 0
    while (compaction := policy(state, OPTIONS)) is not None:
        steps += 1
        assert steps < 500, "it goes on for ever"
        state = after(state, compaction)


def after(state: Version, compaction: Compaction) -> Version:
    """The version after a compaction, with one output for all inputs, as far as any could reach."""
    inputs = {entry.number for run in compaction.runs for entry in run}
    gone = inputs | {entry.number for entry in compaction.moved}
    for level, tables in enumerate(state.levels[: compaction.output_level + 1]):
        for place, entry in enumerate(tables):
            if entry.number not in gone:
                continue
            # What is older and stays must not be above what goes down.
            older = [*(tables[place + 1 :] if level == 0 else ())]
            older += [each for deeper in state.levels[level + 1 : compaction.output_level + 1] for each in deeper]
            passed = [each for each in older if each.overlaps(entry.smallest, entry.largest)]
            assert all(each.number in inputs for each in passed), (entry, passed)
    added = [(compaction.output_level, entry) for entry in compaction.moved]
    number = state.next_table_number
    merged = [entry for run in compaction.runs for entry in run]
    if merged:
        size = sum(entry.size_bytes for entry in merged)
        smallest, largest = min(entry.smallest for entry in merged), max(entry.largest for entry in merged)
        deeper = [
            (entry.smallest, entry.largest)
            for level in range(compaction.output_level + 1, LEVELS)
            for entry in state.overlapping(level, smallest, largest)
        ]
        assert list(compaction.deeper) == deeper
        added.append((compaction.output_level, TableMeta(number, size, 1, 0, smallest, largest)))
    return state.apply(VersionEdit(tuple(gone), tuple(added), 1, 1, number + len(merged)))


# The merge itself.


def write_table(fs: MemoryFileSystem | OsFileSystem, directory: str, number: int, records: Records) -> TableMeta:
    writer = TableWriter(fs, f"{directory}/{table_name(number)}", TableOptions(block_bytes=200))
    for key, value in records:
        writer.add(key, value)
    properties = writer.finish()
    return TableMeta(
        number, writer.size_bytes, properties.entries, properties.tombstones, properties.smallest, properties.largest
    )


def compact(
    runs: list[list[Records]], deeper: tuple[tuple[bytes, bytes], ...] = (), options: TableOptions | None = None
) -> list[Records]:
    fs = MemoryFileSystem()
    fs.make_directory(tmp_directory("/data", "s"))
    number = 0
    metas: list[list[TableMeta]] = []
    for run in runs:
        metas.append([])
        for records in run:
            number += 1
            metas[-1].append(write_table(fs, "/data", number, records))
    before = fs.files()
    task = CompactionTask(5, "s", tuple(map(tuple, metas)), 1, deeper, (), options or TableOptions())
    result = run_task(fs, "/data", task)
    assert {name: content for name, content in fs.files().items() if "/tmp/" not in name} == before
    outputs = []
    for place, meta in enumerate(result.outputs, 1):
        assert meta.number == place
        opened = Table(fs, f"{tmp_directory('/data', 's')}/{output_name(5, place)}", place)
        outputs.append(list(opened.items(b"", None, False)))
        assert (meta.smallest, meta.largest) == (outputs[-1][0][0], outputs[-1][-1][0])
        assert (meta.entries, meta.size_bytes) == (len(outputs[-1]), opened.size_bytes)
    return outputs


def test_shadowed_versions_and_tombstones_over_nothing_are_dropped() -> None:
    newest: Records = [(b"a", None), (b"b", b"new"), (b"d", None)]
    older: list[Records] = [[(b"a", b"old"), (b"b", b"old")], [(b"c", b"old"), (b"d", b"old")]]
    assert compact([[newest], older]) == [[(b"b", b"new"), (b"c", b"old")]]


def test_a_tombstone_stays_while_a_deeper_table_may_hold_its_key() -> None:
    newest: Records = [(b"a", None), (b"c", None), (b"e", None), (b"g", None), (b"i", None)]
    deeper = ((b"d", b"f"), (b"b", b"c"), (b"e", b"g"))
    assert compact([[newest], [[(b"c", b"old")]]], deeper) == [[(b"c", None), (b"e", None), (b"g", None)]]


def test_a_compaction_may_leave_nothing() -> None:
    assert compact([[[(b"a", None)]], [[(b"a", b"old")]]]) == []


@pytest.mark.parametrize("options", [TableOptions(block_bytes=100, table_bytes=1000), TableOptions(table_keys_max=30)])
def test_outputs_are_cut_at_their_size(options: TableOptions) -> None:
    rng = random.Random(1)
    runs = []
    expected: dict[bytes, bytes | None] = {}
    for _ in range(4):
        records: Records = sorted((b"%04d" % key, rng.randbytes(20)) for key in rng.sample(range(1000), 100))
        runs.append([records])
        expected = {**dict(records), **expected}
    outputs = compact(runs, options=options)
    assert len(outputs) > 5
    assert [record for records in outputs for record in records] == sorted(expected.items())


def test_outputs_are_cut_when_their_keys_take_much_memory() -> None:
    records: Records = [(b"k" * 500 + b"%04d" % number, b"") for number in range(100)]
    outputs = compact([[records]], options=TableOptions(block_bytes=5000, table_bytes=10_000))
    assert len(outputs) == 5
    assert [record for output in outputs for record in output] == records


@pytest.mark.seconds
def test_big_values_are_merged_in_little_memory(tmp_path: Path) -> None:
    fs = OsFileSystem()
    directory = str(tmp_path)
    fs.make_directory(tmp_directory(directory, "s"))
    rng = random.Random(1)
    value = rng.randbytes(1 << 20)
    metas = [
        write_table(fs, directory, number, [(b"%d-%02d" % (key, number), value) for key in range(8)])
        for number in range(1, 5)
    ]
    task = CompactionTask(1, "s", tuple((meta,) for meta in metas), 1, (), (), TableOptions(table_bytes=8 << 20))
    tracemalloc.start()
    result = run_task(fs, directory, task)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(table.entries for table in result.outputs) == 32
    assert peak < 18 << 20, f"{peak >> 20} MiB for 32 MiB of input"
