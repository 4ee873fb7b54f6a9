"""Schemathesis over the served OpenAPI, in front of fake nodes: where everybody may do everything, and in each role.

``make fuzz-api`` does the same for longer. The seed is printed, and FUZZ_API_SEED takes another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools.api.__main__ import ROLES

pytestmark = [pytest.mark.seconds, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[4]
SEED = os.environ.get("FUZZ_API_SEED", "1")
SECONDS = "60"
"""Each finds something to send within a few of them, also on a machine that is slow."""


@pytest.mark.parametrize(
    ("role", "examples", "seconds"),
    [
        (None, 1, "120"),
        pytest.param(None, 4, SECONDS, marks=pytest.mark.slow),
        *(pytest.param(role, 1, SECONDS, marks=pytest.mark.slow) for role in ROLES),
    ],
)
def test_nothing_is_found(role: str | None, examples: int, seconds: str) -> None:
    command = [sys.executable, "-m", "tools.api", "--seed", SEED, "--seconds", seconds, "--examples", str(examples)]
    ended = subprocess.run(
        command + (["--role", role] if role else []), cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(ended.stdout)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("fault", "title", "role"),
    [
        ("code", "Undocumented problem code", ""),
        pytest.param("status", "Undocumented status code", "", marks=pytest.mark.slow),
        pytest.param("taken", "Schema-violating request accepted", "", marks=pytest.mark.slow),
        pytest.param("refused", "Allowed request refused", "", marks=pytest.mark.slow),
        ("open", "A stranger was served", "stranger"),
        ("open", "A role was served more than it names", "reader"),
    ],
)
def test_what_is_planted_is_found(fault: str, title: str, role: str) -> None:
    """The checks find something: a facade that does other things than its document says."""
    command = [sys.executable, "-m", "tools.api", "--seed", SEED, "--seconds", SECONDS, "--examples", "20"]
    command += ["--plant", fault]
    command += ["--include", {"stranger": "/v1/limits", "reader": "/v1/cluster"}.get(role, "/v1/kv/{key}")]
    command += ["--role", role] if role else []
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stdout
    assert title in ended.stdout
