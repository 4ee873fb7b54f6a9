"""Which stored values exist for whoever reads: the one answer for reads, scans, apply and whatever comes later.

A value is visible if and only if it was written at the present epoch of its slot, and its expiry, if it has one, is
later than the log clock. Both depend on applied entries alone, never on a clock of the node or on what a compaction has
removed so far, so that all replicas answer the same as of the same entry. This module reads nothing itself.
"""

from __future__ import annotations

from typing import NamedTuple

from raft_node.kv.keyspace import USER_PREFIX, StoredValue, decode_value
from raft_node.kv.ownership import Ownership


class Visibility(NamedTuple):
    """What can be seen as of one applied entry.

    Attributes:
        clock_us: The log clock, in microseconds since the epoch.
        ownership: The slots of the shard.
    """

    clock_us: int
    ownership: Ownership

    def sees(self, key: bytes, stored: StoredValue) -> bool:
        """Whether the value of a user's key is visible."""
        # Written out: every read asks.
        expires_us = stored.expires_us
        return (not expires_us or expires_us > self.clock_us) and self.ownership.is_present(key, stored.epoch)

    def find(self, key: bytes, data: bytes | None) -> StoredValue | None:
        """The visible value of a user's key, from what the store has under it.

        Raises:
            CorruptionError: It is of no known format.
        """
        if data is None:
            return None
        stored = decode_value(data)
        return stored if self.sees(key, stored) else None

    def find_record(self, record: tuple[bytes, bytes]) -> StoredValue | None:
        """The same for a record of a scan over the keyspace, whose key has its prefix.

        Raises:
            CorruptionError: It is of no known format.
        """
        key, data = record
        return self.find(key[len(USER_PREFIX) :], data)
