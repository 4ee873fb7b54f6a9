"""``dougctl backup``: backs a whole cluster up to a directory, lists and verifies backups, and restores new clusters.

The state of each shard is one consistent cut; the cuts of the shards are taken one after the other. ``restore``, and
the check of SSTables in ``verify``, are done by the program raft-node, which is started as a process of its own.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table

import dougdb
from dougdb import backups, checking, sealing
from dougdb.backups import Backup, BackupError, IncompleteError, Listed, ShardCut, folder_of
from dougdb.client import DougClient
from dougdb.commands.common import (
    ExitCode,
    JsonOption,
    client_of,
    command,
    fail,
    print_json,
    print_table,
    printable,
    remote,
)
from dougdb.commands.given import given_path
from dougdb.errors import ServerError, UnavailableError
from dougdb.private import private_files
from dougdb.sealing import Identities, Recipients, SealingError

ATTEMPTS = 3
"""How often the backup of a shard is tried: a replica may stop in the middle, and the next attempt finds another
one."""
PAUSE_S = 1.0

app = typer.Typer(
    help="Back a whole cluster up to a directory, and make a new cluster from a backup.", no_args_is_help=True
)

BackupArgument = Annotated[
    Path, typer.Argument(metavar="BACKUP", help="A backup's own directory.", show_default=False, parser=given_path)
]

IdentityOption = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        help="The file of a secret key that can read an encrypted backup.",
        show_default=False,
        parser=given_path,
        metavar="FILE",
    ),
]

T = TypeVar("T")


@app.callback()
def backup() -> None:
    """Back a whole cluster up to a directory, and make a new cluster from a backup."""


@app.command()
@remote
def create(
    context: typer.Context,
    *,
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The directory in which backups are kept.", show_default=False, parser=given_path
        ),
    ],
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep", min=1, help="Afterwards keep only the newest N backups of this cluster, and remove the others."
        ),
    ] = None,
    encrypt_to: Annotated[
        Path | None,
        typer.Option(
            "--encrypt-to",
            help="A file of public keys, of age or SSH; the secret key of any of them can read the backup.",
            show_default=False,
            parser=given_path,
            metavar="FILE",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Back all shards up into a new directory below DIR, while they go on serving.

    The backup has every write that was acknowledged before the command began. The shards are saved one after the other,
    so of later writes to different shards it may have some and not others. An unfinished backup is removed again.
    """
    recipients = None if encrypt_to is None else _keys(sealing.recipients_of, encrypt_to)
    begun = datetime.datetime.now(datetime.UTC)
    path = directory / backups.new_id(begun)
    with client_of(context) as client, _ended_by_sigterm(), private_files():
        shards = _shards_of(client)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            try:
                done = _create(client, shards, path, _micros(begun), recipients, quiet=as_json)
            except BaseException:
                # Also after Ctrl-C: without its manifest it would count for nothing.
                shutil.rmtree(path, ignore_errors=True)
                raise
            removed = [] if keep is None else backups.remove_old(directory, done, keep, time.time())
        except OSError as error:
            fail(f"{error.filename or path}: {error.strerror}; no backup was made", ExitCode.FAILURE)
        except (BackupError, SealingError) as error:
            fail(f"{error}; no backup was made", ExitCode.FAILURE)
    if as_json:
        print_json({**_summary(Listed(path, done, "", done.size_bytes)), "removed": [str(old) for old in removed]})
        return
    for old in removed:
        print(f"removed {old}")
    print(f"{path}: {len(done.shards)} shards, {decimal(done.size_bytes)}")


