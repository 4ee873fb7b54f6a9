"""``dougctl export`` and ``import``: write and read keys and values of any bytes as lines of JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from dougdb.client import DougClient
from dougdb.commands.common import (
    ExitCode,
    JsonOption,
    exit_code_of,
    fail,
    print_json,
    printable,
    remote,
    tls_of,
    url_of,
)
from dougdb.commands.given import given_path
from dougdb.commands.kv import ConsistencyOption
from dougdb.commands.ranges import EndOption, StartOption, bound
from dougdb.dump import Begun, Importer, Tally, begun, export
from dougdb.errors import DougdbError
from dougdb.exported import FormatError, Reader, header, trailer
from dougdb.operations import bytes_fields
from dougdb.private import private_files
from dougdb.ranges import Range
from dougdb.shapes import Consistency

DEADLINE_S = 60.0
PROBLEMS_SHOWN = 100
_HEAD_BYTES = 64 << 10
"""How many bytes at the beginning of a file identify it."""

_TEXT = TextColumn("{task.description} {task.fields[entries]:,} entries, {task.fields[rate]:,.0f}/s")


@dataclass(frozen=True, slots=True)
class Stop:
    """The reason why an import ended before the end of its file."""

    message: str
    code: ExitCode


@remote
def export_(
    context: typer.Context,
    *,
    output: Annotated[str, typer.Argument(help="The file, or - for stdout.", metavar="[FILE|-]")] = "-",
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", help="Export the keys that begin with it; not together with --start and --end."),
    ] = None,
    start: StartOption = None,
    end: EndOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Complete the file of an export that was interrupted.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Afterwards compare the file with the store.")] = False,
    consistency: ConsistencyOption = Consistency.LINEARIZABLE,
    as_json: JsonOption = False,
) -> None:
    """Write keys and values as lines of JSON; `dougctl import` reads them again.

    Content types and expiry are exported, too. While others write, the file is no consistent cut of the store: see
    """
    if prefix is not None and (start is not None or end is not None):
        fail("a range has --prefix, or --start and --end", ExitCode.USAGE)
    if output == "-" and (resume or force or verify or as_json):
        fail("--resume, --force, --verify and --json need a FILE", ExitCode.USAGE)
    wanted = Range.of(bound(prefix), bound(start), bound(end))
    started_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(_client(context, DEADLINE_S))
        progress = stack.enter_context(Progress(SpinnerColumn(), _TEXT, TimeElapsedColumn(), console=_stderr()))
        path = None if output == "-" else given_path(output)
        already = Begun(0, 0, None, complete=False)
        stream: BinaryIO = sys.stdout.buffer
        if path is not None:
            stream, already = stack.enter_context(_opened(path, wanted, resume=resume, force=force))
        if not already.complete:
            task = progress.add_task("exporting", total=None, entries=already.count, rate=0.0)
            _write(client, stream, wanted, already, consistency, _Counter(progress, task, already.count))
    tally = Tally()
    if path is not None and verify:
        stop = _run(context, path, tally, store=False, verify=True, as_export=True)
        if stop is not None:
            fail(stop.message, stop.code)
    if path is not None:
        with path.open("rb") as written:
            count = begun(written, _bounds(wanted)).count
        summary = {"exported": count, "bytes": path.stat().st_size, "elapsed_s": time.monotonic() - started_s}
        _summarize(summary, tally, verify=verify, as_json=as_json)


def _write(
    client: DougClient,
    stream: BinaryIO,
    wanted: Range,
    already: Begun,
    consistency: Consistency,
    counter: _Counter,
) -> None:
    """Writes the missing part of an export."""
    if already.last is None and already.end == 0:
        stream.write(header(_bounds(wanted)))
    left = wanted if already.last is None else wanted.behind(already.last)
    count = already.count
    try:
        if not left.is_empty:
            count += export(
                client,
                stream,
                prefix=None,
                start=left.start,
                end=left.end,
                consistency=consistency,
                on_entry=counter.add,
            )
    except (DougdbError, KeyboardInterrupt):
        stream.flush()
        if stream is not sys.stdout.buffer:
            print("dougctl: the file is not complete; go on with --resume", file=sys.stderr)
        raise
    counter.show(count, None)
    stream.write(trailer(count))
    stream.flush()
    if stream is not sys.stdout.buffer:
        os.fsync(stream.fileno())


def _bounds(wanted: Range) -> dict[str, str]:
    bounds = {} if wanted.start is None else bytes_fields(wanted.start, "start")
    return bounds if wanted.end is None else bounds | bytes_fields(wanted.end, "end")


@contextlib.contextmanager
def _opened(path: Path, wanted: Range, *, resume: bool, force: bool) -> Iterator[tuple[BinaryIO, Begun]]:
    """Opens the file to write to; also yields the part of the export that it has already."""
    already = Begun(0, 0, None, complete=False)
    try:
        with private_files():
            if resume and path.exists():
                with path.open("rb") as reading:
                    already = begun(reading, _bounds(wanted))
                stream: BinaryIO = path.open("r+b")
                if not already.complete:
                    stream.truncate(already.end)
                stream.seek(0, os.SEEK_END)
            else:
                stream = path.open("wb" if force else "xb")
    except FileExistsError:
        fail(f"{path} exists: say --resume to go on with it, or --force to replace it", ExitCode.USAGE)
    except FormatError as error:
        fail(f"{path}: {error}", ExitCode.USAGE)
    except OSError as error:
        fail(f"{path}: {error.strerror}", ExitCode.FAILURE)
    with stream:
        yield stream, already


@remote
def import_(
    context: typer.Context,
    *,
    file: Annotated[str, typer.Argument(help="The file, or - for stdin.", metavar="FILE|-", show_default=False)],
    only_absent: Annotated[
        bool, typer.Option("--if-absent", help="Leave keys that exist already as they are.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything back afterwards and compare.")] = False,
    verify_only: Annotated[
        bool, typer.Option("--verify-only", help="Store nothing; only compare the file with the store.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an import of this file was interrupted.")
    ] = False,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, max=64, help="How many groups of entries are sent at the same time.")
    ] = 4,
    as_json: JsonOption = False,
) -> None:
    """Store keys and values from lines of JSON, as `dougctl export` and GET /v1/kv write them.

    A whole page of GET /v1/kv is read, too, and so are several files one behind the other. The progress is kept beside
    the file, in FILE.import, until the import is complete. An entry that cannot be stored is named on stderr with its
    line, and the exit code is then 1. A line that is no entry ends the import; the lines before it are stored.
    """
    started_s = time.monotonic()
    tally = Tally()
    if file == "-":
        if resume:
            fail("what comes from stdin cannot be resumed", ExitCode.USAGE)
        path = None
    else:
        path = given_path(file)
    stop = _run(
        context,
        path,
        tally,
        store=not verify_only,
        verify=verify or verify_only,
        only_absent=only_absent,
        resume=resume,
        concurrency=concurrency,
    )
    summary = {"stored": tally.stored, "kept": tally.kept, "expired": tally.expired}
    _summarize(
        {**summary, "elapsed_s": time.monotonic() - started_s},
        tally,
        verify=verify or verify_only,
        as_json=as_json,
        stop=stop,
    )


def _run(
    context: typer.Context,
    path: Path | None,
    tally: Tally,
    *,
    store: bool,
    verify: bool,
    only_absent: bool = False,
    resume: bool = False,
    concurrency: int = 4,
    as_export: bool = False,
) -> Stop | None:
    """Stores or compares the entries of a file, with a progress bar; returns why it ended early, if it did."""
    mark = None if path is None or as_export or not store else path.with_name(path.name + ".import")
    with contextlib.ExitStack() as stack:
        stream = sys.stdin.buffer if path is None else stack.enter_context(_to_read(path))
        size = None if path is None else path.stat().st_size
        skip = _marked(mark, path) if resume and mark is not None and path is not None else 0
        head = b"" if path is None or mark is None else _head(path)
        columns = (SpinnerColumn() if size is None else BarColumn(), _TEXT, TimeElapsedColumn())
        progress = stack.enter_context(Progress(*columns, console=_stderr()))
        task = progress.add_task("importing" if store else "verifying", total=size, entries=0, rate=0.0)
        counter = _Counter(progress, task, 0)

        def on_progress() -> None:
            counter.show(tally.stored + tally.kept + tally.expired if store else tally.verified, tally.done_bytes)
            if mark is not None:
                _set_mark(mark, tally.done_lines, head)

        # The importer tries again by itself, until it is interrupted.
        client = stack.enter_context(_client(context, 0.0))
        importer = Importer(
            client,
            tally,
            only_absent=only_absent,
            store=store,
            verify=verify,
            concurrency=concurrency,
            on_progress=on_progress,
        )
        reader = Reader(stream)
        try:
            importer.run(reader, skip)
        except FormatError as error:
            return _stopped(f"{path or 'stdin'}: {error}", mark, ExitCode.FAILURE)
        except DougdbError as error:
            return _stopped(str(error), mark, exit_code_of(error))
        except KeyboardInterrupt:
            return _stopped("interrupted before the end", mark, ExitCode.INTERRUPTED)
        if reader.is_cut_off:
            return _stopped(f"{path or 'stdin'} is cut off: its last line is missing", mark, ExitCode.FAILURE)
    if mark is not None:
        mark.unlink(missing_ok=True)
    return None


def _stopped(message: str, mark: Path | None, code: ExitCode) -> Stop:
    again = "; go on with --resume" if mark is not None and mark.exists() else ""
    return Stop(f"{message}{again}", code)


def _head(path: Path) -> bytes:
    """The first whole lines of a file, which identify it, also after it has grown."""
    with path.open("rb") as file:
        data = file.read(_HEAD_BYTES)
    return data[: data.rfind(b"\n") + 1]


def _set_mark(mark: Path, lines: int, head: bytes) -> None:
    """Notes in the file of progress how many lines of which file are stored."""
    part = mark.with_name(mark.name + ".part")
    with private_files():
        known = {"lines": lines, "head_bytes": len(head), "head_sha256": hashlib.sha256(head).hexdigest()}
        part.write_text(json.dumps(known))
    part.replace(mark)


def _marked(mark: Path, path: Path) -> int:
    try:
        document = json.loads(mark.read_text())
        lines, head_bytes, digest = int(document["lines"]), int(document["head_bytes"]), document["head_sha256"]
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError):
        fail(f"{mark} cannot be read; remove it to begin anew", ExitCode.USAGE)
    if hashlib.sha256(_head(path)[:head_bytes]).hexdigest() != digest:
        fail(f"{mark} belongs to another file; remove it to begin anew", ExitCode.USAGE)
    return lines


@contextlib.contextmanager
def _to_read(path: Path) -> Iterator[BinaryIO]:
    try:
        stream = path.open("rb")
    except OSError as error:
        fail(f"{path}: {error.strerror}", ExitCode.FAILURE)
    with stream:
        yield stream


class _Counter:
    """Shows the number of entries and their rate on a progress bar."""

    def __init__(self, progress: Progress, task: TaskID, count: int) -> None:
        self._progress = progress
        self._task = task
        self._first = self._count = count
        self._started_s = time.monotonic()

    def add(self, size: int) -> None:
        """Counts one more entry of ``size`` bytes."""
        self._count += 1
        if self._count % 1000 == 0:
            self.show(self._count, None)

    def show(self, count: int, done_bytes: int | None) -> None:
        """Shows the number of entries, and the bytes done if the size of the whole is known."""
        elapsed_s = max(0.001, time.monotonic() - self._started_s)
        rate = (count - self._first) / elapsed_s
        self._progress.update(self._task, entries=count, rate=rate, completed=done_bytes)


def _client(context: typer.Context, deadline_s: float) -> DougClient:
    try:
        # Storing the same bytes twice is harmless, and a shard keeps no idempotency key for each entry of a long file.
        return DougClient(url_of(context), deadline_s=deadline_s, exactly_once=False, **tls_of(context))
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)


def _stderr() -> Console:
    return Console(stderr=True)


def _summarize(summary: dict[str, Any], tally: Tally, *, verify: bool, as_json: bool, stop: Stop | None = None) -> None:
    problems = tally.problems
    for problem in problems[:PROBLEMS_SHOWN]:
        text = problem.key.decode(errors="backslashreplace")
        print(f"dougctl: line {problem.number}: {printable(text)}: {printable(problem.reason)}", file=sys.stderr)
    if len(problems) > PROBLEMS_SHOWN:
        print(f"dougctl: and {len(problems) - PROBLEMS_SHOWN:,} more", file=sys.stderr)
    summary["elapsed_s"] = round(summary["elapsed_s"], 3)
    if verify:
        summary |= {"verified": tally.verified, "changed": tally.changed}
    summary["problems"] = len(problems)
    if stop is not None and as_json:
        summary["error"] = stop.message
    if as_json:
        print_json(summary)
    else:
        elapsed_s = summary.pop("elapsed_s")
        parts = [f"{value:,} {name}" for name, value in summary.items() if value or name in ("stored", "exported")]
        print(f"{', '.join(parts)} in {elapsed_s:.1f} s")
    if stop is not None:
        fail(stop.message, stop.code)
    if problems:
        raise typer.Exit(ExitCode.FAILURE)
