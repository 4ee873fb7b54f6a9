"""``python -m raft_testing.mutants.witness COPY MODULE TEST``: runs a test, and checks that it ran the copy's code.

It runs in a process of its own, from the copy, and its last line is a ``Verdict`` in JSON. A test that fails because
something cannot be imported or collected shows nothing, and neither does one that never imported the module in
question, or imported it from elsewhere; so these are told apart from a test that fails.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PREFIX = "verdict "


class Verdict(NamedTuple):
    """The result of a test.

    Attributes:
        passed: How many test functions (with each of their parameters) passed.
        failed: How many failed while they ran.
        broken: Why the result shows nothing; empty if it does.
        reason: The last line of the first failure.
    """

    passed: int
    failed: int
    broken: str
    reason: str


class _Plugin:
    """Counts what pytest reports."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.errors: list[str] = []
        self.reason = ""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(f"{report.nodeid} cannot be collected")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.passed += report.passed
            self.failed += report.failed
            if report.failed and not self.reason:
                crash = getattr(report.longrepr, "reprcrash", None)
                lines = str(crash.message if crash is not None else report.longrepr).splitlines()
                self.reason = lines[0] if lines else ""
        elif report.when == "setup" and report.failed:
            self.errors.append(f"the setup of {report.nodeid} failed")


def main(arguments: list[str]) -> int:
    """Runs one test; always returns 0, since the last line has the result."""
    copy, module, test = arguments
    plugin = _Plugin()
    pytest.main(["-q", "-x", "-p", "no:cacheprovider", test], plugins=[plugin])
    broken = "; ".join(plugin.errors)
    loaded = sys.modules.get(module)
    if not broken and not plugin.passed + plugin.failed:
        broken = "no test ran"
    elif not broken and loaded is None:
        broken = f"it never imported {module}"
    elif not broken and not Path(str(getattr(loaded, "__file__", ""))).is_relative_to(copy):
        broken = f"it imported {module} from elsewhere"
    verdict = Verdict(plugin.passed, plugin.failed, broken, plugin.reason)
    sys.stdout.write(f"\n{PREFIX}{json.dumps(verdict._asdict())}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
