"""What is wrong with a cluster, found in what its facades and nodes say; every finding comes with the way out.

Pure functions on the answers of ``/v1/cluster?vitals=true`` and ``/v1/shards/{id}/members``. Must not know how these
were asked for, or how findings are shown. Invariant: what a node did not say is no finding.

Source: docs/operations.md; DESIGN 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dougdb.shapes import ClusterStatus, Members, NodeStatus, ShardStatus

CRITICAL, WARNING = "critical", "warning"
DAY_S = 86_400
_RENEW = "renew it: the new files are read while the process runs (docs/operations.md)"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        severity: ``critical``: requests fail, or data is at risk; ``warning``: they will, or another failure would be
            one too many.
        where: The shard, the node, or the facade.
        what: What is wrong.
        way_out: What to do about it.
        code: What kind of finding it is, for programs.
    """

    severity: str
    where: str
    what: str
    way_out: str
    code: str


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is wrong.

    Attributes:
        lag: So many entries a replica may lag behind.
        skew_ms: So far a clock may be from the others.
        sync_ms: So long a sync of a log may take, on average.
        free: So much of a volume must be free, of 1.
        certificate_days: For so long a certificate must still be good.
    """

    lag: int = 10_000
    skew_ms: float = 250.0
    sync_ms: float = 50.0
    free: float = 0.1
    certificate_days: float = 14.0


@dataclass(frozen=True, slots=True)
class Facade:
    """One facade, as it was asked.

    Attributes:
        url: The URL of the facade.
        said: What it says of itself; None if it did not answer.
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
    """What is wrong, the worst first.

    Args:
        cluster: What a facade says of all nodes.
        members: By shard, what its leader says of the members, where one does.
        limits: From where on something is wrong.
        before: The same as ``cluster``, a moment earlier: what disks did since then counts.
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
    """Whether a node has just fallen silent, or a leader gone: another look tells whether that is so."""
    return settled(before, now) != now


def settled(before: ClusterStatus, now: ClusterStatus) -> ClusterStatus:
    """The second of two looks, without what one look alone may be wrong about.

    A node that answers one look and not the other was busy for a moment, or the facade was: as was a shard that had a
    leader a moment ago, and is about to have another one.
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
            f"only {up} of {total} nodes answer: no majority, nothing can be written",
            "start the nodes that are down: their volumes have what is needed; where volumes are lost for ever, "
            "restore a backup (docs/operations.md)",
            "no_majority",
        )
    elif shard.leader is None:
        yield Finding(
            CRITICAL,
            where,
            f"no leader, although {up} of {total} nodes answer",
            f"see what they say of elections: dougctl timeline --shard {shard.id}",
            "no_leader",
        )
    elif total < 3 or 2 * (up - 1) <= total:
        yield Finding(
            WARNING,
            where,
            f"{up} of {total} nodes answer: the loss of one more would stop it",
            "start the nodes that are down, or replace them: dougctl members replace",
            "no_reserve",
        )


def _of_nodes(shard: ShardStatus, lag_max: int) -> Iterator[Finding]:
    newest = max((node.commit_index or 0 for node in shard.nodes), default=0)
    for node in shard.nodes:
        if node.role == "unreachable" and node.trouble is not None:
            yield _of_refused_certificate(node)
        elif node.role == "unreachable":
            what = f"does not answer at {node.address}"
            way_out = "look at its log, and whether its process runs; its volume is lost: dougctl members replace"
            yield Finding(WARNING, node.id, what, way_out, "unreachable")
        elif node.role == "waiting":
            what = "is no member as it is, and waits to be admitted"
            way_out = "admit it if that is meant: dougctl members replace, or dougctl members add"
            yield Finding(WARNING, node.id, what, way_out, "waiting")
        elif newest - (node.applied_index or 0) > lag_max:
            what = f"has applied {node.applied_index}, and {newest} is committed"
            way_out = "a slow disk or network, or it is catching up: look again, and at dougctl timeline"
            yield Finding(WARNING, node.id, what, way_out, "lags")


def _of_refused_certificate(node: NodeStatus) -> Finding:
    if node.trouble == "certificate_expired":
        what = f"cannot be reached at {node.address}: its certificate has ended"
        return Finding(CRITICAL, node.id, what, _RENEW, "certificate_expired")
    what = f"cannot be reached at {node.address}: its certificate is none that the facade takes"
    way_out = "another authority, or a name that is missing: all have one authority in ca.crt (docs/operations.md)"
    return Finding(CRITICAL, node.id, what, way_out, "certificate_refused")


def _of_members(shard: ShardStatus, members: Members) -> Iterator[Finding]:
    known = {node.id: node for node in shard.nodes}
    for member in members.members:
        node = known.get(member.name)
        if not member.healthy and (node is None or node.role != "unreachable"):
            what = "its leader does not hear from it, although it answers others"
            way_out = "a cut between the nodes: check the Raft port and network policies between them"
            yield Finding(WARNING, member.name, what, way_out, "unheard")


