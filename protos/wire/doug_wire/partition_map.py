"""The partition map: slot -> (shard, epoch), for both services (docs/formats.md, Partition map).

Shard 0 keeps it in its replicated state; the facade caches it and is never the authority: a shard that answers
WRONG_SHARD makes it ask again (docs/formats.md, Partition map). Layout, little-endian::

    u64 epoch | u32 number of ranges | ranges
    range: u16 first slot | u16 last slot (included) | u32 shard | u64 epoch of the range

A shard keeps its own ranges in the same layout. This module must not know where a map comes from. Epochs count the
owners of a slot from 1 on.

Invariant: a map names every slot exactly once, or it is not built.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from doug_wire.slots import SLOTS, initial_ranges, slot_of

FIRST_EPOCH = 1

_COUNT = struct.Struct("<QI")
_RANGE = struct.Struct("<HHIQ")


class PartitionMapError(ValueError):
    """The ranges do not name every slot exactly once, or the bytes are none."""


class SlotRange(NamedTuple):
    """Adjacent slots of one shard at one epoch, both ends included."""

    first: int
    last: int
    shard: int
    epoch: int


class PartitionMap:
    """The map from every slot to its shard and epoch.

    Attributes:
        epoch: The map's own epoch; a larger one is newer.
        ranges: The ranges that it was built from, in slot order.
        shards: By slot, the shard that owns it.
    """

    __slots__ = ("_owners", "epoch", "ranges", "shards")

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
        self.shards = [shard for shard, _ in owners]

    @classmethod
    def first(cls, shards: int) -> PartitionMap:
        """The map of a new cluster: even ranges, all at the first epoch."""
        return cls(FIRST_EPOCH, (SlotRange(*each, FIRST_EPOCH) for each in initial_ranges(shards)))

    @classmethod
    def decode(cls, data: bytes) -> PartitionMap:
        """The opposite of ``encode``.

        Raises:
            PartitionMapError: The bytes are no map.
        """
        return cls(*decode_ranges(data))

    def encode(self) -> bytes:
        """The bytes of the map."""
        return encode_ranges(self.epoch, self.ranges)

    def owner(self, key: bytes) -> tuple[int, int]:
        """The shard of a key, and the epoch of its slot."""
        return self._owners[slot_of(key)]

    def owner_of_slot(self, slot: int) -> tuple[int, int]:
        """The shard of a slot, and its epoch."""
        return self._owners[slot]

    def of_shard(self, shard: int) -> list[SlotRange]:
        """The ranges of one shard."""
        return [each for each in self.ranges if each.shard == shard]


def encode_ranges(epoch: int, ranges: Sequence[SlotRange]) -> bytes:
    """The bytes of some ranges."""
    return _COUNT.pack(epoch, len(ranges)) + b"".join([_RANGE.pack(*each) for each in ranges])


def decode_ranges(data: bytes) -> tuple[int, list[SlotRange]]:
    """The opposite of ``encode_ranges``: the epoch and the ranges.

    Raises:
        PartitionMapError: There are no ranges, or they are not sorted ranges of slots.
    """
    if len(data) < _COUNT.size or len(data) != _COUNT.size + _COUNT.unpack_from(data)[1] * _RANGE.size:
        raise PartitionMapError(f"a partition map of {len(data)} bytes")
    epoch, _ = _COUNT.unpack_from(data)
    ranges = [SlotRange(*each) for each in _RANGE.iter_unpack(data[_COUNT.size :])]
    bounds = [-1, *(bound for each in ranges for bound in (each.first, each.last)), SLOTS]
    rises = all(below < first for below, first in zip(bounds[::2], bounds[1::2], strict=True))
    if not ranges or not rises or any(each.first > each.last for each in ranges):
        raise PartitionMapError("the ranges of a partition map are not sorted ranges of slots")
    return epoch, ranges
