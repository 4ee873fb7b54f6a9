"""The second of two checkers of histories: searches for an order, and remembers the positions that failed.

Requests are tried in the order of their beginning; one may come next if no other remaining one was answered before
it began. A position with the same requests done and the same state is not tried again. This is the algorithm of
Wing and Gong with Lowe's memory, as in Porcupine. It shares only the model with ``dougdb.verify.frontier``, so
that each checker checks the other.

Source: J. Wing, C. Gong, "Testing and verifying concurrent objects" (1993); Lowe (2017), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from dougdb.verify.frontier import TooManyError
from dougdb.verify.history import Recorded, changes_nothing, reads_only
from dougdb.verify.model import EMPTY, State, steps

REACHED_MAX = 5_000_000


def is_linearizable(history: Sequence[Recorded]) -> bool:
    """Whether some order explains the history of one object.

    Raises:
        TooManyError: There are too many positions to try.
    """
    known = [each for each in history if each.outcome is not None or not reads_only(each.request)]
    entries = sorted(known, key=lambda each: each.began)
    ends = [inf if each.outcome is None else each.ended for each in entries]
    total = sum(1 for end in ends if end < inf)
    # A position of the search: how many of the first requests are done, which later ones, the state, how many answers.
    start = (0, frozenset[int](), EMPTY, 0)
    reached = {start[:3]}
    stack = [(start, _next(entries, ends, *start[:3]))]
    while stack:
        (_, _, _, answered), candidates = stack[-1]
        if answered == total:
            return True
        found = next(candidates, None)
        if found is None:
            stack.pop()
            continue
        place, first, ahead, state = found
        if (first, ahead, state) in reached:
            continue
        reached.add((first, ahead, state))
        if len(reached) > REACHED_MAX:
            raise TooManyError
        there = (first, ahead, state, answered + (ends[place] < inf))
        stack.append((there, _next(entries, ends, first, ahead, state)))
    return total == 0


def _next(
    entries: Sequence[Recorded], ends: Sequence[float], first: int, ahead: frozenset[int], state: State
) -> Iterator[tuple[int, int, frozenset[int], State]]:
    """The possible next steps: the position of a request in the history, and the position of the search after it.

    A read, or a condition that did not hold, can come first if it fits the state; nothing else need be tried then.
    A request with an unknown outcome is left out where it would change nothing.
    """
    earliest = inf
    place = first
    count = len(entries)
    while place < count:
        each = entries[place]
        if each.began > earliest:
            break
        if place not in ahead:
            earliest = min(earliest, ends[place])
        place += 1
    found = []
    for candidate in range(first, place):
        each = entries[candidate]
        if candidate in ahead or each.began > earliest:
            continue
        for after in steps(state, each.request, each.outcome):
            if after is not state:
                found.append((candidate, after))
            elif changes_nothing(each):
                found = [(candidate, after)]
                break
            elif each.outcome is not None:
                found.append((candidate, after))
        else:
            continue
        break
    for candidate, after in found:
        done = ahead | {candidate}
        behind = first
        while behind in done:
            done -= {behind}
            behind += 1
        yield candidate, behind, done, after
