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
"""The slots that this shard owns, each with its epoch."""
PARTITION_MAP_KEY = b"\x00partition-map"
"""The partition map of the whole cluster; in shard 0 only."""
CONFIGURATION_KEY = b"\x00configuration"
"""The members of the shard, as of the applied index."""
STATE_HASH_KEY = b"\x00state-hash"
"""The hash over all effects so far (raft_node.kv.state_hash); absent before the first mark."""

LIMITS_KEY = b"\x00limits"
"""How many tokens are kept, and for how long (raft_node.kv.operations.tokens); absent while the defaults count."""
AUTH_KEY = b"\x00auth"
"""The document of users and rights (raft_node.kv.operations.access); absent before there is one."""
TOKEN_PREFIX = b"\x00token/"
"""Before a slot, in two bytes, and a token's id: the outcome of the command with that token."""
SHARE_PREFIX = b"\x00token-share/"
"""Before an identity: how much is kept of its tokens (raft_node.kv.operations.shares)."""
DUE_PREFIX = b"\x00due/"
"""Before a deadline, in eight bytes, and a key of this keyspace that may expire then: an index by time."""

_STATE = struct.Struct("<QQQQQQ")
_OLD_STATES = (16, 24, 32)
_DEADLINE = struct.Struct(">Q")
_SLOT = struct.Struct(">H")
_U64 = struct.Struct("<Q")
VALUE_HEADER = struct.Struct("<BBHIQ")
"""The header of a value: the format, flags, the bytes of the content type, the slot's epoch, the revision."""
VALUE_FORMAT = 2
VALUE_HEADER_BYTES = VALUE_HEADER.size
FLAG_EXPIRES = 1
FLAG_ENCODING = 2


class State(NamedTuple):
    """The counters of a shard.

    Attributes:
        clock_us: The shard's log time, in microseconds since the epoch.
        revision: The last revision given out.
        tokens: How many tokens are kept.
        token_bytes: How many bytes the tokens take, with their keys.
        generation: How often the shard has gone on without entries that it had acknowledged.
        floor: No watch goes on behind an older revision, since some of those were lost. 0 in the first generation.
    """

    clock_us: int = 0
    revision: int = 0
    tokens: int = 0
    token_bytes: int = 0
    generation: int = 0
    floor: int = 0

    def encode(self) -> bytes:
        """The bytes of the counters, as stored under ``STATE_KEY``."""
        return _STATE.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> State:
        """The opposite of ``encode``.

        Raises:
            CorruptionError: The bytes are not what ``encode`` makes.
        """
        if len(data) in _OLD_STATES:
            raise CorruptionError("state", 0, "an older version of DougDB wrote it, whose data this one cannot read")
        if len(data) != _STATE.size:
            raise CorruptionError("state", 0, f"counters of {len(data)} bytes")
        return cls(*_STATE.unpack(data))


class StoredValue(NamedTuple):
    """A user's value as it lies in the engine.

    Attributes:
        revision: The revision of the write.
        content_type: The value's content type.
        value: The value itself.
        epoch: The epoch of the key's slot when the value was written.
        expires_us: The log time from which on the value does not exist any more; 0 for never.
        content_encoding: The value's content encoding.
    """

    revision: int
    content_type: bytes
    value: bytes
    epoch: int = 0
    expires_us: int = 0
    content_encoding: bytes = b""

    @property
    def expires_at_ms(self) -> int:
        """When the value expires, in milliseconds since the epoch; 0 for never."""
        return self.expires_us // 1000


def user_key(key: bytes) -> bytes:
    """The key in the keyspace for a user's key."""
    return USER_PREFIX + key


def token_key(slot: int, token_id: bytes) -> bytes:
    """The key under which the outcome of an idempotency token is kept."""
    return TOKEN_PREFIX + _SLOT.pack(slot) + token_id


def id_of_token(key: bytes) -> bytes:
    """The id of the token whose outcome is kept under a key that ``token_key`` has made."""
    return key[len(TOKEN_PREFIX) + _SLOT.size :]


def share_key(identity: bytes) -> bytes:
    """The key under which it is kept how much an identity's tokens take."""
    return SHARE_PREFIX + identity


def due_key(deadline_us: int, key: bytes) -> bytes:
    """The key of the note that a key of the keyspace may expire."""
    return DUE_PREFIX + _DEADLINE.pack(deadline_us) + key


def split_due_key(due: bytes) -> tuple[int, bytes]:
    """The opposite of ``due_key``.

    Raises:
        ValueError: The key is no such note.
    """
    start = len(DUE_PREFIX) + _DEADLINE.size
    if not due.startswith(DUE_PREFIX) or len(due) <= start:
        raise ValueError(f"{len(due)} bytes that note no expiry")
    return _DEADLINE.unpack_from(due, len(DUE_PREFIX))[0], due[start:]


def encode_value(stored: StoredValue) -> bytes:
    """A user's value as it is stored."""
    flags, optional = 0, b""
    if stored.expires_us:
        flags = FLAG_EXPIRES
        optional = _U64.pack(stored.expires_us)
    if stored.content_encoding:
        flags |= FLAG_ENCODING
        optional += bytes((len(stored.content_encoding),)) + stored.content_encoding
    header = VALUE_HEADER.pack(VALUE_FORMAT, flags, len(stored.content_type), stored.epoch, stored.revision)
    return b"".join((header, optional, stored.content_type, stored.value))


def decode_value(data: bytes) -> StoredValue:
    """Decodes a stored user value.

    Raises:
        CorruptionError: The value is of no known format.
    """
    if len(data) < VALUE_HEADER_BYTES:
        raise CorruptionError("state", 0, f"a value of {len(data)} bytes")
    form, flags, type_bytes, epoch, revision = VALUE_HEADER.unpack_from(data)
    start, expires_us, content_encoding = VALUE_HEADER_BYTES, 0, b""
    if flags:
        if flags & ~(FLAG_EXPIRES | FLAG_ENCODING):
            raise CorruptionError("state", 0, f"a value with the flags {flags}, which are not known")
        if flags & FLAG_EXPIRES:
            if len(data) < start + _U64.size:
                raise CorruptionError("state", 0, "a value is cut off within its expiry")
            (expires_us,) = _U64.unpack_from(data, start)
            start += _U64.size
        if flags & FLAG_ENCODING:
            encoding_start = start + 1
            start = encoding_start + (data[start] if start < len(data) else 0)
            content_encoding = data[encoding_start:start]
        if flags != (FLAG_EXPIRES if expires_us else 0) | (FLAG_ENCODING if content_encoding else 0):
            raise CorruptionError("state", 0, "a value with an optional field that is empty")
    end = start + type_bytes
    if form != VALUE_FORMAT or end > len(data):
        raise CorruptionError("state", 0, f"a value of format {form} is cut off or not known")
    return StoredValue(revision, data[start:end], data[end:], epoch, expires_us, content_encoding)
