"""How replicated state is laid out in the one keyspace of the engine (docs/formats.md, Keyspace).

User keys have the prefix 0x01; everything that the state machine keeps for itself has the prefix 0x00.
DO NOT CHANGE: these are in every SSTable.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from raft_node.errors import CorruptionError

USER_PREFIX = b"\x01"
STATE_KEY = b"\x00state"
"""The log clock and the revision counter."""
SLOTS_KEY = b"\x00slots"
"""Which slots this shard owns, and at which epoch."""
PARTITION_MAP_KEY = b"\x00partition-map"
"""Slot -> shard for the whole cluster; in shard 0 only."""
CONFIGURATION_KEY = b"\x00configuration"
"""The members of the shard, as of the applied index."""
STATE_HASH_KEY = b"\x00state-hash"
"""Where the hash over all effects stands (raft_node.kv.state_hash); absent before the first mark."""

_STATE = struct.Struct("<QQ")
VALUE_HEADER = struct.Struct("<BBHQ")
"""What stands before the content type and the value: the format, 0, the bytes of the content type, the revision."""
VALUE_FORMAT = 1
VALUE_HEADER_BYTES = VALUE_HEADER.size


class State(NamedTuple):
    """The counters of a shard: its log time in microseconds since the epoch, and the last revision given out."""

    clock_us: int = 0
    revision: int = 0

    def encode(self) -> bytes:
        """Its bytes, as stored under ``STATE_KEY``."""
        return _STATE.pack(self.clock_us, self.revision)

    @classmethod
    def decode(cls, data: bytes) -> State:
        """The opposite of ``encode``.

        Raises:
            CorruptionError: It is not what ``encode`` makes.
        """
        if len(data) != _STATE.size:
            raise CorruptionError("state", 0, f"counters of {len(data)} bytes")
        return cls(*_STATE.unpack(data))


class StoredValue(NamedTuple):
    """A user's value as it lies in the engine."""

    revision: int
    content_type: bytes
    value: bytes


def user_key(key: bytes) -> bytes:
    """Where a user's key lies in the keyspace."""
    return USER_PREFIX + key


def decode_value(data: bytes) -> StoredValue:
    """Decodes a stored user value.

    Raises:
        CorruptionError: It is of no known format.
    """
    if len(data) < VALUE_HEADER_BYTES:
        raise CorruptionError("state", 0, f"a value of {len(data)} bytes")
    form, flags, type_bytes, revision = VALUE_HEADER.unpack_from(data)
    start = VALUE_HEADER_BYTES + type_bytes
    if form != VALUE_FORMAT or flags or start > len(data):
        raise CorruptionError("state", 0, f"a value of format {form}, flags {flags}, is cut off or not known")
    return StoredValue(revision, data[VALUE_HEADER_BYTES:start], data[start:])
