"""Merging sorted runs of records, many records at a time.

A record is a key and its value, None for a tombstone. A source yields pieces: columns of some records that follow each
other in key order. The keys within a piece always ascend; when the order asked for is descending, the piece with the
last keys comes first. Sources are given newest first: the first one that has a key decides. One step merges what every
source has at hand, so that the interpreter's work is per piece and the work per record is native. This module knows
neither tables nor memtables.

Invariant: one piece per source is in memory, and what one step has merged of them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress
from typing import NamedTuple

Record = tuple[bytes, bytes | None]


class Columns(NamedTuple):
    """Some records by column; at least one.

    Attributes:
        keys: The keys of the records, strictly ascending.
        values: Their values, None for a tombstone.
        tombstones: Whether there may be tombstones.
    """

    keys: Sequence[bytes]
    values: Sequence[bytes | None]
    tombstones: bool

    def part(self, first: int, last: int) -> Columns:
        """The records at the positions from ``first`` to before ``last``."""
        if first == 0 and last == len(self.keys):
            return self
        return Columns(self.keys[first:last], self.values[first:last], self.tombstones)

    def where(self, wanted: Sequence[bool]) -> Columns:
        """The records that are wanted, perhaps none."""
        return Columns(list(compress(self.keys, wanted)), list(compress(self.values, wanted)), self.tombstones)


def merge(sources: Sequence[Iterable[Columns]], *, reverse: bool = False) -> Iterator[Columns]:
    """The newest record of each key, in key order, tombstones included.

    Args:
        sources: The sources of records, newest first, each in the order asked for.
        reverse: Whether the order is descending.
    """
    if len(sources) == 1:
        yield from sources[0]
        return
    rest = [iter(source) for source in sources]
    heads = [Columns((), (), False)] * len(rest)
    while True:
        for place in reversed(range(len(rest))):
            if not heads[place].keys:
                # The records of a source are used up: it gives more, or is removed.
                head = next(rest[place], None)
                if head is None:
                    del rest[place], heads[place]
                else:
                    heads[place] = head
        if not heads:
            return
        yield _step_back(heads) if reverse else _step(heads)


def live(pieces: Iterable[Columns], *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
    """The records of the pieces one by one, without the tombstones."""
    return chain.from_iterable(_live(pieces, reverse))


def records(pieces: Iterable[Columns], *, reverse: bool = False) -> Iterator[Record]:
    """The records of the pieces one by one, tombstones included."""
    for piece in pieces:
        yield from _zip(piece, reverse)


def _live(pieces: Iterable[Columns], reverse: bool) -> Iterator[Iterable[tuple[bytes, bytes]]]:
    for piece in pieces:
        kept = piece.where([value is not None for value in piece.values]) if piece.tombstones else piece
        yield _zip(kept, reverse)  # type: ignore[misc]  # None was left out.


def _zip(piece: Columns, reverse: bool) -> Iterable[Record]:
    if reverse:
        return zip(reversed(piece.keys), reversed(piece.values), strict=True)
    return zip(piece.keys, piece.values, strict=True)


def _step(heads: list[Columns]) -> Columns:
    """Takes all records out of the heads behind which no source can have an earlier one."""
    bound = min([head.keys[-1] for head in heads])
    parts = []
    for place, head in enumerate(heads):
        count = len(head.keys)
        last = count if head.keys[-1] == bound else bisect_right(head.keys, bound)
        if last:
            parts.append(head.part(0, last))
            heads[place] = head.part(last, count)
    return _newest(parts)


def _step_back(heads: list[Columns]) -> Columns:
    """Like ``_step``, for the descending order."""
    bound = max([head.keys[0] for head in heads])
    parts = []
    for place, head in enumerate(heads):
        count = len(head.keys)
        first = bisect_left(head.keys, bound)
        if first < count:
            parts.append(head.part(first, count))
            heads[place] = head.part(0, first)
    return _newest(parts)


def _newest(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    found: dict[bytes, bytes | None] = {}
    for keys, values, _ in reversed(parts):
        found.update(zip(keys, values, strict=True))
    # The dict consists of a few sorted runs, which Python sorts quickly.
    keys = sorted(found)
    return Columns(keys, list(map(found.__getitem__, keys)), any(part.tombstones for part in parts))
