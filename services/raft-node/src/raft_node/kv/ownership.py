"""Which slots this shard owns, and at which epoch: the one answer for whoever must know.

A shard asks it whenever it takes a request, applies a command, or looks a value up. It is a part of the replicated
state, and changes only when an entry is applied.

Invariants:
1. A slot with epoch 0 is not owned.
2. An ownership never changes; another one takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence

from doug_wire.partition_map import PartitionMapError, SlotRange, decode_ranges, encode_ranges
from doug_wire.slots import SLOTS, slot_of
from raft_node.errors import CorruptionError


class Ownership:
    """The slots of one shard.

    Attributes:
        epoch: The epoch of the partition map from which the ranges were taken.
        ranges: The owned ranges; none before the shard is created.
        epochs: By slot, the epoch at which the shard owns it; 0 for slots of others.
        everywhere: The epoch at which the shard owns every slot; 0 unless it owns all of them at one epoch.
    """

    __slots__ = ("epoch", "epochs", "everywhere", "ranges")

    def __init__(self, epoch: int, ranges: Sequence[SlotRange]) -> None:
        """Takes the ranges of one shard."""
        self.epoch = epoch
        self.ranges = tuple(ranges)
        self.epochs = [0] * SLOTS
        for first, last, _, slot_epoch in ranges:
            self.epochs[first : last + 1] = [slot_epoch] * (last + 1 - first)
        self.everywhere = self.epochs[0] if len(set(self.epochs)) == 1 else 0

    def encode(self) -> bytes:
        """The bytes of the ownership, as stored under ``SLOTS_KEY``."""
        return encode_ranges(self.epoch, self.ranges)

    @classmethod
    def decode(cls, data: bytes) -> Ownership:
        """The opposite of ``encode``.

        Raises:
            CorruptionError: The bytes are not what ``encode`` makes.
        """
        try:
            return cls(*decode_ranges(data))
        except PartitionMapError as error:
            raise CorruptionError("state", 0, str(error)) from error

    @property
    def known(self) -> bool:
        """Whether this shard knows which slots it owns."""
        return bool(self.ranges)

    def owns(self, slot: int, epoch: int) -> bool:
        """Whether a request for a slot, at the epoch that its sender knows (0: unknown), is for this shard."""
        owned = self.epochs[slot]
        return owned != 0 and epoch in (0, owned)

    def owns_key(self, key: bytes, epoch: int = 0) -> bool:
        """Whether a request for a key, at the epoch of its slot that its sender knows, is for this shard."""
        return self.owns(slot_of(key), epoch)

    def is_present(self, key: bytes, epoch: int) -> bool:
        """Whether a value that was written at an epoch of its slot belongs to the present ownership of that slot."""
        return epoch != 0 and epoch == self.epochs[slot_of(key)]


NOTHING = Ownership(0, ())
"""The ownership of a shard that is not created yet."""
