"""Runs a named part of the scenarios within a time; CI runs it last, if this machine and the time allow it.

A run that is not possible here prints one line and passes: a machine without root or Go must be able to run CI, and the
time that is left is not the fault of a change. Failing scenarios fail it. Must not know which part it is.

Invariants:
    1. It ends within the time that it was given, and about `END_S` more for the removal of the cluster.
    2. Another user's cluster on this machine is left alone.
    3. Built programs are kept, even if the time was too short for all: the next run goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tools.kubernetes import build, machine
from tools.kubernetes.layout import Layout

BUILD_S = 480.0
"""With less time building everything is not begun: it took 8.5 minutes on two cores where nobody else worked, 18 where
others did; with Go's cache filled it takes a minute. It may take all the time but that of the part."""
PART_S = 600.0
"""With less time the part is not begun: with cluster, images and removal it took four minutes on two cores, nine on
busy ones. It may take all the time that is left."""
END_S = 120.0

Run = Callable[[Sequence[str], float], int | None]


def run_for(words: Sequence[str], seconds: float) -> int | None:
    """Runs a verb of this tool; returns its exit code, or None if it was ended because the time was over."""
    command = [sys.executable, "-m", "tools.kubernetes", *words]
    process = subprocess.Popen(command, cwd=machine.ROOT, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        # First a polite signal, on which it removes everything that it has made.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        # Compilers and tests are killed, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


@dataclass(frozen=True, slots=True)
class Timely:
    """Decides which steps there is time for, and runs them.

    Attributes:
        layout: The layout of the cluster.
        seconds: The time for everything, in seconds.
        say: Prints a line for the user.
        run: Runs a verb for at most some seconds.
        down: Removes the remains of a run that was ended.
        clock: Gives the time in seconds.
    """

    layout: Layout
    seconds: float
    say: Callable[[str], None]
    run: Run = run_for
    down: Callable[[Layout], None] = machine.down
    clock: Callable[[], float] = field(default=time.monotonic)

    def test(self, words: Sequence[str]) -> int:
        """Runs the part that pytest's ``words`` name; returns the exit code.

        Args:
            words: The arguments of ``python -m tools.kubernetes test``.
        """
        ends_s = self.clock() + self.seconds
        reason = self._unfit() or self._built(ends_s)
        left_s = ends_s - self.clock()
        if not reason and left_s < PART_S:
            reason = f"it may need {PART_S / 60:.0f} minutes, and {max(0.0, left_s) / 60:.0f} are left"
        if reason:
            return self._skip(reason)
        code = self.run(("test", *words), left_s)
        if code is None:
            self.down(self.layout)
            return self._skip(f"it was ended after {left_s / 60:.0f} minutes, without a verdict")
        return code

    def _skip(self, reason: str) -> int:
        self.say(f"skipped: {reason}")
        return 1 if os.environ.get("REQUIRE_KUBERNETES") else 0

    def _unfit(self) -> str:
        return machine.taken(self.layout) or machine.unfit(self.layout)

    def _built(self, ends_s: float) -> str:
        """Builds the missing programs, if there is time; returns the reason why not, empty if all are built."""
        if not build.missing(self.layout):
            return ""
        left_s = ends_s - self.clock() - PART_S
        if left_s < BUILD_S:
            return f"building takes {BUILD_S / 60:.0f} minutes or more, and {max(0.0, left_s) / 60:.0f} are left for it"
        code = self.run(("build",), left_s)
        if code is None:
            return "the time was over before everything was built; the next run goes on from there"
        return "it could not be built" if code else ""
