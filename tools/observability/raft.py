"""The dashboard of Raft: term and commit index by shard and node, leadership, lag, and the costs of replication."""

from __future__ import annotations

from tools.observability.grafana import Dashboard, Panel, Query, Row
from tools.observability.selectors import (
    BY_NODE,
    BY_SHARD,
    JOB,
    NAMESPACE,
    NODE,
    OF_NODES,
    RATE,
    SHARD,
    node,
    one,
    percentiles,
    quantile,
)

DASHBOARD = Dashboard(
    uid="dougdb-raft",
    title="DougDB / Raft",
    description="Term, commit index and leadership by shard and node, and what replication costs.",
    variables=(NAMESPACE, JOB, OF_NODES),
    rows=(
        Row(
            "State by shard and node",
            (
                Panel(
                    "Term",
                    one(node("dougdb_raft_term"), BY_NODE),
                    "none",
                    "All nodes of a shard have the same one but for moments; a node that is cut off stays behind.",
                ),
                Panel(
                    "Commit index",
                    one(node("dougdb_raft_commit_index"), BY_NODE),
                    "none",
                    "The highest index known to be committed. The lines of a shard lie on each other.",
                ),
                Panel(
                    "Commits",
                    one(f"rate({node('dougdb_raft_commit_index')}{RATE})", BY_NODE),
                    "ops",
                    "How fast the commit index rises at each node.",
                ),
                Panel(
                    "Leader",
                    one(f"max by ({NODE}) ({node('dougdb_raft_is_leader')})", BY_NODE),
                    "none",
                    "Who leads when. Two at a time are possible for a moment, in different terms.",
                    "state-timeline",
                    width=12,
                ),
                Panel(
                    "Leader changes in an hour",
                    one(f"max by (shard) (increase({node('dougdb_raft_leader_changes_total')}[1h]))", BY_SHARD),
                    "none",
                    "Runbook: DougDBLeaderChurn.",
                    width=6,
                ),
                Panel(
                    "Elections",
                    one(
                        f"sum by (shard, outcome) (rate({node('dougdb_raft_elections_total')}{RATE}))",
                        "{{shard}} {{outcome}}",
                    ),
                    "ops",
                    "Elections that were started and won. Many that are not won: nodes do not hear each other.",
                    width=6,
                ),
            ),
        ),
        Row(
            "Lag",
            (
                Panel(
                    "Apply lag",
                    one(f"{node('dougdb_raft_commit_index')} - {node('dougdb_raft_applied_index')}", BY_NODE),
                    "none",
                    "Committed entries that are not applied yet. Runbook: DougDBApplyLag.",
                ),
                Panel(
                    "Follower lag",
                    one(
                        f"max by ({SHARD}) ({node('dougdb_raft_commit_index')}) - on ({SHARD}) group_right () "
                        f"max by ({SHARD}, peer) ({node('dougdb_raft_peer_match_index')})",
                        "shard {{shard}} {{peer}}",
                    ),
                    "none",
                    "Committed entries that the leader does not know a follower to hold. Runbook: DougDBFollowerLag.",
                ),
                Panel(
                    "Log",
                    one(f"{node('dougdb_raft_last_log_index')} - {node('dougdb_raft_first_log_index')} + 1", BY_NODE),
                    "none",
                    "Entries that the log holds.",
                ),
            ),
        ),
        Row(
            "Proposals",
            (
                Panel(
                    "Committed and applied",
                    (
                        Query(
                            f"sum by (shard) (rate({node('dougdb_raft_proposals_committed_total')}{RATE}))",
                            "committed " + BY_SHARD,
                        ),
                        Query(
                            f"max by (shard) (rate({node('dougdb_raft_proposals_applied_total')}{RATE}))",
                            "applied " + BY_SHARD,
                        ),
                    ),
                    "ops",
                    "Proposals that the leader saw committed, and entries that the fastest node applied.",
                ),
                Panel(
                    "Failed",
                    one(
                        f"sum by (shard, reason) (rate({node('dougdb_raft_proposals_failed_total')}{RATE}))",
                        "{{shard}} {{reason}}",
                    ),
                    "ops",
                    "not_leader is normal while leadership moves. Runbook: DougDBProposalsFailing.",
                ),
                Panel(
                    "Pending",
                    one(f"max by (shard) ({node('dougdb_raft_proposals_pending')})", BY_SHARD),
                    "none",
                    "Proposals that wait for their result. Runbook: DougDBProposalsPending.",
                ),
                Panel(
                    "Commit time",
                    percentiles("dougdb_raft_commit_duration_seconds", "shard", BY_SHARD),
                    "s",
                    "From proposing a batch to its commit.",
                ),
                Panel(
                    "Apply time",
                    percentiles("dougdb_raft_apply_duration_seconds", "shard", BY_SHARD),
                    "s",
                    "Applying committed entries in one go.",
                ),
                Panel(
                    "Entries applied in one go",
                    percentiles("dougdb_raft_apply_batch_size", "shard", BY_SHARD),
                    "none",
                    "It grows with the load: that is how batching pays.",
                ),
            ),
        ),
        Row(
            "Reads, messages, hand-over",
            (
                Panel(
                    "Read rounds",
                    one(
                        f"sum by (shard, outcome) (rate({node('dougdb_raft_read_index_total')}{RATE}))",
                        "{{shard}} {{outcome}}",
                    ),
                    "ops",
                    "Rounds of linearizable reads that asked a quorum; one round serves many reads.",
                ),
                Panel(
                    "Read round time",
                    percentiles("dougdb_raft_read_index_duration_seconds", "shard", BY_SHARD),
                    "s",
                    "Until a quorum had confirmed the leader.",
                ),
                Panel(
                    "Round trip to peers, p99",
                    one(quantile(0.99, "dougdb_raft_peer_rtt_seconds", "shard, peer"), "shard {{shard}} {{peer}}"),
                    "s",
                    "From a leader's heartbeat to its answer.",
                ),
                Panel(
                    "Messages sent",
                    one(
                        f"sum by (shard, type) (rate({node('dougdb_raft_messages_sent_total')}{RATE}))",
                        "{{shard}} {{type}}",
                    ),
                    "ops",
                    "Raft messages between the nodes.",
                ),
                Panel(
                    "Messages dropped",
                    one(
                        f"sum by (shard, reason) (rate({node('dougdb_raft_messages_dropped_total')}{RATE}))",
                        "{{shard}} {{reason}}",
                    ),
                    "ops",
                    "vote_failed: a peer cannot be reached. not_for_me: addresses or volumes were mixed up.",
                ),
                Panel(
                    "Hand-overs and late heartbeats",
                    (
                        Query(
                            f"sum by (shard, outcome) (increase({node('dougdb_raft_leader_transfers_total')}[5m]))",
                            "{{shard}} hand-over {{outcome}}",
                        ),
                        Query(
                            f"sum by (shard) (increase({node('dougdb_raft_heartbeat_late_total')}[5m]))",
                            "{{shard}} late",
                        ),
                    ),
                    "none",
                    "Within five minutes. Late: the leader lacks processor time. Runbook: DougDBHeartbeatLate.",
                ),
            ),
        ),
    ),
)
