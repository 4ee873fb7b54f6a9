"""How much of the log is kept: a pure function of a few figures.

The log serves two ends: to bring this node's own state up to date after a restart, and to bring followers up to date
without a snapshot. The first needs what is not flushed, always; the second is worth a bounded number of bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class LogFigures(NamedTuple):
    """The figures by which the beginning of the log is chosen.

    Attributes:
        flushed_index: The last entry that is durable in SSTables and manifest.
        keep_from: The first of the entries that are kept in any case.
        bound_from: The first of the entries that may be kept at most.
        slowest_match: The last entry that the slowest healthy follower is known to hold; None without one.
        snapshots: The last entries of the snapshots that are held for followers.
    """

    flushed_index: int
    keep_from: int
    bound_from: int
    slowest_match: int | None = None
    snapshots: Sequence[int] = ()


def first_index_to_keep(figures: LogFigures) -> int:
    """The index of the entry with which the log may begin.

    What a start replays is never dropped, whatever it takes. Above that, ``keep_from`` is where the log would be cut; a
    slow but healthy follower, and whoever is being sent a snapshot, hold that back as far as ``bound_from``.
    """
    wanted = figures.keep_from
    if figures.slowest_match is not None:
        wanted = min(wanted, figures.slowest_match + 1)
    for index in figures.snapshots:
        wanted = min(wanted, index + 1)
    return min(max(wanted, figures.bound_from), figures.flushed_index + 1)
