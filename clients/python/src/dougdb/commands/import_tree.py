"""``dougctl import-tree``: stores the files of a directory tree, each under its path, with a progress bar."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dougdb.client import AsyncDougClient
from dougdb.commands.common import ExitCode, JsonOption, fail, print_json, printable, remote, tls_of, url_of
from dougdb.commands.given import given_path
from dougdb.shapes import Consistency
from dougdb.tree import Problem, ProblemKind, Scan, TreeCopy, scan

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("files"),
    TimeElapsedColumn(),
)


@remote
def import_tree(
    context: typer.Context,
    *,
    directory: Annotated[
        Path,
        typer.Argument(
            help="The directory whose files are stored.", show_default=False, parser=given_path, metavar="PATH"
        ),
    ],
    prefix: Annotated[str, typer.Option("--prefix", help="A prefix for all keys.")] = "",
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, max=1024, help="How many files are sent at the same time.")
    ] = 32,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything back afterwards and compare.")] = False,
    verify_only: Annotated[
        bool, typer.Option("--verify-only", help="Store nothing; only compare the files with the store.")
    ] = False,
    consistency: Annotated[
        Consistency, typer.Option("--consistency", help="The consistency of the reads that verify.")
    ] = Consistency.LINEARIZABLE,
    skip_too_large: Annotated[
        bool, typer.Option("--skip-too-large", help="Name files over 1 MiB, but do not count them as failures.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Store every file below a directory: its path relative to DIRECTORY, with /, is the key.

    A file that cannot be stored is named on stderr, and the exit code is then 1.
    """
    if not directory.is_dir():
        fail(f"{directory} is not a directory", ExitCode.USAGE)
    started = time.monotonic()
    found = scan(directory, prefix)
    console = Console(stderr=True)
    with Progress(*_COLUMNS, console=console) as progress:
        task = progress.add_task("", total=len(found.files))
        clients: list[AsyncDougClient] = []
        copy = TreeCopy(clients, clock=time.monotonic, on_file=lambda size: progress.advance(task))

        async def carry_out() -> None:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(concurrency):
                    # The copy itself tries again, and storing the same bytes twice is harmless.
                    client = AsyncDougClient(url_of(context), deadline_s=0.0, exactly_once=False, **tls_of(context))
                    clients.append(await stack.enter_async_context(client))
                wanted = {"store": not verify_only, "verify": verify or verify_only}
                await _copy(copy, found, progress, task, consistency, **wanted)

        interrupted = False
        try:
            asyncio.run(carry_out())
        except KeyboardInterrupt:
            # What is stored stays stored, and whoever interrupts wants to know how far it came.
            interrupted = True
        except ValueError as error:
            fail(str(error), ExitCode.USAGE)
    problems = found.problems + copy.problems
    for problem in problems:
        print(f"dougctl: {printable(problem.path)}: {problem.kind}: {printable(problem.reason)}", file=sys.stderr)
    _print_summary(copy, problems, time.monotonic() - started, as_json=as_json)
    if interrupted:
        print("dougctl: interrupted before the end", file=sys.stderr)
        raise typer.Exit(ExitCode.INTERRUPTED)
    if any(not (skip_too_large and problem.kind is ProblemKind.TOO_LARGE) for problem in problems):
        raise typer.Exit(ExitCode.FAILURE)


async def _copy(
    copy: TreeCopy,
    found: Scan,
    progress: Progress,
    task: TaskID,
    consistency: Consistency,
    *,
    store: bool,
    verify: bool,
) -> None:
    if store:
        progress.update(task, description="importing")
        await copy.store(found.files)
    if verify:
        # What could not be stored is known already; it would only be missing once more.
        failed = {problem.path for problem in copy.problems}
        files = [file for file in found.files if str(file.path) not in failed]
        progress.reset(task, total=len(files), description="verifying")
        await copy.verify(files, consistency)


def _print_summary(copy: TreeCopy, problems: list[Problem], elapsed_s: float, *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {
            "stored": copy.stored,
            "stored_bytes": copy.stored_bytes,
            "verified": copy.verified,
            "elapsed_s": round(elapsed_s, 3),
            "problems": [
                {"path": printable(problem.path), "kind": str(problem.kind), "reason": problem.reason}
                for problem in problems
            ],
        }
        print_json(document)
        return
    parts = [f"stored {copy.stored:,} files ({copy.stored_bytes / 1e6:,.1f} MB) in {elapsed_s:.1f} s"]
    if copy.verified:
        parts.append(f"{copy.verified:,} read back equal")
    for kind in ProblemKind:
        count = sum(problem.kind is kind for problem in problems)
        if count:
            parts.append(f"{count:,} {kind}")
    print(", ".join(parts))
