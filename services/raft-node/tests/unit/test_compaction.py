"""Compaction: which tables are chosen, what is dropped, and where outputs are cut."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from raft_node.storage.compaction import pick
from raft_node.storage.files import OsFileSystem
from raft_node.storage.options import EngineOptions, TableOptions
from raft_node.storage.sstable import Table
from raft_node.storage.sstable_writer import TableWriter
from raft_node.storage.tasks import CompactionTask, output_name, tmp_directory
from raft_node.storage.version import TableMeta, Version, VersionEdit, table_name
from raft_node.storage.worker import run_task
from raft_node.testing.files import MemoryFileSystem

OPTIONS = EngineOptions(
    l0_tables_trigger=2, l0_inputs_max=3, l0_tables_max=5, level_base_bytes=1000, level_multiplier=10
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
    assert compaction.output_level == 1
    assert not compaction.move


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
    compaction = pick(version((0, table(1, "az")), (0, table(2, "az")), (2, table(3, "az", 30_000))), OPTIONS)
    assert compaction is not None
    assert (numbers(compaction.runs), compaction.output_level) == ([[3]], 3)


def test_a_lone_table_is_moved_unless_a_rewrite_drops_its_tombstones() -> None:
    def moves(tombstones: int, *more: tuple[int, TableMeta]) -> bool:
        compaction = pick(version((1, table(1, "ac", 2000, tombstones)), *more), OPTIONS)
        assert compaction is not None
        return compaction.move

    assert moves(0)
    assert not moves(1)
    assert moves(1, (3, table(2, "bz")))
    assert not moves(0, (2, table(2, "bz")))


def test_deeper_tables_are_named_as_far_as_they_overlap() -> None:
    compaction = pick(
        version(
            (0, table(1, "cd")),
            (0, table(2, "cd")),
            (1, table(3, "bm")),
            (2, table(4, "aa")),
            (2, table(5, "lp")),
            (5, table(6, "cz")),
        ),
        OPTIONS,
    )
    assert compaction is not None
    assert compaction.deeper == ((b"l", b"p"), (b"c", b"z"))


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
    task = CompactionTask(5, "s", tuple(map(tuple, metas)), 1, deeper, False, options or TableOptions())
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


@pytest.mark.slow
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
    task = CompactionTask(1, "s", tuple((meta,) for meta in metas), 1, (), False, TableOptions(table_bytes=8 << 20))
    tracemalloc.start()
    result = run_task(fs, directory, task)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(table.entries for table in result.outputs) == 32
    assert peak < 18 << 20, f"{peak >> 20} MiB for 32 MiB of input"
