"""``dougctl dev``: runs a local cluster of real processes on loopback."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dougdb.commands.common import ExitCode, command, fail, printable
from dougdb.commands.given import given_path
from dougdb.private import private_files


class LogLevel(StrEnum):
    """The lowest level that the processes write to their log files."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@command
def dev(
    *,
    shards: Annotated[int, typer.Option("--shards", min=1, max=64, help="How many shards.")] = 2,
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=9, help="How many nodes each shard has.")] = 5,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The facade's port.")] = 8080,
    data: Annotated[
        Path, typer.Option("--data", help="The directory for all data.", parser=given_path, metavar="PATH")
    ] = Path("data"),
    base_port: Annotated[int, typer.Option("--base-port", help="The nodes' first port; each takes three.")] = 21000,
    facades: Annotated[int, typer.Option("--facades", min=1, max=16, help="Facades, on successive ports.")] = 1,
    shared_port: Annotated[
        int | None, typer.Option("--shared-port", min=1, max=65535, help="One port that all facades share.")
    ] = None,
    no_restart: Annotated[bool, typer.Option("--no-restart", help="Do not restart dead processes.")] = False,
    tls: Annotated[
        Path | None,
        typer.Option(
            "--tls",
            metavar="DIR",
            help="TLS with tls.crt, tls.key, ca.crt of this directory; see make certs.",
            parser=given_path,
        ),
    ] = None,
    auth: Annotated[
        bool,
        typer.Option("--auth", help="Clients must send a token; the first is in DATA/run/bootstrap.token."),
    ] = False,
    log_level: Annotated[
        LogLevel,
        typer.Option("--log-level", envvar="DOUGDB_LOG_LEVEL", case_sensitive=False, help="The log files' level."),
    ] = LogLevel.INFO,
    node_env: Annotated[
        list[str] | None,
        typer.Option("--node-env", metavar="KEY=VALUE", help="A variable for all nodes; repeatable."),
    ] = None,
) -> None:
    """Run a local cluster: nodes and facades as processes of their own. Ctrl-C stops it.

    The next start with the same --data finds everything again. Process ids and logs are in DATA/run.
    """
    if sys.platform == "win32":
        fail("dougctl dev needs Unix; on Windows, use it inside WSL2", ExitCode.USAGE)
    # Only now: these modules need what Windows does not have.
    from dougdb.dev import session  # noqa: PLC0415
    from dougdb.dev.layout import Layout, RefusedError  # noqa: PLC0415
    from dougdb.dev.processes import OsLauncher  # noqa: PLC0415
    from dougdb.dev.specs import Options  # noqa: PLC0415

    if auth and tls is not None:
        fail("--auth makes certificates of its own: leave --tls out", ExitCode.USAGE)
    options = Options(str(log_level), _parse_environment(node_env or []), _certificates(tls), auth)
    try:
        session.require_modules()
        with private_files():
            code = session.run(
                Layout(shards, nodes),
                data_path=data,
                port=port,
                base_port=base_port,
                facades=facades,
                shared_port=shared_port,
                options=options,
                restart=not no_restart,
                launcher=OsLauncher(),
            )
    except RefusedError as error:
        _refuse(error)
    if code:
        raise typer.Exit(code)


def _refuse(error: Exception) -> NoReturn:
    """Prints every line of an error, and ends the command."""
    first, *others = str(error).splitlines()
    for line in others:
        print(f"dougctl: {printable(line)}", file=sys.stderr)
    fail(first, ExitCode.USAGE)


def _certificates(folder: Path | None) -> Path | None:
    for name in ("tls.crt", "tls.key", "ca.crt") if folder is not None else ():
        assert folder is not None
        if not (folder / name).is_file():
            fail(f"--tls: there is no {folder / name}", ExitCode.USAGE)
    return None if folder is None else folder.absolute()


def _parse_environment(settings: list[str]) -> dict[str, str]:
    environment = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            fail(f"--node-env wants KEY=VALUE, not {setting!r}", ExitCode.USAGE)
        environment[name] = value
    return environment
