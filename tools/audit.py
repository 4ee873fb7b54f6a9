"""Asks pip-audit whether a package in uv.lock has a known vulnerability: ``make audit``.

Exit code 0: all packages were checked, and none has one. 1: some have, and are printed. 3: some or all were not
checked: the data are those of PyPI's JSON API, which a mirror of packages may not have.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UV = ROOT / ".venv" / ".uv" / "bin" / "uv"
AUDIT = "pip-audit>=2.9,<3"
SERVICE = "https://pypi.org/pypi/pip/json"
TIMEOUT_S = 10
FOUND, NOT_CHECKED = 1, 3


class AuditError(Exception):
    """pip-audit failed; the message has the end of its output."""


def reachable(url: str = SERVICE) -> str:
    """The reason why the data cannot be reached; empty if they can."""
    try:
        # The URL is the constant above, with https.
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # nosec B310
            if b'"vulnerabilities"' not in answer.read():
                return "the answer says nothing of vulnerabilities"
    except OSError as error:
        return str(getattr(error, "reason", error))
    return ""


def audit() -> dict[str, Any]:
    """The report of pip-audit on all locked packages.

    Raises:
        AuditError: There is no report.
    """
    with tempfile.TemporaryDirectory() as folder:
        locked, found = Path(folder) / "requirements.txt", Path(folder) / "found.json"
        words = ("--frozen", "--quiet", "--all-packages", "--all-extras", "--no-emit-workspace", "--output-file")
        subprocess.run([str(UV), "export", *words, str(locked)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        command = [str(UV), "tool", "run", "--from", AUDIT, "pip-audit", "--require-hashes", "--disable-pip"]
        command += [
            "--requirement",
            str(locked),
            "--format",
            "json",
            "--output",
            str(found),
            "--progress-spinner",
            "off",
        ]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not found.exists():
            raise AuditError(run.stderr[-2000:].strip())
        document: dict[str, Any] = json.loads(found.read_text())
        return document


def judge(document: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit code for a report, and the lines to print."""
    lines, skipped = [], []
    for each in document["dependencies"]:
        if "skip_reason" in each:
            skipped.append(each["name"])
        for known in each.get("vulns", ()):
            fixed = ", ".join(known["fix_versions"]) or "nowhere"
            lines.append(f"{each['name']} {each['version']}: {known['id']}, mended in {fixed}")
    count = len(document["dependencies"])
    if skipped or not count:
        lines.append(f"audit: NOT CHECKED: {len(skipped)} of {count} packages, {', '.join(skipped[:5])}, ...")
    code = FOUND if len(lines) > bool(skipped or not count) else NOT_CHECKED if skipped or not count else 0
    return code, lines or [f"{count} packages, and no known vulnerability"]


def main(ask: Callable[[], str] = reachable, run: Callable[[], dict[str, Any]] = audit) -> int:
    """Runs the command."""
    problem = ask()
    if problem:
        print(f"audit: NOT CHECKED: {SERVICE} is not reached ({problem})", file=sys.stderr)
        return NOT_CHECKED
    try:
        code, lines = judge(run())
    except AuditError as error:
        print(f"audit: NOT CHECKED: {error}", file=sys.stderr)
        return NOT_CHECKED
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
