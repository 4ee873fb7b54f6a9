"""What a shard decided, as a problem."""

from __future__ import annotations

from doug_wire.pipe import ResultRecord, Status
from facade.routes.results import problem_of


def test_the_operation_that_undid_a_transaction_is_named() -> None:
    problem = problem_of(ResultRecord(0, Status.PRECONDITION_FAILED, 7, b"", b"3"), 1)
    assert problem is not None and problem.members == {"current_revision": "7", "operation": 3}
    alone = problem_of(ResultRecord(0, Status.PRECONDITION_FAILED, 0, b"", b""), 1)
    assert alone is not None and alone.members == {"current_revision": None}
