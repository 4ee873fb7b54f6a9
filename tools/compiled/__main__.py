"""``python -m tools.compiled``: makes the packages with native modules, unless they are up to date.

Prints their folder, which ``PYTHONPATH`` is to name. With ``--check`` it only tells, by its exit code, whether they are
up to date.
"""

from __future__ import annotations

import argparse
import sys
import time

from tools.compiled import building
from tools.compiled.modules import MODULES


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="compiled", description=__doc__)
    parser.add_argument("--check", action="store_true", help="build nothing; exit code 1 if they are not up to date")
    options = parser.parse_args()
    files, folder = building.sources(), building.folder_of()
    current = building.is_current(folder, building.fingerprint(files, MODULES))
    if options.check and not current:
        print(f"compiled: {folder} is not made of these sources: make compiled", file=sys.stderr)
        return 1
    if not current:
        begun = time.monotonic()
        try:
            building.build(folder, files, MODULES)
        except building.BuildError as error:
            print(f"compiled: {error}", file=sys.stderr)
            return 1
        print(f"compiled: {len(MODULES)} native modules in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
