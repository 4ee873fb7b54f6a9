"""``dougctl members``: lists the members of a shard, and adds, removes and replaces them.

An admitted node is a learner first, and becomes a voter by itself. ``add`` and ``replace`` wait for that and
show how far its log is; the change goes on if they are interrupted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from dougdb.client import DougClient
from dougdb.commands.common import (
    ExitCode,
    JsonOption,
    client_of,
    fail,
    print_json,
    print_table,
    printable,
    remote,
)
from dougdb.commands.shards import ShardOption, chosen
from dougdb.errors import UnavailableError
from dougdb.shapes import Member, MemberChange, Members

POLL_S = 0.3
"""How often the progress of a learner is read."""
PORT_MAX = 65535
MISSED_MAX = 5
"""How often in a row the new member may be missing: a leader that is being deposed may not know it yet."""

app = typer.Typer(help="Show and change the members of a shard.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="The node's name.", show_default=False)]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Do it even if the others cannot form a healthy quorum now: the shard may stop.")
]
WaitOption = Annotated[
    bool,
    typer.Option("--wait/--no-wait", help="Whether to wait until the node is a voter. It becomes one in either case."),
]


IncarnationOption = Annotated[
    int | None,
    typer.Option(
        "--incarnation",
        min=1,
        max=(1 << 63) - 1,
        help="The incarnation of the node's disk, as its log says it; what the node says itself if left out.",
        show_default=False,
    ),
]


@app.callback()
def members() -> None:
    """Show and change the members of a shard."""


@app.command("list")
@remote
def list_members(
    context: typer.Context,
    *,
    shard: Annotated[
        int | None, typer.Option("--shard", min=0, help="The shard to show; all shards if left out.")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Show addresses and incarnations, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the members as the leaders see them: role, match index, lag, whether they are heard.

    With --wide it shows their addresses and incarnations, too, which do not fit 80 columns.

    With --json and without --shard it prints an object whose "shards" has one document per shard.
    """
    with client_of(context) as client:
        shards = [str(shard)] if shard is not None else [known.id for known in client.cluster().shards]
        found = [client.members(number) for number in shards]
    if as_json:
        documents = [members.document for members in found]
        print_json(documents[0] if shard is not None else {"shards": documents})
        return
    print_table(table_of(found, wide=wide))
    for members in found:
        if members.changing:
            print(f"shard {members.shard}: a change is not committed yet")


