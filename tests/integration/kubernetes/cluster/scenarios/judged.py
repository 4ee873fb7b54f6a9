"""What a load's report has to say: no request failed, and the history is linearizable."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from raft_testing.history import Operation
from raft_testing.linearizability import check_history

SHOWN = 5
"""The slowest answers are told with where their time went."""
BEFORE_S = 1.0
"""What nodes did for so long before the slowest answer was asked for, and during it, is told, too."""
AFTER_S = 0.1


def operations_of(report: Any) -> list[Operation]:
    """The history; a write that was not answered with success may still have taken effect."""
    return [
        Operation(key, kind, value, call, returned if status in (200, 404) else None, True, client)
        for client, kind, key, value, call, returned, status in report["operations"]
    ]


def failed(report: Any) -> Counter[str]:
    """Whatever was not answered as it should be, by kind and status."""
    return Counter(
        f"{kind} {status}"
        for _, kind, _, _, _, _, status in report["operations"]
        if status != 200 and (kind, status) != ("get", 404)
    )


def slow_lines(report: Any) -> list[str]:
    """The slowest answers, each with when in the load it was asked for and where its time went."""
    began_s = report["operations"][0][4]
    return [
        f"  {took_ms:.0f} ms at {call_s - began_s:.1f} s, {connect_ms:.0f} of them for a connection; {node}: {timing}"
        for call_s, took_ms, connect_ms, timing, node in report["slow"][:SHOWN]
    ]


def lines_about_the_slowest(report: Any, events: Iterable[Any], ahead_s: float) -> list[str]:
    """What nodes did just before the slowest answer and during it.

    Args:
        report: The load's.
        events: The events of all shards, as `GET /v1/shards/{id}/events` tells them.
        ahead_s: How far the wall clock is ahead of the load's; both are of one machine.
    """
    if not report["slow"]:
        return []
    call_s, took_ms = report["slow"][0][:2]
    asked_s = call_s + ahead_s
    near = [
        (one["time_us"] / 1e6 - asked_s, one)
        for one in events
        if -BEFORE_S <= one["time_us"] / 1e6 - asked_s <= took_ms / 1000 + AFTER_S
    ]
    when = datetime.datetime.fromtimestamp(asked_s, datetime.UTC).isoformat(timespec="milliseconds")
    return [
        f"  the slowest was asked for at {when}; meanwhile",
        *(
            f"    {1000 * after_s:+.0f} ms {one['node']} {one['name']} {one['details'] or ''}"
            for after_s, one in sorted(near, key=lambda pair: pair[0])
        ),
    ]


def clocks_differ_s() -> float:
    """How far the wall clock is ahead of the monotonic one."""
    return time.time() - time.monotonic()


def judge(report: Sequence[Any], figure: Callable[[str], None], what: str) -> None:
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
    for line in slow_lines(told):
        figure(line)
    assert not bad, bad
    assert not check_history(operations_of(told))
