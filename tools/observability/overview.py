"""The dashboard to begin with: it shows whether all processes are up, how fast they are, and what needs attention."""

from __future__ import annotations

from tools.observability.grafana import Dashboard, Panel, Row
from tools.observability.selectors import (
    BY_NODE,
    BY_POD,
    BY_SHARD,
    ERROR_SHARE,
    FREE,
    JOB,
    KEYS,
    NAMESPACE,
    NOT_PROBES,
    OF_NODES,
    RATE,
    REQUESTS,
    SHARD,
    VOTERS,
    WHERE,
    facade,
    node,
    one,
    percentiles,
)

DASHBOARD = Dashboard(
    uid="dougdb-overview",
    title="DougDB / Overview",
    description="Is it up, is it fast, does anything need a look.",
    variables=(NAMESPACE, JOB, OF_NODES),
    rows=(
        Row(
            "Now",
            (
                Panel(
                    "Shards without a leader",
                    one(
                        f"count(max by ({SHARD}) ({node('dougdb_raft_is_leader')}) == 0) or vector(0)",
                        "without a leader",
                    ),
                    "none",
                    "Such a shard takes no writes. Runbook: DougDBNoLeader.",
                    "stat",
                    width=4,
                    height=4,
                    red_from=1,
                ),
                Panel(
                    "Shards",
                    one(f"count(count by ({SHARD}) ({node('dougdb_raft_term')}))", "shards"),
                    "none",
                    "Shards of which at least one node answers.",
                    "stat",
                    width=4,
                    height=4,
                ),
                Panel(
                    "Nodes missing",
                    one(
                        f"sum(max by ({SHARD}) ({node('dougdb_raft_members', VOTERS)}))"
                        f" - count({node('dougdb_raft_term')})",
                        "missing",
                    ),
                    "none",
                    "Voters of all configurations that are not scraped. Runbook: DougDBMemberDown.",
                    "stat",
                    width=4,
                    height=4,
                    red_from=1,
                ),
                Panel(
                    "Failed requests",
                    one(ERROR_SHARE, "5xx"),
                    "percentunit",
                    "Share of the requests that the facades answer with 5xx; probes and scrapes do not count.",
                    "stat",
                    width=4,
                    height=4,
                    red_from=0.01,
                ),
                Panel(
                    "Spread of the partition map",
                    one(
                        f"max({facade('dougdb_partition_map_version')})"
                        f" - min({facade('dougdb_partition_map_version')})",
                        "spread",
                    ),
                    "none",
                    "More than 0 for long: a facade sends requests by an old map. Runbook: DougDBMapVersionSkew.",
                    "stat",
                    width=4,
                    height=4,
                    red_from=1,
                ),
                Panel(
                    "Least free disk",
                    one(f"min({FREE})", "free"),
                    "percentunit",
                    "Of the fullest volume of all nodes. Runbook: DougDBDiskLow.",
                    "stat",
                    width=4,
                    height=4,
                    red_below=0.15,
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                Panel(
                    "Writes",
                    one(f"sum by (shard) (rate({node('dougdb_raft_proposals_committed_total')}{RATE}))", BY_SHARD),
                    "ops",
                    "Writes that were committed, by shard.",
                    stacked=True,
                ),
                Panel(
                    "Requests",
                    one(f"sum by (method) (rate({facade(REQUESTS, NOT_PROBES)}{RATE}))", "{{method}}"),
                    "reqps",
                    "Requests that the facades answered.",
                    stacked=True,
                ),
                Panel(
                    "Latency on keys",
                    percentiles("dougdb_facade_request_duration_seconds", "method", "{{method}}", KEYS),
                    "s",
                    "From the head of a request to its answer, over all facades.",
                ),
            ),
        ),
        Row(
            "Raft",
            (
                Panel(
                    "Term by shard",
                    one(f"max by (shard) ({node('dougdb_raft_term')})", BY_SHARD),
                    "none",
                    "It rises with every election. A line that is not flat has a reason: see the Raft dashboard.",
                ),
                Panel(
                    "Commit index by shard",
                    one(f"max by (shard) ({node('dougdb_raft_commit_index')})", BY_SHARD),
                    "none",
                    "It never falls.",
                ),
                Panel(
                    "Nodes up by shard",
                    one(f"count by (shard) ({node('dougdb_raft_term')})", BY_SHARD),
                    "none",
                    "A shard of five bears two missing nodes.",
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel(
                    "Partition map by facade",
                    one(facade("dougdb_partition_map_version"), BY_POD),
                    "none",
                    "The lines should lie on each other.",
                    width=6,
                ),
                Panel(
                    "Free disk",
                    one(FREE, BY_NODE + " {{volume}}"),
                    "percentunit",
                    "By volume.",
                    width=6,
                ),
                Panel(
                    "Memory",
                    one(
                        f"process_resident_memory_bytes{{{WHERE}}} and on (namespace, job, instance) dougdb_build_info",
                        BY_POD,
                    ),
                    "bytes",
                    "Resident memory of every process.",
                    width=6,
                ),
                Panel(
                    "Versions",
                    one(f"count by (version) (dougdb_build_info{{{WHERE}}})", "{{version}}"),
                    "none",
                    "How many processes run which version. Runbook: DougDBVersionMismatch.",
                    width=6,
                ),
            ),
        ),
    ),
)
