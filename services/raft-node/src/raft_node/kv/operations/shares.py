"""The shares of principals in what a shard keeps of tokens, so that none of them takes all of the room.

A token belongs to the identity with which its id begins. How much is kept for each identity is in the replicated state
beside the tokens, so that it is the same on every replica, and is there after a restart and in a snapshot.

Invariants:
1. A share is the number and the bytes of the tokens that are kept for an identity; there is none for nothing.
2. Another token is kept for an identity only while less is kept for it than is free. So one that takes all that it can
   leaves as much to the others, and whoever has nothing is refused only when nothing is left at all.
3. Without an identity clients share all of the room, since nobody can tell one from the other.

Source: docs/adr/0010-expiry-and-tokens-in-the-log.md.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from raft_node.errors import CorruptionError
from raft_node.kv.keyspace import share_key
from raft_node.kv.operations.work import Work

_SHARE = struct.Struct("<QQ")


class Share(NamedTuple):
    """How much is kept for an identity.

    Attributes:
        tokens: The number of its tokens.
        size: The bytes of these tokens, with their keys.
    """

    tokens: int = 0
    size: int = 0

    def encode(self) -> bytes:
        """The stored bytes of the share."""
        return _SHARE.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> Share:
        """The opposite of ``encode``.

        Raises:
            CorruptionError: The bytes are not what ``encode`` makes.
        """
        if len(data) != _SHARE.size:
            raise CorruptionError("state", 0, f"a share of {len(data)} bytes")
        return cls(*_SHARE.unpack(data))


def key_of(token_id: bytes) -> bytes:
    """The key of the share in which a token counts; empty if it has no identity."""
    identity = token_id.partition(b"\0")[0]
    return share_key(identity) if identity else b""


def is_used_up(work: Work, token_id: bytes) -> bool:
    """Whether as much is kept for the identity of a new token as is free; raises as ``Work.read`` does."""
    share, limits = _read(work, key_of(token_id)), work.limits
    return share.tokens >= limits.count_max - work.tokens or share.size >= limits.bytes_max - work.token_bytes


def change(work: Work, token_id: bytes, tokens: int, size: int) -> None:
    """Counts tokens and bytes of a token's identity, which may be less than nothing; raises as ``Work.read`` does."""
    key = key_of(token_id)
    if not key:
        return
    share = _read(work, key)
    # Tokens of before there were shares are in none.
    changed = Share(max(0, share.tokens + tokens), max(0, share.size + size))
    work.write(key, changed.encode() if changed.tokens else None)


def _read(work: Work, key: bytes) -> Share:
    data = work.read(key) if key else None
    return Share() if data is None else Share.decode(data)
