"""Finds what is wrong with a cluster in the answers of its facades and nodes; every finding says what to do about it.

Pure functions on the answers of ``/v1/cluster?vitals=true`` and ``/v1/shards/{id}/members``. Must not know how these
answers were requested, or how findings are printed. Invariant: a figure that a node did not report leads to no finding.

Source: docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dougdb.shapes import ClusterStatus, Members, NodeStatus, ShardStatus

CRITICAL, WARNING = "critical", "warning"
DAY_S = 86_400
_RENEW = "Replace the certificate's files; they are read again without a restart (docs/operations.md, Certificates)."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with the cluster.

    Attributes:
        severity: ``critical`` if requests fail or data is at risk now; ``warning`` if that happens after one more
            failure, or when nothing is done.
        where: The shard, the node or the facade that is concerned.
        what: What is wrong, in whole sentences.
        way_out: What the operator can do about it, in whole sentences.
        code: The kind of the finding, for programs.
    """

    severity: str
    where: str
    what: str
    way_out: str
    code: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits beyond which a figure is a finding.

    Attributes:
        lag: The most entries by which a replica may lag behind.
        skew_ms: The most milliseconds by which a clock may differ from the median of all clocks.
        sync_ms: The most milliseconds that a sync of a log may take on average.
        free: The least part of a volume that must be free, between 0 and 1.
        certificate_days: The least number of days for which a certificate must still be valid.
    """

    lag: int = 10_000
    skew_ms: float = 250.0
    sync_ms: float = 50.0
    free: float = 0.1
    certificate_days: float = 14.0


@dataclass(frozen=True, slots=True)
class Facade:
    """What one facade answered when ``dougctl doctor`` asked it.

    Attributes:
        url: The URL of the facade.
        said: The facade's report about itself; None if the facade did not answer.
        error: Why the facade did not answer.
    """

    url: str
    said: Mapping[str, Any] | None
    error: str = ""


def findings(
    cluster: ClusterStatus,
    members: Mapping[str, Members],
    limits: Limits,
    *,
    before: ClusterStatus | None = None,
    facades: Sequence[Facade] = (),
) -> list[Finding]:
    """Returns what is wrong with a cluster, critical findings first.

    Args:
        cluster: The state of all nodes, as a facade reports it.
        members: By shard, the members as the shard's leader reports them. Shards without an answer are left out.
        limits: The limits beyond which a figure is a finding.
        before: An earlier state of the cluster; the duration of syncs is measured between the two.
        facades: All facades that were asked.
    """
    found: list[Finding] = []
    earlier = {} if before is None else {node.id: node for shard in before.shards for node in shard.nodes}
    for shard in cluster.shards:
        found += _of_shard(shard)
        found += _of_nodes(shard, limits.lag)
        for node in shard.nodes:
            found += _of_vitals(node, earlier.get(node.id), limits)
        if shard.id in members:
            found += _of_members(shard, members[shard.id])
    now_s = _now_s(cluster)
    found += _of_clocks(cluster, limits.skew_ms)
    found += _of_certificates(cluster, facades, now_s, limits.certificate_days)
    found += _of_versions(cluster, facades)
    found += _of_facades(facades)
    return sorted(found, key=lambda each: each.severity)


def in_doubt(before: ClusterStatus, now: ClusterStatus) -> bool:
    """Whether a node stopped answering or a shard lost its leader between two looks, so that a third is needed."""
    return settled(before, now) != now


def settled(before: ClusterStatus, now: ClusterStatus) -> ClusterStatus:
    """The second of two looks, without the failures that the first look did not see.

    If a node answered the first look only, it or the facade may have been busy for a moment, so the node's first answer
    is used. If a shard had a leader at the first look only, it may be about to elect another one, so the shard's first
    answer is used.
    """
    earlier = {shard.id: shard for shard in before.shards}
    shards = tuple(_settled_shard(earlier.get(shard.id), shard) for shard in now.shards)
    return ClusterStatus(shards, now.document)


def _settled_shard(before: ShardStatus | None, now: ShardStatus) -> ShardStatus:
    if before is None:
        return now
    if now.leader is None and before.leader is not None:
        return before
    answered = {node.id: node for node in before.nodes if node.role != "unreachable"}
    return ShardStatus(
        now.id, tuple(answered.get(node.id, node) if node.role == "unreachable" else node for node in now.nodes)
    )


def _of_shard(shard: ShardStatus) -> Iterator[Finding]:
    where, total = f"shard {shard.id}", len(shard.nodes)
    up = sum(node.role != "unreachable" for node in shard.nodes)
    if 2 * up <= total:
        yield Finding(
            CRITICAL,
            where,
            f"Only {up} of {total} nodes answer. This is no majority, so nothing can be written to the shard.",
            "Start the nodes that are down: their volumes hold the data. If the volumes are lost for ever, see "
            "docs/operations.md, A shard that lost its quorum.",
            "no_majority",
        )
    elif shard.leader is None:
        yield Finding(
            CRITICAL,
            where,
            f"The shard has no leader, although {up} of {total} nodes answer.",
            f"See which elections failed and why: dougctl timeline --shard {shard.id}",
            "no_leader",
        )
    elif total < 3 or 2 * (up - 1) <= total:
        yield Finding(
            WARNING,
            where,
            f"{up} of {total} nodes answer. The loss of one more node would stop the shard.",
            "Start the nodes that are down, or replace them: dougctl members replace. If the shard has fewer than "
            "three members, add some: dougctl members add",
            "no_reserve",
        )


def _of_nodes(shard: ShardStatus, lag_max: int) -> Iterator[Finding]:
    newest = max((node.commit_index or 0 for node in shard.nodes), default=0)
    for node in shard.nodes:
        if node.role == "unreachable" and node.trouble is not None:
            yield _of_refused_certificate(node)
        elif node.role == "unreachable":
            what = f"The node does not answer at {node.address}."
            way_out = (
                "Check that its process runs, and read its log. If its volume is lost, replace the node: "
                "dougctl members replace"
            )
            yield Finding(WARNING, node.id, what, way_out, "unreachable")
        elif node.role == "waiting":
            what = "The node is not a member of the shard, and waits to be admitted."
            way_out = (
                "If it takes the place of a member whose volume was lost, run dougctl members replace. "
                "If it is an additional node, run dougctl members add."
            )
            yield Finding(WARNING, node.id, what, way_out, "waiting")
        elif newest - (node.applied_index or 0) > lag_max:
            what = f"The node has applied the log up to entry {node.applied_index}, but entry {newest} is committed."
            way_out = (
                "Run dougctl doctor again, since the node may be catching up. If it does not catch up, check its disk "
                f"and network, and read dougctl timeline --shard {shard.id}"
            )
            yield Finding(WARNING, node.id, what, way_out, "lags")


def _of_refused_certificate(node: NodeStatus) -> Finding:
    if node.trouble == "certificate_expired":
        what = f"The facade cannot connect to the node at {node.address}, because the node's certificate has expired."
        return Finding(CRITICAL, node.id, what, _RENEW, "certificate_expired")
    what = f"The facade cannot connect to the node at {node.address}, because it refuses the node's certificate."
    way_out = (
        "Check that the certificate names the node, and that the authority which signed it is in the facade's ca.crt "
        "(docs/operations.md, Certificates)."
    )
    return Finding(CRITICAL, node.id, what, way_out, "certificate_refused")


def _of_members(shard: ShardStatus, members: Members) -> Iterator[Finding]:
    known = {node.id: node for node in shard.nodes}
    for member in members.members:
        node = known.get(member.name)
        if not member.healthy and (node is None or node.role != "unreachable"):
            what = "The leader of the shard does not hear from the node, although the node answers the facade."
            way_out = "Check firewalls and network policies: leader and node must reach each other's Raft port."
            yield Finding(WARNING, member.name, what, way_out, "unheard")


def _of_vitals(node: NodeStatus, before: NodeStatus | None, limits: Limits) -> Iterator[Finding]:
    vitals = node.vitals
    if vitals is None:
        return
    if vitals.get("divergences"):
        yield Finding(
            CRITICAL,
            node.id,
            "The data of the node differed from the leader's data at the same entry of the log.",
            "Stop the node, keep its volumes for an investigation, and replace it: dougctl members replace",
            "diverged",
        )
    yield from _of_room(node.id, vitals, limits.free)
    if vitals.get("stalled"):
        yield Finding(
            WARNING,
            node.id,
            "The node applies no writes until its flushes and merges have caught up.",
            "Its disk or processor is too slow for the load. Watch dougctl top, and reduce the load or "
            "get faster hardware.",
            "stalled",
        )
    if vitals.get("draining"):
        what = "The node was drained, in order to be stopped, and gives leadership away until its next start."
        yield Finding(WARNING, node.id, what, "Restart the node when the maintenance is done.", "draining")
    sync_ms = mean_sync_ms(vitals, None if before is None else before.vitals)
    if sync_ms is not None and sync_ms > limits.sync_ms:
        yield Finding(
            WARNING,
            node.id,
            f"A sync of the node's log takes {sync_ms:.0f} ms on average.",
            "Its disk is slow, or shared with other load. If the node leads, dougctl leader transfer helps at once.",
            "slow_disk",
        )


def mean_sync_ms(vitals: Mapping[str, Any], before: Mapping[str, Any] | None) -> float | None:
    """The mean duration of a sync since the look before, or since the node's start if nothing was synced meanwhile.

    Args:
        vitals: The vitals of a node.
        before: The vitals of the same node at the look before; None at the first look.

    Returns:
        Milliseconds; None if the node has synced nothing yet.
    """
    syncs, seconds = vitals.get("syncs", 0), vitals.get("sync_seconds", 0.0)
    if before is not None and before.get("uptime_ms", 0) <= vitals.get("uptime_ms", 0) and syncs > before["syncs"]:
        syncs, seconds = syncs - before["syncs"], seconds - before["sync_seconds"]
    return 1000 * seconds / syncs if syncs else None


def _of_room(where: str, vitals: Mapping[str, Any], free_min: float) -> Iterator[Finding]:
    way_out = "Enlarge the volume, or delete keys that are not needed (dougctl delete-range); merges free their space."
    if vitals.get("disk_low"):
        free = ", ".join(f"{each['name']} {_size(each['free_bytes'])}" for each in vitals.get("volumes", ()))
        what = f"The node refuses writes, because its disk is full (free: {free})."
        yield Finding(CRITICAL, where, what, way_out, "disk_full")
        return
    for each in vitals.get("volumes", ()):
        if each["total_bytes"] and each["free_bytes"] < free_min * each["total_bytes"]:
            what = (
                f"Only {_size(each['free_bytes'])} of {_size(each['total_bytes'])} are free on volume {each['name']}."
            )
            yield Finding(WARNING, where, what, way_out, "disk_nearly_full")


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _of_clocks(cluster: ClusterStatus, skew_max_ms: float) -> Iterator[Finding]:
    """Compares every clock with the median of all clocks: which one is right is unknown, but most are."""
    clocks = {
        node.id: (vitals["clock_ahead_ms"], vitals.get("clock_error_ms") or 0.0)
        for shard in cluster.shards
        for node in shard.nodes
        if (vitals := node.vitals) is not None and vitals.get("clock_ahead_ms") is not None
    }
    if not clocks:
        return
    middle = median(ahead for ahead, _ in clocks.values())
    # All clocks are reported as differences to the facade's clock.
    if len(clocks) > 1 and cluster.document.get("facade"):
        clocks["the facade"] = (0.0, median(error for _, error in clocks.values()))
    for where, (ahead_ms, error_ms) in clocks.items():
        skew_ms = ahead_ms - middle
        if abs(skew_ms) - error_ms > skew_max_ms:
            what = f"The clock is {abs(skew_ms) / 1000:.2f} s {'ahead of' if skew_ms > 0 else 'behind'} the median."
            way_out = "Synchronize the clocks by NTP or chrony: keys expire by the clock of their shard's leader."
            yield Finding(WARNING, where, what, way_out, "clock_skew")


def _now_s(cluster: ClusterStatus) -> float | None:
    facade = cluster.document.get("facade")
    return None if facade is None else facade["time_us"] / 1e6


def _of_certificates(
    cluster: ClusterStatus, facades: Sequence[Facade], now_s: float | None, days: float
) -> Iterator[Finding]:
    if now_s is None:
        return
    ends: dict[str, Any] = {
        node.id: node.vitals.get("certificate_ends_s")
        for shard in cluster.shards
        for node in shard.nodes
        if node.vitals is not None
    }
    ends |= {each.url: each.said.get("certificate_ends_s") for each in facades if each.said is not None}
    for where, ends_s in ends.items():
        if ends_s is None:
            continue
        left_days = (ends_s - now_s) / DAY_S
        if left_days <= 0:
            what = f"The certificate expired {_span(-left_days)} ago, so no new connection can be opened."
            yield Finding(CRITICAL, where, what, _RENEW, "certificate_expired")
        elif left_days < days:
            what = f"The certificate expires in {_span(left_days)}."
            yield Finding(WARNING, where, what, _RENEW, "certificate_expires")


def _span(days: float) -> str:
    return f"{days:.1f} days" if days >= 1 else f"{days * 24:.1f} hours"


def _of_versions(cluster: ClusterStatus, facades: Sequence[Facade]) -> Iterator[Finding]:
    by_version: dict[str, list[str]] = {}
    for shard in cluster.shards:
        for node in shard.nodes:
            if node.vitals is not None and node.vitals.get("version"):
                by_version.setdefault(node.vitals["version"], []).append(node.id)
    for each in facades:
        if each.said is not None and each.said.get("version"):
            by_version.setdefault(each.said["version"], []).append(each.url)
    if len(by_version) > 1:
        told = "; ".join(f"{version}: {', '.join(sorted(who))}" for version, who in sorted(by_version.items()))
        what = f"Nodes and facades run several versions ({told})."
        way_out = "This is normal during an upgrade only: finish the upgrade."
        yield Finding(WARNING, "cluster", what, way_out, "mixed_versions")


def _of_facades(facades: Sequence[Facade]) -> Iterator[Finding]:
    newest = max((each.said.get("map_epoch") or 0 for each in facades if each.said is not None), default=0)
    for each in facades:
        if each.said is None:
            what = f"The facade does not answer ({each.error})."
            way_out = "Check that its process runs, and read its log; clients can use another facade meanwhile."
            yield Finding(WARNING, each.url, what, way_out, "facade_down")
        elif each.said.get("map_epoch") is None:
            what = "The facade has no partition map, and so serves no key."
            way_out = "It cannot reach shard 0. Check the addresses in its settings, the names in DNS, and the network."
            yield Finding(CRITICAL, each.url, what, way_out, "no_map")
        elif each.said["map_epoch"] < newest:
            what = f"The facade uses the partition map {each.said['map_epoch']}, while another one uses {newest}."
            way_out = "It should load the new map within 30 s. If it does not, it cannot reach shard 0: read its log."
            yield Finding(WARNING, each.url, what, way_out, "old_map")
