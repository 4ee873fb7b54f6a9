"""The first entry of a new shard: its own number, and how many shards the cluster begins with.

The slots that follow from it are ``raft_node.kv.ownership``'s, and the map of all shards ``doug_wire.partition_map``'s.
"""

from __future__ import annotations

import struct

from doug_wire.slots import SLOTS

_CREATE = struct.Struct("<II")


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
