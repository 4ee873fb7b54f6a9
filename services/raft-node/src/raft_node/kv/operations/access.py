"""The document of users and rights, a part of the replicated state, with a number that grows with each change.

Shard 0's is the one that counts: it changes by comparing the number. Every other shard holds a copy, so that its nodes
judge by themselves; a copy only ever becomes a newer one. What the document says is not looked at here: whoever
proposes it has checked it (``doug_wire.auth.document``).

Layout: ``u64 revision | document``; of the command's value: ``u64 expected | u64 revision | document``, little-endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from raft_node.errors import CorruptionError

COPY = (1 << 64) - 1
"""The value of ``expected`` for a copy of the document that shard 0 holds."""

_STORED = struct.Struct("<Q")
_VALUE = struct.Struct("<QQ")


class Stored(NamedTuple):
    """The document of users and rights as this shard holds it; revision 0 and no bytes before there is one."""

    revision: int = 0
    document: bytes = b""

    def encode(self) -> bytes:
        """The bytes of the document with its revision, as stored under ``AUTH_KEY``."""
        return _STORED.pack(self.revision) + self.document

    @classmethod
    def decode(cls, data: bytes | None) -> Stored:
        """The opposite of ``encode``; None means that there is no document.

        Raises:
            CorruptionError: The bytes are not what ``encode`` makes.
        """
        if data is None:
            return cls()
        if len(data) <= _STORED.size:
            raise CorruptionError("state", 0, f"who may do what, in {len(data)} bytes")
        return cls(_STORED.unpack_from(data)[0], data[_STORED.size :])


def encode_change(expected: int, revision: int, document: bytes) -> bytes:
    """The value of a SET_AUTH command.

    Args:
        expected: The revision that the document was made from, or ``COPY``.
        revision: The document's own revision.
        document: The document's bytes.
    """
    return _VALUE.pack(expected, revision) + document


def change(stored: Stored, value: bytes) -> Stored | None:
    """The document that is stored after a SET_AUTH command; None if the command changes nothing.

    Raises:
        ValueError: The value is not that of a SET_AUTH command.
    """
    if len(value) <= _VALUE.size:
        raise ValueError(f"a change of who may do what, in {len(value)} bytes")
    expected, revision = _VALUE.unpack_from(value)
    if expected == COPY:
        counts = revision > stored.revision
    else:
        counts = expected == stored.revision and revision == expected + 1
    return Stored(revision, value[_VALUE.size :]) if counts else None
