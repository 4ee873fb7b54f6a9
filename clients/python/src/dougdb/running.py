"""Runs a command while a lock is held, hands signals on to the command, and stops it when the lock is lost.

Must not know locks: a function tells for how long the lock is still held. Invariants:

1. When ``run`` returns, the command has ended.
2. A signal that asks for an end reaches the command, and never ends this process before it.
3. The command is asked to stop while the lock is still surely held, and is killed once it is not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

FORWARDED = ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT")
LOOK_S = 0.1
NOT_FOUND, NOT_EXECUTABLE = 127, 126
STOP_SHARE = 0.25
"""The command is asked to stop when this share of the time to live is left."""


class Command:
    """A command that may run only while a lock is held.

    Args:
        argv: The command and its arguments.
        environment: The environment of the command.
        left_s: Gives the seconds for which the lock is surely held; 0 once it is lost.
        grace_s: The command is asked to stop when ``left_s`` is no more than this.

    Attributes:
        stopped: Whether the command was asked to stop because the lock was about to be lost.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], *, left_s: Callable[[], float], grace_s: float
    ) -> None:
        self._argv = list(argv)
        self._environment = dict(environment)
        self._left_s = left_s
        self._grace_s = grace_s
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        """Signals that came while the command was being started."""
        self._ended = threading.Event()
        self.stopped = False

    def run(self) -> int:
        """Runs the command; returns its exit code, or 128 plus the number of the signal that ended it.

        Raises:
            OSError: The command cannot be started.
        """
        with self._forwarding():
            # In a process group of its own, the command can be stopped together with its children. On a terminal it
            # must stay in the terminal's foreground group, or it could not read from the terminal.
            self._child = subprocess.Popen(  # noqa: S603 - the user's own command
                self._argv, env=self._environment, process_group=None if _on_terminal() else 0
            )
            for number in self._early:
                self._send(number)
            watch = threading.Thread(target=self._watch, daemon=True, name="dougctl-lock")
            watch.start()
            code = self._child.wait()
            self._ended.set()
            watch.join()
        return code if code >= 0 else 128 - code

    def _watch(self) -> None:
        asked = False
        while not self._ended.wait(LOOK_S):
            left_s = self._left_s()
            if left_s > self._grace_s:
                # The renewal succeeded after all, though late; the command was asked to stop and stops all the same.
                continue
            if not asked:
                asked = self.stopped = True
                self._send(signal.SIGTERM)
            if left_s <= 0.0 and not self._ended.wait(LOOK_S):
                self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        child = self._child
        if child is None or child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(child.pid) == child.pid:
                os.killpg(child.pid, number)
            else:
                os.kill(child.pid, number)

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        """Hands signals on to the command during the block."""

        def forward(number: int, frame: FrameType | None) -> None:
            # A terminal sends an interrupt to its whole foreground group, the command included.
            if number in (signal.SIGINT, signal.SIGQUIT) and _on_terminal():
                return
            if self._child is None:
                self._early.append(number)
            else:
                self._send(number)

        before = {}
        for name in FORWARDED:
            number = getattr(signal, name)
            before[number] = signal.signal(number, forward)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _on_terminal() -> bool:
    """Whether this process belongs to the foreground group of a terminal."""
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            return os.tcgetpgrp(descriptor) == os.getpgrp()
    return False
