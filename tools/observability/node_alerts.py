"""The alerts about a shard's nodes: Raft and storage. See ``tools.observability.alerts``."""

from __future__ import annotations

from tools.observability.alert import (
    NODE,
    ON_SHARD,
    SHARD,
    UP,
    VOTERS,
    Alert,
    Case,
    histogram,
    node,
    node_labels,
    rising,
    steady,
)


def _members(up: int, voters: int, minutes: int) -> dict[str, str]:
    """A shard of ``voters`` members of which only the first ``up`` are scraped."""
    found = {node("dougdb_raft_term", number): steady(3, minutes) for number in range(up)}
    return found | {node("dougdb_raft_members", n, role="voter"): steady(voters, minutes) for n in range(up)}


RAFT = [
    Alert(
        "DougDBNoLeader",
        f"max by ({SHARD}) (dougdb_raft_is_leader) == 0",
        1,
        "critical",
        "Shard {{ $labels.shard }} has no leader.",
        "No node of shard {{ $labels.shard }} has led for a minute: it takes no writes and no linearizable reads.",
        Case({node("dougdb_raft_is_leader", n): steady(0, 5) for n in range(3)}, 3, ON_SHARD),
        Case({node("dougdb_raft_is_leader", n): steady(int(n == 1), 5) for n in range(3)}, 3, ON_SHARD),
    ),
    Alert(
        "DougDBQuorumAtRisk",
        f"{UP} <= floor({VOTERS} / 2) + 1\nand {VOTERS} >= 3",
        3,
        "critical",
        "Shard {{ $labels.shard }} cannot lose another node.",
        "As many nodes of shard {{ $labels.shard }} are gone as it can bear: with one more it stops.",
        Case(_members(3, 5, 10), 5, ON_SHARD),
        Case(_members(4, 5, 10), 5, ON_SHARD),
    ),
    Alert(
        "DougDBMemberDown",
        f"{VOTERS} - {UP} > 0",
        10,
        "warning",
        "Shard {{ $labels.shard }} misses a node.",
        "Not every voter of shard {{ $labels.shard }} has been reached for ten minutes.",
        Case(_members(4, 5, 20), 15, ON_SHARD),
        Case(_members(5, 5, 20), 15, ON_SHARD),
    ),
    Alert(
        "DougDBSplitTerm",
        f'count_values by ({SHARD}) ("term",\n  dougdb_raft_term and on ({NODE}) (dougdb_raft_is_leader == 1)\n) > 1',
        0,
        "critical",
        "Two leaders of shard {{ $labels.shard }} in term {{ $labels.term }}.",
        "Raft never allows this. Stop the shard {{ $labels.shard }} and keep its volumes and logs.",
        Case(
            {node("dougdb_raft_is_leader", n): steady(1, 5) for n in range(2)}
            | {node("dougdb_raft_term", n): steady(7, 5) for n in range(2)},
            1,
            {**ON_SHARD, "term": "7"},
        ),
        # An old leader that has not heard of its successor yet is no defect.
        Case(
            {node("dougdb_raft_is_leader", n): steady(1, 5) for n in range(2)}
            | {node("dougdb_raft_term", n): steady(7 + n, 5) for n in range(2)},
            1,
            ON_SHARD,
        ),
    ),
    Alert(
        "DougDBLeaderChurn",
        f"max by ({SHARD}) (increase(dougdb_raft_leader_changes_total[15m])) >= 4",
        0,
        "warning",
        "Shard {{ $labels.shard }} changes its leader again and again.",
        "Shard {{ $labels.shard }} had four or more leaders within 15 minutes.",
        Case({node("dougdb_raft_leader_changes_total"): rising(1, 20)}, 20, ON_SHARD),
        Case({node("dougdb_raft_leader_changes_total"): "1+0x10 2+0x10"}, 20, ON_SHARD),
    ),
    Alert(
        "DougDBApplyLag",
        "dougdb_raft_commit_index - dougdb_raft_applied_index > 5000",
        5,
        "warning",
        "{{ $labels.pod }} falls behind in applying.",
        "{{ $labels.pod }} of shard {{ $labels.shard }} has more than 5000 committed entries to apply.",
        Case(
            {node("dougdb_raft_commit_index"): steady(9000, 15), node("dougdb_raft_applied_index"): steady(10, 15)},
            10,
            node_labels(),
        ),
        Case(
            {node("dougdb_raft_commit_index"): rising(9000, 15), node("dougdb_raft_applied_index"): rising(8990, 15)},
            10,
            node_labels(),
        ),
    ),
    Alert(
        "DougDBFollowerLag",
        f"max by ({SHARD}) (dougdb_raft_commit_index)\n"
        f"- on ({SHARD}) group_right ()\n"
        f"  max by ({SHARD}, peer) (dougdb_raft_peer_match_index)\n"
        "> 10000",
        10,
        "warning",
        "{{ $labels.peer }} falls behind its leader.",
        "{{ $labels.peer }} of shard {{ $labels.shard }} misses more than 10000 entries that are committed.",
        Case(
            {
                node("dougdb_raft_commit_index"): steady(50_000, 20),
                node("dougdb_raft_peer_match_index", peer="n1"): steady(49_999, 20),
                node("dougdb_raft_peer_match_index", peer="n2"): steady(30_000, 20),
            },
            15,
            {**ON_SHARD, "peer": "n2"},
        ),
        # A deposed leader's figures of a peer do not count beside those of its successor.
        Case(
            {
                node("dougdb_raft_commit_index"): steady(50_000, 20),
                node("dougdb_raft_peer_match_index", peer="n2"): steady(49_000, 20),
                node("dougdb_raft_peer_match_index", 1, peer="n2"): steady(20, 20),
            },
            15,
            ON_SHARD,
        ),
    ),
    Alert(
        "DougDBProposalsFailing",
        f'sum by ({SHARD}) (rate(dougdb_raft_proposals_failed_total{{reason!="not_leader"}}[5m]))\n'
        f"/ (\n"
        f"  sum by ({SHARD}) (rate(dougdb_raft_proposals_committed_total[5m]))\n"
        f'  + sum by ({SHARD}) (rate(dougdb_raft_proposals_failed_total{{reason!="not_leader"}}[5m]))\n'
        ") > 0.01",
        10,
        "warning",
        "Writes to shard {{ $labels.shard }} fail.",
        "More than 1 % of the writes to shard {{ $labels.shard }} are refused as too many, or end unknown.",
        Case(
            {
                node("dougdb_raft_proposals_committed_total"): rising(900, 25),
                node("dougdb_raft_proposals_failed_total", reason="timeout"): rising(100, 25),
            },
            20,
            ON_SHARD,
        ),
        # A hint to the leader is no failure.
        Case(
            {
                node("dougdb_raft_proposals_committed_total"): rising(900, 25),
                node("dougdb_raft_proposals_failed_total", reason="timeout"): rising(1, 25),
                node("dougdb_raft_proposals_failed_total", reason="not_leader"): rising(500, 25),
            },
            20,
            ON_SHARD,
        ),
    ),
    Alert(
        "DougDBProposalsPending",
        "dougdb_raft_proposals_pending > 1000",
        5,
        "warning",
        "Writes queue up at {{ $labels.pod }}.",
        "More than 1000 writes to shard {{ $labels.shard }} wait for their result at {{ $labels.pod }}.",
        Case({node("dougdb_raft_proposals_pending"): steady(1500, 10)}, 8, node_labels()),
        Case({node("dougdb_raft_proposals_pending"): "5000 5000 5000 0+0x10"}, 8, node_labels()),
    ),
    Alert(
        "DougDBStateDivergence",
        "increase(dougdb_state_divergence_total[1h]) > 0",
        0,
        "critical",
        "{{ $labels.pod }} holds something else than its leader.",
        "{{ $labels.pod }} of shard {{ $labels.shard }} compared the hash of its state with its leader's: they differ.",
        Case({node("dougdb_state_divergence_total"): "0+0x20 1+0x20"}, 25, node_labels()),
        Case({node("dougdb_state_divergence_total"): steady(3, 40)}, 35, node_labels()),
    ),
    Alert(
        "DougDBLogClockAhead",
        "dougdb_log_clock_ahead_seconds > 5",
        0,
        "warning",
        "The log of shard {{ $labels.shard }} is ahead of the clock of its leader.",
        "When {{ $labels.pod }} was elected, the time in the log of shard {{ $labels.shard }} was ahead of its clock.",
        Case({node("dougdb_log_clock_ahead_seconds"): steady(60, 10)}, 5, node_labels()),
        Case({node("dougdb_log_clock_ahead_seconds"): steady(0.5, 10)}, 5, node_labels()),
    ),
    Alert(
        "DougDBHeartbeatLate",
        "rate(dougdb_raft_heartbeat_late_total[5m]) > 0.1",
        10,
        "warning",
        "{{ $labels.pod }} sends its heartbeats late.",
        "{{ $labels.pod }}, the leader of shard {{ $labels.shard }}, does not get the processor in time.",
        Case({node("dougdb_raft_heartbeat_late_total"): rising(60, 20)}, 18, node_labels()),
        Case({node("dougdb_raft_heartbeat_late_total"): rising(1, 20)}, 18, node_labels()),
    ),
]

