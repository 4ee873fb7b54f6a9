"""What a history consists of: requests with the times at which they began and were answered, and the answers.

Must not know HTTP, nor what the store promises. Times are any numbers of one clock; an answer that never came has the
time infinity, and a request of which nobody knows what became of it has no outcome.
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
    """Deletes a key; a missing one is fine."""

    key: str


@dataclass(frozen=True, slots=True)
class Cas:
    """Sets a key if it has a revision; ``ABSENT``: if it does not exist."""

    key: str
    revision: int
    value: str


@dataclass(frozen=True, slots=True)
class Increment:
    """Adds to a number; a missing key counts as 0."""

    key: str
    by: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Whether a key has a value; None: whether it does not exist."""

    key: str
    value: str | None


Single: TypeAlias = Get | Put | Delete | Cas | Increment


@dataclass(frozen=True, slots=True)
class Txn:
    """One of two lists of operations at one moment, by comparisons."""

    compares: tuple[Compare, ...]
    success: tuple[Single, ...]
    failure: tuple[Single, ...] = ()


Request: TypeAlias = Single | Txn


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer.

    Attributes:
        ok: Whether a condition held; True for what has none. Of a transaction: whether its comparisons held.
        value: Of a read the value, None when there is no such key; of an increment the number.
        revision: The revision of the write or of the value that was read; None where the answer names none. Of a
            condition that did not hold: what the key had.
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
        process: The number of the client that asked, which asks one thing at a time.
        request: The request.
        began: When.
        ended: When the answer came; infinity when none did.
        outcome: The answer; None when it is not known what became of it.
    """

    process: int
    request: Request
    began: float
    ended: float = inf
    outcome: Outcome | None = None


def keys_of(request: Request) -> tuple[str, ...]:
    """The keys that a request is about."""
    if not isinstance(request, Txn):
        return (request.key,)
    parts = (*request.compares, *request.success, *request.failure)
    return tuple(dict.fromkeys(part.key for part in parts))


def reads_only(request: Request) -> bool:
    """Whether a request changes nothing whatever becomes of it."""
    if isinstance(request, Txn):
        return all(isinstance(part, Get) for part in (*request.success, *request.failure))
    return isinstance(request, Get)


def changes_nothing(record: Recorded) -> bool:
    """Whether a request was answered and changed nothing wherever it came: it read, or its condition did not hold."""
    request, outcome = record.request, record.outcome
    return outcome is not None and (isinstance(request, Get) or (isinstance(request, Cas) and not outcome.ok))
