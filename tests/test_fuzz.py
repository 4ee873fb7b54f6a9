"""``make fuzz-storage`` without a fuzzer: the targets outside the node over their corpus, and what the command says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tools.fuzz import __main__ as command
from tools.fuzz.__main__ import Outcome
from tools.fuzz.corpus import keep
from tools.fuzz.targets import ROOT, TARGETS, corpus_of

from raft_testing.fuzz.target import load_corpus
from raft_testing.fuzz.targets import TARGETS as OF_THE_NODE

OTHERS = sorted(TARGETS.keys() - OF_THE_NODE.keys())


@pytest.mark.parametrize("name", OTHERS)
def test_every_input_runs_to_its_end(name: str) -> None:
    for data in TARGETS[name].inputs() + load_corpus(corpus_of(name)):
        TARGETS[name].run(data)


def test_a_target_is_named_by_the_front_of_a_finding() -> None:
    assert len(TARGETS) >= len(OF_THE_NODE) + len(OTHERS) > len(OF_THE_NODE) > 20
    assert not [name for name in TARGETS if "-" in name or "." in name]


def test_what_a_worker_says_becomes_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome("wal", cpu_s=90.0, executions=7000)
    outcome.take(
        "finding /out/wal-1.bin struct.error at wal.py:7 scan: too short\nfinding /out/wal-1.bin the smaller one\n",
        "#2 INITED cov: 5 ft: 6 corp: 7/90b\n#90 NEW    cov: 639 ft: 1993 corp: 131/255Kb lim: 6793 L: 1/2\n"
        "artifact_prefix='x'; Test unit written to /out/wal-timeout-2\n",
    )
    assert (outcome.coverage, outcome.features, outcome.corpus) == (639, 1993, 131)
    assert command.report([outcome]) == 1
    shown = capsys.readouterr().out
    assert "wal                1.5        7000       639      1993     131         2" in shown
    assert 'again: make fuzz-storage ARGS="--repeat /out/wal-1.bin"' in shown and "the smaller one" in shown
    assert command.report([Outcome("wal")]) == 0


def test_a_finding_is_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "entry-0.bin"
    path.write_bytes(b"\0nonsense")
    assert command.main(["--repeat", str(path)]) == 0
    assert "runs to its end" in capsys.readouterr().out
    assert command.main(["--repeat", str(path.rename(tmp_path / "nothing-0.bin"))]) == 2


def test_without_atheris_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert command.main(["--target", "wal"]) == 2
    assert "atheris is not installed" in capsys.readouterr().err


def test_what_is_kept_reaches_more_than_the_seeds(tmp_path: Path) -> None:
    target = OF_THE_NODE["entry"]
    seed = target.inputs()[-1]
    cut = seed[:20]
    folder = tmp_path / "found"
    folder.mkdir()
    for number, data in enumerate((seed, cut, cut + b"x", seed + seed[1:])):
        (folder / str(number)).write_bytes(data)
    path = tmp_path / "corpus.txt"
    assert keep(target, path, folder) == 1
    # The smallest one of those that end within a header; the seeds reach what the others do.
    assert load_corpus(path) == [cut]
    assert keep(target, path, tmp_path / "nothing") == 1


def test_an_unknown_target_is_refused() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "tools.fuzz", "--target", "wal,nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2 and "unknown target nothing" in told.stderr
