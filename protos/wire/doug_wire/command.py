"""A command: one change of the replicated state, as the facade encodes it and every replica applies it.

A command gets its bytes once, where the request comes in, together with their CRC32C; the leader, the log and every
follower carry the same bytes on (docs/formats.md, Command). Layout of format 2, little-endian::

    u8 opcode | u8 flags | u16 key bytes | u16 content-type bytes | u32 value bytes | u64 epoch
    | the optional fields whose flags are set, in the order of the flags | key | type | value

    flag 1   condition          u8 kind (1 exists, 2 absent, 3 revision) | u64 revision (0 unless the kind is 3)
    flag 2   ttl                u64 milliseconds; 0 keeps the expiry that the key has
    flag 4   token              u16 bytes | u64 fingerprint | bytes
    flag 8   content encoding   u8 bytes | bytes

``epoch`` is the epoch of the key's slot as the sender knows it; 0 asks for no check of it. A command without optional
fields has the bytes that it had in format 1, in which the flags were always 0. What the values of increments,
transactions and batches hold is told in ``doug_wire.payload``. This module knows nothing of what commands do.

Invariants:
1. One sequence of bytes stands for a command, and one command for a sequence of bytes.
2. Whoever needs a field of a command asks ``decode``. ``raft_node.kv`` alone reads commands without flags, and those
   with a condition alone, by itself, for every replica does that for every write.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

HEADER = struct.Struct("<BBHHIQ")
CONDITION = struct.Struct("<BQ")
_TTL = struct.Struct("<Q")
_TOKEN = struct.Struct("<HQ")

FLAG_CONDITION = 1
_FLAG_TTL = 2
_FLAG_TOKEN = 4
_FLAG_ENCODING = 8
_FLAGS = FLAG_CONDITION | _FLAG_TTL | _FLAG_TOKEN | _FLAG_ENCODING

KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 1 << 20
CONTENT_TYPE_BYTES_MAX = 255
CONTENT_ENCODING_BYTES_MAX = 64
TOKEN_BYTES_MAX = 512
"""The most bytes of a token's id: the client's identity, a zero byte, and the client's key."""
TTL_MS_MAX = 100 * 366 * 24 * 3600 * 1000
"""The longest time to live: a hundred years."""
KEEP = -1
"""The value of ``ttl`` with which a key keeps the expiry that it has."""


class Opcode(IntEnum):
    """The kinds of commands. DO NOT CHANGE THESE VALUES: they are in every log."""

    PUT = 1
    DELETE = 2
    CREATE_SHARD = 3
    """The first entry that a new shard applies: which slots it owns (``value``: see ``raft_node.kv.partitions``)."""
    INCREMENT = 4
    """Adds to a decimal number (``doug_wire.payload.Increment``)."""
    TOUCH = 5
    """Sets an expiry and leaves the value as it is."""
    TXN = 6
    """Compares, then does all of some operations or all of others (``doug_wire.payload.Txn``)."""
    BATCH = 7
    """Commands of one shard that have nothing to do with each other (``doug_wire.payload.encode_batch``)."""
    GET = 8
    """Reads a key. Only within a transaction or a batch."""
    EXPIRE = 9
    """Removes keys and tokens whose time has passed; the leader proposes it (``raft_node.kv.operations.expiry``)."""
    SET_LIMITS = 10
    """Sets how many tokens are kept, and for how long; the leader proposes it (``raft_node.kv.operations.tokens``)."""
    SET_AUTH = 11
    """Sets the document of users and rights (``raft_node.kv.operations.access``); through Admin alone."""
    RECOVER = 12
    """Has the shard go on without entries that it had acknowledged; ``raft_node.app.recovery`` alone writes it."""


class ConditionKind(IntEnum):
    """The kinds of conditions on a key. DO NOT CHANGE THESE VALUES: they are in every log."""

    EXISTS = 1
    ABSENT = 2
    REVISION = 3
    """The key exists and has this revision."""


class Condition(NamedTuple):
    """The condition under which a command is carried out; it is judged when the command is applied."""

    kind: int
    revision: int = 0


EXISTS = Condition(ConditionKind.EXISTS)
ABSENT = Condition(ConditionKind.ABSENT)

_REVISION = int(ConditionKind.REVISION)
_WITHOUT_REVISION = (EXISTS, ABSENT)


class Token(NamedTuple):
    """The token of a command that is to be carried out once, however often it is sent.

    Attributes:
        id: The client's identity, a zero byte, and the key that the client chose: see ``token_id``.
        fingerprint: A hash over the whole request, so that another request with the same key is noticed.
    """

    id: bytes
    fingerprint: int


class Command(NamedTuple):
    """A decoded command. Lengths were checked against the bytes at hand.

    Attributes:
        opcode: An ``Opcode``.
        key: The key; of a transaction or a batch one of its keys: its slot is where a token is kept.
        content_type: The content type of the value.
        value: The value, or what the opcode has in its place.
        epoch: The epoch of the key's slot as the sender knows it; 0 for no check.
        condition: The condition under which the command is carried out; None for always.
        ttl: The milliseconds after which the key expires; ``KEEP``, or 0 if the request named none.
        token: The token that makes it happen once; None without one.
        content_encoding: The content encoding of the value.
    """

    opcode: int
    key: bytes
    content_type: bytes
    value: bytes
    epoch: int
    condition: Condition | None = None
    ttl: int = 0
    token: Token | None = None
    content_encoding: bytes = b""


