"""Which stored values exist for whoever reads: the one answer for reads, scans, apply and whatever comes later.

A value is visible if and only if it was written at the present epoch of its slot, and its expiry, if it has one, is
later than the log clock. Both depend on applied entries alone, never on a clock of the node or on what a compaction has
removed so far, so that all replicas answer the same as of the same entry. This module reads nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from doug_wire.slots import slot_of
from raft_node.kv.keyspace import StoredValue, decode_value


class Visibility(NamedTuple):
    """The rules of which values count as of one applied entry.

    Attributes:
        clock_us: The log clock, in microseconds since the epoch.
        epochs: By slot, the epoch at which the shard owns it; 0 for the others.
    """

    clock_us: int
    epochs: Sequence[int]

    def find(self, key: bytes, data: bytes | None) -> StoredValue | None:
        """See ``find_visible``."""
        return find_visible(key, data, self.clock_us, self.epochs)


def find_visible(key: bytes, data: bytes | None, clock_us: int, epochs: Sequence[int]) -> StoredValue | None:
    """The value of a user's key, if it counts; None if it is missing, expired, or of another ownership of its slot.

    Args:
        key: The key, without the prefix of the keyspace.
        data: The stored bytes; None if there are none.
        clock_us: The log clock, in microseconds since the epoch.
        epochs: By slot, the epoch at which the shard owns it; 0 for the others.

    Raises:
        CorruptionError: The value is of no known format.
    """
    if data is None:
        return None
    stored = decode_value(data)
    if 0 < stored.expires_us <= clock_us or not stored.epoch or stored.epoch != epochs[slot_of(key)]:
        return None
    return stored
