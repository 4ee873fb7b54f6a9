"""One planted bug: the text of a module and its replacement, and the tests that must notice it.

Pure values; ``raft_testing.mutants.runner`` applies them.

Invariants:
1. The old text occurs exactly once in the module, so that a mutant is never applied at a wrong place, nor to
   nothing once the module has changed.
2. Scenario numbers are those of the catalogue's groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Group(NamedTuple):
    """A group of scenarios that are known to break replicated systems."""

    name: str
    first: int
    last: int


GROUPS = (
    Group("elections and persistence", 1, 9),
    Group("reads", 10, 15),
    Group("client outcomes", 16, 21),
    Group("apply and snapshots", 22, 27),
    Group("membership", 28, 32),
    Group("storage", 33, 38),
)


PACKAGES = {"raft_node": "services/raft-node", "facade": "services/facade"}
"""The packages in which bugs are planted, each with its folder."""


class StaleMutantError(Exception):
    """The text that a mutant replaces does not occur exactly once: the module has changed, and the list has not."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted bug.

    Attributes:
        name: ``M`` and at least two digits; never used again for another bug.
        what: The bug in one line.
        scenarios: The scenarios to which it belongs.
        path: The module, below the package.
        old: The right text. It occurs once in the module.
        new: The wrong text that replaces it.
        test: The directed test that has to fail, as pytest names it, below the tests of the package.
        package: ``raft_node`` or ``facade``.
        by_seeds: Whether the simulator has to find it, too; it knows no facade, and not all that nodes do.
    """

    name: str
    what: str
    scenarios: tuple[int, ...]
    path: str
    old: str
    new: str
    test: str
    package: str = "raft_node"
    by_seeds: bool = True

    @property
    def source(self) -> str:
        """The module's file, below the root."""
        return f"{PACKAGES[self.package]}/src/{self.package}/{self.path}"

    @property
    def test_id(self) -> str:
        """The test as pytest names it from the root."""
        return f"{PACKAGES[self.package]}/tests/{self.test}"

    @property
    def module(self) -> str:
        """The module's dotted name."""
        return f"{self.package}.{self.path.removesuffix('.py').replace('/', '.')}"

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of its scenarios."""
        return tuple(
            group.name for group in GROUPS if any(group.first <= number <= group.last for number in self.scenarios)
        )

    def apply(self, source: str) -> str:
        """The module's text with the bug in it.

        Raises:
            StaleMutantError: The text to replace does not occur exactly once.
        """
        count = source.count(self.old)
        if count != 1:
            raise StaleMutantError(
                f"{self.name}: what it replaces is {count} times in {self.package}/{self.path}, not once"
            )
        return source.replace(self.old, self.new)
