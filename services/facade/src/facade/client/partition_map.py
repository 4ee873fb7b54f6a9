"""The partition map as the facade caches it: slot -> (shard, epoch).

The facade is never the authority: a shard that answers WRONG_SHARD makes it ask again (DESIGN 9). Must not know where
the map comes from. Invariant: a map names every slot exactly once, or it is not built.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from doug_wire.slots import SLOTS, slot_of


class PartitionMapError(ValueError):
    """The ranges do not name every slot exactly once."""


class SlotRange(NamedTuple):
    """Adjacent slots of one shard at one epoch, both ends included."""

    first: int
    last: int
    shard: int
    epoch: int


class PartitionMap:
    """Slot -> (shard, epoch).

    Attributes:
        epoch: The map's own epoch; a larger one is newer.
        ranges: What it was built from, in slot order.
    """

    __slots__ = ("_owners", "epoch", "ranges")

    def __init__(self, epoch: int, ranges: Iterable[SlotRange]) -> None:
        """Builds a map.

        Raises:
            PartitionMapError: The ranges do not name every slot exactly once.
        """
        self.epoch = epoch
        self.ranges = sorted(ranges)
        owners: list[tuple[int, int]] = []
        for first, last, shard, slot_epoch in self.ranges:
            if first != len(owners) or not first <= last < SLOTS:
                raise PartitionMapError(f"slots {first}-{last} do not follow slot {len(owners) - 1}")
            owners.extend([(shard, slot_epoch)] * (last - first + 1))
        if len(owners) != SLOTS:
            raise PartitionMapError(f"the map ends at slot {len(owners) - 1}")
        self._owners = owners

    def owner(self, key: bytes) -> tuple[int, int]:
        """The shard of a key, and the epoch of its slot."""
        return self._owners[slot_of(key)]
