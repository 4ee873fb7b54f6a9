"""Figures of a storage engine, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The figures of an engine for metrics.

    Attributes:
        level_tables: How many tables each level has.
        level_bytes: How many bytes the tables of each level take on disk.
        memtable_bytes: The bytes in the memtable.
        immutables: How many memtables wait for their flush.
        immutable_bytes: The bytes in these memtables.
        cache_bytes: How many bytes the block cache takes.
        cache_hits: How often a block was in the cache.
        cache_misses: How often a block was not in the cache.
        filter_negatives: How often a Bloom filter spared a look into a table.
        filter_false_positives: How often a Bloom filter let a read look into a table without the key.
        flushes: How many flushes were installed since the engine was opened.
        flushed_bytes: How many bytes the flushes wrote.
        compactions: How many compactions were installed.
        compacted_read_bytes: How many bytes the compactions read.
        compacted_written_bytes: How many bytes the compactions wrote.
        pending_bytes: How many bytes of tables wait for a compaction.
        table_memory_bytes: About how many bytes the indexes and filters of all tables take in memory.
        open_tables: How many table files are open that nobody reads at this moment.
        table_opens: How often a table's file had to be opened again for a read.
    """

    level_tables: tuple[int, ...]
    level_bytes: tuple[int, ...]
    memtable_bytes: int
    immutables: int
    immutable_bytes: int
    cache_bytes: int
    cache_hits: int
    cache_misses: int
    filter_negatives: int
    filter_false_positives: int
    flushes: int
    flushed_bytes: int
    compactions: int
    compacted_read_bytes: int
    compacted_written_bytes: int
    pending_bytes: int
    table_memory_bytes: int
    open_tables: int
    table_opens: int
