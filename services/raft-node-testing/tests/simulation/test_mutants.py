"""Planted bugs: the list fits the sources and the document, and the machinery tells a kill from anything else.

All of them, with the seeds of the simulator, are run by ``make mutants``; here one of each group is killed by its test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raft_testing.mutants import catalogue, table
from raft_testing.mutants.mutant import GROUPS, Mutant, StaleMutantError
from raft_testing.mutants.runner import Outcome, Runner, checkout

pytestmark = pytest.mark.timeout(900)

ROOT = checkout()
COMMAND = [sys.executable, "-m", "raft_testing.mutants"]
SAMPLE = ("M07", "M22", "M26", "M31", "M38", "M48")


def run(mutants: tuple[Mutant, ...], seeds: int = 0) -> list[Outcome]:
    return asyncio.run(Runner(ROOT, seeds, processes=2).run(mutants, lambda outcome: print(outcome.line())))


def test_the_list_fits_the_sources_and_the_tests() -> None:
    assert catalogue.check(ROOT) == []
    assert len(catalogue.MUTANTS) >= 36


def test_the_document_has_all_of_the_list() -> None:
    table.check(ROOT, catalogue.MUTANTS)


def test_a_list_that_has_gone_stale_is_told() -> None:
    mutant = catalogue.MUTANTS[0]
    for source in ("", 2 * mutant.old):
        with pytest.raises(StaleMutantError, match=f"{mutant.name}: what it replaces"):
            mutant.apply(source)
    assert mutant.apply(f"a {mutant.old} b") == f"a {mutant.new} b"


def test_a_table_that_differs_is_told(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    document = tmp_path / table.DOCUMENT
    document.write_text("no markers")
    with pytest.raises(table.TableError, match="markers"):
        table.check(tmp_path, catalogue.MUTANTS)
    first, second, third = catalogue.MUTANTS[:3]
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nbehind\n")
    outcomes = [Outcome(second, "failed", "", 0, "", "no seed"), Outcome(first, "failed", "", 17, "failed", "")]
    table.write(tmp_path, outcomes, seeds=200)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nbehind\n")
    assert re.search(rf"^\| {first.name} \| .* \| 17 \|$", text, re.MULTILINE)
    assert re.search(rf"^\| {second.name} \| .* \| none of 200 \|$", text, re.MULTILINE)
    table.check(tmp_path, (first, second))
    with pytest.raises(table.TableError, match="does not have the row"):
        table.check(tmp_path, (first, second, third))
    with pytest.raises(table.TableError, match="not in the list"):
        table.check(tmp_path, (first,))
    with pytest.raises(table.TableError, match="another order"):
        table.check(tmp_path, (second, first))


@pytest.mark.slow
@pytest.mark.simulation
def test_one_of_each_group_is_killed_by_its_test() -> None:
    sample = catalogue.chosen(",".join(SAMPLE))
    assert {group for mutant in sample for group in mutant.groups} >= {group.name for group in GROUPS}
    outcomes = run(sample)
    assert [outcome.line() for outcome in outcomes] == [f"{one.name} killed by {one.test}" for one in sample]


@pytest.mark.slow
@pytest.mark.simulation
def test_a_survivor_is_told_and_so_is_a_failure_that_proves_nothing() -> None:
    known = catalogue.MUTANTS[0]
    harmless = replace(known, new=f"{known.old}  # Nothing else.")
    unimportable = replace(known, path="raft/node.py", old="class RaftNode:", new="class RaftNode(Nobody):")
    elsewhere = replace(
        known, path="storage/merges/compaction.py", old="import annotations\n", new="import annotations\n\n"
    )
    lines = [outcome.line() for outcome in run((harmless, unimportable, elsewhere), seeds=1)]
    assert lines[0] == f"M01 SURVIVED: {known.test} passes; no seed of 1..1 failed"
    assert re.fullmatch(rf"M01 SURVIVED: {known.test} tells nothing: .*; the seeds ended after 0", lines[1])
    assert lines[2].startswith(f"M01 SURVIVED: {known.test} does not pass without the mutant: it never imported")


@pytest.mark.simulation
@pytest.mark.slow
def test_the_command_prints_what_killed_a_mutant() -> None:
    done = subprocess.run([*COMMAND, "--only", "M07"], check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    test = catalogue.chosen("M07")[0].test
    assert re.match(rf"M07 killed by {test}, seed \d+\n", done.stdout)
    unknown = subprocess.run([*COMMAND, "--only", "M999"], check=False, capture_output=True, text=True, timeout=60)
    assert unknown.returncode == 2 and "no mutant M999" in unknown.stderr


@pytest.mark.simulation
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc to look for processes in")
def test_ctrl_c_leaves_no_process_and_no_copy(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([*COMMAND, "--only", "M01,M02"], env=environment)
    deadline = time.monotonic() + 60
    while not (children(tmp_path) and len(list(tmp_path.glob("doug-mutant-*"))) == 3):
        assert time.monotonic() < deadline, "no child runs, or a copy is missing"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert list(tmp_path.iterdir()) == []
    assert children(tmp_path) == []


def children(copies: Path) -> list[str]:
    """The processes that have a copy in this directory in front of everything else that they import."""
    wanted = f"PYTHONPATH={copies}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes():
                found.append(path.parent.name)
    return found
