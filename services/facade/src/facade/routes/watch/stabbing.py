"""Finds those of many ranges of keys that hold a key, without a look at each.

The ranges lie in an array in the order of their starts, which is read as a balanced tree: beside each range stands the
greatest end below it, so that a whole branch is left out when all of it ends before the key. The tree is made again
when much has come or gone since; until then what is new is looked at one by one. Must not know what the ranges are for.

Invariant: ``find`` gives what a look at every range would give.

Source: T. Cormen et al., Introduction to Algorithms, interval trees.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from doug_wire.command import KEY_BYTES_MAX

T = TypeVar("T")

NEW_MAX = 64
"""So many new ranges are looked at one by one, however few others there are."""
NEW_PART = 8
"""The tree is made again when the new ranges are more than one in so many of those in it."""
_BEHIND_ALL = b"\xff" * (KEY_BYTES_MAX + 1)


class _Range(NamedTuple, Generic[T]):
    start: bytes
    end: bytes
    item: T


class Stabbing(Generic[T]):
    """Ranges with an item each.

    Attributes:
        looks: How many ranges and branches were looked at in all.
    """

    def __init__(self) -> None:
        """Begins without ranges."""
        self._ranges: dict[T, _Range[T]] = {}
        self._tree: list[_Range[T]] = []
        self._ends: list[bytes] = []
        self._new: dict[T, _Range[T]] = {}
        self.looks = 0

    def add(self, start: bytes, end: bytes | None, item: T) -> None:
        """Adds a range from ``start`` to before ``end`` (None: no end). Requires: the item is not there."""
        self._ranges[item] = self._new[item] = _Range(start, _BEHIND_ALL if end is None else end, item)

    def remove(self, item: T) -> None:
        """Removes the range of an item."""
        del self._ranges[item]
        self._new.pop(item, None)

    def find(self, key: bytes) -> list[T]:
        """The items of the ranges that hold a key."""
        if len(self._new) > max(NEW_MAX, len(self._tree) // NEW_PART) or len(self._tree) > 2 * len(self._ranges):
            self._plant()
        self.looks += len(self._new)
        found = [item for start, end, item in self._new.values() if start <= key < end]
        tree, ends, known = self._tree, self._ends, self._ranges
        branches = [(0, len(tree))]
        while branches:
            low, high = branches.pop()
            middle = (low + high) // 2
            self.looks += 1
            if low == high or ends[middle] <= key:
                continue
            branches.append((low, middle))
            each = tree[middle]
            if each.start <= key:
                branches.append((middle + 1, high))
                if key < each.end and known.get(each.item) is each:
                    found.append(each.item)
        return found

    def _plant(self) -> None:
        """Makes the tree of all ranges."""
        self._tree = sorted(self._ranges.values(), key=lambda each: each.start)
        self._ends = [each.end for each in self._tree]
        self._new = {}
        self._grow(0, len(self._tree))

    def _grow(self, low: int, high: int) -> bytes:
        """Notes the greatest end of a branch, and of all branches of it; returns it."""
        if low == high:
            return b""
        middle = (low + high) // 2
        greatest = max(self._ends[middle], self._grow(low, middle), self._grow(middle + 1, high))
        self._ends[middle] = greatest
        return greatest
