"""Schemathesis over the served OpenAPI, in front of fake nodes: where everybody may do everything, and in each role.

``make fuzz-api`` does the same for longer. The seed is printed, and FUZZ_API_SEED takes another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[4]
SEED = os.environ.get("FUZZ_API_SEED", "1")


@pytest.mark.parametrize(
    ("role", "seconds"), [(None, 40), ("stranger", 10), ("reader", 10), ("writer", 10), ("admin", 10)]
)
def test_nothing_is_found(role: str | None, seconds: int) -> None:
    command = [sys.executable, "-m", "tools.api", "--seed", SEED, "--seconds", str(seconds)]
    ended = subprocess.run(
        command + (["--role", role] if role else []), cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(ended.stdout)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("fault", "title"),
    [
        ("code", "Undocumented problem code"),
        ("status", "Undocumented status code"),
        ("taken", "Schema-violating request accepted"),
        ("refused", "Allowed request refused"),
        ("open", "A stranger was served"),
    ],
)
def test_what_is_planted_is_found(fault: str, title: str) -> None:
    """The checks find something: a facade that does other things than its document says."""
    command = [sys.executable, "-m", "tools.api", "--seed", SEED, "--seconds", "200", "--plant", fault]
    command += ["--include", "/v1/limits" if fault == "open" else "/v1/kv/{key}"]
    command += ["--role", "stranger"] if fault == "open" else []
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stdout
    assert title in ended.stdout
