"""The alerts: expression, severity, what to tell, and what each must and must not fire on.

Every case is run by promtool: ``fires`` must raise exactly its alert, ``silent`` must not. Annotations use labels only,
never the value, so that what a case expects can be said here.

Series are matched by ``namespace``, ``job`` and ``shard``: several clusters in one Prometheus keep apart. A label
that the scrape does not set is equal everywhere and does no harm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RUNBOOK = "https://github.com/dougdb/dougdb/blob/main/docs/operations.md"
SHARD = "namespace, job, shard"
NODE = "namespace, job, pod, instance, shard"
OF_NODES = {"namespace": "db", "job": "nodes"}
OF_FACADES = {"namespace": "db", "job": "facades"}


@dataclass(frozen=True, slots=True)
class Case:
    """Series in promtool's notation, one value a minute, and when to look."""

    series: dict[str, str]
    minutes: int
    labels: dict[str, str]
    """Those of the alert that is expected, without ``alertname`` and ``severity``; unused when silence is."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule."""

    name: str
    expr: str
    minutes: int
    severity: str
    summary: str
    description: str
    fires: Case
    silent: Case

    @property
    def runbook(self) -> str:
        """The section of docs/operations.md; a heading's anchor is its text in lower case."""
        return f"{RUNBOOK}#{self.name.lower()}"

    def annotations(self, labels: dict[str, str]) -> dict[str, str]:
        """What is told when it fires with these labels."""

        def put_in(text: str) -> str:
            return re.sub(r"{{ \$labels\.(\w+) }}", lambda match: labels[match[1]], text)

        return {
            "summary": put_in(self.summary),
            "description": put_in(self.description),
            "runbook_url": self.runbook,
        }


def series(name: str, labels: dict[str, str]) -> str:
    """A series in Prometheus' notation."""
    return f"{name}{{{','.join(f'{key}={chr(34)}{value}{chr(34)}' for key, value in labels.items())}}}"


def node(name: str, number: int = 0, /, **labels: str) -> str:
    """A series of a node of shard 0."""
    return series(name, {**OF_NODES, "pod": f"n{number}", "instance": f"n{number}:1", "shard": "0", **labels})


def facade(name: str, number: int = 0, /, **labels: str) -> str:
    """A series of a facade."""
    return series(name, {**OF_FACADES, "pod": f"f{number}", "instance": f"f{number}:1", **labels})


def node_labels(number: int = 0) -> dict[str, str]:
    """The labels of such a node's alert."""
    return {**OF_NODES, "pod": f"n{number}", "instance": f"n{number}:1", "shard": "0"}


def steady(value: float, minutes: int) -> str:
    """The same value all the time."""
    return f"{value:g}+0x{minutes}"


def rising(step: float, minutes: int, start: float = 0) -> str:
    """A counter."""
    return f"{start:g}+{step:g}x{minutes}"


ON_SHARD = {**OF_NODES, "shard": "0"}
FACADE_SHARD = {**OF_FACADES, "shard": "0"}
VOTERS = f'max by ({SHARD}) (dougdb_raft_members{{role="voter"}})'
UP = f"count by ({SHARD}) (dougdb_raft_term)"


def _members(up: int, voters: int, minutes: int) -> dict[str, str]:
    """A shard of ``voters`` members of which only the first ``up`` are scraped."""
    found = {node("dougdb_raft_term", number): steady(3, minutes) for number in range(up)}
    return found | {node("dougdb_raft_members", n, role="voter"): steady(voters, minutes) for n in range(up)}


