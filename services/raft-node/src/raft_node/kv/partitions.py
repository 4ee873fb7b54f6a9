"""Who owns which slot: the shard's own table, and, in shard 0, the map of the whole cluster.

A shard checks its own table whenever it applies a command or serves a read; the map that the facade loads from shard 0
only tells where to ask. Epochs count the owners of a slot from 1 on. Invariant: a slot with epoch 0 is not owned.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from doug_wire.slots import SLOTS, initial_ranges
from raft_node.errors import CorruptionError

FIRST_EPOCH = 1

_CREATE = struct.Struct("<II")
_COUNT = struct.Struct("<QI")
_RANGE = struct.Struct("<HHIQ")


class SlotRange(NamedTuple):
    """Adjacent slots with one owner: ``first`` to ``last``, both included."""

    first: int
    last: int
    shard: int
    epoch: int


class PartitionMap(NamedTuple):
    """Slot -> shard. Invariant: ``ranges`` are sorted and cover every slot once."""

    epoch: int
    ranges: tuple[SlotRange, ...]

    def encode(self) -> bytes:
        """Its bytes (docs/formats.md, Partition map)."""
        return _COUNT.pack(self.epoch, len(self.ranges)) + b"".join(_RANGE.pack(*entry) for entry in self.ranges)

    @classmethod
    def decode(cls, data: bytes) -> PartitionMap:
        """The opposite of ``encode``, also for a part of the map.

        Raises:
            CorruptionError: There are no ranges, or they are not sorted ranges of slots.
        """
        if len(data) < _COUNT.size or len(data) != _COUNT.size + _COUNT.unpack_from(data)[1] * _RANGE.size:
            raise CorruptionError("state", 0, f"a partition map of {len(data)} bytes")
        epoch, _ = _COUNT.unpack_from(data)
        ranges = tuple(SlotRange(*fields) for fields in _RANGE.iter_unpack(data[_COUNT.size :]))
        bounds = [-1, *(bound for entry in ranges for bound in (entry.first, entry.last)), SLOTS]
        rises = all(below < first for below, first in zip(bounds[::2], bounds[1::2], strict=True))
        if not ranges or not rises or any(entry.first > entry.last for entry in ranges):
            raise CorruptionError("state", 0, "the ranges of a partition map are not sorted ranges of slots")
        return cls(epoch, ranges)


def initial_map(shards: int) -> PartitionMap:
    """The map of a new cluster: even ranges, all at the first epoch."""
    ranges = (SlotRange(first, last, shard, FIRST_EPOCH) for first, last, shard in initial_ranges(shards))
    return PartitionMap(FIRST_EPOCH, tuple(ranges))


def owned_epochs(ranges: Sequence[SlotRange], shard: int) -> list[int]:
    """The epoch of every slot that a shard owns, 0 for the others, by slot."""
    epochs = [0] * SLOTS
    for entry in ranges:
        if entry.shard == shard:
            epochs[entry.first : entry.last + 1] = [entry.epoch] * (entry.last + 1 - entry.first)
    return epochs


def slot_ranges(epochs: Sequence[int]) -> list[tuple[int, int, int]]:
    """``(first, last, epoch)`` of adjacent slots that are owned at one epoch: the opposite of ``owned_epochs``."""
    ranges: list[tuple[int, int, int]] = []
    for slot, epoch in enumerate(epochs):
        if not epoch:
            continue
        if ranges and ranges[-1][1:] == (slot - 1, epoch):
            ranges[-1] = (ranges[-1][0], slot, epoch)
        else:
            ranges.append((slot, slot, epoch))
    return ranges


def encode_create_shard(shard: int, shards: int) -> bytes:
    """The value of a CREATE_SHARD command: this shard's number, and how many shards the new cluster has."""
    return _CREATE.pack(shard, shards)


def decode_create_shard(data: bytes) -> tuple[int, int]:
    """The opposite of ``encode_create_shard``: ``(shard, shards)``.

    Raises:
        ValueError: There can be no such shard.
    """
    if len(data) != _CREATE.size:
        raise ValueError(f"a new shard in {len(data)} bytes")
    shard, shards = _CREATE.unpack(data)
    if not shard < shards <= SLOTS:
        raise ValueError(f"shard {shard} of {shards}")
    return shard, shards