@app.command()
@remote
def add(
    context: typer.Context,
    name: NameArgument,
    *,
    address: Annotated[str, typer.Option("--address", help="The node's Raft address, HOST:PORT.", show_default=False)],
    shard: ShardOption = None,
    incarnation: IncarnationOption = None,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Admit a running node as a learner; it becomes a voter by itself once it has caught up."""
    with client_of(context) as client:
        shard = chosen(client, shard, name)
        change = client.add_member(shard, name, _checked(address), incarnation=incarnation)
        _follow(client, shard, change, f"{name} was admitted as a learner", wait=wait, as_json=as_json)


@app.command()
@remote
def remove(
    context: typer.Context,
    name: NameArgument,
    *,
    shard: ShardOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a member. Its node goes on running without a part in the shard, and can be stopped."""
    with client_of(context) as client:
        shard = chosen(client, shard, name)
        change = client.remove_member(shard, name, force=force)
    if as_json:
        print_json(change.document)
    else:
        print(f"shard {shard}: {name} was removed")


@app.command()
@remote
def replace(
    context: typer.Context,
    name: NameArgument,
    *,
    shard: ShardOption = None,
    address: Annotated[
        str | None, typer.Option("--address", help="The node's Raft address, HOST:PORT; the known one if left out.")
    ] = None,
    incarnation: IncarnationOption = None,
    force: ForceOption = False,
    wait: WaitOption = True,
    as_json: JsonOption = False,
) -> None:
    """Admit a node whose disk was wiped or replaced, and remove its old incarnation."""
    with client_of(context) as client:
        shard = chosen(client, shard, name)
        given = None if address is None else _checked(address)
        change = client.replace_member(shard, name, given, incarnation=incarnation, force=force)
        words = f"{name} was admitted anew, as a learner"
        _follow(client, shard, change, words, wait=wait, as_json=as_json)


def _checked(address: str) -> str:
    """Returns the address if it has the form host:port, and ends the command otherwise."""
    host, colon, port = address.rpartition(":")
    whole = host.startswith("[") and host.endswith("]") if ":" in host else bool(host)
    if not (colon and whole and port.isascii() and port.isdecimal() and 1 <= int(port) <= PORT_MAX) or " " in host:
        fail(f"--address wants host:port, such as node-3.example:7002 or [::1]:7002, not {address!r}", ExitCode.USAGE)
    return address


def table_of(shards: Sequence[Members], *, wide: bool = False) -> Table:
    """The table of members, shard after shard; without addresses and incarnations it fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("shard", "member", "role", *(("address", "incarnation") if wide else ())):
        table.add_column(name, no_wrap=True)
    for name in ("match", "lag"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("state", "heard"):
        table.add_column(name, no_wrap=True)
    for found in shards:
        for position, member in enumerate(found.members):
            table.add_row(
                found.shard if position == 0 else "",
                printable(member.name),
                "[bold green]leader[/]" if member.leader else member.role,
                *((printable(member.address) or "-", member.incarnation) if wide else ()),
                str(member.match_index),
                str(member.lag),
                member.state or "-",
                "yes" if member.healthy else "[bold red]no[/]",
                end_section=position == len(found.members) - 1,
            )
    return table


def _follow(client: DougClient, shard: int, change: MemberChange, words: str, *, wait: bool, as_json: bool) -> None:
    """Waits until the learner is a voter, and shows how far it is."""
    if not as_json:
        print(f"shard {shard}: {words}", flush=True)
    if wait:
        try:
            _await_voter(client, shard, change, quiet=as_json)
        except KeyboardInterrupt:
            text = f"{change.name} goes on catching up without this command; see `dougctl members list --shard {shard}`"
            print(text, file=sys.stderr)
            raise
    if as_json:
        print_json(change.document)
    elif wait:
        print(f"shard {shard}: {change.name} is a voter")


def _await_voter(client: DougClient, shard: int, change: MemberChange, *, quiet: bool) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} entries"),
        TimeElapsedColumn(),
    )
    shows = console.is_terminal and not quiet
    told = ""
    with Progress(*columns, console=console, transient=True, disable=not shows) as progress:
        task = progress.add_task(f"{change.name} catches up", total=None)
        missed = 0
        while True:
            found = _look(client, shard, progress)
            member = None if found is None else _find(found, change)
            if member is not None and member.role == "voter":
                return
            missed = missed + 1 if found is not None and member is None else 0
            if missed >= MISSED_MAX:
                fail(f"{change.name} is not a member any more: somebody removed or replaced it", ExitCode.FAILURE)
            if found is not None and member is not None:
                _show(progress, task, member, found)
                text = _state_of(member)
                if text != told and not shows and not quiet:
                    told = text
                    print(f"shard {shard}: {change.name} {text}", file=sys.stderr, flush=True)
            time.sleep(POLL_S)


def _look(client: DougClient, shard: int, progress: Progress) -> Members | None:
    try:
        return client.members(shard)
    except UnavailableError as error:
        # The leader may just be changing; the next one goes on promoting.
        progress.console.print(printable(str(error)), markup=False)
        return None


def _find(found: Members, change: MemberChange) -> Member | None:
    member = found.named(change.name)
    return member if member is not None and member.incarnation == change.incarnation else None


def _state_of(member: Member) -> str:
    if not member.healthy:
        return "is not heard"
    return "is sent a snapshot" if member.state == "snapshot" else "is catching up"


def _show(progress: Progress, task: TaskID, member: Member, found: Members) -> None:
    progress.update(
        task,
        description=f"{printable(member.name)} {_state_of(member)}",
        completed=member.match_index,
        total=max(1, found.last_log_index),
    )


__all__ = ["app", "table_of"]
