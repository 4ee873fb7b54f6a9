"""``dougctl leader transfer``: transfers the leadership of a shard by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from dougdb.commands.common import JsonOption, client_of, print_json, remote
from dougdb.commands.shards import ShardOption, chosen

app = typer.Typer(help="Transfer the leadership of a shard.", no_args_is_help=True)


@app.callback()
def leader() -> None:
    """Transfer the leadership of a shard."""


@app.command()
@remote
def transfer(
    context: typer.Context,
    *,
    shard: ShardOption = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The node that is to lead; if left out, the most caught-up voter.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Transfer leadership to another node, wait until it leads, and show it."""
    with client_of(context) as client:
        moved = client.transfer_leadership(chosen(client, shard, to), to)
    if as_json:
        print_json({"shard": int(moved.shard), "leader": moved.leader, "term": moved.term, "previous": moved.previous})
    else:
        before = f"; before it was {moved.previous}" if moved.previous else ""
        print(f"shard {moved.shard}: {moved.leader} leads in term {moved.term}{before}")