P99_FSYNC = f"histogram_quantile(0.99, sum by ({NODE}, le) (rate(dougdb_wal_fsync_duration_seconds_bucket[5m])))"
FREE = "dougdb_disk_free_bytes / dougdb_disk_total_bytes"
DISK = {"volume": "data"}
GIB = 1 << 30


def _disk(free: str, minutes: int) -> dict[str, str]:
    return {
        node("dougdb_disk_total_bytes", 0, **DISK): steady(100 * GIB, minutes),
        node("dougdb_disk_free_bytes", 0, **DISK): free,
    }


STORAGE = [
    Alert(
        "DougDBFsyncSlow",
        f"{P99_FSYNC} > 0.1",
        10,
        "warning",
        "The log of {{ $labels.pod }} is slow to sync.",
        "The 99th percentile of a sync on {{ $labels.pod }} of shard {{ $labels.shard }} is over 100 ms.",
        Case(histogram("dougdb_wal_fsync_duration_seconds", True, 25, "0.064", "0.256"), 20, node_labels()),
        Case(histogram("dougdb_wal_fsync_duration_seconds", False, 25, "0.064", "0.256"), 20, node_labels()),
    ),
    Alert(
        "DougDBFsyncVerySlow",
        f"{P99_FSYNC} > 0.5",
        5,
        "critical",
        "The log of {{ $labels.pod }} hardly syncs.",
        "The 99th percentile of a sync on {{ $labels.pod }} of shard {{ $labels.shard }} is over 500 ms.",
        Case(histogram("dougdb_wal_fsync_duration_seconds", True, 25, "0.512", "2.048"), 15, node_labels()),
        Case(histogram("dougdb_wal_fsync_duration_seconds", False, 25, "0.256", "2.048"), 15, node_labels()),
    ),
    Alert(
        "DougDBWriteStall",
        "rate(dougdb_write_stall_seconds_total[5m]) > 0.1",
        5,
        "warning",
        "{{ $labels.pod }} waits for its disk instead of applying.",
        "{{ $labels.pod }} of shard {{ $labels.shard }} is stalled for more than a tenth of the time.",
        Case({node("dougdb_write_stall_seconds_total"): rising(30, 20)}, 15, node_labels()),
        Case({node("dougdb_write_stall_seconds_total"): rising(1, 20)}, 15, node_labels()),
    ),
    Alert(
        "DougDBCompactionBacklog",
        "dougdb_compaction_pending_bytes > 1073741824",
        30,
        "warning",
        "Compactions of {{ $labels.pod }} do not keep up.",
        "More than 1 GiB has waited for half an hour on {{ $labels.pod }} of shard {{ $labels.shard }}.",
        Case({node("dougdb_compaction_pending_bytes"): steady(3 * GIB, 45)}, 40, node_labels()),
        Case({node("dougdb_compaction_pending_bytes"): f"{3 * GIB}+0x20 0+0x25"}, 40, node_labels()),
    ),
    Alert(
        "DougDBTableDamaged",
        "dougdb_scrub_damaged_tables > 0 or increase(dougdb_scrub_damages_total[1h]) > 0",
        0,
        "critical",
        "{{ $labels.pod }} has a damaged SSTable.",
        "A background check found a damaged SSTable on {{ $labels.pod }} of shard {{ $labels.shard }}.",
        Case({node("dougdb_scrub_damaged_tables"): steady(1, 10)}, 5, node_labels()),
        Case({node("dougdb_scrub_damaged_tables"): steady(0, 10)}, 5, node_labels()),
    ),
    Alert(
        "DougDBDiskLow",
        f"{FREE} < 0.15",
        5,
        "warning",
        "The {{ $labels.volume }} volume of {{ $labels.pod }} is almost full.",
        "Less than 15 % is free on the {{ $labels.volume }} volume of {{ $labels.pod }}.",
        Case(_disk(steady(10 * GIB, 15), 15), 10, {**node_labels(), **DISK}),
        Case(_disk(steady(20 * GIB, 15), 15), 10, {**node_labels(), **DISK}),
    ),
    Alert(
        "DougDBDiskReadOnly",
        "dougdb_disk_low == 1",
        1,
        "critical",
        "{{ $labels.pod }} refuses writes: its disk is full.",
        "A volume of {{ $labels.pod }} of shard {{ $labels.shard }} has less free than its reserve. Reads go on.",
        Case({node("dougdb_disk_low"): steady(1, 10)}, 5, node_labels()),
        Case({node("dougdb_disk_low"): steady(0, 10)}, 5, node_labels()),
    ),
    Alert(
        "DougDBDiskFilling",
        f"predict_linear(dougdb_disk_free_bytes[1h], 4 * 3600) < 0\nand {FREE} < 0.4",
        15,
        "critical",
        "The {{ $labels.volume }} volume of {{ $labels.pod }} will be full soon.",
        "At the pace of the last hour the {{ $labels.volume }} volume of {{ $labels.pod }} is full within four hours.",
        Case(_disk(f"{38 * GIB}-{GIB // 4}x90", 90), 80, {**node_labels(), **DISK}),
        Case(_disk(f"{38 * GIB}-{GIB // 50}x90", 90), 80, {**node_labels(), **DISK}),
    ),
    Alert(
        "DougDBSnapshotFailing",
        f'sum by ({SHARD}) (increase(dougdb_snapshot_transfers_total{{outcome=~"failed|refused"}}[30m])) >= 3',
        0,
        "warning",
        "Snapshots of shard {{ $labels.shard }} do not arrive.",
        "Three or more transfers of snapshots in shard {{ $labels.shard }} failed or were refused within half an hour.",
        Case({node("dougdb_snapshot_transfers_total", outcome="failed"): rising(1, 40)}, 35, ON_SHARD),
        Case(
            {
                node("dougdb_snapshot_transfers_total", outcome="sent"): rising(1, 40),
                node("dougdb_snapshot_transfers_total", outcome="failed"): "0+0x20 1+0x20",
            },
            35,
            ON_SHARD,
        ),
    ),
    Alert(
        "DougDBSnapshotInstallStuck",
        "dougdb_snapshot_installing == 1",
        30,
        "warning",
        "{{ $labels.pod }} does not get done with a snapshot.",
        "{{ $labels.pod }} of shard {{ $labels.shard }} has been putting a snapshot in place for half an hour.",
        Case({node("dougdb_snapshot_installing"): steady(1, 40)}, 35, node_labels()),
        Case({node("dougdb_snapshot_installing"): "1+0x15 0+0x25"}, 35, node_labels()),
    ),
]
