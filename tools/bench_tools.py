"""Installs the packages of the dependency group ``bench`` into .venv, in the versions of uv.lock.

``make bench-storage`` calls it. A later call finds them there and does nothing. The normal setup removes nothing of it
before uv.lock changes, and does not need it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".venv" / ".uv" / "bin"
PACKAGES = ("matplotlib", "plyvel", "rocksdict")


def main() -> int:
    """Installs what is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return 0
    print(f"installing {', '.join(missing)}", file=sys.stderr)
    with tempfile.NamedTemporaryFile(suffix=".txt") as requirements:
        uv, python = str(TOOLS / "uv"), str(TOOLS / "python")
        export = [uv, "export", "--quiet", "--frozen", "--only-group", "bench", "-o", requirements.name]
        # pip, and not uv, for the user's configuration of pip applies: the package index may be a mirror.
        pip = [python, "-m", "pip", "--python", sys.executable, "--disable-pip-version-check", "install", "--quiet"]
        install = [*pip, "--require-hashes", "-r", requirements.name]
        for command in (export, install):
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                print("the benchmark's packages could not be installed", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
