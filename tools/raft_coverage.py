"""Measures how many branches of the Raft core its tests take, and fails below a limit.

Usage: python tools/raft_coverage.py [--min PERCENT]

It runs the core's unit tests under coverage.py, prints the report with what was missed, and then one line with the
share of branches. Only branches count: a line that is run proves less than both ways out of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "raft_node.raft"
TESTS = ROOT / "services" / "raft-node" / "tests" / "unit"
BRANCHES_MIN = 95.0


def branch_percent(report: str) -> float:
    """The share of branches that were taken, of a report of ``coverage json``.

    Raises:
        ValueError: Nothing was measured.
    """
    totals = json.loads(report)["totals"]
    if not totals.get("num_branches"):
        raise ValueError("no branch was measured: was another copy of the package imported?")
    return 100.0 * float(totals["covered_branches"]) / float(totals["num_branches"])


def measure(folder: Path) -> float:
    """Runs the tests and prints the report.

    Raises:
        CalledProcessError: A test failed, or the tool did.
        ValueError: Nothing was measured.
    """
    environment = {**os.environ, "COVERAGE_FILE": str(folder / "coverage")}
    tool = [sys.executable, "-m", "coverage"]
    tests = sorted(str(path) for path in TESTS.glob("test_raft_*.py"))
    run = [*tool, "run", "--branch", "--source", PACKAGE, "-m", "pytest", "-q", *tests]
    subprocess.run(run, cwd=ROOT, env=environment, check=True)
    subprocess.run([*tool, "report", "--show-missing", "--skip-covered"], cwd=ROOT, env=environment, check=True)
    report = folder / "report.json"
    subprocess.run([*tool, "json", "-q", "-o", str(report)], cwd=ROOT, env=environment, check=True)
    return branch_percent(report.read_text())


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Branch coverage of the Raft core.")
    parser.add_argument("--min", type=float, default=BRANCHES_MIN, metavar="PERCENT", help="fail below (%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            percent = measure(Path(folder))
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"coverage: {error}", file=sys.stderr)
            return 1
    print(f"branch coverage of {PACKAGE}: {percent:.1f} %, at least {options.min:g} % wanted")
    return 0 if percent >= options.min else 1


if __name__ == "__main__":
    sys.exit(main())
