"""``dougctl lock``: runs a command while a lock is held; see docs/locks.md."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from dougdb import checks
from dougdb.commands.common import ExitCode, client_of, fail, printable, remote
from dougdb.errors import LockLostError
from dougdb.running import NOT_EXECUTABLE, NOT_FOUND, STOP_SHARE, Command

TOKEN = "DOUGDB_FENCING_TOKEN"  # noqa: S105 - it is no secret


@remote
def lock(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="The lock's name.", show_default=False)],
    command: Annotated[list[str], typer.Argument(help="The command to run, behind --.", show_default=False)],
    ttl: Annotated[
        str, typer.Option("--ttl", help="How long the lock stays taken after this process has died.")
    ] = "15s",
    wait: Annotated[
        str | None,
        typer.Option("--wait", help="How long to wait for the lock; 0: not at all; as long as it takes if left out."),
    ] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="The owner's name, for others to read.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing while waiting.")] = False,
) -> None:
    """Run a command under a lock: acquire the lock, renew it while the command runs, release it.

    The command finds the fencing token in DOUGDB_FENCING_TOKEN. The exit code is the command's; or 4 if somebody else
    held the lock during the whole time of --wait, and nothing was run. If the lock is lost, the command is stopped, and
    the exit code is the command's, or 1 if that is 0.
    """
    if not name:
        fail("a lock has a name", ExitCode.USAGE)
    ttl_s = checks.ttl_seconds(ttl)
    wait_s = None if wait is None else (0.0 if wait.strip("0") == "" else checks.ttl_seconds(wait, name="--wait"))
    with client_of(context) as client:
        held = client.lock(name, ttl=ttl, wait_s=wait_s, owner=owner)
        if not quiet and wait_s != 0.0:
            holder = client.lock_holder(name)
            if holder is not None:
                by = f" by {printable(holder.owner)}" if holder.owner else ""
                print(f"dougctl: waiting for the lock {printable(name)}, held{by}", file=sys.stderr)
        held.acquire()
        environment = {**os.environ, TOKEN: str(held.token)}
        running = Command(command, environment, left_s=lambda: held.left_s, grace_s=ttl_s * STOP_SHARE)
        try:
            code = running.run()
        except OSError as error:
            held.release()
            missing = isinstance(error, FileNotFoundError)
            reason = "command not found" if missing else error.strerror
            print(f"dougctl: {printable(command[0])}: {reason}", file=sys.stderr)
            raise typer.Exit(NOT_FOUND if missing else NOT_EXECUTABLE) from None
        try:
            held.check()
            lost = running.stopped
        except LockLostError:
            lost = True
        held.release()
    if lost:
        print(f"dougctl: the lock {printable(name)} was lost while the command ran", file=sys.stderr)
        code = code or ExitCode.FAILURE
    raise typer.Exit(code)
