"""A witness of the machine: a process of its own that notes when the disk or the processor stalled for all processes.

A test that bounds the time in which a cluster does not answer measures two things, the cluster and the machine under
it. On a shared machine one fsync may take over a second, for every process on the disk, and no replica can hide that.
The witness repeats a small write with fdatasync in one thread and a short sleep in another, on
the disk of the cluster. The time that either needed beyond ``STALL_MIN_S`` is a stall of the machine, and the test
subtracts it from the times that it judges. A cluster that is slow by itself does not slow the witness.

The times are those of ``time.monotonic``, which all processes of a Linux machine share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

STALL_MIN_S = 0.05
EVERY_S = 0.01
FILE = "witness"
WATCHING = "watching\n"


class TooLate(AssertionError):  # noqa: N818 - it fails a test, as any assertion does
    """Something took longer than it may, on a machine that went on; nothing is said to be lost or wrong."""


class Stall(NamedTuple):
    """The beginning and the end of a stall of the machine, in seconds of ``time.monotonic``."""

    began_s: float
    ended_s: float


def stalled_s(stalls: Iterable[Stall], since_s: float, until_s: float) -> float:
    """How many seconds of a time the machine stalled; overlapping stalls, of disk and processor, count once."""
    total, seen_s = 0.0, since_s
    for stall in sorted(stalls):
        began_s, ended_s = max(stall.began_s, seen_s), min(stall.ended_s, until_s)
        if ended_s > began_s:
            total += ended_s - began_s
            seen_s = ended_s
    return total


class Witness:
    """Watches the machine while the block runs; the stalls are known when the block has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.stalls: list[Stall] = []

    def __enter__(self) -> Self:
        root = Path(__file__).resolve().parent.parent
        command = [sys.executable, "-m", "bench.witness", str(self._folder)]
        self._process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        # What comes before it watches would count as the cluster's.
        assert self._process.stdout.readline() == WATCHING, "the witness did not begin"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process is not None
        told, _ = self._process.communicate()
        self.stalls = [Stall(*map(float, line.split())) for line in told.splitlines()]

    def stalled_s(self, since_s: float, until_s: float) -> float:
        """How many seconds of a time the machine stalled."""
        return stalled_s(self.stalls, since_s, until_s)

    def longest_s(self) -> float:
        """The longest stall in seconds; 0 if there was none."""
        return max((stall.ended_s - stall.began_s for stall in self.stalls), default=0.0)

    def told(self) -> str:
        """The stalls in one line, for the output of a test."""
        lengths = sorted((round((stall.ended_s - stall.began_s) * 1000) for stall in self.stalls), reverse=True)
        return f"the machine stood still {len(lengths)} times, in ms: {lengths[:8]}"


def watch(step: Callable[[], None], told: Callable[[Stall], None], stopped: threading.Event) -> None:
    """Repeats a short step until ``stopped``, and calls ``told`` whenever it took long."""
    while not stopped.wait(EVERY_S):
        began_s = time.monotonic()
        step()
        ended_s = time.monotonic()
        if ended_s - began_s > STALL_MIN_S:
            told(Stall(began_s, ended_s))


def main(folder: Path) -> None:
    """Watches until standard input ends, as it also does if the test that started this process is killed."""
    stopped, lock = threading.Event(), threading.Lock()

    def tell(stall: Stall) -> None:
        with lock:
            print(*stall, flush=True)

    with (folder / FILE).open("wb", buffering=0) as file:

        def write() -> None:
            os.pwrite(file.fileno(), b"x", 0)
            os.fdatasync(file.fileno())

        steps = (write, lambda: time.sleep(EVERY_S))
        threads = [threading.Thread(target=watch, args=(step, tell, stopped)) for step in steps]
        print(WATCHING, end="", flush=True)
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stopped.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
