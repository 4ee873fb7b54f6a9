"""A disk whose failures the test plans, and the check that an ordeal makes at every step."""

from __future__ import annotations

from raft_testing.checkers import InvariantViolationError
from raft_testing.disk import CuttableFileSystem


class BrittleFileSystem(CuttableFileSystem):
    """A disk with at most one planned event: a power cut, a failing operation or a kill, at a later operation."""

    @property
    def failure_waits(self) -> bool:
        """Whether the planned failure has not happened yet."""
        return bool(self._fail_name)

    def put_off(self) -> tuple[int, str]:
        """Withdraws the planned event and returns it, for ``bring_on``."""
        coming = self.cut_at, self._fail_name
        self.cut_at, self._fail_name = 0, ""
        return coming

    def bring_on(self, coming: tuple[int, str]) -> None:
        """Plans an event that ``put_off`` returned, from the next operation on."""
        self.cut_at, self._fail_name = coming


def require(condition: bool, invariant: str, what: str) -> None:
    """Raises ``InvariantViolationError`` unless the condition holds."""
    if not condition:
        raise InvariantViolationError(invariant, what)
