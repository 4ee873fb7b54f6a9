"""``wal dump``, ``sst dump``, ``sst verify`` and ``manifest dump``: what a node's files hold, damaged or not.

They only read, also while the node runs; a file that grows meanwhile may seem torn at its end.
Exit codes: 0 everything is whole (a torn last write is no damage); 1 something is damaged; 2 there is no such file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire.command import CommandError, Opcode
from raft_node.entry import Entry, EntryKind
from raft_node.errors import DiskError
from raft_node.kv.keyspace import USER_PREFIX
from raft_node.kv.state_hash import Mark
from raft_node.raft.configuration import ConfigurationError, decode_configuration
from raft_node.storage import inspect
from raft_node.storage.files import FileSystem, OsFileSystem
from raft_node.storage.inspect import Fields, Finding

EXIT_DAMAGED = 1
EXIT_USAGE = 2


class Source(NamedTuple):
    """A kind of file that can be looked at.

    Attributes:
        name: The command's.
        pattern: Which files of a directory are meant.
        summary: The command's help.
    """

    name: str
    pattern: str
    summary: str


SOURCES = (
    Source("wal", "*.wal", "The segments of a write-ahead log"),
    Source("sst", "*.sst", "The SSTables"),
    Source("manifest", "MANIFEST-*", "The manifest, which names the SSTables"),
)


class UsageError(Exception):
    """There is nothing to look at under that path."""


def dump(source: str, paths: list[str], *, as_json: bool, values: bool) -> int:
    """Prints all that the files hold; returns the exit code."""
    return _run(source, paths, lambda path, finding: _print(path, finding, as_json=as_json, values=values))


def verify(paths: list[str]) -> int:
    """Checks SSTables in every part and prints a line for each; returns the exit code."""
    try:
        files = list(_files("sst", paths))
    except UsageError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    damaged = 0
    for path in files:
        try:
            findings = list(inspect.table(OsFileSystem(), path, records=False))
        except DiskError as error:
            findings = [Finding(0, "damaged", {"what": str(error)})]
        bad = [finding for finding in findings if finding.kind == "damaged"]
        damaged += bool(bad)
        blocks = sum(finding.kind == "block" for finding in findings)
        print(f"{path}: {'DAMAGED' if bad else 'ok'}, {blocks} blocks")
        for finding in bad:
            print(f"  at {finding.offset}: {finding.fields['what']}")
    print(f"{len(files)} tables, {damaged} damaged")
    return EXIT_DAMAGED if damaged else 0


def add_to(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to those of ``raft-node``."""
    for source in SOURCES:
        parser = parsers.add_parser(source.name, help=source.summary, description=source.summary)
        actions = parser.add_subparsers(required=True, metavar="ACTION")
        dumping = actions.add_parser("dump", help="print what they hold, as far as it can be read")
        dumping.add_argument("paths", nargs="+", metavar="PATH", help="a file, or a directory with such files")
        dumping.add_argument("--json", action="store_true", help="one object on a line")
        dumping.add_argument("--values", action="store_true", help="print values too, not only their sizes")
        name = source.name
        dumping.set_defaults(run=lambda a, name=name: dump(name, a.paths, as_json=a.json, values=a.values))
        if source.name == "sst":
            verifying = actions.add_parser("verify", help="check every part of them")
            verifying.add_argument("paths", nargs="+", metavar="PATH", help="a file, or a directory with such files")
            verifying.set_defaults(run=lambda a: verify(a.paths))


def _run(source: str, paths: list[str], show: Callable[[str, Finding], None]) -> int:
    damaged = False
    try:
        for path in _files(source, paths):
            for finding in _findings(OsFileSystem(), source, path):
                damaged |= finding.kind == "damaged"
                show(path, finding)
    except (UsageError, DiskError) as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        # Whoever reads has seen enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_DAMAGED if damaged else 0


def _files(source: str, paths: list[str]) -> Iterator[str]:
    pattern = next(known.pattern for known in SOURCES if known.name == source)
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(path.glob(pattern))
            if not found:
                raise UsageError(f"{path} holds no {pattern}")
            yield from map(str, found)
        elif path.is_file():
            yield str(path)
        else:
            raise UsageError(f"{path} is not there")


def _findings(fs: FileSystem, source: str, path: str) -> Iterator[Finding]:
    if source == "wal":
        return inspect.segment(fs, path)
    if source == "manifest":
        return inspect.manifest(fs, path)
    return inspect.table(fs, path, records=True)


def _print(path: str, finding: Finding, *, as_json: bool, values: bool) -> None:
    fields = _plain(finding.fields, values)
    if as_json:
        print(json.dumps({"file": path, "offset": finding.offset, "kind": finding.kind} | fields))
        return
    shown = " ".join(f"{name}={json.dumps(v) if isinstance(v, dict | list) else v}" for name, v in fields.items())
    print(f"{Path(path).name} {finding.offset:>10} {finding.kind:<10} {shown}")


def _plain(fields: Fields, values: bool) -> Fields:
    plain: Fields = {}
    for name, value in fields.items():
        if isinstance(value, Entry):
            plain |= _entry(value, values)
        elif name == "key":
            assert isinstance(value, bytes)
            user = value.startswith(USER_PREFIX)
            plain["key"] = _text(value[1:])
            plain["space"] = "user" if user else "system"
        elif name == "value":
            plain |= _value(value, values)
        else:
            plain[name] = _plain_value(value)
    return plain


def _plain_value(value: object) -> object:
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, dict):
        return {name: _plain_value(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain_value(part) for part in value]
    return value


def _value(value: object, values: bool) -> Fields:
    if value is None:
        return {"deleted": True}
    assert isinstance(value, bytes)
    return {"bytes": len(value)} | ({"value": _text(value)} if values else {})


def _entry(entry: Entry, values: bool) -> Fields:
    known = entry.kind in EntryKind.__members__.values()
    kind = EntryKind(entry.kind).name if known else f"unknown kind {entry.kind}"
    fields: Fields = {"index": entry.index, "term": entry.term, "entry": kind, "timestamp_us": entry.timestamp_us}
    if entry.kind == EntryKind.CONFIGURATION:
        try:
            configuration = decode_configuration(entry.command)
        except ConfigurationError as error:
            return fields | {"unreadable": str(error)}
        for role, members in (("voters", configuration.voters), ("learners", configuration.learners)):
            fields[role] = [f"{member.name}/{member.incarnation}" for member in members]
    elif entry.kind == EntryKind.STATE_HASH:
        try:
            mark = Mark.decode(entry.command)
        except ValueError as error:
            return fields | {"unreadable": str(error)}
        fields |= {"mark": mark.at, "hash": f"{mark.value:016x}"}
    elif entry.kind == EntryKind.COMMAND:
        try:
            command = commands.decode(entry.command)
        except CommandError as error:
            return fields | {"unreadable": str(error)}
        known = command.opcode in Opcode.__members__.values()
        fields["command"] = Opcode(command.opcode).name if known else f"unknown opcode {command.opcode}"
        fields["key"] = _text(command.key)
        fields |= _value(command.value, values)
    return fields


def _text(data: bytes) -> str:
    """Bytes for people: UTF-8 as it is, everything else escaped."""
    text = data.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
