"""The settings of the log and of the LSM tree.

Every file says itself how it was written, so a store may be opened with other options at any time: they change speed
and sizes, never answers. This module knows nothing else of the package.
"""

from __future__ import annotations

from dataclasses import dataclass

COMPRESSIONS = ("none", "lz4", "zstd")

WAL_PAGE_BYTES = 4096
"""The size of a page; segments of the log are made of whole pages."""


@dataclass(frozen=True, slots=True)
class WalOptions:
    """The settings by which the log is cut into files.

    Attributes:
        segment_bytes: The size of a segment. A frame that is larger gets a segment of its own size.
    """

    segment_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        if self.segment_bytes < WAL_PAGE_BYTES:
            raise ValueError(f"segment_bytes must be at least {WAL_PAGE_BYTES}, not {self.segment_bytes}")


@dataclass(frozen=True, slots=True)
class TableOptions:
    """The settings by which SSTables are written; a task carries them to the process that writes.

    Attributes:
        block_bytes: A data block is closed once it holds this much before compression.
        compression: One of ``COMPRESSIONS``; a block that hardly shrinks is stored as it is.
        bloom_bits_per_key: Bits of the Bloom filter for each key; 0 writes no filter.
        table_bytes: A compaction starts the next table once this much was written to one, or its keys have this size.
        table_keys_max: The most keys of a table; this and ``table_bytes`` bound the memory for its Bloom filter's keys.
    """

    block_bytes: int = 16 << 10
    compression: str = "lz4"
    bloom_bits_per_key: int = 10
    table_bytes: int = 16 << 20
    table_keys_max: int = 1 << 18

    def __post_init__(self) -> None:
        assert self.compression in COMPRESSIONS, self.compression
        assert self.block_bytes > 0 and self.table_bytes > 0 and self.table_keys_max > 0
        assert self.bloom_bits_per_key >= 0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The settings of one engine.

    Attributes:
        memtable_bytes: The memtable rotates once it holds this much, bookkeeping included.
        immutables_max: The number of memtables that wait for their flush with which the engine is stalled.
        replay_immutables_max: That number while a start replays the log: caches are empty then, and haste counts.
        block_bytes: See ``TableOptions``.
        compression: See ``TableOptions``.
        bloom_bits_per_key: See ``TableOptions``.
        block_cache_bytes: The most memory that the block cache may take.
        table_bytes: See ``TableOptions``.
        table_keys_max: See ``TableOptions``.
        l0_tables_trigger: The number of tables at level 0 that starts a compaction.
        l0_tables_max: The number of tables at level 0 with which the engine is stalled.
        l0_inputs_max: The most tables that a compaction of level 0 takes, the oldest; bounds its memory.
        merge_ratio: A merge of level 0 takes the next level too while that is at most so many times as large as what
            the merge has so far.
        idle_merge_ratio: The same while little is written, beyond ``level_base_bytes`` together; by itself a table goes
            down only into so many times as much.
        hidden_bytes_min: While little is written, a memtable is flushed before it is full when deletes hide so much.
        merge_bytes_max: Unless no level is free, whole levels are merged only when together they are not larger.
        level_base_bytes: What any level above another one may hold, before it gives that one table by table.
        level_multiplier: With so many times as much below it, it may hold more than ``level_base_bytes``.
        open_tables_max: So many table files are kept open, beside those that are being read and those that have been
            replaced while somebody reads them. With more tables, some reads open a file first.
        manifest_bytes: The manifest is written anew once it has grown by this much.
        history_bytes_max: The bytes of change segments that are kept after their flush; 0 for none.
        history_age_us: How long change segments are kept, in microseconds by the times of the batches.
    """

    memtable_bytes: int = 16 << 20
    immutables_max: int = 2
    replay_immutables_max: int = 4
    block_bytes: int = 16 << 10
    compression: str = "lz4"
    bloom_bits_per_key: int = 10
    block_cache_bytes: int = 16 << 20
    table_bytes: int = 16 << 20
    table_keys_max: int = 1 << 18
    l0_tables_trigger: int = 4
    l0_tables_max: int = 12
    l0_inputs_max: int = 8
    merge_ratio: float = 2.0
    idle_merge_ratio: float = 10.0
    hidden_bytes_min: int = 1 << 20
    merge_bytes_max: int = 192 << 20
    level_base_bytes: int = 96 << 20
    level_multiplier: int = 10
    manifest_bytes: int = 256 << 10
    open_tables_max: int = 256
    history_bytes_max: int = 0
    history_age_us: int = 3600 * 1_000_000

    def __post_init__(self) -> None:
        assert self.memtable_bytes > 0 and self.immutables_max > 0 and self.block_cache_bytes >= 0
        assert self.replay_immutables_max >= self.immutables_max
        assert 1 < self.l0_tables_trigger <= self.l0_inputs_max and self.l0_tables_trigger < self.l0_tables_max
        assert self.merge_ratio >= 1 and self.idle_merge_ratio >= 1 and self.merge_bytes_max > 0
        assert self.level_base_bytes > 0 and self.level_multiplier > 1 and self.manifest_bytes > 0
        assert self.open_tables_max > 0
        assert self.table_options().table_bytes > 0

    def table_options(self) -> TableOptions:
        """The part that concerns the writing of tables."""
        return TableOptions(
            self.block_bytes, self.compression, self.bloom_bits_per_key, self.table_bytes, self.table_keys_max
        )
