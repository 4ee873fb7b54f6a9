"""An exact test of histories of a register with revisions: reads, writes, and writes under the condition of a revision.

Every write that happens gives the register a new revision, which grows with the log. So the revisions tell the order of
all that was seen, and a history is linearizable if and only if, for each key,

1. no revision was given out twice, and every read saw the value that was written at its revision;
2. a write under a condition happened right behind the revision that it names: nothing lies between, which is what
   "no lost update" means;
3. a write that was refused saw another revision than the one it named;
4. whatever was called after something else had returned is at a later place in the order, or at the same if it only
   read.

A write whose outcome is unknown may have happened or not. It counts as having happened if its revision was seen, by a
read or by a condition; each such revision must have a write of its own that fits. Deletes do not fit here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Access:
    """One request and its outcome.

    Attributes:
        key: The key of the request.
        kind: Whether it wrote or read.
        call: When it was sent.
        returned: When its answer came; infinity if none came.
        outcome: ``failed`` if the condition did not hold; requests that were certainly not applied are not in a
            history.
        revision: The revision of the write, or the one that a read or a failed condition found; 0 without a value.
        value: The value that was written or read; None if there is none.
        expected: The revision that a conditional write requires; 0: the key must not exist; None: no condition.
    """

    key: Hashable
    kind: Literal["get", "put"]
    call: float
    returned: float
    outcome: Outcome
    revision: int = 0
    value: Hashable = None
    expected: int | None = None


def check_versions(accesses: Iterable[Access]) -> list[str]:
    """Tests a history; returns its faults as sentences, none if it is linearizable."""
    by_key: defaultdict[Hashable, list[Access]] = defaultdict(list)
    for access in accesses:
        by_key[access.key].append(access)
    return [f"key {key!r}: {what}" for key, members in by_key.items() for what in _check_key(members)]


def _check_key(accesses: Sequence[Access]) -> list[str]:
    problems: list[str] = []
    writes: dict[int, Access] = {}
    seen: dict[int, Hashable] = {}
    for access in accesses:
        if access.kind == "put" and access.outcome == "ok":
            if access.revision in writes:
                problems.append(f"two writes have the revision {access.revision}")
            writes[access.revision] = access
        elif access.kind == "get":
            value = seen.setdefault(access.revision, access.value)
            if value != access.value:
                problems.append(f"the revision {access.revision} was seen with {value!r} and with {access.value!r}")
        if access.outcome == "failed" and access.revision == access.expected:
            problems.append(f"a write that expected {access.expected} was refused, and met just that")
    told = {access.revision for access in accesses}
    told |= {access.expected or 0 for access in accesses if access.outcome == "ok"}
    unknown = sorted((a for a in accesses if a.kind == "put" and a.outcome == "unknown"), key=lambda each: each.call)
    before = 0
    for revision in sorted(told - {0}):
        write = writes.get(revision) or _fitting(unknown, before, seen.get(revision))
        if write is None:
            problems.append(f"nobody wrote the revision {revision}, which was seen behind {before}")
        else:
            writes[revision] = write
            if write.expected is not None and write.expected != before:
                problems.append(f"a write that expected {write.expected} happened behind {before}: an update is lost")
            if revision in seen and seen[revision] != write.value:
                problems.append(f"at {revision} was written {write.value!r} and read {seen[revision]!r}")
        before = revision
    if not problems:
        places = {id(write): 2 * revision for revision, write in writes.items()}
        problems += _check_order(accesses, places)
    return problems


def _fitting(unknown: list[Access], before: int, value: Hashable) -> Access | None:
    """Takes a write out of ``unknown`` that may have written the seen value; None if there is none."""
    for write in unknown:
        if write.expected in (None, before) and value in (None, write.value):
            unknown.remove(write)
            return write
    return None


def _check_order(accesses: Sequence[Access], places: dict[int, int]) -> list[str]:
    """The contradictions between places and times; a write is at an even place, reads behind it at an odd one."""
    placed = []
    for access in accesses:
        place = places.get(id(access))
        if place is None and access.outcome == "unknown":
            continue  # No other request has seen it, so it counts as not applied.
        returned = math.inf if access.outcome == "unknown" else access.returned
        placed.append((access.call, returned, 2 * access.revision + 1 if place is None else place))
    ends = sorted(placed, key=lambda each: each[1])
    latest, position = 0, 0
    for call, _, place in sorted(placed):
        while ends[position][1] < call:
            latest = max(latest, ends[position][2])
            position += 1
        if place < latest:
            return [f"a request of {call:g} is at revision {place // 2}, though {latest // 2} had been seen before"]
    return []
