"""``dougctl doctor``: what is wrong with this cluster, and what to do about it.

It looks at what the facade and the leaders say of nodes and members. Every finding comes with the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from dougdb.commands.common import ExitCode, JsonOption, client_of, print_json, printable, remote
from dougdb.errors import DougdbError
from dougdb.shapes import ClusterStatus, Members, ShardStatus

LAG_MAX = 10_000
"""A replica that is so many entries behind is not just busy."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        severity: ``critical``: requests fail; ``warning``: another failure would be one too many.
        where: The shard or the node.
        what: What is wrong.
        way_out: What to do about it.
    """

    severity: str
    where: str
    what: str
    way_out: str


@remote
def doctor(
    context: typer.Context,
    *,
    lag_max: Annotated[
        int, typer.Option("--lag-max", min=0, help="So many entries a replica may lag behind.")
    ] = LAG_MAX,
    as_json: JsonOption = False,
) -> None:
    """Look for what is wrong: shards without a leader, nodes that do not answer, replicas that lag behind.

    It ends with 1 when anything was found.
    """
    with client_of(context) as client:
        cluster = client.cluster()
        members: dict[str, Members] = {}
        for shard in cluster.shards:
            try:
                members[shard.id] = client.members(shard.id)
            except DougdbError:
                continue  # Without a leader nobody knows; that is a finding already.
    found = findings(cluster, members, lag_max)
    if as_json:
        print_json({"healthy": not found, "findings": [asdict(each) for each in found]})
    else:
        _show(cluster, found)
    if found:
        raise typer.Exit(ExitCode.FAILURE)


def findings(cluster: ClusterStatus, members: Mapping[str, Members], lag_max: int) -> list[Finding]:
    """What is wrong, the worst first.

    Args:
        cluster: What the facade says of all nodes.
        members: By shard, what its leader says of the members, where one does.
        lag_max: So many entries a replica may lag behind.
    """
    found = []
    for shard in cluster.shards:
        found += _of_shard(shard)
        found += _of_nodes(shard, lag_max)
        if shard.id in members:
            found += _of_members(shard, members[shard.id])
    return sorted(found, key=lambda each: each.severity)


def _of_shard(shard: ShardStatus) -> list[Finding]:
    where, total = f"shard {shard.id}", len(shard.nodes)
    up = sum(node.role != "unreachable" for node in shard.nodes)
    if 2 * up <= total:
        what = f"only {up} of {total} nodes answer: no majority, nothing can be written"
        way_out = (
            "start the nodes that are down: their volumes have what is needed; where volumes are lost for ever, "
            "restore a backup (docs/operations.md)"
        )
        return [Finding("critical", where, what, way_out)]
    if shard.leader is None:
        return [
            Finding(
                "critical",
                where,
                f"no leader, although {up} of {total} nodes answer",
                f"see what they say of elections: dougctl timeline --shard {shard.id}",
            )
        ]
    if total < 3 or 2 * (up - 1) <= total:
        return [
            Finding(
                "warning",
                where,
                f"{up} of {total} nodes answer: the loss of one more would stop it",
                "start the nodes that are down, or replace them: dougctl members replace",
            )
        ]
    return []


def _of_nodes(shard: ShardStatus, lag_max: int) -> list[Finding]:
    found = []
    newest = max((node.commit_index or 0 for node in shard.nodes), default=0)
    for node in shard.nodes:
        if node.role == "unreachable":
            what = f"does not answer at {node.address}"
            way_out = (
                "look at its log and whether its process runs; a node whose volume is lost: dougctl members replace"
            )
            found.append(Finding("warning", node.id, what, way_out))
        elif node.role == "waiting":
            what = "is no member as it is, and waits to be admitted"
            way_out = "admit it if that is meant: dougctl members replace, or dougctl members add"
            found.append(Finding("warning", node.id, what, way_out))
        elif newest - (node.applied_index or 0) > lag_max:
            what = f"has applied {node.applied_index}, and {newest} is committed"
            way_out = "a slow disk or network, or it is catching up: look again, and at dougctl timeline"
            found.append(Finding("warning", node.id, what, way_out))
    return found


def _of_members(shard: ShardStatus, members: Members) -> list[Finding]:
    known = {node.id: node for node in shard.nodes}
    found = []
    for member in members.members:
        node = known.get(member.name)
        if not member.healthy and (node is None or node.role != "unreachable"):
            what = "its leader does not hear from it, although it answers others"
            way_out = "a cut between the nodes: check the Raft port and network policies between them"
            found.append(Finding("warning", member.name, what, way_out))
    return found


def _show(cluster: ClusterStatus, found: list[Finding]) -> None:
    nodes = sum(len(shard.nodes) for shard in cluster.shards)
    for each in found:
        print(printable(f"{each.severity.upper()}: {each.where}: {each.what}"))
        print(printable(f"    {each.way_out}"))
    if not found:
        print(f"nothing is wrong with {len(cluster.shards)} shards and {nodes} nodes, as far as they say themselves")
