"""An exact test of linearizability for histories of puts and gets in O(n log n).

Keys are independent registers (linearizability is local), each absent (``None``) at first. All puts to a key write
different values, so a read names the put that it saw; the put and its reads form a *cluster*. In a linearization each
cluster is one unbroken run, the put first. Let ``f`` be the earliest return and ``s`` the latest call within a cluster.
Cluster A must come before B exactly if an operation of A returned before one of B was called: ``f(A) < s(B)``. An order
exists exactly if that relation has no cycle, and a cycle, if there is one, includes one of length two: follow the
inequalities around a longer one. So a key is linearizable if and only if

1. every value read was written (by a put that was not refused),
2. no read returned before the put of its value was called,
3. no two clusters have ``f(A) < s(B)`` and ``f(B) < s(A)``.

A cluster with ``f < s`` is a forward zone ``[f, s]``, any other a backward zone ``[s, f]``; rule 3 says that forward
zones do not overlap and no backward zone lies inside a forward one, which a sort decides.

An unknown put that nobody read may be placed behind everything and is dropped; one that was read returns at infinity.
A get without an answer says nothing. Deletes and conditional writes do not fit: their answers depend on values that
nobody may have read.
Reference: P. Gibbons and E. Korach, "Testing Shared Memories" (SIAM J. Computing, 1997).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from raft_testing.history import Operation


@dataclass(frozen=True, slots=True)
class Violation:
    """The reason why a history is not linearizable: a key, the broken rule, and the operations without an order."""

    key: Hashable
    what: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        """A short report."""
        return "\n".join([f"key {self.key!r}: {self.what}", *(f"    {operation}" for operation in self.operations)])


@dataclass(slots=True)
class _Cluster:
    """The put of a value and its reads. The absent value has no put; it counts as written at minus infinity."""

    put: Operation | None
    reads: list[Operation] = field(default_factory=list)
    first_return: float = math.inf
    last_call: float = -math.inf

    def close(self) -> None:
        if self.put is None:
            self.first_return = -math.inf
        else:
            returned = math.inf if self.put.returned is None else self.put.returned
            self.first_return = min([returned, *(_end(read) for read in self.reads)])
            self.last_call = self.put.call
        self.last_call = max([self.last_call, *(read.call for read in self.reads)])

    def witnesses(self) -> tuple[Operation, ...]:
        """The put, the operation that returned first and the one that was called last."""
        members = [*([self.put] if self.put else []), *self.reads]
        if not members:
            return ()
        chosen = [members[0], min(members, key=_end), max(members, key=lambda member: member.call)]
        return tuple(member for place, member in enumerate(chosen) if member not in chosen[:place])


def _end(operation: Operation) -> float:
    return math.inf if operation.returned is None else operation.returned


def check_history(operations: Iterable[Operation]) -> list[Violation]:
    """Tests a history of puts and gets.

    Args:
        operations: In any order; values unique per key.

    Returns:
        An empty list exactly if the history is linearizable; otherwise at least one violation for each bad key.
    """
    by_key: defaultdict[Hashable, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)
    violations: list[Violation] = []
    for key, members in by_key.items():
        violations.extend(_check_key(key, members))
    return violations


def _check_key(key: Hashable, operations: Sequence[Operation]) -> list[Violation]:
    violations: list[Violation] = []
    clusters: dict[Hashable, _Cluster] = {None: _Cluster(None)}
    refused: dict[Hashable, Operation] = {}
    for operation in operations:
        if operation.kind == "put":
            assert operation.value not in clusters, f"value written twice: {operation}"
            assert operation.value not in refused, f"value written twice: {operation}"
            if operation.ok:
                clusters[operation.value] = _Cluster(operation)
            else:
                refused[operation.value] = operation
    for read in operations:
        if read.kind != "get" or not read.ok or read.returned is None:
            continue
        cluster = clusters.get(read.value)
        if cluster is None:
            if read.value in refused:
                violations.append(Violation(key, "a refused put was read", (refused[read.value], read)))
            else:
                violations.append(Violation(key, "a value that nobody wrote was read", (read,)))
        elif cluster.put is not None and read.returned < cluster.put.call:
            violations.append(Violation(key, "a value was read before it was written", (cluster.put, read)))
        else:
            cluster.reads.append(read)
    kept = [c for c in clusters.values() if c.reads or (c.put is not None and c.put.returned is not None)]
    for cluster in kept:
        cluster.close()
    violations.extend(_check_order(key, kept))
    return violations


def _check_order(key: Hashable, clusters: Sequence[_Cluster]) -> list[Violation]:
    """Finds two clusters that would each have to come before the other; the first two say enough."""
    forward = sorted((c for c in clusters if c.first_return < c.last_call), key=lambda c: c.first_return)
    for earlier, later in pairwise(forward):
        if later.first_return < earlier.last_call:
            return [_conflict(key, earlier, later)]
    starts = [cluster.first_return for cluster in forward]
    for cluster in clusters:
        if cluster.first_return >= cluster.last_call:
            place = bisect_left(starts, cluster.last_call) - 1
            if place >= 0 and cluster.first_return < forward[place].last_call:
                return [_conflict(key, forward[place], cluster)]
    return []


def _conflict(key: Hashable, one: _Cluster, other: _Cluster) -> Violation:
    first = one.put.value if one.put else None
    second = other.put.value if other.put else None
    what = f"the values {first!r} and {second!r} cannot be ordered: each was current before and after the other"
    return Violation(key, what, one.witnesses() + other.witnesses())
