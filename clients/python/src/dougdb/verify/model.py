"""The model of the store: the states that a request may make of a state, one request at a time.

A state is the keys of one object, each with its value and its revision. A revision that no answer has told is None,
or minus the least value that it can have: a write after revision 7 has -8.
A step that the state forbids has no successor; one with an unknown outcome may have several. The revision of a key
that exists only grows. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from dougdb.verify.history import ABSENT, Cas, Delete, Get, Increment, Outcome, Put, Request, Single, Txn

Entry: TypeAlias = tuple[str, str, int | None]
"""A key, its value, and its revision: the number; None if unknown; minus the least possible one (see the module)."""

State: TypeAlias = tuple[Entry, ...]
"""The keys that exist, sorted."""

EMPTY: State = ()


def _find(state: State, key: str) -> Entry | None:
    for entry in state:
        if entry[0] == key:
            return entry
    return None


def _with(state: State, key: str, value: str, revision: int | None) -> State:
    if len(state) <= 1 and (not state or state[0][0] == key):
        return ((key, value, revision),)
    return tuple(sorted((*(entry for entry in state if entry[0] != key), (key, value, revision))))


def _without(state: State, key: str) -> State:
    return tuple(entry for entry in state if entry[0] != key)


def steps(state: State, request: Request, outcome: Outcome | None) -> Iterator[State]:
    """The states that may follow a request with this outcome; none if the outcome is impossible in the state."""
    if isinstance(request, Txn):
        yield from _transact(state, request, outcome)
        return
    found = _find(state, request.key)
    if outcome is not None and outcome.ok and not isinstance(request, Get) and _goes_back(found, outcome.revision):
        return
    if isinstance(request, Get):
        yield from _read(state, found, request, outcome)
    elif isinstance(request, Put):
        yield _with(state, request.key, request.value, _later(found) if outcome is None else outcome.revision)
    elif isinstance(request, Delete):
        yield _without(state, request.key)
    elif isinstance(request, Cas):
        yield from _swap(state, found, request, outcome)
    else:
        yield from _add(state, found, request, outcome)


def _goes_back(found: Entry | None, revision: int | None) -> bool:
    """Whether a write would give a key a revision that is not greater than its present one."""
    return found is not None and found[2] is not None and revision is not None and revision <= abs(found[2])


def _later(found: Entry | None) -> int | None:
    """The revision of a write whose answer did not tell it."""
    if found is None or found[2] is None:
        return None
    return -abs(found[2]) - 1


def _read(state: State, found: Entry | None, request: Get, outcome: Outcome | None) -> Iterator[State]:
    if outcome is None:
        yield state
    elif found is None:
        if outcome.value is None:
            yield state
    elif outcome.value == found[1] and _agree(found[2], outcome.revision):
        # A read may be the first answer that tells the revision of a write whose own answer was lost.
        known = found[2] if outcome.revision is None else outcome.revision
        yield state if known == found[2] else _with(state, request.key, found[1], known)


def _agree(one: int | None, other: int | None) -> bool:
    """Whether a revision of the state, which may be unknown, can be the one that was told or asked for."""
    if one is None or other is None:
        return True
    return one == other if one >= 0 else other >= -one


def _swap(state: State, found: Entry | None, request: Cas, outcome: Outcome | None) -> Iterator[State]:
    known = ABSENT if found is None else found[2]
    if outcome is None or outcome.ok:
        exists = found is not None
        holds = not exists if request.revision == ABSENT else exists and _agree(known, request.revision)
        if holds:
            yield _with(state, request.key, request.value, _later(found) if outcome is None else outcome.revision)
    if outcome is None:
        # The condition may have failed unless the revision is known to be the one asked for.
        if known != request.revision:
            yield state
    elif not outcome.ok:
        told = outcome.revision
        if (
            request.revision in (known, told)
            or not _agree(known, told)
            or (found is None) is not (told in (ABSENT, None))
        ):
            return
        yield state


def _add(state: State, found: Entry | None, request: Increment, outcome: Outcome | None) -> Iterator[State]:
    try:
        number = (0 if found is None else int(found[1])) + request.by
    except ValueError:
        if outcome is None or not outcome.ok:
            yield state
        return
    if outcome is None:
        yield _with(state, request.key, str(number), _later(found))
    elif outcome.ok and outcome.value == str(number):
        yield _with(state, request.key, str(number), outcome.revision)


def _transact(state: State, request: Txn, outcome: Outcome | None) -> Iterator[State]:
    holds = all(
        (None if (found := _find(state, each.key)) is None else found[1]) == each.value for each in request.compares
    )
    if outcome is not None and outcome.ok is not holds:
        return
    parts: tuple[Single, ...] = request.success if holds else request.failure
    results: tuple[Outcome | None, ...] = (None,) * len(parts) if outcome is None else outcome.results
    if len(results) != len(parts):
        return
    states = [state]
    for part, result in zip(parts, results, strict=True):
        states = [after for each in states for after in steps(each, part, result)]
    yield from states
