"""The kinds of operations and the modes of reads, each as one table that routes, links and metrics go by.

A new kind or mode is a row here. Must not know HTTP beyond the names that clients use, and no node.

Source: DESIGN 4 and 7.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """What windows tell apart. The values are those of doug.v1.BatchKind."""

    WRITE = 1
    READ_LINEARIZABLE = 2
    READ_LOCAL = 3


KIND_LABELS = {Kind.WRITE: "write", Kind.READ_LINEARIZABLE: "read_linearizable", Kind.READ_LOCAL: "read_local"}
"""How metrics name the kinds."""

LEADER_KINDS = (Kind.READ_LINEARIZABLE, Kind.WRITE)
"""The kinds that go to a shard's leader, in the order in which they are sent."""


class ReadMode(NamedTuple):
    """What a client may ask of a read.

    Attributes:
        name: How clients name the mode, and metrics label it.
        kind: How an operation of this mode travels.
        header: The response header that says that this mode was used.
    """

    name: str
    kind: Kind
    header: tuple[bytes, bytes]


def _mode(name: str, kind: Kind) -> ReadMode:
    return ReadMode(name, kind, (b"doug-consistency-used", name.encode()))


LINEARIZABLE = _mode("linearizable", Kind.READ_LINEARIZABLE)
EVENTUAL = _mode("eventual", Kind.READ_LOCAL)

READ_MODES = {mode.name.encode(): mode for mode in (LINEARIZABLE, EVENTUAL)}
