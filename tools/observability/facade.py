"""The dashboard of the facades: the requests of clients, and the facades' knowledge of the shards."""

from __future__ import annotations

from tools.observability.grafana import Dashboard, Panel, Query, Row
from tools.observability.selectors import (
    BY_POD,
    BY_SHARD,
    ERROR_SHARE,
    FACADE_PROCESS,
    JOB,
    KEYS,
    NAMESPACE,
    OF_FACADES,
    RATE,
    REQUESTS,
    WHERE,
    facade,
    node,
    one,
    percentiles,
    quantile,
)

DASHBOARD = Dashboard(
    uid="dougdb-facade",
    title="DougDB / Facade",
    description="What clients see, and what the facades know of the shards.",
    variables=(NAMESPACE, JOB, OF_FACADES),
    rows=(
        Row(
            "Requests",
            (
                Panel(
                    "Rate by route and code",
                    one(f"sum by (route, code) (rate({facade(REQUESTS)}{RATE}))", "{{route}} {{code}}"),
                    "reqps",
                    "A route is a template, never a path.",
                    stacked=True,
                ),
                Panel(
                    "Failed requests",
                    one(ERROR_SHARE, "5xx"),
                    "percentunit",
                    "Runbooks: DougDBFacadeErrorsFast, DougDBFacadeErrorsSlow.",
                ),
                Panel(
                    "In flight",
                    one(facade("dougdb_facade_inflight_requests"), BY_POD),
                    "none",
                    "Requests that are being answered.",
                ),
                Panel(
                    "Latency by route",
                    tuple(
                        Query(
                            quantile(share, "dougdb_facade_request_duration_seconds", "route", WHERE),
                            "{{route}} " + label,
                        )
                        for share, label in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
                    ),
                    "s",
                    "From the head of a request to its answer.",
                    width=12,
                ),
                Panel(
                    "Latency on keys by consistency",
                    tuple(
                        Query(
                            quantile(share, "dougdb_facade_request_duration_seconds", "method, consistency", KEYS),
                            "{{method}} {{consistency}} " + label,
                        )
                        for share, label in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
                    ),
                    "s",
                    "Eventual reads ask no quorum. Runbook: DougDBFacadeSlow.",
                    width=12,
                ),
            ),
        ),
        Row(
            "Shards",
            (
                Panel(
                    "Upstream time, p99",
                    one(
                        quantile(0.99, "dougdb_facade_upstream_duration_seconds", "shard, rpc"),
                        BY_SHARD + " {{rpc}}",
                    ),
                    "s",
                    "From sending a batch to a node to the answer of its last item.",
                ),
                Panel(
                    "Items in a batch",
                    percentiles("dougdb_facade_batch_items", "kind", "{{kind}}", WHERE),
                    "none",
                    "It grows with the load.",
                ),
                Panel(
                    "Waiting or in flight",
                    one(f"sum by (shard) ({node('dougdb_facade_pending_items')})", BY_SHARD),
                    "none",
                    "Operations of all facades, by shard.",
                ),
                Panel(
                    "Retries by reason",
                    one(f"sum by (reason) (rate({facade('dougdb_facade_retries_total')}{RATE}))", "{{reason}}"),
                    "ops",
                    "Operations that left no trace and were tried again, within their request.",
                ),
                Panel(
                    "Redirects",
                    one(f"sum by (shard) (rate({node('dougdb_facade_leader_redirects_total')}{RATE}))", BY_SHARD),
                    "ops",
                    "Nodes that said they do not lead; a few with every change of leader.",
                ),
                Panel(
                    "Shards reached",
                    one(node("dougdb_facade_shard_reachable"), BY_SHARD + " {{pod}}"),
                    "none",
                    "1 while the leader is known, connected and answers. Runbook: DougDBShardUnreachable.",
                ),
            ),
        ),
        Row(
            "Watches and copies of reads",
            (
                Panel(
                    "Watches",
                    (
                        *one(facade("dougdb_facade_watchers"), BY_POD),
                        *one(facade("dougdb_facade_watchers_catching_up"), BY_POD + " catching up"),
                    ),
                    "none",
                    "Open ones, and those that read older changes from a node.",
                    width=6,
                ),
                Panel(
                    "Changes sent",
                    one(f"sum by (pod) (rate({facade('dougdb_facade_watch_events_total')}{RATE}))", BY_POD),
                    "ops",
                    "Each counts for every watch that it is sent to.",
                    width=6,
                ),
                Panel(
                    "Behind",
                    one(facade("dougdb_facade_watch_lag_entries"), BY_SHARD + " {{pod}}"),
                    "none",
                    "Entries that were applied and not told to watches yet.",
                    width=6,
                ),
                Panel(
                    "Resyncs, clients that do not read, copies of reads",
                    (
                        *one(f"sum (rate({facade('dougdb_facade_watch_resyncs_total')}{RATE}))", "resyncs"),
                        *one(f"sum (rate({facade('dougdb_facade_watch_left_behind_total')}{RATE}))", "left behind"),
                        *one(
                            f"sum by (outcome) (rate({facade('dougdb_facade_hedged_reads_total')}{RATE}))",
                            "copies {{outcome}}",
                        ),
                    ),
                    "ops",
                    "Clients that begin anew, that fall behind, and reads that were sent twice.",
                    width=6,
                ),
            ),
        ),
        Row(
            "Partition map and process",
            (
                Panel(
                    "Map version",
                    one(facade("dougdb_partition_map_version"), BY_POD),
                    "none",
                    "Runbook: DougDBMapVersionSkew.",
                    width=6,
                ),
                Panel(
                    "Map age",
                    one(facade("dougdb_partition_map_age_seconds"), BY_POD),
                    "s",
                    "It is confirmed every 30 s; it grows while shard 0 has no leader.",
                    width=6,
                ),
                Panel(
                    "Event-loop lag",
                    one(
                        f"{facade('dougdb_event_loop_lag_seconds')} and {FACADE_PROCESS}",
                        BY_POD,
                    ),
                    "s",
                    "How late timers are: a facade that is always late needs company.",
                    width=6,
                ),
                Panel(
                    "Processor",
                    one(
                        f"rate({facade('process_cpu_seconds_total')}{RATE}) and {FACADE_PROCESS}",
                        BY_POD,
                    ),
                    "percentunit",
                    "Of one core.",
                    width=6,
                ),
            ),
        ),
    ),
)
