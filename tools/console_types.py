"""Checks the types of the console's modules, which stand in their comments, by TypeScript. It needs npm.

``make console-types`` runs it. Only complaints about our own files count, not those about other people's modules.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "services/facade/jsconfig.json"
TYPESCRIPT = "typescript@5.9.3"
OTHERS = "static/vendor/"


def main() -> int:
    """Checks the types; the exit code is 1 if one is wrong, 0 if none is or npm is missing."""
    if shutil.which("npm") is None:
        print("console-types: there is no npm, so the types of the console are not checked", file=sys.stderr)
        return 0
    command = ["npm", "exec", "--yes", "--package", TYPESCRIPT, "--", "tsc", "--pretty", "false", "-p", PROJECT]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    wrong = [line for line in lines if OTHERS not in line]
    if done.returncode and not lines:
        print(f"console-types: TypeScript could not be run:\n{done.stderr}", file=sys.stderr)
        return 1
    print("\n".join(wrong) or "console-types: nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