def _histogram(name: str, slow: bool, minutes: int, edge: str, above: str) -> dict[str, str]:
    """A histogram of a node in which every observation lies in the bucket ``above``, or in the one up to ``edge``."""
    low = 0 if slow else 60
    return {
        node(f"{name}_bucket", le=edge): rising(low, minutes),
        node(f"{name}_bucket", le=above): rising(60, minutes),
        node(f"{name}_bucket", le="+Inf"): rising(60, minutes),
    }


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
        # What a deposed leader believes of a peer does not count beside what its successor knows.
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
        # Being sent to the leader is no failure.
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
        Case(_histogram("dougdb_wal_fsync_duration_seconds", True, 25, "0.064", "0.256"), 20, node_labels()),
        Case(_histogram("dougdb_wal_fsync_duration_seconds", False, 25, "0.064", "0.256"), 20, node_labels()),
    ),
    Alert(
        "DougDBFsyncVerySlow",
        f"{P99_FSYNC} > 0.5",
        5,
        "critical",
        "The log of {{ $labels.pod }} hardly syncs.",
        "The 99th percentile of a sync on {{ $labels.pod }} of shard {{ $labels.shard }} is over 500 ms.",
        Case(_histogram("dougdb_wal_fsync_duration_seconds", True, 25, "0.512", "2.048"), 15, node_labels()),
        Case(_histogram("dougdb_wal_fsync_duration_seconds", False, 25, "0.256", "2.048"), 15, node_labels()),
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

ANSWERS = 'dougdb_facade_requests_total{route!~"/(livez|readyz|metrics)"'
BY_FACADES = "sum by (namespace, job)"


def _error_ratio(window: str) -> str:
    return f'{BY_FACADES} (rate({ANSWERS},code=~"5.."}}[{window}]))\n/ {BY_FACADES} (rate({ANSWERS}}}[{window}]))'


def _answers(ok: float, failed: float, minutes: int) -> dict[str, str]:
    labels = {"route": "/v1/kv/{key}", "method": "GET", "consistency": "linearizable"}
    return {
        facade("dougdb_facade_requests_total", 0, code="200", **labels): rising(ok, minutes),
        facade("dougdb_facade_requests_total", 0, code="503", **labels): rising(failed, minutes),
    }


def _latency(slow: bool, minutes: int) -> dict[str, str]:
    labels = {"route": "/v1/kv/{key}", "method": "GET", "consistency": "linearizable"}
    name = "dougdb_facade_request_duration_seconds_bucket"
    return {
        facade(name, 0, le="0.25", **labels): rising(0 if slow else 60, minutes),
        facade(name, 0, le="1.0", **labels): rising(60, minutes),
        facade(name, 0, le="+Inf", **labels): rising(60, minutes),
    }


FACADE = [
    Alert(
        "DougDBShardUnreachable",
        f"max by ({SHARD}) (dougdb_facade_shard_reachable) == 0",
        1,
        "critical",
        "No facade reaches the leader of shard {{ $labels.shard }}.",
        "Requests for shard {{ $labels.shard }} have ended with 503 or 504 for a minute, wherever they come in.",
        Case({facade("dougdb_facade_shard_reachable", n, shard="0"): steady(0, 5) for n in range(2)}, 3, FACADE_SHARD),
        Case({facade("dougdb_facade_shard_reachable", n, shard="0"): steady(n, 5) for n in range(2)}, 3, FACADE_SHARD),
    ),
    Alert(
        "DougDBFacadeErrorsFast",
        f"(\n{_error_ratio('5m')}\n) > 0.05\nand (\n{_error_ratio('1h')}\n) > 0.05",
        2,
        "critical",
        "More than 5 % of the requests fail.",
        "The facades of {{ $labels.job }} answer more than 5 % of the requests with 5xx, now and over the last hour.",
        Case(_answers(900, 100, 70), 65, OF_FACADES),
        # An hour of errors that is over now.
        Case(
            {
                facade(
                    "dougdb_facade_requests_total",
                    code=code,
                    route="/v1/kv/{key}",
                    method="GET",
                    consistency="linearizable",
                ): values
                for code, values in (("200", rising(900, 70)), ("503", "0+100x50 5000+0x20"))
            },
            65,
            OF_FACADES,
        ),
    ),
    Alert(
        "DougDBFacadeErrorsSlow",
        f"(\n{_error_ratio('30m')}\n) > 0.01\nand (\n{_error_ratio('6h')}\n) > 0.01",
        15,
        "warning",
        "More than 1 % of the requests fail.",
        "The facades of {{ $labels.job }} answer more than 1 % of the requests with 5xx, now and over the last hours.",
        Case(_answers(900, 20, 400), 390, OF_FACADES),
        Case(_answers(900, 1, 400), 390, OF_FACADES),
    ),
    Alert(
        "DougDBFacadeSlow",
        "histogram_quantile(0.99, sum by (namespace, job, consistency, le) (\n"
        '  rate(dougdb_facade_request_duration_seconds_bucket{route="/v1/kv/{key}"}[5m])\n'
        ")) > 0.5",
        10,
        "warning",
        "Requests are slow.",
        "The 99th percentile of {{ $labels.consistency }} requests on keys is over 500 ms.",
        Case(_latency(True, 25), 20, {**OF_FACADES, "consistency": "linearizable"}),
        Case(_latency(False, 25), 20, OF_FACADES),
    ),
    Alert(
        "DougDBMapVersionSkew",
        "max by (namespace, job) (dougdb_partition_map_version)\n"
        "- min by (namespace, job) (dougdb_partition_map_version) > 0",
        5,
        "warning",
        "The facades do not have the same partition map.",
        "Facades of {{ $labels.job }} have had different versions of the partition map for five minutes.",
        Case({facade("dougdb_partition_map_version", n): steady(4 + n, 10) for n in range(2)}, 8, OF_FACADES),
        Case(
            {
                facade("dougdb_partition_map_version", 0): steady(5, 10),
                facade("dougdb_partition_map_version", 1): "4 4 4 5+0x10",
            },
            8,
            OF_FACADES,
        ),
    ),
    Alert(
        "DougDBDiscoveryStale",
        "time() - dougdb_discovery_last_success_timestamp_seconds > 600",
        0,
        "warning",
        "{{ $labels.pod }} does not learn of new addresses.",
        "{{ $labels.pod }} has had no answer from {{ $labels.source }} for ten minutes; it serves with what it knew.",
        Case(
            {facade("dougdb_discovery_last_success_timestamp_seconds", source="dns"): steady(60, 20)},
            18,
            {**OF_FACADES, "pod": "f0", "instance": "f0:1", "source": "dns"},
        ),
        Case(
            {facade("dougdb_discovery_last_success_timestamp_seconds", source="dns"): rising(60, 20)},
            18,
            OF_FACADES,
        ),
    ),
]


def _process(start: str, minutes: int) -> dict[str, str]:
    labels = {**OF_NODES, "pod": "n0", "instance": "n0:1"}
    return {
        series("process_start_time_seconds", labels): start,
        series("dougdb_build_info", {**labels, "version": "0.1.0"}): steady(1, minutes),
    }


DAY_S = 86_400


def _certificate() -> str:
    labels = {**OF_NODES, "pod": "n0", "instance": "n0:1"}
    return series("dougdb_tls_certificate_expiry_timestamp_seconds", labels)


FLEET = [
    Alert(
        "DougDBFlapping",
        "changes(process_start_time_seconds[15m]) >= 3\nand on (namespace, job, pod, instance) dougdb_build_info",
        0,
        "warning",
        "{{ $labels.pod }} starts again and again.",
        "{{ $labels.pod }} was started three times or more within 15 minutes.",
        Case(_process(rising(60, 20, 1000), 20), 18, {**OF_NODES, "pod": "n0", "instance": "n0:1"}),
        Case(_process("1000+0x8 1500+0x12", 20), 18, OF_NODES),
    ),
    Alert(
        "DougDBVersionMismatch",
        "count by (namespace) (count by (namespace, version) (dougdb_build_info)) > 1",
        240,
        "warning",
        "More than one version runs in {{ $labels.namespace }}.",
        "Processes of different versions have run beside each other for four hours: an upgrade is stuck.",
        Case(
            {
                series("dougdb_build_info", {**OF_NODES, "instance": "n0:1", "version": "0.1.0"}): steady(1, 260),
                series("dougdb_build_info", {**OF_NODES, "instance": "n1:1", "version": "0.2.0"}): steady(1, 260),
            },
            250,
            {"namespace": "db"},
        ),
        Case(
            {
                series("dougdb_build_info", {**OF_NODES, "instance": f"n{n}:1", "version": "0.1.0"}): steady(1, 260)
                for n in range(2)
            },
            250,
            {"namespace": "db"},
        ),
    ),
    Alert(
        "DougDBCertificateExpiry",
        "dougdb_tls_certificate_expiry_timestamp_seconds - time() < 14 * 86400",
        60,
        "warning",
        "The certificate of {{ $labels.pod }} ends soon.",
        "The certificate that {{ $labels.pod }} uses ends within 14 days: its renewal has failed or was forgotten.",
        Case({_certificate(): steady(10 * DAY_S, 90)}, 80, {**OF_NODES, "pod": "n0", "instance": "n0:1"}),
        Case({_certificate(): steady(30 * DAY_S, 90)}, 80, OF_NODES),
    ),
]

GROUPS: dict[str, list[Alert]] = {"raft": RAFT, "storage": STORAGE, "facade": FACADE, "fleet": FLEET}
