"""The tool behind ``make coverage``: it counts branches, and says no when there are too few."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tools import raft_coverage


def report(covered: int, branches: int) -> str:
    return json.dumps({"totals": {"num_branches": branches, "covered_branches": covered, "percent_covered": 99.9}})


def test_branches_count_and_lines_do_not() -> None:
    assert raft_coverage.branch_percent(report(380, 400)) == 95.0


def test_a_report_of_nothing_is_no_success() -> None:
    with pytest.raises(ValueError, match="no branch"):
        raft_coverage.branch_percent(report(0, 0))


@pytest.mark.parametrize(("percent", "code"), [(94.9, 1), (95.0, 0)])
def test_too_few_branches_fail(monkeypatch: pytest.MonkeyPatch, percent: float, code: int) -> None:
    def measure(folder: Path) -> float:
        return percent

    monkeypatch.setattr(raft_coverage, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["raft_coverage"])
    assert raft_coverage.main() == code


def test_a_run_that_fails_is_no_success(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(folder: Path) -> float:
        raise ValueError("nothing there")

    monkeypatch.setattr(raft_coverage, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["raft_coverage"])
    assert raft_coverage.main() == 1 and "nothing there" in capsys.readouterr().err
