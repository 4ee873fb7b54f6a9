"""``dougctl status``: every shard with its nodes."""

from __future__ import annotations

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from dougdb.commands.common import JsonOption, UrlOption, client_of, command, print_json
from dougdb.wire import ClusterStatus

_STYLES = {"leader": "bold green", "unreachable": "bold red", "candidate": "yellow", "learner": "cyan"}


@command
def status(context: typer.Context, as_json: JsonOption = False, url: UrlOption = None) -> None:
    """Show shards and nodes: role, term, commit and applied index."""
    with client_of(context, url) as client:
        cluster = client.cluster()
    if as_json:
        print_json(cluster.document)
        return
    Console().print(table_of(cluster))
    for shard in cluster.shards:
        if shard.leader is None:
            print(f"shard {shard.id} has no leader")


def table_of(cluster: ClusterStatus) -> Table:
    """The table of shards and nodes."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("shard", "node", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("term", "commit", "applied", "last log"):
        table.add_column(name, justify="right", no_wrap=True)
    for shard in cluster.shards:
        for position, node in enumerate(shard.nodes):
            figures = (node.term, node.commit_index, node.applied_index, node.last_log_index)
            style = _STYLES.get(node.role, "")
            table.add_row(
                shard.id if position == 0 else "",
                node.id,
                f"[{style}]{node.role}[/]" if style else node.role,
                *("-" if figure is None else str(figure) for figure in figures),
                end_section=position == len(shard.nodes) - 1,
            )
    return table
