"""``tools/look_again.py``: what is looked at again, and what counts at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tools import look_again
from tools.look_again import FAILED_MAX, LOOKS, Failure, Notes, main, run_pytest, why_not

GAP = Failure("tests/a.py::test_gap", ["integration", "test_gap"], "AssertionError: assert 0 == 1")
LOSS = Failure("tests/a.py::test_loss", ["integration", "safety"], "AssertionError: a write is lost")
LATE = LOSS._replace(message="bench.witness.TooLate: no write for 3 s")
UNIT = Failure("tests/a.py::test_unit", ["test_unit"], "AssertionError: assert 0 == 1")


class Runs:
    """A fake of pytest: the first run gives what failed, each further one the next exit code."""

    def __init__(self, failures: list[Failure], *codes: int, first: int = 1) -> None:
        self._answers = [(first, failures), *((code, []) for code in codes)]
        self.asked: list[list[str]] = []

    def __call__(self, arguments: Sequence[str]) -> tuple[int, list[Failure]]:
        self.asked.append(list(arguments))
        return self._answers.pop(0)


def test_a_test_of_a_service_speaks_over_real_sockets() -> None:
    assert not why_not([UNIT._replace(test="services/facade/tests/service/test_a.py::test_unit")])
    assert not why_not([UNIT._replace(marks=["sockets"])])


def test_what_passes_is_run_once() -> None:
    runs = Runs([], first=0)
    assert main(["-x", "tests"], runs) == 0
    assert runs.asked == [["-x", "tests"]]


def test_what_fails_once_and_then_passes_alone_is_told_and_counts_not(capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs([GAP], *[0] * LOOKS)
    assert main(["tests"], runs) == 0
    assert runs.asked == [["tests"], *[[GAP.test]] * LOOKS]
    told = capsys.readouterr().out
    assert f"FLAKY, TO BE MENDED: {GAP.test}" in told
    assert GAP.message in told


@pytest.mark.parametrize("passes", range(LOOKS))
def test_what_fails_again_counts(passes: int) -> None:
    assert main(["tests"], Runs([GAP], *[0] * passes, 1)) == 1


@pytest.mark.parametrize("code", [2, 3, 4, 5, -9])
def test_a_run_that_did_not_come_to_its_end_counts(code: int) -> None:
    runs = Runs([GAP], first=code)
    assert main(["tests"], runs) == code
    assert len(runs.asked) == 1


@pytest.mark.parametrize(
    ("failures", "reason"),
    [
        ([], "no test failed"),
        ([UNIT], "test_unit needs no machine"),
        ([LOSS], "test_loss checks that nothing is lost"),
        ([GAP, UNIT], "test_unit needs no machine"),
        ([GAP._replace(test=str(number)) for number in range(FAILED_MAX + 1)], f"{FAILED_MAX + 1} tests failed"),
    ],
)
def test_a_defect_is_never_looked_at_again(failures: list[Failure], reason: str) -> None:
    assert reason in why_not(failures)
    runs = Runs(failures)
    assert main(["tests"], runs) == 1
    assert len(runs.asked) == 1


@pytest.mark.parametrize("message", [LATE.message, "TimeoutError", "Failed: Timeout (>60.0s) from pytest-timeout."])
def test_a_limit_of_time_is_no_loss(message: str) -> None:
    assert not why_not([LOSS._replace(message=message)])


def test_a_process_that_ended_by_itself_is_more_than_a_limit_of_time() -> None:
    ended = "shard-0-1 died (exit code 3"
    assert ended in why_not([LATE._replace(ended=ended)])
    assert not why_not([GAP._replace(ended=ended)])


@pytest.mark.parametrize(
    ("section", "ended"),
    [
        (
            "dev: shard-0-1 died (exit code 3: a table is damaged); starting it again in 1 s",
            "shard-0-1 died (exit code 3",
        ),
        ("shard-0-1 refuses to start: the log is damaged; starting", "shard-0-1 refuses to start"),
        ("shard-0-1 died (killed by SIGKILL); starting it again in 0 s", ""),
        ("shard-0-1 leads", ""),
    ],
)
def test_what_a_cluster_says_of_its_processes_is_noted(section: str, ended: str, tmp_path: Path) -> None:
    notes = Notes(tmp_path / "failures.json")
    sections = [("the end of every log", f"before\n{section}\nbehind")]
    notes.pytest_runtest_logreport(
        pytest.TestReport("a", ("a", 1, "a"), {"safety": 1}, "failed", "TooLate", "call", sections)
    )
    notes.pytest_sessionfinish()
    assert json.loads((tmp_path / "failures.json").read_text()) == [["a", ["safety"], "", ended]]


@pytest.mark.seconds
@pytest.mark.parametrize(
    "workers",
    [pytest.param([], id="alone", marks=pytest.mark.slow), pytest.param(["--numprocesses", "1"], id="side by side")],
)
def test_pytest_tells_what_failed_with_its_markers(workers: list[str], tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    integration: a\n    safety: b\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.integration\n"
        "def test_good(): pass\n"
        "@pytest.mark.integration\n@pytest.mark.safety\n"
        "@pytest.mark.parametrize('way', ['a b', '[c]'])\n"
        "def test_bad(way): raise TimeoutError(f'too late {way}')\n"
        "@pytest.fixture\ndef broken(): raise ValueError('set-up')\n"
        "def test_set_up(broken): pass\n"
    )
    code, failures = run_pytest(["-q", "--rootdir", str(tmp_path), *workers, str(tmp_path)])
    assert code == look_again.TESTS_FAILED
    by_test = {failure.test.partition("::")[2]: failure for failure in failures}
    assert sorted(by_test) == ["test_bad[[c]]", "test_bad[a b]", "test_set_up"]
    assert {"integration", "safety"} <= set(by_test["test_bad[a b]"].marks)
    assert by_test["test_bad[a b]"].kind == "TimeoutError"
    assert by_test["test_set_up"].message == "ValueError: set-up"