def _of_vitals(node: NodeStatus, before: NodeStatus | None, limits: Limits) -> Iterator[Finding]:
    vitals = node.vitals
    if vitals is None:
        return
    if vitals.get("divergences"):
        yield Finding(
            CRITICAL,
            node.id,
            "what it holds differed from what its leader holds",
            "stop it, keep its volumes for whoever looks into it, and replace it: dougctl members replace",
            "diverged",
        )
    yield from _of_room(node.id, vitals, limits.free)
    if vitals.get("stalled"):
        yield Finding(
            WARNING,
            node.id,
            "applies nothing until flushes and merges have caught up",
            "its disk or processor is too slow for what is written: look at dougctl top, write less, or give it more",
            "stalled",
        )
    if vitals.get("draining"):
        what = "is about to be stopped, and gives leadership away"
        yield Finding(WARNING, node.id, what, "start it anew when that is done", "draining")
    sync_ms = mean_sync_ms(vitals, None if before is None else before.vitals)
    if sync_ms is not None and sync_ms > limits.sync_ms:
        yield Finding(
            WARNING,
            node.id,
            f"a sync of its log takes {sync_ms:.0f} ms on average",
            "a slow or shared disk; if it leads, dougctl leader transfer helps at once",
            "slow_disk",
        )


def mean_sync_ms(vitals: Mapping[str, Any], before: Mapping[str, Any] | None) -> float | None:
    """How long a sync took since the look before; since the start where nothing was synced meanwhile."""
    syncs, seconds = vitals.get("syncs", 0), vitals.get("sync_seconds", 0.0)
    if before is not None and before.get("uptime_ms", 0) <= vitals.get("uptime_ms", 0) and syncs > before["syncs"]:
        syncs, seconds = syncs - before["syncs"], seconds - before["sync_seconds"]
    return 1000 * seconds / syncs if syncs else None


def _of_room(where: str, vitals: Mapping[str, Any], free_min: float) -> Iterator[Finding]:
    way_out = "give the volume more room, or delete what is not needed (dougctl delete-range): merges give it back"
    if vitals.get("disk_low"):
        free = ", ".join(f"{each['name']} {_size(each['free_bytes'])}" for each in vitals.get("volumes", ()))
        yield Finding(CRITICAL, where, f"refuses writes, for its disk is full (free: {free})", way_out, "disk_full")
        return
    for each in vitals.get("volumes", ()):
        if each["total_bytes"] and each["free_bytes"] < free_min * each["total_bytes"]:
            what = f"only {_size(each['free_bytes'])} of {_size(each['total_bytes'])} are free for {each['name']}"
            yield Finding(WARNING, where, what, way_out, "disk_nearly_full")


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _of_clocks(cluster: ClusterStatus, skew_max_ms: float) -> Iterator[Finding]:
    """Clocks beside the one in the middle: nobody knows which is right, but most are."""
    clocks = {
        node.id: (vitals["clock_ahead_ms"], vitals.get("clock_error_ms") or 0.0)
        for shard in cluster.shards
        for node in shard.nodes
        if (vitals := node.vitals) is not None and vitals.get("clock_ahead_ms") is not None
    }
    if not clocks:
        return
    middle = median(ahead for ahead, _ in clocks.values())
    # All clocks are told as differences to the facade's own one.
    if len(clocks) > 1 and cluster.document.get("facade"):
        clocks["the facade"] = (0.0, median(error for _, error in clocks.values()))
    for where, (ahead_ms, error_ms) in clocks.items():
        skew_ms = ahead_ms - middle
        if abs(skew_ms) - error_ms > skew_max_ms:
            what = f"its clock is {abs(skew_ms) / 1000:.2f} s {'ahead of' if skew_ms > 0 else 'behind'} most others"
            way_out = "have the clocks kept by NTP or chrony: expiry goes by the clock of whoever leads"
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
            what = "its certificate has ended: nobody opens a new connection to it"
            yield Finding(CRITICAL, where, what, _RENEW, "certificate_expired")
        elif left_days < days:
            left = f"{left_days:.1f} days" if left_days >= 1 else f"{left_days * 24:.1f} hours"
            what = f"its certificate ends in {left}"
            yield Finding(WARNING, where, what, _RENEW, "certificate_expires")


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
        way_out = "fine while an upgrade is under way, and not for longer: end it"
        yield Finding(WARNING, "cluster", f"several versions run ({told})", way_out, "mixed_versions")


def _of_facades(facades: Sequence[Facade]) -> Iterator[Finding]:
    newest = max((each.said.get("map_epoch") or 0 for each in facades if each.said is not None), default=0)
    for each in facades:
        if each.said is None:
            way_out = "look at its log, and whether its process runs; clients go to another one meanwhile"
            yield Finding(WARNING, each.url, f"this facade does not answer: {each.error}", way_out, "facade_down")
        elif each.said.get("map_epoch") is None:
            way_out = "it cannot reach shard 0: check its settings, names and network"
            what = "this facade has no partition map, and serves nothing"
            yield Finding(CRITICAL, each.url, what, way_out, "no_map")
        elif each.said["map_epoch"] < newest:
            what = f"this facade goes by map {each.said['map_epoch']}, and another one by {newest}"
            way_out = "it loads the map within 30 s; if not, it cannot reach shard 0: look at its log"
            yield Finding(WARNING, each.url, what, way_out, "old_map")
