"""A named part of the scenarios within a time: what CI runs last, if this machine and the time allow it.

What is not possible here is said in one line and passes: a machine without root or Go must be able to run CI, and the
time that is left is not the fault of a change. What the scenarios find fails. Must not know which part it is.

Invariants:
    1. It ends within the time that it was given, and about `END_S` more for the removal of the cluster.
    2. A cluster that somebody else runs here is left alone.
    3. What was built stays, also when the time was too short for all of it: the next run goes on from there.
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

BUILD_S = 2400.0
"""Building everything may take as long on two cores; with Go's cache filled it takes a minute."""
PART_S = 900.0
"""The part, with its cluster, the images and the removal: nine minutes on two cores that others keep busy, too."""
END_S = 120.0

Run = Callable[[Sequence[str], float], int | None]


def run_for(words: Sequence[str], seconds: float) -> int | None:
    """Runs a verb of this tool; its exit code, or None when it was ended because the time was over."""
    command = [sys.executable, "-m", "tools.kubernetes", *words]
    process = subprocess.Popen(command, cwd=machine.ROOT, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        # Told in order first: it removes what it has made.
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        # Compilers and tests, too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


@dataclass(frozen=True, slots=True)
class Timely:
    """Decides what there is time for, and does it.

    Attributes:
        layout: Of the cluster.
        seconds: The time.
        say: Tells the user.
        run: Runs a verb for some time.
        down: Removes what a part that was ended has left.
        clock: Seconds.
    """

    layout: Layout
    seconds: float
    say: Callable[[str], None]
    run: Run = run_for
    down: Callable[[Layout], None] = machine.down
    clock: Callable[[], float] = field(default=time.monotonic)

    def test(self, words: Sequence[str]) -> int:
        """The part that pytest's ``words`` name; the exit code.

        Args:
            words: What ``python -m tools.kubernetes test`` is told.
        """
        ends_s = self.clock() + self.seconds
        reason = self._unfit() or self._built(ends_s)
        left_s = ends_s - self.clock()
        if not reason and left_s < PART_S:
            reason = f"it needs up to {PART_S / 60:.0f} minutes, and {max(0.0, left_s) / 60:.0f} are left"
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
        if machine.holder(self.layout):
            return "another cluster runs here (make kube-down)"
        return machine.unfit(self.layout)

    def _built(self, ends_s: float) -> str:
        """Builds what is missing, if there is time; why it is not built, else nothing."""
        if not build.missing(self.layout):
            return ""
        left_s = ends_s - self.clock() - PART_S
        if left_s < BUILD_S:
            return f"building takes up to {BUILD_S / 60:.0f} minutes, and {max(0.0, left_s) / 60:.0f} are left for it"
        code = self.run(("build",), left_s)
        if code is None:
            return "the time was over before everything was built; the next run goes on from there"
        return "it could not be built" if code else ""
