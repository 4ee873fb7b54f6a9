"""Installs the packages of a dependency group into .venv, in the versions of uv.lock: ``bench``, or the one named.

``make bench-storage``, ``make fuzz-storage`` and ``make browser-tools`` call it. A later call finds them there and does
nothing. The normal setup does not remove these packages before uv.lock changes, and does not need them. Packages
without a wheel for this Python and machine are left out by the group's own conditions; the program that needs one says
so.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".venv" / ".uv" / "bin"
GROUPS = {"bench": ("matplotlib", "plyvel", "rocksdict"), "fuzz": ("atheris",), "browser": ("playwright",)}


def main() -> int:
    """Installs what is missing."""
    group = sys.argv[1] if len(sys.argv) > 1 else "bench"
    missing = [name for name in GROUPS[group] if importlib.util.find_spec(name) is None]
    if not missing:
        return 0
    print(f"installing {', '.join(missing)}", file=sys.stderr)
    with tempfile.NamedTemporaryFile(suffix=".txt") as requirements:
        uv, python = str(TOOLS / "uv"), str(TOOLS / "python")
        export = [uv, "export", "--quiet", "--frozen", "--only-group", group, "-o", requirements.name]
        # pip and not uv, since the user's configuration of pip applies: the package index may be a mirror.
        pip = [python, "-m", "pip", "--python", sys.executable, "--disable-pip-version-check", "install", "--quiet"]
        install = [*pip, "--require-hashes", "-r", requirements.name]
        for command in (export, install):
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                print(f"the packages of the group {group} could not be installed", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
