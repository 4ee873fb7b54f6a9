"""A hash chained over everything that applied entries changed, by which replicas find out that they differ.

An entry of kind STATE_HASH is a **mark**: each replica keeps its hash as of that entry. The next mark carries the
leader's hash as of the one before, so that every replica can compare its own, whatever was under way meanwhile. The
first mark of a log begins the chain. Where it stands is part of the replicated state, hence of every snapshot.

The hash covers keys and values in the order in which they were written, and the counters of the state at each mark;
not how they lie on a disk, where every block has a checksum of its own. Source: docs/formats.md, State hash.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from raft_node.errors import CorruptionError

FORMAT = 1
_MARK = struct.Struct("<B7xQQ")
_CHAIN_STATE = struct.Struct("<QQQ")
_REMOVED = b"\x00"
"""The stand-in for a removal in the hash; no stored value is that short."""


class Mark(NamedTuple):
    """The hash as of the entry ``at``: what a STATE_HASH entry carries. 0: the leader had no mark yet."""

    at: int = 0
    value: int = 0

    def encode(self) -> bytes:
        """The bytes of the mark, as the command of an entry."""
        return _MARK.pack(FORMAT, self.at, self.value)

    @classmethod
    def decode(cls, data: bytes) -> Mark:
        """The opposite of ``encode``.

        Raises:
            ValueError: The bytes are no mark of a known format.
        """
        if len(data) != _MARK.size or data != _MARK.pack(FORMAT, *_MARK.unpack(data)[1:]):
            raise ValueError("not a mark of a known format")
        return cls(*_MARK.unpack(data)[1:])


class Divergence(NamedTuple):
    """A difference of two replicas: as of the entry ``at`` this one has the hash ``own``, and its leader ``leader``."""

    at: int
    own: int
    leader: int


class ChainState(NamedTuple):
    """The state of the chain of hashes: the hash as of now, and the last mark."""

    value: int
    mark: Mark

    def encode(self) -> bytes:
        """The bytes of the state, as stored in the keyspace."""
        return _CHAIN_STATE.pack(self.value, *self.mark)

    @classmethod
    def decode(cls, data: bytes) -> ChainState:
        """The opposite of ``encode``.

        Raises:
            CorruptionError: The bytes are not what ``encode`` makes.
        """
        if len(data) != _CHAIN_STATE.size:
            raise CorruptionError("state", 0, f"where the hash stands, in {len(data)} bytes")
        value, at, marked_value = _CHAIN_STATE.unpack(data)
        return cls(value, Mark(at, marked_value))


def chained(value: int, effects: Iterable[tuple[bytes, bytes | None]]) -> int:
    """The hash after further effects."""
    digest = xxh3_64_intdigest
    for key, written in effects:
        value = digest(_REMOVED if written is None else written, digest(key, value))
    return value


def marked(value: int, index: int, counters: bytes) -> int:
    """The hash as of a mark at ``index``, with the state's counters."""
    return xxh3_64_intdigest(counters, xxh3_64_intdigest(index.to_bytes(8, "little"), value))
