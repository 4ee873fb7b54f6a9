"""``dougctl batch``, ``txn``, ``op`` and ``limits``: many operations at once, the outcome of one, and all limits."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from dougdb.commands.common import ExitCode, JsonOption, client_of, fail, print_json, remote
from dougdb.commands.kv import IdempotencyKeyOption, KeyArgument
from dougdb.errors import DougdbError, InvalidArgumentError, InvalidKeyError, OutcomeUnknownError, UnavailableError
from dougdb.idempotency import AUTO
from dougdb.operations import (
    Operation,
    Result,
    compare_from,
    document_of,
    document_of_result,
    key_fields,
    operation_from,
)

FileArgument = Annotated[str, typer.Argument(help="The file, or - for stdin.", metavar="FILE|-")]
GROUP = 1000


@remote
def batch(context: typer.Context, *, file: FileArgument = "-", idempotency_key: IdempotencyKeyOption = None) -> None:
    """Carry out many operations, one JSON document per line, independently of each other; print one result per line.

    An operation is as in POST /v1/batch: {"op": "put", "key": "a", "value": "1", "ttl": "1h"}. The exit code is 1 if
    one was refused, 4 or 5 if one could not be served. A line that is no operation is refused alone: its result has
    the status 400 and the number of its line. With an idempotency key the file is one request; then every line of it
    must be an operation, or nothing is carried out.
    """
    worst: DougdbError | None = None
    groups = _groups(_operations(file))
    if idempotency_key is not None:
        groups = iter([_all_good(groups, file)])
    with client_of(context) as client:
        for group in groups:
            good = [each for each in group if not isinstance(each, Refused)]
            results = iter(client.batch(good, idempotency_key=idempotency_key or AUTO) if good else ())
            for each in group:
                if isinstance(each, Refused):
                    print_json(each.document(), indent=None)
                    worst = worst or InvalidArgumentError(each.reason)
                    continue
                result = next(results)
                print_json(document_of_result(each, result), indent=None)
                worst = _worse(worst, result)
            sys.stdout.flush()
    if worst is not None:
        code = ExitCode.FAILURE
        if isinstance(worst, OutcomeUnknownError):
            code = ExitCode.OUTCOME_UNKNOWN
        elif isinstance(worst, UnavailableError):
            code = ExitCode.UNAVAILABLE
        raise typer.Exit(code)


def _worse(worst: DougdbError | None, result: Result) -> DougdbError | None:
    """The worse of two errors: an unknown outcome is worse than an unavailable shard, and that than a refusal."""
    ranks = (OutcomeUnknownError, UnavailableError, DougdbError)
    for rank in ranks:
        for error in (worst, result.error):
            if isinstance(error, rank):
                return error
    return None


@remote
def txn(
    context: typer.Context,
    *,
    file: FileArgument = "-",
    idempotency_key: IdempotencyKeyOption = None,
) -> None:
    """Carry out a transaction, a JSON document as in POST /v1/txn, and print its result.

    The document: {"compare": [{"key": "{a}/n", "value": "1"}], "success": [...], "failure": [...]}. The exit code is 0
    whether success or failure was carried out.
    """
    document = _parsed(_read(file), file)
    if not isinstance(document, dict) or not document.keys() <= {"compare", "success", "failure"}:
        fail('a transaction is {"compare": [...], "success": [...], "failure": [...]}', ExitCode.USAGE)
    try:
        compare = [compare_from(each) for each in document.get("compare", [])]
        success, failure = ([operation_from(each) for each in document.get(n, [])] for n in ("success", "failure"))
    except (TypeError, ValueError) as error:
        fail(f"{file}: {error}", ExitCode.USAGE)
    with client_of(context) as client:
        done = client.txn(compare=compare, success=success, failure=failure, idempotency_key=idempotency_key or AUTO)
    carried_out = success if done.succeeded else failure
    results = [document_of_result(each, result) for each, result in zip(carried_out, done.results, strict=True)]
    print_json({"succeeded": done.succeeded, "results": results, "revision": done.revision})


@remote
def op(
    context: typer.Context,
    *,
    idempotency_key: Annotated[str, typer.Argument(help="The idempotency key that the write had.")],
    key: KeyArgument,
    as_json: JsonOption = False,
) -> None:
    """Show the outcome of a write that had an idempotency key."""
    with client_of(context) as client:
        found = client.operation_state(idempotency_key, os.fsencode(key))
    if as_json:
        named = {"idempotency_key": idempotency_key, **key_fields(os.fsencode(key))}
        print_json({**named, "state": found.state, "status": found.status, "revision": found.revision})
    else:
        rest = "" if found.status is None else f", HTTP {found.status}, revision {found.revision}"
        print(f"{found.state}{rest}")


@remote
def limits(context: typer.Context, *, as_json: JsonOption = False) -> None:
    """Show every limit that a request can meet."""
    with client_of(context) as client:
        found = client.limits()
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        print(f"{name:<28} {value:>20,}" if isinstance(value, int) else f"{name:<28} {value!s:>20}")


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        _unreadable(file, error)


def _unreadable(file: str, error: OSError) -> NoReturn:
    fail(f"{file}: {error.strerror}", ExitCode.FAILURE)


def _parsed(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        fail(f"{where}: not JSON: {error}", ExitCode.USAGE)


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that is no operation."""

    line: int
    code: str
    reason: str

    def document(self) -> dict[str, Any]:
        """The result of the line in the form of POST /v1/batch, with the line's number."""
        told = {"status": 400, "line": self.line, "code": self.code, "detail": self.reason}
        return {**told, "retryable": False, "outcome": "not_applied"}


def _all_good(groups: Iterable[list[Operation | Refused]], file: str) -> list[Operation | Refused]:
    found = [each for group in groups for each in group]
    for each in found:
        if isinstance(each, Refused):
            fail(f"{file}, line {each.line}: {each.reason}; nothing was carried out", ExitCode.USAGE)
    return found


def _operations(file: str) -> Iterator[Operation | Refused]:
    if file == "-":
        yield from _lines(sys.stdin.buffer)
        return
    try:
        with Path(file).open("rb") as stream:
            yield from _lines(stream)
    except OSError as error:
        _unreadable(file, error)


def _lines(lines: Iterable[bytes]) -> Iterator[Operation | Refused]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _operation(number, line)


def _operation(number: int, line: bytes) -> Operation | Refused:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Refused(number, "bad_json", f"not JSON: {error}")
    try:
        operation = operation_from(document)
        # What cannot be sent is refused here, where it concerns no other line.
        document_of(operation)
    except (TypeError, ValueError, InvalidKeyError) as error:
        return Refused(number, "bad_operation", str(error))
    return operation


def _groups(operations: Iterable[Operation | Refused]) -> Iterator[list[Operation | Refused]]:
    group: list[Operation | Refused] = []
    for operation in operations:
        group.append(operation)
        if len(group) == GROUP:
            yield group
            group = []
    if group:
        yield group
