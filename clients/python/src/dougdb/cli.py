"""The command dougctl: its options, its own commands, and the commands that other packages add.

A package adds a command by an entry point of the group ``dougctl.commands``; its name is the command's, its object a
``typer.Typer`` or a function that typer can make a command of. The package is imported only when its command is called
or the help is shown. A package's command cannot take the place of one of dougctl's own.
"""

from __future__ import annotations

import errno
import platform
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import dougdb
from dougdb import streams
from dougdb.commands import (
    auth,
    backup,
    bench,
    dev,
    doctor,
    dump,
    export_tree,
    import_tree,
    kv,
    leader,
    lock,
    members,
    operations,
    ranges,
    status,
    timeline,
    top,
    verify,
    watch,
)
from dougdb.commands.common import ExitCode
from dougdb.shapes import DEFAULT_URL

GROUP = "dougctl.commands"
_EXIT_CODES = (
    "Exit codes: 0 done; 1 another failure, also a request that was rejected; 2 wrong usage; 3 no such key; "
    "4 unavailable, and a write was certainly not applied; 5 the outcome of a write is unknown; 130 interrupted."
)


class Commands(TyperGroup):
    """The commands of dougctl itself, and those that entry points add."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, dougctl's own first."""
        own = super().list_commands(ctx)
        return own + sorted(point.name for point in entry_points(group=GROUP) if point.name not in own)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        point = next(iter(entry_points(group=GROUP, name=cmd_name)), None)
        return None if point is None else load_command(point)


def load_command(point: EntryPoint) -> Any:
    """Imports the command that an entry point names; one that cannot be imported is a command that says so."""
    try:
        target = point.load()
    except (ImportError, AttributeError) as error:
        reason = f"the command {point.name} ({point.value}) cannot be loaded: {error}"
        target = _broken(reason)
    if isinstance(target, typer.Typer):
        loaded = typer.main.get_command(target)
    else:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name=point.name)(target)
        loaded = typer.main.get_command(app)
    loaded.name = point.name
    return loaded


def _broken(reason: str) -> Any:
    def broken() -> None:
        print(f"dougctl: {reason}", file=sys.stderr)
        raise typer.Exit(1)

    broken.__doc__ = f"Not usable: {reason}."
    return broken


app = typer.Typer(
    cls=Commands,
    name="dougctl",
    help="Use and run DougDB, a sharded, replicated key-value store.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dougctl {dougdb.__version__} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str, typer.Option("--url", envvar="DOUGDB_URL", help="The facade's URL.")] = DEFAULT_URL,
    ca_file: Annotated[
        str,
        typer.Option(
            "--ca-file", envvar="DOUGDB_CA_FILE", help="A file with the authority of the facade's certificate, PEM."
        ),
    ] = "",
    token_file: Annotated[
        str,
        typer.Option(
            "--token-file", envvar="DOUGDB_TOKEN_FILE", help="A file with the token to send, instead of DOUGDB_TOKEN."
        ),
    ] = "",
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Use and run DougDB, a sharded, replicated key-value store."""
    context.obj = {"url": url, "ca_file": ca_file, "token_file": token_file}


app.command()(dev.dev)
app.command()(kv.get)
app.command()(kv.put)
app.command()(kv.delete)
app.command(context_settings={"ignore_unknown_options": True})(kv.increment)
app.command()(kv.touch)
app.command()(ranges.scan)
app.command()(ranges.count)
app.command("delete-range")(ranges.delete_range)
app.command()(operations.batch)
app.command()(operations.txn)
app.command()(operations.op)
app.command()(operations.limits)
app.command()(lock.lock)
app.command()(watch.watch)
app.command("import")(dump.import_)
app.command("export")(dump.export_)
app.command("export-tree")(export_tree.export_tree)
app.command()(status.status)
app.command()(timeline.timeline)
app.command()(verify.verify)
app.command()(doctor.doctor)
app.command()(top.top)
app.command()(bench.bench)
app.add_typer(leader.app, name="leader")
app.add_typer(members.app, name="members")
app.add_typer(backup.app, name="backup")
app.add_typer(auth.app, name="auth")
app.command("import-tree")(import_tree.import_tree)


def main() -> None:
    """The entry point of the script dougctl."""
    streams.secure()
    try:
        try:
            app()
        finally:
            # The flush is here, where its failure can still be reported; at the end of the process it would be a
            # traceback.
            sys.stdout.flush()
    except streams.OutputError as error:
        # The reader of the pipe has closed it: it has seen enough.
        if error.number != errno.EPIPE:
            print(f"dougctl: standard output cannot be written to: {error}", file=sys.stderr)
        streams.abandon()
        sys.exit(ExitCode.FAILURE)
