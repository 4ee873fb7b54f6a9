"""The parts of a history: requests with the times at which they began and were answered, and their outcomes.

Must not know HTTP, nor the promises of the store. Times are numbers of one clock; an answer that never came has the
time infinity, and a request with an unknown outcome has the outcome None.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TypeAlias

ABSENT = 0
"""The revision of a key that does not exist."""


@dataclass(frozen=True, slots=True)
class Get:
    """Reads a key."""

    key: str


@dataclass(frozen=True, slots=True)
class Put:
    """Sets a key."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes a key, whether or not it exists."""

    key: str


@dataclass(frozen=True, slots=True)
class Cas:
    """Sets a key if it has a revision; with ``ABSENT``, if it does not exist."""

    key: str
    revision: int
    value: str


@dataclass(frozen=True, slots=True)
class Increment:
    """Adds to a number; a key that does not exist counts as 0."""

    key: str
    by: int


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison: whether a key has a value; with None, whether it does not exist."""

    key: str
    value: str | None


Single: TypeAlias = Get | Put | Delete | Cas | Increment


@dataclass(frozen=True, slots=True)
class Txn:
    """A transaction: if all comparisons hold the one list of operations, otherwise the other, at one moment."""

    compares: tuple[Compare, ...]
    success: tuple[Single, ...]
    failure: tuple[Single, ...] = ()


Request: TypeAlias = Single | Txn


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer.

    Attributes:
        ok: Whether the condition held; True without a condition. Of a transaction: whether its comparisons held.
        value: Of a read the value, None if the key does not exist; of an increment the number.
        revision: The revision of the write or of the value that was read; None if the answer names none. Of a
            condition that did not hold: the key's revision.
        results: Of a transaction, the outcomes of the operations that were carried out.
    """

    ok: bool = True
    value: str | None = None
    revision: int | None = None
    results: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request of a history.

    Attributes:
        process: The number of the client that sent it; a client sends one request at a time.
        request: The request.
        began: When it was sent.
        ended: When the answer came; infinity if none came.
        outcome: The answer; None if the outcome is unknown.
    """

    process: int
    request: Request
    began: float
    ended: float = inf
    outcome: Outcome | None = None


def keys_of(request: Request) -> tuple[str, ...]:
    """The keys that a request names."""
    if not isinstance(request, Txn):
        return (request.key,)
    parts = (*request.compares, *request.success, *request.failure)
    return tuple(dict.fromkeys(part.key for part in parts))


def reads_only(request: Request) -> bool:
    """Whether a request can change nothing."""
    if isinstance(request, Txn):
        return all(isinstance(part, Get) for part in (*request.success, *request.failure))
    return isinstance(request, Get)


def changes_nothing(record: Recorded) -> bool:
    """Whether a request was answered and changed nothing: it only read, or its condition did not hold."""
    request, outcome = record.request, record.outcome
    return outcome is not None and (isinstance(request, Get) or (isinstance(request, Cas) and not outcome.ok))
