"""What a load's report has to say: no request failed, and the history is linearizable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from integration.kubernetes.cluster.scenarios.test_restarts import failed, operations_of

from raft_testing.linearizability import check_history

SHOWN = 5
"""The slowest answers are told with where their time went."""


def judge(report: list[Any], figure: Callable[[str], None], what: str) -> None:
    """Asserts both, and tells what was seen, with the slowest answer and when in the load it came."""
    (told,) = report
    operations = told["operations"]
    began_s = operations[0][4]
    slowest = max((one for one in operations if one[5]), key=lambda one: one[5] - one[4])
    bad = failed(told)
    figure(
        f"{what}: {told['requests']} requests, {bad.total()} failed, slowest {(slowest[5] - slowest[4]) * 1000:.0f} ms "
        f"({slowest[1]}, {slowest[4] - began_s:.1f} s after the load began)"
    )
    for call_s, took_ms, connect_ms, timing, node in told["slow"][:SHOWN]:
        when = f"{took_ms:.0f} ms at {call_s - began_s:.1f} s, {connect_ms:.0f} of them for a connection"
        figure(f"  {when}; {node}: {timing}")
    assert not bad, bad
    assert not check_history(operations_of(told))
