"""A disk that fails when it is told to, and the check that an ordeal makes at every step."""

from __future__ import annotations

from raft_testing.checkers import InvariantViolationError
from raft_testing.disk import CuttableFileSystem


class BrittleFileSystem(CuttableFileSystem):
    """A disk that can be told what is to happen to it, and when."""

    @property
    def failure_waits(self) -> bool:
        """Whether the failure that was asked for has still to come."""
        return bool(self._fail_name)

    def put_off(self) -> tuple[int, str]:
        """Takes back what was to happen; ``bring_on`` has it happen later."""
        coming = self.cut_at, self._fail_name
        self.cut_at, self._fail_name = 0, ""
        return coming

    def bring_on(self, coming: tuple[int, str]) -> None:
        """What was put off may happen from the next operation on."""
        self.cut_at, self._fail_name = coming


def require(condition: bool, invariant: str, what: str) -> None:
    """Raises ``InvariantViolationError`` unless the condition holds."""
    if not condition:
        raise InvariantViolationError(invariant, what)
