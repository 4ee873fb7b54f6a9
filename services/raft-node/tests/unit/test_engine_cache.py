"""The engine and its block cache: what stays in memory, and what goes with its table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raft_node.storage.engine import BlockNeeded, Engine
from raft_node.storage.tables.sstable import Table
from raft_testing.engines import TINY_OPTIONS, run_one_task, settle, write_changes
from raft_testing.files import MemoryFileSystem

D = "/data"
EXPECTED = {b"key%03d" % number: b"value%03d" % number for number in range(300)}


def a_store(fs: MemoryFileSystem, cache_bytes: int) -> Engine:
    """One with all records in two tables of level 0, and no block in memory."""
    engine = Engine.open(fs, D, replace(TINY_OPTIONS, block_cache_bytes=cache_bytes, memtable_bytes=1 << 20), "s1")
    records = list(EXPECTED.items())
    for index in (1, 2):
        engine.write(records[index - 1 :: 2], index, 1)
        engine.rotate()
        write_changes(engine)
        assert run_one_task(engine, fs, D)
    assert engine.stats().level_tables[0] == 2
    return engine


def test_a_block_that_is_used_all_the_time_stays_in_memory_whatever_else_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = a_store(MemoryFileSystem(), cache_bytes=6000)
    hot = b"key150"
    assert engine.get_blocking(hot) == EXPECTED[hot]
    # About one of each block, in turn: none of these is used again before it goes.
    for key in list(EXPECTED)[::12] * 4:
        assert engine.get(hot) == EXPECTED[hot], "it never needs the disk again"
        assert engine.get_blocking(key) == EXPECTED[key]
        assert dict(engine.scan(b"", None)) == EXPECTED
    assert sum(table.blocks for table in engine.tables()) > 4 * len(engine._cache)
    before = engine.stats()
    monkeypatch.delattr(Table, "read_block")
    assert engine.get_blocking(hot) == EXPECTED[hot]
    after = engine.stats()
    assert (after.cache_hits - before.cache_hits, after.cache_misses) == (1, before.cache_misses)


def test_a_compaction_drops_the_blocks_of_what_it_replaced_also_those_that_come_later() -> None:
    fs = MemoryFileSystem()
    engine = a_store(fs, cache_bytes=1 << 20)
    loaded = Engine.load_blocks([needed for key in EXPECTED if isinstance(needed := engine.get(key), BlockNeeded)])
    for each in loaded[: len(loaded) // 2]:
        engine.resume(each)
    assert engine.stats().cache_bytes > 0
    before = engine.tables()
    assert settle(engine, fs, D) > 0
    assert not set(before) & set(engine.tables())
    assert engine.stats().cache_bytes == 0
    for each in loaded:
        engine.resume(each)
    assert not any(block is not None for table in before for block in table.cached.blocks)
    assert engine.stats().cache_bytes == 0
