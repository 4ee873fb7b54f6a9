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
UV = ROOT / ".venv" / ".uv" / "bin" / "uv"
PACKAGES = ("matplotlib", "plyvel", "rocksdict")


def main() -> int:
    """Installs what is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return 0
    print(f"installing {', '.join(missing)}", file=sys.stderr)
    with tempfile.NamedTemporaryFile(suffix=".txt") as requirements:
        export = [str(UV), "export", "--quiet", "--frozen", "--only-group", "bench", "-o", requirements.name]
        install = [str(UV), "pip", "install", "--quiet", "--python", sys.executable, "--require-hashes"]
        for command in (export, [*install, "-r", requirements.name]):
            if subprocess.run(command, cwd=ROOT, check=False).returncode:
                print("the benchmark's packages could not be installed", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
