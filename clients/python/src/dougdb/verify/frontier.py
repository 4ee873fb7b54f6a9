"""The first of two checkers of histories: goes step by step through time, with all states that are possible.

At every answer, the answered request must have taken effect: each possible state is continued by the requests that
are under way, in any order, until the answered one is among them. If no state is left, no order explains the history.
This is the just-in-time linearization of Lowe. It needs little time and memory if few requests overlap.

Source: G. Lowe, "Testing for linearizability", Concurrency and Computation 29 (2017), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TypeAlias

from dougdb.verify.history import Recorded, changes_nothing, reads_only
from dougdb.verify.model import EMPTY, State, steps

Configuration: TypeAlias = tuple[State, frozenset[int]]
"""A state, and the places of the requests under way that have taken effect in it."""

CONFIGURATIONS_MAX = 200_000


class TooManyError(Exception):
    """There are too many possible states to decide in reasonable time."""


def broken_at(history: Sequence[Recorded]) -> int | None:
    """The position in the history of the first request whose answer no order explains; None if some order explains all.

    Args:
        history: The requests of one object.

    Raises:
        TooManyError: There are too many possible states.
    """
    events: list[tuple[float, int, int]] = []
    for place, each in enumerate(history):
        if each.outcome is None and reads_only(each.request):
            continue
        # Of events at the same time beginnings come first: the requests then overlap, which allows more orders.
        events.append((each.began, 0, place))
        if each.outcome is not None and each.ended < inf:
            events.append((each.ended, 1, place))
    events.sort()
    under_way: dict[int, Recorded] = {}
    configurations: set[Configuration] = {(EMPTY, frozenset())}
    for _, is_end, place in events:
        if not is_end:
            under_way[place] = history[place]
            continue
        configurations = _led_on(configurations, under_way, place)
        if not configurations:
            return place
        del under_way[place]
    return None


def _led_on(configurations: set[Configuration], under_way: dict[int, Recorded], place: int) -> set[Configuration]:
    """The configurations that follow once a request has taken effect; it is no longer among those under way."""
    if len(under_way) == 1:
        # No other request is under way, so there is only one order.
        record = under_way[place]
        nothing = frozenset[int]()
        return {
            (after, nothing)
            for state, taken in configurations
            for after in ((state,) if taken else steps(state, record.request, record.outcome))
        }
    reads = [(other, each) for other, each in under_way.items() if changes_nothing(each)]
    done: set[Configuration] = set()
    seen = {_with_reads(state, taken, reads) for state, taken in configurations}
    waiting = list(seen)
    while waiting:
        state, taken = waiting.pop()
        if place in taken:
            done.add((state, taken - {place}))
            continue
        for other, each in under_way.items():
            if other in taken:
                continue
            for after in steps(state, each.request, each.outcome):
                if after is state and each.outcome is None:
                    continue  # A request without an answer may never have taken effect.
                following = _with_reads(after, taken | {other}, reads)
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        if len(seen) > CONFIGURATIONS_MAX:
            raise TooManyError
    return done


def _with_reads(state: State, taken: frozenset[int], reads: Sequence[tuple[int, Recorded]]) -> Configuration:
    """The configuration after all reads that can take effect now; taking them early never excludes an order."""
    more = [
        place
        for place, each in reads
        if place not in taken and any(after is state for after in steps(state, each.request, each.outcome))
    ]
    return (state, taken.union(more)) if more else (state, taken)
