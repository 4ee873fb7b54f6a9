"""Installs a generator of clients for the served OpenAPI into .venv/.generator, for one test.

The generator is written by others, so that it knows nothing but the document. It comes from
the package index, pinned, and apart from the environment of the code, whose lock does not list it: it wants another
version of a library than dougctl. A second call does nothing.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".venv" / ".generator"
STAMP = TOOLS / "stamp"
PROGRAM = TOOLS / "bin" / "openapi-python-client"
PACKAGES = ("openapi-python-client==0.29.1", "httpx==0.28.1", "attrs==26.1.0")
"""The generator, and the packages that its clients import."""


def main() -> int:
    """Runs the command line."""
    wanted = "\n".join((*PACKAGES, platform.python_version()))
    if STAMP.exists() and STAMP.read_text() == wanted:
        return 0
    print(f"generator-tools: installing into {TOOLS.relative_to(ROOT)}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(TOOLS)], check=True)
    python = str(TOOLS / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *PACKAGES]
    if subprocess.run(pip, check=False).returncode:
        print("the generator of clients could not be installed", file=sys.stderr)
        return 1
    STAMP.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
