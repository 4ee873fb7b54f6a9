"""What a user meets before the code: versions, the two commands, and what git and image builds leave out."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = {
    "protos": None,
    "services/raft-node": "raft_node",
    "services/raft-node-testing": "raft_testing",
    "services/facade": "facade",
    "clients/python": "dougdb",
}
CONTAINERS = "tests/integration/kubernetes/cluster"
BROWSER = "tests/integration/browser"
PROGRAMS = {"raft-node": "raft_node", "facade": "facade", "dougctl": "dougctl"}
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def project(path: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"]
    return table


def test_ctrl_c_reaches_what_tests_start_wherever_they_are_started() -> None:
    """A background shell and nohup start programs with SIGINT ignored, which the programs hand on to their children."""
    ask = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    code = f"import conftest, subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}], check=True)"
    shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    told = [
        subprocess.run(
            [*shell, sys.executable, "-c", each], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for each in (ask, code)
    ]
    assert [answer.strip() for answer in told] == ["False", "True"]


# -- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", MEMBERS)
def test_every_member_has_the_version_of_the_workspace(member: str) -> None:
    version = project(".")["version"]
    assert project(member)["version"] == version
    package = MEMBERS[member]
    if package is not None:
        assert importlib.import_module(package).__version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.seconds
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_tells_its_version(program: str) -> None:
    command = Path(sys.executable).parent / program
    shown = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"{program} {project('.')['version']}")


@pytest.mark.seconds
@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.2, 0.3, 0.4, 0.6])
def test_ctrl_c_ends_dougctl_while_it_loads_without_a_traceback(after_s: float) -> None:
    """However early it comes once the script's first lines run; until then it is Python's."""
    code = (
        "import signal, sys, threading, os; import dougctl;"
        f"threading.Timer({after_s}, os.kill, (os.getpid(), signal.SIGINT)).start(); dougctl.main()"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, "watch", "--url", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in told.stderr
    assert told.returncode in (-signal.SIGINT, 130, 4), told.stderr


# -- the two commands -----------------------------------------------------------------------------------------------


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Calls make as a user does, also when these tests were started by make themselves."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def recipe(*words: str) -> str:
    """What make would do, without doing it."""
    run = make("-n", *words)
    assert run.returncode == 0, run.stderr
    return run.stdout


@needs_make
def test_make_run_hands_options_on() -> None:
    assert (
        recipe("run", "ARGS=--shards 3 --port 9000 --data /somewhere")
        .splitlines()[-1]
        .endswith("dougctl dev --shards 3 --port 9000 --data /somewhere")
    )
    assert recipe("run").splitlines()[-1].strip().endswith("dougctl dev")
    assert recipe("observe", "ARGS=--shards 3").splitlines()[-1].strip().endswith("tools/observe.py --shards 3")


@needs_make
def test_make_test_checks_everything_and_runs_every_test() -> None:
    plan = recipe("test")
    for word in ("ruff check", "ruff format --check", "mypy", "lint-imports", "protos.py --check", "test_tidy.py"):
        assert word in plan, word
    runs = [line for line in plan.splitlines() if "pytest" in line and "test_tidy.py" not in line]
    runs += [line for line in recipe("test-slow").splitlines() if "pytest" in line]
    (browser,) = (run for run in runs if run.endswith(f" {BROWSER}"))
    assert ' -m "slow and integration" ' in browser
    runs.remove(browser)
    chosen = [re.findall(r' -m "([^"]*)"', run) for run in runs]
    every = [
        ["not slow and (not integration or light)"],
        ["not slow and integration and not light"],
        ["slow and not integration"],
        ["slow and integration"],
    ]
    assert chosen == every, "together they leave nothing out"
    # But what needs containers or a browser, which have runs of their own.
    for run in runs:
        slow = [f"--ignore={BROWSER}"] if ' -m "slow and integration" ' in run else []
        assert re.findall(r"--(?:ignore|deselect)\S*", run) == [f"--ignore={CONTAINERS}/scenarios", *slow]
    assert f"/pytest {CONTAINERS}\n" in recipe("test-containers")
    folders = {path.parent for path in ROOT.glob("*/*/tests/*")} | {path.parent for path in ROOT.glob("*/tests/*")}
    for folder in {*folders, ROOT / "tests"}:
        for run in runs:
            assert re.search(rf"\s{re.escape(folder.relative_to(ROOT).as_posix())}(\s|$)", run), folder


@needs_make
def test_a_simulation_is_replayed_by_its_seed() -> None:
    assert recipe("simulate", "SEED=7").splitlines()[-1].endswith("-m raft_testing --seed 7")
    missing = make("simulate")
    assert missing.returncode != 0
    assert "usage: make simulate SEED=n" in missing.stderr


@needs_make
def test_a_soak_names_its_seeds() -> None:
    assert recipe("soak", "FROM=7", "SEEDS=9").splitlines()[-1].endswith("-m raft_testing.soak --from 7 --seeds 9")
    missing = make("soak", "FROM=7")
    assert missing.returncode != 0
    assert "usage: make soak FROM=n SEEDS=m" in missing.stderr


def test_ci_runs_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    said = re.sub(r"^ *begins .*\n", "", script, flags=re.MULTILINE)
    _, everybody, rest = said.partition("\nmake test\nmake test-slow\nREQUIRE_CONTAINERS=1 make test-containers\n")
    assert everybody
    # Nothing else is tested but some on native modules, and, last, a part in a real Kubernetes.
    assert re.findall(r"^.*(?:make|pytest|tools\.).*$", rest, re.MULTILINE) == [
        ".venv/bin/python -m tools.compiled || native=$?",
        '0) make test-compiled NATIVE_TESTS="protos/tests services/facade/tests/unit services/raft-node/tests/unit" ;;',
        '    .venv/bin/python -m tools.kubernetes within "$((minutes * 60 - 120 - SECONDS))" $kubernetes_part',
    ]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert re.search(r"^    make test ", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("there", "helpers", "asked"),
    [
        (True, True, None),
        (True, False, "netavark aardvark-dns"),
        (False, False, "podman runc debootstrap iptables netavark aardvark-dns"),
    ],
)
def test_ci_completes_a_podman_that_lacks_its_helpers(
    there: bool, helpers: bool, asked: str | None, tmp_path: Path
) -> None:
    """Installed without what it recommends it does not work, and all that needs it was skipped without a word."""
    script = (ROOT / ".ci" / "run").read_text()
    section = re.search(r"^missing=\(\)\nfor program in podman.*?^fi\n", script, re.MULTILINE | re.DOTALL)
    assert section is not None
    log = tmp_path / "asked"
    fakes = {"apt-get": f'[ "$1" = install ] && echo "$@" > {log}; true', "id": "echo 0"}
    fakes["find"] = 'for name; do [ "$name" != -name ] || echo there; done' if helpers else "exit 1"
    fakes |= dict.fromkeys(("podman", "runc", "debootstrap", "iptables"), "true") if there else {}
    for name, body in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    shells = {name: shutil.which(name) for name in ("bash", "sh")}
    for name, path in shells.items():
        assert path is not None
        (tmp_path / name).symlink_to(path)
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", section[0]], env={"PATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr
    told = log.read_text().split("--no-install-recommends ")[1].strip() if log.exists() else None
    assert told == asked


# -- what is left out -----------------------------------------------------------------------------------------------


def test_git_ignores_data_and_nothing_that_is_kept() -> None:
    def ignored(*paths: str) -> set[str]:
        run = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True, check=False)
        return set(run.stdout.splitlines())

    made = {"data/shard-0-0/wal/0000000001.wal", "data/run/facade.pid", ".venv/bin/python", "tests/__pycache__/x.pyc"}
    assert ignored(*made) == made
    assert ignored("services/raft-node/tests/data/golden.wal", "deploy/helm/data/x") == set()
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert ignored(*kept) == set()


def test_image_builds_leave_data_and_environment_out() -> None:
    patterns = set((ROOT / ".dockerignore").read_text().split())
    assert {".git", ".venv", "data", "**/__pycache__"} <= patterns
