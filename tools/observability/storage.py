"""The dashboard of the log, the memtables, the SSTables, compaction, caches and disks."""

from __future__ import annotations

from tools.observability.grafana import Dashboard, Panel, Query, Row
from tools.observability.selectors import (
    BY_NODE,
    BY_SHARD,
    FREE,
    HITS,
    JOB,
    NAMESPACE,
    NODE,
    OF_NODES,
    RATE,
    node,
    one,
    percentiles,
    quantile,
)

DASHBOARD = Dashboard(
    uid="dougdb-storage",
    title="DougDB / Storage",
    description="The write-ahead log, memtables, SSTables, compaction, caches and disks of every node.",
    variables=(NAMESPACE, JOB, OF_NODES),
    rows=(
        Row(
            "Write-ahead log",
            (
                Panel(
                    "Sync time",
                    one(f"sum by (le) (rate({node('dougdb_wal_fsync_duration_seconds_bucket')}{RATE}))", "{{le}}"),
                    "s",
                    "How many syncs took how long, over all chosen nodes.",
                    "heatmap",
                ),
                Panel(
                    "Sync time, p99",
                    one(quantile(0.99, "dougdb_wal_fsync_duration_seconds", NODE), BY_NODE),
                    "s",
                    "Every commit waits for it. Runbook: DougDBFsyncSlow.",
                ),
                Panel(
                    "Append time, p99",
                    one(quantile(0.99, "dougdb_wal_append_duration_seconds", NODE), BY_NODE),
                    "s",
                    "Writing and syncing one append.",
                ),
                Panel(
                    "Entries in one sync",
                    percentiles("dougdb_wal_group_commit_size", "shard", BY_SHARD),
                    "none",
                    "Group commit: it grows with the load.",
                    width=6,
                ),
                Panel(
                    "Written to the log",
                    one(f"rate({node('dougdb_wal_bytes_total')}{RATE})", BY_NODE),
                    "Bps",
                    "Bytes of frames.",
                    width=6,
                ),
                Panel(
                    "Size of the log",
                    one(node("dougdb_wal_size_bytes"), BY_NODE),
                    "bytes",
                    "What its files take.",
                    width=6,
                ),
                Panel(
                    "Replay at the last start",
                    one(node("dougdb_wal_replay_duration_seconds"), BY_NODE),
                    "s",
                    "How long reading and checking the log took.",
                    width=6,
                ),
            ),
        ),
        Row(
            "Memtables and SSTables",
            (
                Panel(
                    "Memtables",
                    one(f"sum by ({NODE}, state) ({node('dougdb_memtable_bytes')})", BY_NODE + " {{state}}"),
                    "bytes",
                    "immutable: waiting for the flush.",
                ),
                Panel(
                    "SSTables by level",
                    one(f"sum by (shard, level) ({node('dougdb_sstable_count')})", "shard {{shard}} L{{level}}"),
                    "none",
                    "Over all nodes of a shard.",
                ),
                Panel(
                    "Bytes by level",
                    one(f"sum by (shard, level) ({node('dougdb_sstable_bytes')})", "shard {{shard}} L{{level}}"),
                    "bytes",
                    "Over all nodes of a shard.",
                    stacked=True,
                ),
                Panel(
                    "Memory of indexes and filters",
                    one(node("dougdb_sstable_memory_bytes"), BY_NODE),
                    "bytes",
                    "It grows with the number of keys.",
                ),
                Panel(
                    "Open SSTables",
                    one(node("dougdb_sstable_open_files"), BY_NODE),
                    "none",
                    "Beyond the limit, reads open files again: see the next panel.",
                ),
                Panel(
                    "SSTables opened again",
                    one(f"rate({node('dougdb_sstable_opens_total')}{RATE})", BY_NODE),
                    "ops",
                    "Many: there are more tables than may be open at once.",
                ),
            ),
        ),
        Row(
            "Flush and compaction",
            (
                Panel(
                    "Flushes and compactions",
                    (
                        Query(f"sum by (shard) (rate({node('dougdb_flush_total')}{RATE}))", BY_SHARD + " flushes"),
                        Query(
                            f"sum by (shard) (rate({node('dougdb_compaction_total')}{RATE}))", BY_SHARD + " compactions"
                        ),
                    ),
                    "ops",
                    "Over all nodes of a shard.",
                ),
                Panel(
                    "Their bytes",
                    (
                        Query(
                            f"sum by (shard) (rate({node('dougdb_flush_bytes_total')}{RATE}))", BY_SHARD + " flushed"
                        ),
                        Query(
                            f"sum by (shard, direction) (rate({node('dougdb_compaction_bytes_total')}{RATE}))",
                            BY_SHARD + " {{direction}}",
                        ),
                    ),
                    "Bps",
                    "Compactions read and write what flushes wrote again: that is write amplification.",
                ),
                Panel(
                    "Their time, p99",
                    (
                        Query(quantile(0.99, "dougdb_flush_duration_seconds", "shard"), BY_SHARD + " flush"),
                        Query(quantile(0.99, "dougdb_compaction_duration_seconds", "shard"), BY_SHARD + " compaction"),
                    ),
                    "s",
                    "From handing the task out to the new tables in place.",
                ),
                Panel(
                    "Waiting for compaction",
                    one(node("dougdb_compaction_pending_bytes"), BY_NODE),
                    "bytes",
                    "Runbook: DougDBCompactionBacklog.",
                    width=12,
                ),
                Panel(
                    "Write stalls",
                    one(f"rate({node('dougdb_write_stall_seconds_total')}{RATE})", BY_NODE),
                    "percentunit",
                    "Share of the time that applying waits for the disk. Runbook: DougDBWriteStall.",
                    width=12,
                ),
            ),
        ),
        Row(
            "Snapshots",
            (
                Panel(
                    "Transfers",
                    one(
                        f"sum by (shard, outcome) (increase({node('dougdb_snapshot_transfers_total')}[5m]))",
                        BY_SHARD + " {{outcome}}",
                    ),
                    "none",
                    "Within five minutes. A node gets one when it is behind the log. Runbook: DougDBSnapshotFailing.",
                    width=6,
                ),
                Panel(
                    "Bytes of transfers",
                    one(
                        f"sum by (shard, direction) (rate({node('dougdb_snapshot_bytes_total')}{RATE}))",
                        BY_SHARD + " {{direction}}",
                    ),
                    "Bps",
                    "Over the network.",
                    width=6,
                ),
                Panel(
                    "Being installed",
                    one(node("dougdb_snapshot_installing"), BY_NODE),
                    "none",
                    "1 while a snapshot takes the place of the state. Runbook: DougDBSnapshotInstallStuck.",
                    width=6,
                ),
                Panel(
                    "Log compactions",
                    one(f"increase({node('dougdb_log_compactions_total')}[1h])", BY_NODE),
                    "none",
                    "Within an hour: how often the beginning of the log was dropped.",
                    width=6,
                ),
            ),
        ),
        Row(
            "Cache and disks",
            (
                Panel(
                    "Block cache hit rate",
                    one(
                        f"sum by (shard) (rate({node('dougdb_block_cache_requests_total', HITS)}{RATE}))"
                        f" / sum by (shard) (rate({node('dougdb_block_cache_requests_total')}{RATE}))",
                        BY_SHARD,
                    ),
                    "percentunit",
                    "Of the reads that memtables cannot answer. Without such reads there is no figure.",
                ),
                Panel(
                    "Block cache", one(node("dougdb_block_cache_bytes"), BY_NODE), "bytes", "Memory of decoded blocks."
                ),
                Panel(
                    "Free disk",
                    one(FREE, BY_NODE + " {{volume}}"),
                    "percentunit",
                    "Runbooks: DougDBDiskLow, DougDBDiskFilling.",
                ),
            ),
        ),
    ),
)
