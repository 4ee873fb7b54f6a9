"""Merging sorted runs of records.

A record is a key and its value, None for a tombstone. A source yields records in key order, each key once. Sources are
given newest first: the first one that has a key decides. This module knows neither tables nor memtables.

Invariant: one record per source is in memory, beyond what the sources hold themselves.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

Record = tuple[bytes, bytes | None]


def merge(sources: Sequence[Iterable[Record]], *, reverse: bool = False) -> Iterator[Record]:
    """The newest record of each key, in key order, tombstones included.

    Args:
        sources: Newest first, each in the order asked for.
        reverse: Whether the order is descending.
    """
    if len(sources) == 1:
        yield from sources[0]
        return
    # Equal keys must come newest first: the age takes part in the order, turned round when the order is.
    ranked = [_ranked(source, -age if reverse else age) for age, source in enumerate(sources)]
    previous: bytes | None = None
    for key, _, value in heapq.merge(*ranked, reverse=reverse):
        if key != previous:
            previous = key
            yield key, value


def live(records: Iterable[Record]) -> Iterator[tuple[bytes, bytes]]:
    """The records without the tombstones."""
    for key, value in records:
        if value is not None:
            yield key, value


def _ranked(source: Iterable[Record], rank: int) -> Iterator[tuple[bytes, int, bytes | None]]:
    return ((key, rank, value) for key, value in source)
