"""The kinds of operations and the modes of reads, each as one table that routes, links and metrics go by.

A new kind or mode is a row here. Must not know HTTP beyond the names that clients use, and no node.

Source: docs/api.md, Consistency.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """The kinds of operations, each with windows of its own. The values are those of doug.v1.BatchKind."""

    WRITE = 1
    READ_LINEARIZABLE = 2
    READ_LOCAL = 3
    READ_FRESH = 4
    """A read that any replica may serve which has applied, or can prove, what the read's record demands."""


KIND_LABELS = {
    Kind.WRITE: "write",
    Kind.READ_LINEARIZABLE: "read_linearizable",
    Kind.READ_LOCAL: "read_local",
    Kind.READ_FRESH: "read_fresh",
}
"""The names of the kinds in metrics."""

LEADER_KINDS = (Kind.READ_LINEARIZABLE, Kind.WRITE)
"""The kinds that go to a shard's leader, in the order in which they are sent."""

REPLICA_KINDS = (Kind.READ_FRESH, Kind.READ_LOCAL)
"""The kinds that any replica may serve, in the order in which they are sent."""


READ_KINDS = (*REPLICA_KINDS, Kind.READ_LINEARIZABLE)


class ReadMode(NamedTuple):
    """A consistency that a client may ask for, and the way in which such reads travel.

    Attributes:
        name: The mode's name, for clients and as a label of metrics.
        kind: The kind of operation that a read of this mode becomes.
        headers: The response headers that name this mode and what it promises by itself.
    """

    name: str
    kind: Kind
    headers: tuple[tuple[bytes, bytes], ...]


def _mode(name: str, kind: Kind, *more: tuple[bytes, bytes]) -> ReadMode:
    return ReadMode(name, kind, ((b"doug-consistency-used", name.encode()), *more))


LINEARIZABLE = _mode("linearizable", Kind.READ_LINEARIZABLE, (b"doug-staleness-ms", b"0"))
"""A linearizable read sees all that was acknowledged before it began, so its staleness is 0."""
SESSION = _mode("session", Kind.READ_FRESH)
BOUNDED = _mode("bounded", Kind.READ_FRESH)
EVENTUAL = _mode("eventual", Kind.READ_LOCAL)

READ_MODES = {mode.name.encode(): mode for mode in (LINEARIZABLE, SESSION, BOUNDED, EVENTUAL)}


class Freshness(NamedTuple):
    """The freshness that one read asks for.

    Attributes:
        mode: The consistency.
        bound_ms: How old the answer to a bounded read may be; 0 in the other modes.
    """

    mode: ReadMode = LINEARIZABLE
    bound_ms: int = 0
