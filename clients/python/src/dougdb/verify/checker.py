"""Judges whole histories, object by object, by two algorithms that must agree, and shortens a bad one.

Keys are independent except in transactions: keys that some transaction names together are one object. Must not know
where a history comes from. Invariant: a history is called good only if both algorithms say so of each of its objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

from dougdb.verify.frontier import TooManyError, broken_at
from dougdb.verify.history import Cas, Get, Outcome, Put, Recorded, Txn, keys_of, reads_only
from dougdb.verify.search import is_linearizable


class DisagreementError(Exception):
    """The two algorithms judge a history differently, so one of them has a defect."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check.

    Attributes:
        checked: How many requests were checked.
        objects: How many objects these requests named.
        failing: The history of the first object that no order explains; empty if there is none.
        undecided: The keys of objects that could not be judged, because too much of them is unknown.
    """

    checked: int
    objects: int
    failing: tuple[Recorded, ...] = ()
    undecided: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether some order explains every object."""
        return not self.failing and not self.undecided


def objects_of(history: Iterable[Recorded]) -> list[list[Recorded]]:
    """The history, object by object."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents[key] != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    records = list(history)
    for each in records:
        first, *others = keys_of(each.request)
        parents.setdefault(first, first)
        for other in others:
            parents.setdefault(other, other)
            parents[root(other)] = root(first)
    found: dict[str, list[Recorded]] = {}
    for each in records:
        found.setdefault(root(keys_of(each.request)[0]), []).append(each)
    return list(found.values())


def check(history: Iterable[Recorded], progress: Callable[[int], None] | None = None) -> Verdict:
    """Judges a history.

    Args:
        history: The requests, in any order.
        progress: Called after each object with the number of requests checked so far.

    Raises:
        DisagreementError: The algorithms judge an object differently.
    """
    objects = objects_of(history)
    checked, undecided = 0, []
    for records in objects:
        try:
            good = _judge(records)
        except TooManyError:
            undecided.append(keys_of(records[0].request)[0])
            good = True
        checked += len(records)
        if progress is not None:
            progress(checked)
        if not good:
            return Verdict(checked, len(objects), tuple(records), tuple(undecided))
    return Verdict(checked, len(objects), (), tuple(undecided))


def _judge(records: Sequence[Recorded]) -> bool:
    good = broken_at(records) is None
    if is_linearizable(records) is not good:
        raise DisagreementError(f"the two checkers disagree on the history of {keys_of(records[0].request)[0]}")
    return good


def smallest(failing: Sequence[Recorded]) -> tuple[Recorded, ...]:
    """A shorter history of one object that no order explains, made of a longer one by leaving requests out.

    The shorter one is bad for the same kind of reason: a write is left out only if no answer depends on it, so that no
    answer is made unexplained by leaving it out.
    """
    records = _cut_off(sorted(failing, key=lambda each: each.began))
    size = max(1, len(records) // 2)
    while size:
        place, before = 0, len(records)
        while place < len(records):
            rest = records[:place] + records[place + size :]
            gone = records[place : place + size]
            if rest and all(_may_go(each, rest) for each in gone) and broken_at(rest) is not None:
                records = rest
            else:
                place += size
        # A request that another one needed may be left out after that one; the last round leaves nothing out.
        size = size // 2 if size > 1 or len(records) == before else 1
    return tuple(records)


def _cut_off(records: list[Recorded]) -> list[Recorded]:
    """The history up to the first impossible answer; later answers are dropped from it, if it stays bad."""
    place = broken_at(records)
    if place is None:
        return records
    last = records[place].ended
    kept = [each for each in records if each.began <= last]
    open_ended = [each if each.ended <= last else replace(each, ended=inf, outcome=None) for each in kept]
    # Later answers may be needed all the same: they show which of two requests came first.
    return kept if broken_at(open_ended) is None else open_ended


def _may_go(gone: Recorded, rest: Sequence[Recorded]) -> bool:
    request = gone.request
    if reads_only(request) or (isinstance(request, Cas) and gone.outcome is not None and not gone.outcome.ok):
        return True
    if isinstance(request, Txn) or not isinstance(request, Put | Cas):
        return False
    told = None if gone.outcome is None else gone.outcome.revision
    for each in rest:
        if isinstance(each.request, Cas) and told is not None and each.request.revision == told:
            return False
        if isinstance(each.request, Get) and each.outcome is not None and each.outcome.value is None:
            continue
        if each.outcome is not None and _tells(each.outcome, request.value, told):
            return False
    return True


def _tells(outcome: Outcome, value: str, revision: int | None) -> bool:
    if outcome.value == value or (revision is not None and outcome.revision == revision):
        return True
    return any(_tells(each, value, revision) for each in outcome.results)
