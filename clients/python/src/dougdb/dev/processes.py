"""Starting and ending one real process. The supervisor knows only the protocols, so that tests can put fakes in."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Protocol

from dougdb.dev.specs import ChildSpec


class Process(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int:
        """The process id."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""

    def terminate(self) -> None:
        """Asks the process to stop in order."""

    def kill(self) -> None:
        """Kills the process and its children at once."""

    def pause(self) -> None:
        """Pauses the process and its children until ``resume``."""

    def resume(self) -> None:
        """Lets the process and its children go on."""

    def tell(self, line: bytes) -> None:
        """Writes a line to the process' standard input; never waits.

        Raises:
            OSError: The process does not take it.
        """


class Launcher(Protocol):
    """Starts processes."""

    def start(self, spec: ChildSpec, log: Path) -> Process:
        """Starts a process whose output is appended to ``log``.

        Raises:
            OSError: The system refused.
        """


class OsProcess:
    """A child of this process, in a session of its own."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        code = self._popen.poll()
        if code is not None and self._popen.stdin is not None:
            self._popen.stdin.close()
        return code

    def terminate(self) -> None:
        """Sends SIGTERM to the process alone: a node ends its helper processes itself, in its own order."""
        self._popen.terminate()

    def kill(self) -> None:
        """Kills all processes of the child's session."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Pauses all processes of the child's session."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets all processes of the child's session go on."""
        self._signal(signal.SIGCONT)

    def tell(self, line: bytes) -> None:
        """Writes a line to the child's standard input, if there is room for it."""
        assert self._popen.stdin is not None
        os.write(self._popen.stdin.fileno(), line)

    def _signal(self, number: signal.Signals) -> None:
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, number)


class OsLauncher:
    """Starts real processes.

    The child's stdin is a pipe whose other end only this process holds. When this process ends, however it ends, the
    child reads the end of the file and stops; until then, a line on it asks a node for a fault. A session of its own
    keeps a Ctrl-C in the terminal from reaching it before the supervisor decides on the order.
    """

    def start(self, spec: ChildSpec, log: Path) -> OsProcess:
        """Starts a process whose output is appended to ``log``."""
        for directory in spec.directories:
            directory.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            popen = subprocess.Popen(  # noqa: S603 - the command line is our own
                spec.argv,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(spec.environment),
                start_new_session=True,
            )
        assert popen.stdin is not None
        # A child that does not read must not keep the supervisor waiting.
        os.set_blocking(popen.stdin.fileno(), False)
        return OsProcess(popen)
