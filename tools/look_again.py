"""Runs pytest, and looks again at a test that failed with real processes: ``python -m tools.look_again``, for CI.

A test that starts real processes measures the machine, too: a disk that stands still for a second, or two processes
that come in an order that nobody thought of, fails one test in thousands. CI would refuse a good change for it. So
each such test is run again, alone, in processes of its own, ``LOOKS`` times; all must pass. The first failure is not
hidden: it is printed again at the end, as what has to be mended.

What is never looked at again:

* a test without the marker ``integration``, ``seconds`` or ``sockets`` that is not in a folder ``service``, whose tests
  speak over real sockets, too. It has no machine to blame; its failure is a defect;
* a test with the marker ``safety``, unless a limit of time ended it (``KINDS_OF_TIME``). Such a test checks that
  nothing is lost, invented or out of order. One loss in a thousand runs is a loss. A limit of time is none either if a
  process of a cluster ended by itself, or refused to start (``ENDED``): a node that cannot read its disk any more comes
  too late, too;
* more than ``FAILED_MAX`` failures in one run. So many are no coincidence;
* a run that was interrupted, or that could not collect its tests.

The module is both the program and the plugin of pytest that notes what failed (``-p tools.look_again``); the plugin
runs in the process that gathers the reports, and so it works with pytest-xdist as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOOKS = 3
FAILED_MAX = 3
WITH_A_MACHINE = frozenset({"integration", "seconds", "sockets"})
SERVICE = "/tests/service/"
SAFETY = "safety"
KINDS_OF_TIME = frozenset({"TooLate", "ClusterTooLate", "TimeoutError", "Timeout"})
ENDED = re.compile(r"\S+ (?:died \(exit code \d+|refuses to start)")
"""What ``dougctl dev`` says of a process that nobody killed."""
FILE = "LOOK_AGAIN_FILE"
TESTS_FAILED = 1


class Failure(NamedTuple):
    """A test that failed."""

    test: str
    """The test's id, as pytest takes it on its command line."""
    marks: list[str]
    """The names of its markers, among other keywords of the test."""
    message: str
    """What the exception said, with its type in front; empty if pytest knows none."""
    ended: str = ""
    """What a cluster's output says of a process that ended by itself; empty if it says nothing of one."""

    @property
    def kind(self) -> str:
        """The type of the exception, without its modules; ``Timeout`` if pytest-timeout ended the test."""
        if self.message.startswith("Failed: Timeout"):
            return "Timeout"
        return self.message.partition(":")[0].rpartition(".")[2].strip()


def why_not(failures: Sequence[Failure]) -> str:
    """Why the failures of a run count at once; empty if the tests may be looked at again."""
    if not failures:
        return "no test failed, and yet the run did"
    if len(failures) > FAILED_MAX:
        return f"{len(failures)} tests failed, which is no coincidence"
    for failure in failures:
        if not WITH_A_MACHINE.intersection(failure.marks) and SERVICE not in failure.test:
            return f"{failure.test} needs no machine"
        if SAFETY in failure.marks and failure.kind not in KINDS_OF_TIME:
            return f"{failure.test} checks that nothing is lost or wrong"
        if SAFETY in failure.marks and failure.ended:
            return f"in {failure.test} a process ended by itself: {failure.ended}"
    return ""


class Notes:
    """Keeps each test that failed, in the process that gathers the reports."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failures: dict[str, Failure] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes a report, be it of set-up, of the test, or of what follows it."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = crash.message if crash is not None else ""
            # The first failure of a test is the cause; a clean-up that fails after it is a consequence.
            ended = ENDED.search("\n".join([message, *(text for _, text in report.sections)]))
            failure = Failure(report.nodeid, sorted(report.keywords), message, "" if ended is None else ended[0])
            self._failures.setdefault(report.nodeid, failure)

    def pytest_sessionfinish(self) -> None:
        """Writes what failed to the file that the program reads."""
        self._file.write_text(json.dumps(list(self._failures.values())))


def pytest_configure(config: pytest.Config) -> None:
    """Begins to note, where the program asked for it, and not in the workers of pytest-xdist."""
    if FILE in os.environ and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Notes(Path(os.environ[FILE])))


def run_pytest(arguments: Sequence[str]) -> tuple[int, list[Failure]]:
    """Runs pytest in a process of its own.

    Returns:
        Its exit code, and what failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "failures.json"
        command = [sys.executable, "-m", "pytest", "-p", "tools.look_again", *arguments]
        environment = os.environ | {FILE: str(file)}
        environment.pop("PYTEST", None)  # What `make` runs within a test is not for CI.
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        failures = json.loads(file.read_text()) if file.exists() else []
    return code, [Failure(*failure) for failure in failures]


def main(arguments: Sequence[str], run: Callable[[Sequence[str]], tuple[int, list[Failure]]] = run_pytest) -> int:
    """Runs the tests, and those that failed again.

    Args:
        arguments: What pytest gets.
        run: Runs pytest; gives its exit code and what failed.

    Returns:
        The exit code: 0 if no failure counts.
    """
    code, failures = run(arguments)
    if code != TESTS_FAILED:
        return code
    reason = why_not(failures)
    if reason:
        print(f"look again: no second look: {reason}", flush=True)
        return code
    for failure in failures:
        for look in range(1, LOOKS + 1):
            print(f"look again: {failure.test}, alone, {look} of {LOOKS}", flush=True)
            if run([failure.test])[0] != 0:
                print(f"look again: {failure.test} fails again", flush=True)
                return code
    for failure in failures:
        print(f"look again: FLAKY, TO BE MENDED: {failure.test} failed once and passed {LOOKS} times alone")
        print(f"look again:   {failure.message}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