class CommandError(ValueError):
    """The bytes are not a command."""


def revision(number: int) -> Condition:
    """The condition that a key has this revision."""
    return Condition(ConditionKind.REVISION, number)


def token_id(identity: str, key: str) -> bytes:
    """The id of a token: the client that it belongs to, and the key that this client chose.

    Args:
        identity: The identity of the client; empty while clients share their keys.
        key: The idempotency key of the request.
    """
    return identity.encode() + b"\0" + key.encode()


def encode(
    opcode: int,
    key: bytes,
    content_type: bytes = b"",
    value: bytes = b"",
    epoch: int = 0,
    condition: Condition | None = None,
    ttl: int = 0,
    token: Token | None = None,
    content_encoding: bytes = b"",
) -> bytes:
    """Encodes a command; see ``Command`` for the fields.

    Requires: the lengths are within the limits above; the caller has already told its user otherwise.
    """
    if not ttl and token is None and not content_encoding:
        if condition is None:
            return HEADER.pack(opcode, 0, len(key), len(content_type), len(value), epoch) + key + content_type + value
        header = HEADER.pack(opcode, FLAG_CONDITION, len(key), len(content_type), len(value), epoch)
        return b"".join((header, CONDITION.pack(*condition), key, content_type, value))
    flags, optional = 0, b""
    if condition is not None:
        flags |= FLAG_CONDITION
        optional = CONDITION.pack(*condition)
    if ttl:
        flags |= _FLAG_TTL
        optional += _TTL.pack(0 if ttl == KEEP else ttl)
    if token is not None:
        flags |= _FLAG_TOKEN
        optional += _TOKEN.pack(len(token.id), token.fingerprint) + token.id
    if content_encoding:
        flags |= _FLAG_ENCODING
        optional += bytes((len(content_encoding),)) + content_encoding
    header = HEADER.pack(opcode, flags, len(key), len(content_type), len(value), epoch)
    return b"".join((header, optional, key, content_type, value))


def checksum(command: bytes) -> int:
    """The CRC32C that travels with an encoded command."""
    return crc32c(command)


def decode(data: bytes, start: int = 0) -> Command:
    """Decodes the command that fills ``data`` from ``start`` to its end.

    Raises:
        CommandError: The lengths do not add up, or a field is out of bounds.
    """
    if len(data) - start < HEADER.size:
        raise CommandError("a command is shorter than its header")
    opcode, flags, key_bytes, type_bytes, value_bytes, epoch = HEADER.unpack_from(data, start)
    optional: _Optional | None = None
    key_start = start + HEADER.size
    if flags:
        optional, key_start = _decode_optional(data, flags, key_start)
    type_start = key_start + key_bytes
    value_start = type_start + type_bytes
    if value_start + value_bytes != len(data):
        raise CommandError("the lengths in a command do not add up to its size")
    key, content_type, value = data[key_start:type_start], data[type_start:value_start], data[value_start:]
    if optional is None:
        return Command(opcode, key, content_type, value, epoch)
    return Command(opcode, key, content_type, value, epoch, *optional)


_Optional = tuple[Condition | None, int, Token | None, bytes]
_NOTHING: _Optional = (None, 0, None, b"")


def _decode_optional(data: bytes, flags: int, position: int) -> tuple[_Optional, int]:
    """The optional fields, and where they end."""
    if flags & ~_FLAGS:
        raise CommandError(f"unknown command flags {flags:#x}")
    condition, ttl, token, content_encoding = _NOTHING
    try:
        if flags & FLAG_CONDITION:
            condition = Condition(*CONDITION.unpack_from(data, position))
            position += CONDITION.size
        if flags & _FLAG_TTL:
            (ttl,) = _TTL.unpack_from(data, position)
            position += _TTL.size
            if ttl > TTL_MS_MAX:
                raise CommandError(f"a time to live of {ttl} ms, the limit is {TTL_MS_MAX}")
            ttl = ttl or KEEP
        if flags & _FLAG_TOKEN:
            id_bytes, fingerprint = _TOKEN.unpack_from(data, position)
            position += _TOKEN.size
            token = Token(data[position : position + id_bytes], fingerprint)
            position += id_bytes
            if not 0 < id_bytes <= TOKEN_BYTES_MAX:
                raise CommandError(f"a token of {id_bytes} bytes, it must be 1 to {TOKEN_BYTES_MAX}")
        if flags & _FLAG_ENCODING:
            end = position + 1 + data[position]
            content_encoding = data[position + 1 : end]
            position = end
    except (struct.error, IndexError):
        raise CommandError("a command is shorter than its optional fields") from None
    if condition is not None and condition.kind != _REVISION and condition not in _WITHOUT_REVISION:
        raise CommandError(f"unknown condition {condition.kind} with revision {condition.revision}")
    if flags & _FLAG_ENCODING and not 0 < len(content_encoding) <= CONTENT_ENCODING_BYTES_MAX:
        raise CommandError(f"a content encoding has 1 to {CONTENT_ENCODING_BYTES_MAX} bytes")
    return (condition, ttl, token, content_encoding), position
