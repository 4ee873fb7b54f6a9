"""What every command shares: the options, and the one table from errors to exit codes."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import httpx
import typer
from rich.console import Console
from rich.table import Table

from dougdb.client import DougClient
from dougdb.errors import (
    DougdbError,
    InvalidKeyError,
    KeyNotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from dougdb.wire import DEFAULT_URL

TABLE_WIDTH_MAX = 1000

P = ParamSpec("P")
R = TypeVar("R")


class ExitCode(IntEnum):
    """How dougctl ends. Documented in the README and in ``dougctl --help``."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    OUTCOME_UNKNOWN = 5
    INTERRUPTED = 130


_EXIT_CODES: tuple[tuple[type[DougdbError], ExitCode], ...] = (
    (InvalidKeyError, ExitCode.USAGE),
    (KeyNotFoundError, ExitCode.NOT_FOUND),
    (UnavailableError, ExitCode.UNAVAILABLE),
    (OutcomeUnknownError, ExitCode.OUTCOME_UNKNOWN),
)

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="Where the facade listens; also before the command.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def exit_code_of(error: DougdbError) -> ExitCode:
    """The exit code that an error ends the command with."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.FAILURE)


def fail(message: str, code: ExitCode) -> NoReturn:
    """Prints a message to stderr and ends the command."""
    sys.stdout.flush()
    print(f"dougctl: {printable(message)}", file=sys.stderr)
    raise typer.Exit(code)


def printable(text: str) -> str:
    """The text with whatever a terminal cannot show (bytes of a file name that are not UTF-8) escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turns the client's errors into messages and exit codes. Every command is wrapped in this."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = function(*args, **kwargs)
            sys.stdout.flush()
        except DougdbError as error:
            fail(str(error), exit_code_of(error))
        except httpx.InvalidURL as error:
            fail(f"not a URL: {error}", ExitCode.USAGE)
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has seen enough. Nothing must be flushed into the broken pipe at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.FAILURE) from None
        return result

    return wrapped


def url_of(context: typer.Context, url: str | None) -> str:
    """The facade's URL: the command's option, else the one before the command or the environment's."""
    chosen = url or (context.obj or {}).get("url") or DEFAULT_URL
    assert isinstance(chosen, str)
    if not chosen.startswith(("http://", "https://")):
        fail(f"the URL must begin with http:// or https://, not {chosen!r}", ExitCode.USAGE)
    return chosen


def client_of(context: typer.Context, url: str | None) -> DougClient:
    """A client of the facade that the options name."""
    return DougClient(url_of(context, url), **tls_of(context))


def tls_of(context: typer.Context) -> dict[str, Any]:
    """The arguments of a client for HTTPS, where the options give any."""
    ca_file = (context.obj or {}).get("ca_file")
    return {"ca_file": ca_file} if ca_file else {}


def print_json(document: Any) -> None:
    """Prints one JSON document to stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(table: Table) -> None:
    """Prints a table to stdout: never cut off, since half of an address is none.

    What is wider than the terminal is folded by the terminal, and what goes to a file or a pipe is as wide as it is.
    """
    console = Console()
    wide = console.options.update(width=TABLE_WIDTH_MAX)
    console.width = max(console.width, console.measure(table, options=wide).maximum)
    console.print(table)
