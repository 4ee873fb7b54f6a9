"""``dougctl watch``: prints every change of a key or a range as it happens, or runs a command for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Annotated, Any

import typer

from dougdb.commands.common import ExitCode, client_of, fail, print_json, printable, remote
from dougdb.commands.ranges import EndOption, PrefixArgument, PrefixOption, StartOption, bound, prefix_of
from dougdb.operations import bytes_fields, value_fields
from dougdb.shapes import shown_time
from dougdb.watches import KINDS, NOW, Change

_SHOWN = 60


@remote
def watch(
    context: typer.Context,
    *,
    prefix: PrefixArgument = None,
    prefix_option: PrefixOption = None,
    key: Annotated[str | None, typer.Option("--key", help="Watch this key alone.", show_default=False)] = None,
    start: StartOption = None,
    end: EndOption = None,
    begin: Annotated[
        str,
        typer.Option(
            "--from", help="now; start: first all present keys; or the id of a change: those after it.", metavar="ID"
        ),
    ] = NOW,
    events: Annotated[
        str, typer.Option("--events", help="The kinds of changes to tell, separated by commas.")
    ] = ",".join(KINDS),
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Leave values out.")] = False,
    command: Annotated[
        str | None,
        typer.Option("--exec", metavar="CMD", help="Run this shell command for every change, one after the other."),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after this many changes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document per line.")] = False,
) -> None:
    """Print every change of a key or a range as it happens, each once, even if facades are restarted meanwhile.

    With --exec the command finds DOUGDB_EVENT, DOUGDB_KEY, DOUGDB_REVISION, DOUGDB_SHARD and DOUGDB_ID in its
    environment, and the value on its standard input. At the end the id of the last change is printed; --from goes on
    behind it.
    """
    prefix = prefix_of(prefix, prefix_option)
    if (prefix is not None) + (key is not None) + (start is not None or end is not None) > 1:
        fail("watch a PREFIX, a --key, or --start and --end", ExitCode.USAGE)
    kinds = [name.strip() for name in events.split(",") if name.strip()]
    last, seen = "", 0
    with client_of(context) as client:
        changes = client.watch(
            key=bound(key),
            prefix=bound(prefix),
            start=bound(start),
            end=bound(end),
            begin=begin,
            kinds=kinds,
            values=not keys_only,
        )
        try:
            with contextlib.closing(changes) as found:
                for change in found:
                    _tell(change, command, keys_only=keys_only, as_json=as_json)
                    last, seen = change.id or last, seen + 1
                    if seen == count:
                        return
        finally:
            if last and seen != count:
                print(f"dougctl: go on with --from '{last}'", file=sys.stderr)


def _tell(change: Change, command: str | None, *, keys_only: bool, as_json: bool) -> None:
    if command is not None:
        _execute(change, command)
        return
    if as_json:
        print_json(_document(change, keys_only=keys_only), indent=None)
    elif keys_only or change.kind != "put":
        print(f"{change.kind}\t{printable(change.text)}")
    else:
        shown = change.data[:_SHOWN].decode(errors="backslashreplace")
        rest = f" ... ({len(change.data):,} bytes)" if len(change.data) > _SHOWN else ""
        print(f"{change.kind}\t{printable(change.text)}\t{printable(shown)}{rest}")
    sys.stdout.flush()


def _document(change: Change, *, keys_only: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"event": change.kind, "id": change.id or None, **bytes_fields(change.key, "key")}
    document |= {"revision": change.revision, "shard": change.shard}
    if change.kind == "put":
        if not keys_only:
            value = value_fields(change.data)
            document |= value | ({} if "encoding" in value else {"encoding": "utf-8"})
        document |= {"content_type": change.content_type, "expires_at": shown_time(change.expires_at)}
    return document


def _execute(change: Change, command: str) -> None:
    """Runs the command for a change; if it fails, that is reported, and the watch goes on."""
    told = {"EVENT": change.kind, "REVISION": change.revision, "SHARD": change.shard, "ID": change.id}
    environment: dict[bytes, bytes] = dict(os.environb)
    environment |= {f"DOUGDB_{name}".encode(): value.encode() for name, value in told.items()}
    # No variable can hold a zero byte.
    environment[b"DOUGDB_KEY"] = change.key.replace(b"\0", b"\\x00")
    done = subprocess.run(["/bin/sh", "-c", command], input=change.data, env=environment, check=False)  # noqa: S603
    if done.returncode:
        print(f"dougctl: the command ended with {done.returncode} for {printable(change.text)}", file=sys.stderr)
