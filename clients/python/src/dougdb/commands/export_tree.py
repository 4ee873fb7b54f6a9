"""``dougctl export-tree``: writes keys as files below a directory; the opposite of ``import-tree``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from dougdb.commands.common import ExitCode, JsonOption, client_of, fail, print_json, printable, remote
from dougdb.commands.given import given_path
from dougdb.commands.kv import ConsistencyOption
from dougdb.private import private_files
from dougdb.shapes import Consistency
from dougdb.tree_export import TreeExport

_COLUMNS = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,} files"), TimeElapsedColumn())


@remote
def export_tree(
    context: typer.Context,
    *,
    directory: Annotated[
        Path,
        typer.Argument(
            help="The directory for the files; made if it does not exist.",
            show_default=False,
            parser=given_path,
            metavar="PATH",
        ),
    ],
    prefix: Annotated[
        str, typer.Option("--prefix", help="Only keys that begin with it; the rest of a key is its path.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files with other contents.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file back afterwards and compare.")] = False,
    consistency: ConsistencyOption = Consistency.LINEARIZABLE,
    as_json: JsonOption = False,
) -> None:
    """Write every key as a file: the part of the key behind the prefix is the path below DIRECTORY.

    Files that have the right bytes already are kept, so that an interrupted command can simply be repeated. A key
    that cannot be a file is named on stderr, and the exit code is then 1.
    """
    if directory.exists() and not directory.is_dir():
        fail(f"{directory} is not a directory", ExitCode.USAGE)
    started_s = time.monotonic()
    raw = os.fsencode(prefix)
    console = Console(stderr=True)
    with private_files(), client_of(context) as client, Progress(*_COLUMNS, console=console) as progress:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"{directory}: {error.strerror}", ExitCode.FAILURE)
        task = progress.add_task("exporting", total=None)
        tree = TreeExport(directory, raw, overwrite=overwrite, on_file=lambda: progress.advance(task))
        tree.write(client.scan(prefix=raw or None, consistency=consistency))
        if verify:
            progress.reset(task, description="verifying")
            tree.verify()
    done = tree.done
    for problem in done.problems:
        text = problem.key.decode(errors="backslashreplace")
        print(f"dougctl: {printable(text)}: {printable(problem.reason)}", file=sys.stderr)
    elapsed_s = time.monotonic() - started_s
    if as_json:
        counted = {"written": done.written, "written_bytes": done.written_bytes, "unchanged": done.unchanged}
        print_json(
            {**counted, "verified": done.verified, "problems": len(done.problems), "elapsed_s": round(elapsed_s, 3)}
        )
    else:
        parts = [f"wrote {done.written:,} files ({done.written_bytes / 1e6:,.1f} MB) in {elapsed_s:.1f} s"]
        counts = {"unchanged": done.unchanged, "read back equal": done.verified, "problems": len(done.problems)}
        print(", ".join(parts + [f"{count:,} {name}" for name, count in counts.items() if count]))
    if done.problems:
        raise typer.Exit(ExitCode.FAILURE)
