"""The same commands as parts of ``dougctl``, which finds them by the entry-point group ``dougctl.commands``.

Only ``dougctl`` imports this module; it brings typer along, which a node does not need.
"""

from __future__ import annotations

from typing import Annotated

import typer

from raft_node.commands import inspect

Paths = Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, or directories with such files.")]
AsJson = Annotated[bool, typer.Option("--json", help="One object on a line.")]
Values = Annotated[bool, typer.Option("--values", help="Print values too, not only their sizes.")]


def _group(summary: str) -> typer.Typer:
    app = typer.Typer(help=f"{summary} of a node, read from its files.", no_args_is_help=True, add_completion=False)

    # With a callback a single command stays a subcommand.
    @app.callback()
    def callback() -> None:
        """Keeps the name of the one subcommand."""

    callback.__doc__ = app.info.help
    return app


wal = _group(inspect.SOURCES[0].summary)
sst = _group(inspect.SOURCES[1].summary)
manifest = _group(inspect.SOURCES[2].summary)


@wal.command("dump")
def wal_dump(paths: Paths, as_json: AsJson = False, values: Values = False) -> None:
    """Print the frames and entries of log segments, as far as they can be read. Exit code 1: something is damaged."""
    raise typer.Exit(inspect.dump("wal", paths, as_json=as_json, values=values))


@sst.command("dump")
def sst_dump(paths: Paths, as_json: AsJson = False, values: Values = False) -> None:
    """Print the blocks and records of SSTables, as far as they can be read. Exit code 1: something is damaged."""
    raise typer.Exit(inspect.dump("sst", paths, as_json=as_json, values=values))


@sst.command("verify")
def sst_verify(paths: Paths) -> None:
    """Check every part of SSTables. Exit code 1: something is damaged."""
    raise typer.Exit(inspect.verify(paths))


@manifest.command("dump")
def manifest_dump(paths: Paths, as_json: AsJson = False, values: Values = False) -> None:
    """Print the edits of manifests, as far as they can be read. Exit code 1: something is damaged."""
    raise typer.Exit(inspect.dump("manifest", paths, as_json=as_json, values=values))