@app.command("list")
@command
def list_backups(
    *,
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The directory in which backups are kept.", show_default=False, parser=given_path
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """List the backups below DIR, oldest first, and whether they were finished. Their files are not read."""
    try:
        found = backups.list_backups(directory)
    except OSError as error:
        fail(f"{error.filename or directory}: {error.strerror}", ExitCode.USAGE)
    if as_json:
        print_json([_summary(entry) for entry in found])
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("backup", "begun", "cluster", "shards", "size", "state"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("shards", "size") else "left")
    for entry in found:
        whole = entry.backup
        table.add_row(
            printable(entry.path.name),
            _time_of(whole.begun_us) if whole else "-",
            whole.cluster_id[:8] if whole else "-",
            str(len(whole.shards)) if whole else "-",
            decimal(entry.size_bytes),
            ("complete, encrypted" if whole.encrypted else "complete") if whole else "[bold red]incomplete[/]",
        )
    print_table(table)


@app.command()
@command
def verify(*, path: BackupArgument, identity: IdentityOption = None, as_json: JsonOption = False) -> None:
    """Read every byte of a backup and check it. Exit code 1: the backup is damaged, or was never finished.

    The command checks sizes and checksums; if raft-node is installed, it checks every block of every SSTable, too. Of
    an encrypted backup the encrypted files are checked, or with `--identity` their contents; blocks only by a restore.
    """
    whole = _load(path)
    identities = _identities(whole, identity)
    with _progress("verifying", whole.size_bytes, quiet=as_json) as on_bytes:
        problems = list(checking.check_files(whole, on_bytes, identities))
    # Only here: raft-node is started as dougctl dev starts it, which Windows cannot.
    from dougdb import restoring  # noqa: PLC0415

    deep = None if whole.encrypted else restoring.verify_deeply(whole)
    if deep is not None and not problems:
        problems += deep
    if as_json:
        print_json(
            {**_summary(Listed(path, whole, "", whole.size_bytes)), "blocks": deep is not None, "damaged": problems}
        )
    else:
        for problem in problems:
            print(printable(problem))
        words = "sizes, checksums and blocks"
        if whole.encrypted:
            words = "sizes and checksums of what is in the encrypted files"
            if identities is None:
                words = "sizes and checksums of the encrypted files (--identity reads them)"
        elif deep is None:
            words = "sizes and checksums (raft-node is not installed)"
        print(f"{path}: DAMAGED" if problems else f"{path}: whole; checked {words} of {len(whole.shards)} shards")
    if problems:
        raise typer.Exit(ExitCode.FAILURE)


@app.command()
@command
def restore(
    *,
    path: BackupArgument,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="The new data directory for `dougctl dev`: empty, or not there yet.",
            show_default=False,
            parser=given_path,
            metavar="PATH",
        ),
    ],
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", min=1, max=9, help="How many nodes each shard gets; as many as before if left out."),
    ] = None,
    identity: IdentityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new local cluster's data from a backup, for all nodes at once. `dougctl dev` then starts it.

    The new cluster has an id and incarnations of its own. A run that was interrupted is completed by the same
    command. For containers, see `raft-node restore` in docs/operations.md.
    """
    if sys.platform == "win32":
        fail("dougctl backup restore needs Unix; on Windows, use it inside WSL2", ExitCode.USAGE)
    from dougdb import restoring  # noqa: PLC0415
    from dougdb.dev.layout import RefusedError  # noqa: PLC0415

    whole = _load(path)
    identities = _identities(whole, identity)
    if whole.encrypted and identities is None:
        fail(f"{path} is encrypted: give the file of a secret key with --identity", ExitCode.USAGE)
    try:
        plan = restoring.plan_of(whole, data, nodes)
        with plan.data, private_files():
            # Everything is checked before anything is written: a refused restore leaves no trace.
            with _progress("verifying", whole.size_bytes, quiet=as_json) as on_bytes:
                damaged = list(checking.check_files(whole, on_bytes, identities))
                if not damaged and not whole.encrypted:
                    damaged = restoring.verify_deeply(whole) or []
            if damaged:
                raise RefusedError(f"the backup is damaged, and nothing was restored: {damaged[0]}")
            restoring.occupy(plan)
            with _progress("restoring", len(plan.layout.places()), quiet=as_json, nodes=True) as on_node:
                restoring.carry_out(plan, on_node, identities=identities)
    except RefusedError as error:
        fail(str(error), ExitCode.FAILURE)
    start = f"dougctl dev --data {data} --shards {plan.layout.shards} --nodes {plan.layout.nodes}"
    if as_json:
        document = {"data": str(data), "shards": plan.layout.shards, "nodes": plan.layout.nodes}
        print_json({**document, "cluster_id": plan.cluster_id, "start": start})
    else:
        print(f"restored {plan.layout} into {data} as the new cluster {plan.cluster_id}; start it with\n  {start}")


@app.command()
@command
def send(
    *,
    path: BackupArgument,
    shard: Annotated[int, typer.Option("--shard", min=0, help="The shard's number.", show_default=False)],
    identity: IdentityOption = None,
) -> None:
    """Write one shard to stdout, for `raft-node restore --backup -` on a machine that has no copy of the backup.

    What is encrypted is decrypted on the way, so that the secret key stays here and nothing lies in plain anywhere but
    in the node's volumes.
    """
    whole = _load(path)
    identities = _identities(whole, identity)
    if whole.encrypted and identities is None:
        fail(f"{path} is encrypted: give the file of a secret key with --identity", ExitCode.USAGE)
    if sys.stdout.isatty():
        fail("this is for raft-node restore --backup -, and no terminal", ExitCode.USAGE)
    try:
        checking.send(whole, shard, identities, sys.stdout.buffer)
    except (SealingError, BackupError) as error:
        fail(str(error), ExitCode.FAILURE)
    except OSError as error:
        fail(f"{error.filename or 'stdout'}: {error.strerror}", ExitCode.FAILURE)


@app.command()
@command
def keygen(
    *,
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The new file for the secret key.", show_default=False, parser=given_path),
    ],
) -> None:
    """Make keys for encrypted backups: the secret key goes to a new FILE, the public key for `--encrypt-to` to stdout.

    Keep the secret key away from the machines that make and keep backups. Without it nobody can read them.
    """
    try:
        print(sealing.make_key(path))
    except SealingError as error:
        fail(str(error), ExitCode.USAGE)
    except OSError as error:
        fail(f"{error.filename or path}: {error.strerror}", ExitCode.USAGE)


def _keys(read: Callable[[Path], T], path: Path) -> T:
    try:
        return read(path)
    except SealingError as error:
        fail(str(error), ExitCode.USAGE)


def _identities(whole: Backup, path: Path | None) -> Identities | None:
    if path is None:
        return None
    if not whole.encrypted:
        fail(f"{whole.path} is not encrypted; it needs no --identity", ExitCode.USAGE)
    return _keys(sealing.identities_of, path)


def _create(
    client: DougClient, shards: list[int], path: Path, begun_us: int, recipients: Recipients | None, *, quiet: bool
) -> Backup:
    cuts = []
    with _progress("", None, quiet=quiet, shards=len(shards)) as begin:
        for shard in shards:
            cuts.append(_receive(client, shard, path, begin, recipients))
            if not quiet and not Console(stderr=True).is_terminal:
                cut = cuts[-1]
                text = f"shard {shard}: entry {cut.index}, {len(cut.files)} files, {decimal(cut.size_bytes)}"
                print(f"{text}, from {printable(cut.node)}", file=sys.stderr, flush=True)
    ended_us = _micros(datetime.datetime.now(datetime.UTC))
    return backups.finish(path, cuts, begun_us, ended_us, dougdb.__version__, recipients)


def _receive(
    client: DougClient,
    shard: int,
    path: Path,
    begin: Callable[[ShardCut], Callable[[int], None]],
    recipients: Recipients | None,
) -> ShardCut:
    folder = path / folder_of(shard)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with client.backup(shard) as source:
                return backups.receive_shard(source, shard, folder, begin, recipients)
        except (UnavailableError, ServerError, IncompleteError) as error:
            if folder.exists():
                shutil.rmtree(folder)
            if attempt == ATTEMPTS:
                raise
            print(f"dougctl: shard {shard}: {printable(str(error))}; once more", file=sys.stderr, flush=True)
            time.sleep(PAUSE_S * attempt)
    raise AssertionError("the last attempt returns or raises")


def _shards_of(client: DougClient) -> list[int]:
    """The numbers of all shards that own slots or that the facade knows."""
    mapped = client.partitions().get("slots")
    try:
        owners = {int(part["shard"]) for part in mapped or ()}
        return sorted(owners | {int(shard.id) for shard in client.cluster().shards})
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(200, f"not a partition map: {error!r}") from None


def _load(path: Path) -> Backup:
    try:
        return backups.load(path)
    except BackupError as error:
        fail(str(error), ExitCode.FAILURE)
    except OSError as error:
        fail(f"{error.filename or path}: {error.strerror}", ExitCode.FAILURE)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the command as Ctrl-C does, so that an unfinished backup is removed."""

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _progress(
    words: str, total: int | None, *, quiet: bool, shards: int = 0, nodes: bool = False
) -> Iterator[Callable[[Any], Any]]:
    """Shows a progress bar on stderr if that is a terminal.

    Yields a function that takes the progress: bytes, nodes, or, with ``shards``, each shard that begins.
    """
    console = Console(stderr=True)
    sizes: tuple[Any, ...] = () if nodes else (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *sizes, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(words, total=total)

        def advance(count: int) -> None:
            progress.advance(task, count)

        def begin(cut: ShardCut) -> Callable[[int], None]:
            progress.reset(task, total=cut.size_bytes, description=f"shard {cut.shard} of {shards}, from {cut.node}")
            return advance

        yield begin if shards else advance


def _micros(time: datetime.datetime) -> int:
    return int(time.timestamp() * 1e6)


def _time_of(time_us: int) -> str:
    return f"{datetime.datetime.fromtimestamp(time_us / 1e6, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _summary(entry: Listed) -> dict[str, Any]:
    summary: dict[str, Any] = {"path": str(entry.path), "complete": entry.backup is not None, "bytes": entry.size_bytes}
    whole = entry.backup
    if whole is None:
        return {**summary, "problem": entry.problem}
    shards = [
        {
            "shard": cut.shard,
            "index": cut.index,
            "log_time_us": cut.log_time_us,
            "node": cut.node,
            "bytes": cut.size_bytes,
        }
        for cut in whole.shards
    ]
    summary |= {"encrypted": whole.encrypted}
    return {**summary, "cluster_id": whole.cluster_id, "begun_us": whole.begun_us, "shards": shards}
