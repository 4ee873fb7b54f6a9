"""The tools around the code: the bootstrap under old Pythons, and Ctrl-C in ``make run``."""

from __future__ import annotations

import ast
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOTSTRAP = ROOT / "tools" / "bootstrap.py"
STOPS_IN_ORDER = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (print("stopped in order", flush=True), sys.exit(0)))
print("running", flush=True)
time.sleep(60)
"""


def test_the_bootstrap_uses_no_syntax_that_an_old_python_does_not_know() -> None:
    tree = ast.parse(BOOTSTRAP.read_text(), feature_version=(3, 7))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.AsyncFunctionDef | ast.NamedExpr), ast.dump(
            node
        )
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            assert node.returns is None
            assert not [argument for argument in arguments if argument.annotation]
            assert not node.args.kwonlyargs


@pytest.mark.seconds
def test_a_python_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    for path in ("uv.lock", "pyproject.toml"):
        shutil.copy(ROOT / path, tmp_path / path)
    for path in ("protos", "services/raft-node", "services/facade", "clients/python"):
        (tmp_path / path).mkdir(parents=True)
        shutil.copy(ROOT / path / "pyproject.toml", tmp_path / path)
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 3.10\n")
    old.chmod(0o755)
    bare = tmp_path / "bare"
    bare.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\necho 3.12\n')
    bare.chmod(0o755)
    for python, message in (
        (old, "is Python 3.10"),
        (bare, "apt install python3.12-venv"),
        ("/nothing", "cannot be run"),
    ):
        run = subprocess.run(
            [sys.executable, str(tmp_path / "tools" / "bootstrap.py")],
            env={**os.environ, "PYTHON": str(python)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1
        assert message in run.stderr
        assert "Traceback" not in run.stderr
        assert not (tmp_path / ".venv").exists()


def test_windows_is_told_to_use_wsl(tmp_path: Path) -> None:
    # Before the platform changes, so that the standard library does not look for Windows' own modules.
    imports = "import runpy, shutil, subprocess, sys; "
    windows = imports + "sys.platform = 'win32'; runpy.run_path(sys.argv[1], run_name='__main__')"
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    run = subprocess.run(
        [sys.executable, "-c", windows, str(tmp_path / "tools" / "bootstrap.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "WSL2" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / ".venv").exists()


@pytest.mark.seconds
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_ctrl_c_in_make_run_ends_with_exit_0(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(STOPS_IN_ORDER)
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"run:\n\t@exec {sys.executable} {ROOT}/tools/foreground.py {sys.executable} {program}\n")
    code, output = run_in_terminal(["make", "-f", str(makefile), "run"], interrupt_after=b"running")
    assert "stopped in order" in output
    assert code == 0, output
    assert "***" not in output


def run_in_terminal(command: list[str], *, interrupt_after: bytes) -> tuple[int, str]:
    """Runs a command in a terminal of its own, types Ctrl-C after some output; returns exit code and output."""
    reader, writer = pty.openpty()
    script = (
        "import os, sys, fcntl, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen([sys.executable, "-c", script, *command], stdin=writer, stdout=writer, stderr=writer)
    os.close(writer)
    output, deadline, typed = b"", time.monotonic() + 60, False
    try:
        while time.monotonic() < deadline:
            if select.select([reader], [], [], 0.1)[0]:
                try:
                    chunk = os.read(reader, 4096)
                except OSError:
                    break
                output += chunk
            if interrupt_after in output and not typed:
                os.write(reader, b"\x03")
                typed = True
        return process.wait(60), output.decode()
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        os.close(reader)
