"""Figures of a storage engine, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Figures for metrics.

    Attributes:
        level_tables: How many tables each level has.
        level_bytes: What they take on disk.
        memtable_bytes: What the memtable holds.
        immutables: How many memtables wait for their flush.
        immutable_bytes: What these hold.
        cache_bytes: What the block cache takes.
        cache_hits: How often a block was in the cache.
        cache_misses: How often not.
        filter_negatives: How often a Bloom filter spared a look into a table.
        filter_false_positives: How often it did not, and the key was not there.
        flushes: How many flushes were installed since the engine was opened.
        flushed_bytes: What they wrote.
        compactions: How many compactions were installed.
        compacted_read_bytes: What they read.
        compacted_written_bytes: What they wrote.
        pending_bytes: What waits for a compaction.
        table_memory_bytes: About what the indexes and filters of all tables take in memory.
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
