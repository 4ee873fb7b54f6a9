"""The table of planted bugs in docs/testing.md: written by a whole run, and compared with the list by ``--check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raft_testing.mutants.mutant import Mutant
from raft_testing.mutants.runner import Outcome

DOCUMENT = "docs/testing.md"
BEGIN = "<!-- planted bugs: written by make mutants -->"
END = "<!-- planted bugs: end -->"
_HEAD = ("| | What is wrong | Scenarios | Directed test | Seed |", "| --- | --- | --- | --- | --- |")


class TableError(Exception):
    """The document has no place for the table, or another table than the list asks for."""


def write(root: Path, outcomes: Sequence[Outcome], seeds: int) -> None:
    """Writes the results of a whole run into the document.

    Raises:
        TableError: The document has no markers.
    """
    path = root / DOCUMENT
    before, _, after = _parts(path.read_text())
    rows = [
        f"{_row(outcome.mutant)} {_found(outcome, seeds)} |"
        for outcome in sorted(outcomes, key=lambda outcome: int(outcome.mutant.name[1:]))
    ]
    path.write_text(before + "\n".join((BEGIN, *_HEAD, *rows, END)) + after)


def check(root: Path, mutants: Sequence[Mutant]) -> None:
    """Compares the document's table with the list, except for the seeds that found the mutants.

    Raises:
        TableError: They differ.
    """
    _, table, _ = _parts((root / DOCUMENT).read_text())
    found = [line for line in table.splitlines() if line.startswith("| M")]
    wanted = [_row(mutant) for mutant in mutants]
    listed = [line[: line.rstrip("| ").rindex("|") + 1] for line in found]
    for row in wanted:
        if row not in listed:
            raise TableError(f"{DOCUMENT} does not have the row {row} ...; run make mutants")
    for row in listed:
        if row not in wanted:
            raise TableError(f"{DOCUMENT} has a row that is not in the list: {row} ...; run make mutants")
    if listed != wanted:
        raise TableError(f"{DOCUMENT} has rows twice, or in another order; run make mutants")


def _found(outcome: Outcome, seeds: int) -> str:
    if not outcome.mutant.by_seeds:
        return "by its test alone"
    return str(outcome.seed or f"none of {seeds}")


def _row(mutant: Mutant) -> str:
    """The row of a mutant up to its seed. Class names are left out, as in all of the document."""
    path, *_, function = mutant.test.split("::")
    scenarios = ", ".join(map(str, mutant.scenarios))
    return f"| {mutant.name} | {mutant.what} | {scenarios} | `{path}::{function}` |"


def _parts(text: str) -> tuple[str, str, str]:
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise TableError(f"{DOCUMENT} lacks the markers of the table: {BEGIN} and {END}")
    return before, table, after
