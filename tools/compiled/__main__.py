"""``python -m tools.compiled``: makes the packages with native modules, unless they are up to date.

Prints their folder, which ``PYTHONPATH`` is to name. With ``--check`` it only tells, by its exit code, whether they are
up to date. Exit codes: 1 they cannot be made, or are not up to date; 3 this machine has no C compiler for them.
"""

from __future__ import annotations

import argparse
import sys

from tools.compiled import building
from tools.compiled.modules import MODULES

EXIT_NOT_HERE = 3


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="compiled", description=__doc__)
    parser.add_argument("--check", action="store_true", help="build nothing; exit code 1 if they are not up to date")
    parser.add_argument("--where", action="store_true", help="only tell the folder")
    options = parser.parse_args()
    folder = building.folder_of()
    if options.where:
        print(folder)
        return 0
    if options.check:
        if not building.is_current(folder, building.fingerprint(building.sources(), MODULES)):
            print(f"compiled: {folder} is not made of these sources: make compiled", file=sys.stderr)
            return 1
        print(folder)
        return 0
    try:
        print(building.make(MODULES))
    except building.BuildError as error:
        print(f"compiled: {error}", file=sys.stderr)
        return EXIT_NOT_HERE if isinstance(error, building.NotHereError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
