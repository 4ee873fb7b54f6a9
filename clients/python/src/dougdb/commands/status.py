"""``dougctl status``: shows every shard with its nodes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from dougdb.commands.common import ExitCode, JsonOption, client_of, fail, print_json, print_table, printable, remote
from dougdb.shapes import ClusterStatus

_STYLES = {
    "leader": "bold green",
    "unreachable": "bold red",
    "candidate": "yellow",
    "learner": "cyan",
    "waiting": "bold yellow",
}


@remote
def status(
    context: typer.Context,
    *,
    shard: Annotated[
        int | None, typer.Option("--shard", min=0, help="The shard to show; all shards if left out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show shards and nodes: role, term, commit and applied index."""
    with client_of(context) as client:
        cluster = client.cluster()
    if shard is not None:
        cluster = _only(cluster, str(shard))
    if as_json:
        print_json(cluster.document)
        return
    print_table(table_of(cluster))
    for found in cluster.shards:
        if found.leader is None:
            print(f"shard {found.id} has no leader")
        for node in found.nodes:
            if node.role == "waiting":
                print(f"{printable(node.id)} is no member as it is, and waits: see `dougctl members list`")


def _only(cluster: ClusterStatus, shard: str) -> ClusterStatus:
    shards = [found for found in cluster.document["shards"] if str(found["id"]) == shard]
    if not shards:
        fail(f"there is no shard {shard}", ExitCode.FAILURE)
    document = {**cluster.document, "shards": shards}
    return ClusterStatus(tuple(found for found in cluster.shards if found.id == shard), document)


def table_of(cluster: ClusterStatus) -> Table:
    """The table of shards and nodes."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("shard", "node", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("term", "commit", "applied", "log"):
        table.add_column(name, justify="right", no_wrap=True)
    for shard in cluster.shards:
        for position, node in enumerate(shard.nodes):
            figures = (node.term, node.commit_index, node.applied_index, node.last_log_index)
            style = _STYLES.get(node.role, "")
            table.add_row(
                shard.id if position == 0 else "",
                printable(node.id),
                f"[{style}]{node.role}[/]" if style else node.role,
                *("-" if figure is None else str(figure) for figure in figures),
                end_section=position == len(shard.nodes) - 1,
            )
    return table
