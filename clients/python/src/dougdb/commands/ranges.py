"""``dougctl scan``, ``count`` and ``delete-range``: many keys, in the order of their bytes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from dougdb.commands.common import ExitCode, JsonOption, client_of, fail, print_json, printable, remote
from dougdb.commands.kv import ConsistencyOption, StalenessOption, consistency_of
from dougdb.exported import counted
from dougdb.operations import bytes_fields
from dougdb.ranges import Entry, Page, document_of
from dougdb.shapes import Consistency

PrefixArgument = Annotated[str | None, typer.Argument(help="Only keys that begin with it.", show_default=False)]
PrefixOption = Annotated[
    str | None, typer.Option("--prefix", help="The same as PREFIX, as an option.", show_default=False)
]
StartOption = Annotated[str | None, typer.Option("--start", help="Only keys from this one on.", show_default=False)]
EndOption = Annotated[str | None, typer.Option("--end", help="Only keys before this one.", show_default=False)]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="How many at most.", show_default=False)]
FOLDERS_PAGE = 1000
_SHOWN = 60


def bound(text: str | None) -> bytes | None:
    """The bytes of a key of the command line; None if it is not given."""
    return None if text is None else os.fsencode(text)


def prefix_of(argument: str | None, option: str | None) -> str | None:
    """The prefix of a range, which is an argument or an option."""
    if argument is not None and option is not None:
        fail("PREFIX and --prefix are the same: give one of them", ExitCode.USAGE)
    return option if argument is None else argument


@remote
def scan(
    context: typer.Context,
    *,
    prefix: PrefixArgument = None,
    prefix_option: PrefixOption = None,
    start: StartOption = None,
    end: EndOption = None,
    limit: LimitOption = None,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Leave values out.")] = False,
    reverse: Annotated[bool, typer.Option("--reverse", help="List from the last key to the first.")] = False,
    delimiter: Annotated[
        str | None,
        typer.Option("--delimiter", help="Show keys that are equal up to it as one folder.", metavar="/"),
    ] = None,
    consistency: ConsistencyOption = Consistency.LINEARIZABLE,
    max_staleness: StalenessOption = None,
    as_json: JsonOption = False,
) -> None:
    """List keys and values in the order of the keys; with --json one JSON document in each line."""
    prefix = prefix_of(prefix, prefix_option)
    if prefix is not None and (start is not None or end is not None):
        fail("a range has a PREFIX, or --start and --end", ExitCode.USAGE)
    with client_of(context) as client:
        if delimiter is not None:
            _list_folders(
                client.pages(
                    prefix=bound(prefix),
                    start=bound(start),
                    end=bound(end),
                    delimiter=delimiter,
                    limit=min(limit or FOLDERS_PAGE, FOLDERS_PAGE),
                    keys_only=keys_only,
                    reverse=reverse,
                    consistency=consistency_of(consistency, max_staleness),
                ),
                limit,
                keys_only=keys_only,
                reverse=reverse,
                as_json=as_json,
            )
            return
        found = client.scan(
            prefix=bound(prefix),
            start=bound(start),
            end=bound(end),
            limit=limit,
            keys_only=keys_only,
            reverse=reverse,
            consistency=consistency_of(consistency, max_staleness),
        )
        with contextlib.closing(found) as entries:
            for entry in entries:
                _print(entry, keys_only=keys_only, as_json=as_json)


def _list_folders(pages: Iterable[Page], limit: int | None, *, keys_only: bool, reverse: bool, as_json: bool) -> None:
    """Prints folders and the keys beside them, each page sorted by name."""
    left = float("inf") if limit is None else limit
    for page in pages:
        found: list[tuple[bytes, Entry | None]] = [(entry.key, entry) for entry in page.items]
        found += [(folder, None) for folder in page.prefixes]
        for key, entry in sorted(found, key=lambda each: each[0], reverse=reverse):
            if left == 0:
                return
            left -= 1
            text = key.decode(errors="backslashreplace")
            if entry is not None:
                _print(entry, keys_only=keys_only, as_json=as_json)
            elif as_json:
                print_json(bytes_fields(key, "prefix"), indent=None)
            else:
                print(printable(text))


def _print(entry: Entry, *, keys_only: bool, as_json: bool) -> None:
    if as_json:
        print_json(document_of(entry, keys_only=keys_only), indent=None)
    elif keys_only:
        print(printable(entry.text))
    else:
        shown = entry.data[:_SHOWN].decode(errors="backslashreplace")
        rest = f" ... ({len(entry.data):,} bytes)" if len(entry.data) > _SHOWN else ""
        print(f"{printable(entry.text)}\t{printable(shown)}{rest}")


@remote
def count(
    context: typer.Context,
    *,
    prefix: PrefixArgument = None,
    prefix_option: PrefixOption = None,
    start: StartOption = None,
    end: EndOption = None,
    consistency: ConsistencyOption = Consistency.LINEARIZABLE,
    max_staleness: StalenessOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count keys."""
    prefix = prefix_of(prefix, prefix_option)
    with client_of(context) as client:
        found = client.count(
            prefix=bound(prefix),
            start=bound(start),
            end=bound(end),
            consistency=consistency_of(consistency, max_staleness),
        )
    print_json({"count": found}) if as_json else print(found)


@remote
def delete_range(
    context: typer.Context,
    *,
    prefix: PrefixArgument = None,
    prefix_option: PrefixOption = None,
    start: StartOption = None,
    end: EndOption = None,
    limit: LimitOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Allow the range of all keys.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete all keys of a range, in steps, not in one transaction. On a terminal it tells how many and asks first."""
    prefix = prefix_of(prefix, prefix_option)
    bounds = {"prefix": bound(prefix), "start": bound(start), "end": bound(end)}
    if everything and any(bounds.values()):
        fail("--all means every key: leave it out, or PREFIX, --start and --end", ExitCode.USAGE)
    if not everything and not any(bounds.values()):
        fail("the range has no bound: say --all if every key is meant", ExitCode.USAGE)
    with client_of(context) as client:
        if not dry_run and not yes and sys.stdin.isatty():
            found = client.delete_range(**bounds, everything=everything, limit=limit, dry_run=True).keys
            if not typer.confirm(f"delete {counted(found, 'key', 'keys')}?", err=True):
                fail("nothing was deleted", ExitCode.FAILURE)
        done = client.delete_range(**bounds, everything=everything, limit=limit, dry_run=dry_run)
    if as_json:
        shown = {"found" if dry_run else "deleted": done.keys}
        print_json({"dry_run": dry_run, **shown, "complete": done.complete})
        return
    rest = "" if done.complete else "; more are left"
    print(f"{counted(done.keys, 'key', 'keys')} {'would be deleted' if dry_run else 'deleted'}{rest}")
