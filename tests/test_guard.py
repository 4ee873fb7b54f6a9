"""The same fixed work by these sources and by those of ``bench/baseline``, in turn: a loss of over a tenth fails.

What is compared are ratios: messages per operation, which are the same every time, and CPU per operation, of which the
least of some runs counts, since other work of the machine only adds to it. No time is asserted. Whoever makes an
operation dearer on purpose names a newer commit in ``bench/baseline``, and says why.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("protos/gen", "protos/wire", "services/raft-node/src", "services/facade/src")
LIMIT = 1.10
ROUNDS_MAX = 12
"""So often each side is measured as long as this one seems too dear."""


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the baseline."""
    commit = (ROOT / "bench" / "baseline").read_text().strip()
    packed = subprocess.run(("git", "archive", commit, *FOLDERS), cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"git does not have {commit}: {packed.stderr.decode()[:200]}")
    folder = tmp_path_factory.mktemp("baseline")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        # Python before 3.11.4 knows no filters; the archive is git's own.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(folder)
    return folder


def measured(sources: Path, kind: str, connections: int) -> dict[str, Any]:
    """What the work takes with the sources below a folder."""
    paths = os.pathsep.join(str(sources / folder) for folder in FOLDERS)
    command = (sys.executable, str(ROOT / "tests" / "fixed_work.py"), kind, str(connections))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "0"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    assert all(Path(source).is_relative_to(sources) for source in found["sources"]), found
    return found


@pytest.mark.slow
@pytest.mark.seconds
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("connections", [1, 64])
@pytest.mark.parametrize("kind", ["put", "linearizable", "eventual"])
def test_an_operation_costs_at_most_a_tenth_more_than_it_did(baseline: Path, kind: str, connections: int) -> None:
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    ratio = 0.0
    while len(ours) < ROUNDS_MAX and (len(ours) < 2 or ratio > LIMIT):
        theirs.append(measured(baseline, kind, connections))
        ours.append(measured(ROOT, kind, connections))
        ratio = min(each["cpu_us"] for each in ours) / min(each["cpu_us"] for each in theirs)
    told = f"{kind} {connections}: {ratio:.3f} times the CPU, {ours[0]} {theirs[0]}"
    print(told)
    assert ours[0]["messages"] <= LIMIT * theirs[0]["messages"], told
    assert ratio <= LIMIT, told


@pytest.mark.seconds
def test_the_fixed_work_is_the_same_every_time() -> None:
    first, second = (measured(ROOT, "put", 1)["messages"] for _ in range(2))
    assert first == second > 1
