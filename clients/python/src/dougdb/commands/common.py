"""The options that all commands share, and the one table from errors to exit codes."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from dougdb.client import DougClient
from dougdb.errors import (
    DougdbError,
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    LockTimeoutError,
    OutcomeUnknownError,
    PreconditionFailedError,
    UnavailableError,
)
from dougdb.shapes import DEFAULT_URL

DEADLINE_S = 10.0
TABLE_WIDTH_MAX = 1000
_CONTROLS = re.compile("[\x7f-\x9f\u2028-\u202e\ud800-\udfff]")

P = ParamSpec("P")
R = TypeVar("R")


class ExitCode(IntEnum):
    """The exit codes of dougctl, as documented in the README and in ``dougctl --help``."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    OUTCOME_UNKNOWN = 5
    INTERRUPTED = 130


_EXIT_CODES: tuple[tuple[type[DougdbError], ExitCode], ...] = (
    (InvalidKeyError, ExitCode.USAGE),
    (InvalidArgumentError, ExitCode.USAGE),
    (KeyNotFoundError, ExitCode.NOT_FOUND),
    (UnavailableError, ExitCode.UNAVAILABLE),
    (OutcomeUnknownError, ExitCode.OUTCOME_UNKNOWN),
    (LockTimeoutError, ExitCode.UNAVAILABLE),
)

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The facade's URL; also before the command.", show_default=False),
]
CaFileOption = Annotated[
    str | None,
    typer.Option(
        "--ca-file",
        help="A file with the authority of the facade's certificate, PEM; also before the command.",
        show_default=False,
    ),
]
TokenFileOption = Annotated[
    str | None,
    typer.Option("--token-file", help="A file with the token to send; also before the command.", show_default=False),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0.0,
        metavar="SECONDS",
        help="How many seconds a failed request is sent again, if that is safe; 10 if left out.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def exit_code_of(error: DougdbError) -> ExitCode:
    """The exit code of a command that ended with an error."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.FAILURE)


def fail(message: str, code: ExitCode) -> NoReturn:
    """Prints a message to stderr and ends the command."""
    sys.stdout.flush()
    print(f"dougctl: {printable(message)}", file=sys.stderr)
    raise typer.Exit(code)


def progress(text: str) -> None:
    """Shows on a terminal, in one line of stderr, what the command does now; an empty text ends that."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with all control characters and undecodable bytes escaped: names and keys may hold any bytes."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":
        # A byte of a file name that is not UTF-8.
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps a command so that the client's errors end it with a message and an exit code. Every command is wrapped."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = function(*args, **kwargs)
            sys.stdout.flush()
        except DougdbError as error:
            fail(told(error), exit_code_of(error))
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        return result

    return wrapped


def told(error: DougdbError) -> str:
    """The message of an error, with what helps: the key's present revision, or how a token is shown."""
    if isinstance(error, PreconditionFailedError):
        now = error.current_revision
        more = "there is no such key" if now is None else f"the key has revision {now}"
    elif error.code == "unauthenticated":
        more = "DOUGDB_TOKEN, or a file that --token-file names, has the token that dougctl shows"
    else:
        return str(error)
    return f"{str(error).removesuffix('.')}; {more}"


def remote(function: Callable[..., R]) -> Callable[..., R]:
    """Wraps a command that calls the facade: as ``command``, and with the options of the facade added to its own.

    The function takes the context as its first argument; ``client_of`` finds the values of these options in it.
    """
    inner = command(function)

    @functools.wraps(function)
    def wrapped(
        context: typer.Context,
        url: str | None = None,
        ca_file: str | None = None,
        token_file: str | None = None,
        deadline: float | None = None,
        **rest: Any,
    ) -> R:
        given: dict[str, Any] = {"url": url or None, "ca_file": ca_file or None, "token_file": token_file or None}
        given["deadline"] = deadline
        context.obj = {**(context.obj or {}), **{name: value for name, value in given.items() if value is not None}}
        return inner(context, **rest)

    signature = inspect.signature(function, eval_str=True)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in (
            ("url", UrlOption),
            ("ca_file", CaFileOption),
            ("token_file", TokenFileOption),
            ("deadline", DeadlineOption),
        )
    ]
    parameters = [*signature.parameters.values(), *options]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def url_of(context: typer.Context) -> str:
    """The facade's URL: the command's option, else the one before the command or the environment's."""
    return str((context.obj or {}).get("url") or DEFAULT_URL)


def client_of(context: typer.Context) -> DougClient:
    """A client of the facade that the options name."""
    try:
        return DougClient(url_of(context), deadline_s=deadline_of(context), **tls_of(context))
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)


def token_of(context: typer.Context) -> str | None:
    """The token in the file that the options name; None if they name none, and the environment variable counts."""
    path = (context.obj or {}).get("token_file")
    if not path:
        return None
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path}: {getattr(error, 'strerror', None) or 'not a token'}", ExitCode.USAGE)


def deadline_of(context: typer.Context) -> float:
    """How many seconds a command sends failed requests again."""
    found = (context.obj or {}).get("deadline")
    return DEADLINE_S if found is None else float(found)


def tls_of(context: typer.Context) -> dict[str, Any]:
    """The client's arguments for TLS and the token; empty if the options give none."""
    ca_file, token = (context.obj or {}).get("ca_file"), token_of(context)
    return ({"ca_file": ca_file} if ca_file else {}) | ({} if token is None else {"token": token})


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """Prints one JSON document to stdout; on one line without an indent."""
    # JSON leaves DEL and the C1 controls as they are, and a terminal obeys some of them.
    print(
        _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(document, indent=indent, ensure_ascii=False))
    )


def print_table(table: Table) -> None:
    """Prints a table to stdout, without cutting off cells, since half of an address is useless.

    The terminal folds lines that are wider than it; lines that go to a file or a pipe keep their width.
    """
    console = Console()
    wide = console.options.update(width=TABLE_WIDTH_MAX)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
