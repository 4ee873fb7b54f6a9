"""``python -m raft_testing.mutants [--only M07] [--check]``: checks that the planted bugs are found."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence

from raft_testing.mutants import catalogue, table
from raft_testing.mutants.mutant import Mutant
from raft_testing.mutants.runner import Outcome, Runner, checkout

SEEDS = 200
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Plants bugs in copies of the package; each must be found by its directed test and by random seeds.

    Returns:
        0 if all were found, or the list and its table are sound; 1 if not; 2 if a named bug does not exist.
    """
    parser = argparse.ArgumentParser(prog="python -m raft_testing.mutants", description=main.__doc__)
    parser.add_argument("--only", default="", metavar="M07,M12", help="these; all, and the table, when left out")
    parser.add_argument("--check", action="store_true", help="only compare the list with the sources and the table")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many seeds may be needed; 0 for none")
    parser.add_argument("--processes", type=int, default=2, help="how many at a time")
    parsed = parser.parse_args(arguments)
    try:
        root = checkout()
        mutants = catalogue.chosen(parsed.only)
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    problems = catalogue.check(root)
    if problems:
        sys.stderr.write("\n".join(problems) + "\n")
        return 1
    try:
        if parsed.check:
            table.check(root, catalogue.MUTANTS)
            _print(f"mutants: the {len(mutants)} of the list apply, and {table.DOCUMENT} has them all")
            return 0
        outcomes = asyncio.run(_run(Runner(root, parsed.seeds, parsed.processes), mutants))
        if not parsed.only and parsed.seeds:
            table.write(root, outcomes, parsed.seeds)
    except table.TableError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _INTERRUPTED
    survivors = [outcome.mutant.name for outcome in outcomes if outcome.survived]
    if survivors:
        _print(f"{len(survivors)} of {len(outcomes)} mutants survived: {' '.join(survivors)}")
        return 1
    if len(outcomes) > 1:
        _print(f"all {len(outcomes)} mutants were killed")
    return 0


async def _run(runner: Runner, mutants: Sequence[Mutant]) -> list[Outcome]:
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await runner.run(mutants, _tell)


def _tell(outcome: Outcome) -> None:
    _print(outcome.line())
    for half, failure in (("test", outcome.test_failure), (f"seed {outcome.seed}", outcome.seed_failure)):
        if failure:
            _print(f"    {half}: {failure[:200]}")


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
