"""All planted bugs, and the checks of the list as a whole.

A new one goes into the module of its group, with the next free number; see docs/testing.md, Planted bugs.
"""

from __future__ import annotations

from pathlib import Path

from raft_testing.mutants import (
    elections,
    freshness,
    leases,
    membership,
    operations,
    outcomes,
    ranges,
    reads,
    snapshots,
    storage,
    watches,
)
from raft_testing.mutants.mutant import GROUPS, Mutant, StaleMutantError

_GROUPS = (elections, reads, outcomes, snapshots, membership, storage, leases, operations, watches, ranges, freshness)

MUTANTS: tuple[Mutant, ...] = tuple(
    sorted((mutant for group in _GROUPS for mutant in group.MUTANTS), key=lambda mutant: int(mutant.name[1:]))
)
"""All planted bugs in the order of their numbers, which are never used again."""


def chosen(names: str) -> tuple[Mutant, ...]:
    """The planted bugs of a list such as ``M07`` or ``M07,M12``; all of them for an empty one.

    Raises:
        ValueError: No planted bug has such a name.
    """
    if not names:
        return MUTANTS
    known = {mutant.name: mutant for mutant in MUTANTS}
    wanted = [name for name in names.replace(" ", ",").split(",") if name]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"there is no mutant {', '.join(unknown)}; there are {MUTANTS[0].name} to {MUTANTS[-1].name}")
    return tuple(known[name] for name in wanted)


def check(root: Path) -> list[str]:
    """The faults of the list for a checkout, as sentences; empty if it is sound."""
    problems = []
    names = [mutant.name for mutant in MUTANTS]
    if names != [f"M{number:02d}" for number in range(1, len(names) + 1)]:
        problems.append("the names do not count from M01 on")
    for mutant in MUTANTS:
        source = (root / mutant.source).read_text()
        try:
            mutated = mutant.apply(source)
            compile(mutated, mutant.path, "exec")
        except StaleMutantError as error:
            problems.append(str(error))
            continue
        except SyntaxError as error:
            problems.append(f"{mutant.name}: what it makes of {mutant.package}/{mutant.path} is no Python: {error}")
            continue
        if mutated == source:
            problems.append(f"{mutant.name} changes nothing")
        path, *_, function = mutant.test_id.split("::")
        module = root / path
        if not module.exists() or f"def {function}(" not in module.read_text():
            problems.append(f"{mutant.name}: there is no test {mutant.test}")
    covered = {group for mutant in MUTANTS for group in mutant.groups}
    problems += [f"no mutant belongs to the group {group.name}" for group in GROUPS if group.name not in covered]
    return problems
