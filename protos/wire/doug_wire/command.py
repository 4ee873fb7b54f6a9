"""A command: one change of the replicated state, as the facade encodes it and every replica applies it.

A command gets its bytes once, where the request comes in, together with their CRC32C; the leader, the log and every
follower carry the same bytes on (docs/formats.md, Command). Layout, little-endian::

    u8 opcode | u8 flags (0) | u16 key bytes | u16 content-type bytes | u32 value bytes | u64 epoch | key | type | value

``epoch`` is the epoch of the key's slot as the sender knows it; 0 asks for no check of it.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from crc32c import crc32c

HEADER = struct.Struct("<BBHHIQ")

KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 1 << 20
CONTENT_TYPE_BYTES_MAX = 255


class Opcode(IntEnum):
    """What a command does. DO NOT CHANGE THESE VALUES: they are in every log."""

    PUT = 1
    DELETE = 2
    CREATE_SHARD = 3
    """The first entry that a new shard applies: which slots it owns (``value``: see ``raft_node.kv.partitions``)."""


class Command(NamedTuple):
    """A decoded command. Lengths were checked against the bytes at hand."""

    opcode: int
    key: bytes
    content_type: bytes
    value: bytes
    epoch: int


class CommandError(ValueError):
    """The bytes are not a command."""


def encode(opcode: int, key: bytes, content_type: bytes = b"", value: bytes = b"", epoch: int = 0) -> bytes:
    """Encodes a command.

    Requires: the lengths are within the limits above; the caller has already told its user otherwise.
    """
    return HEADER.pack(opcode, 0, len(key), len(content_type), len(value), epoch) + key + content_type + value


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
    key_start = start + HEADER.size
    type_start = key_start + key_bytes
    value_start = type_start + type_bytes
    if value_start + value_bytes != len(data):
        raise CommandError("the lengths in a command do not add up to its size")
    if flags:
        raise CommandError(f"unknown command flags {flags:#x}")
    return Command(opcode, data[key_start:type_start], data[type_start:value_start], data[value_start:], epoch)


def validate(data: bytes) -> Command:
    """Decodes a command that a client sent and checks that a client may send it.

    Raises:
        CommandError: It is malformed, too large, or not one that clients may send.
    """
    command = decode(data)
    if command.opcode not in (Opcode.PUT, Opcode.DELETE):
        raise CommandError(f"opcode {command.opcode} is not for clients")
    if not command.key:
        raise CommandError("the key is empty")
    if len(command.key) > KEY_BYTES_MAX:
        raise CommandError(f"the key has {len(command.key)} bytes, the limit is {KEY_BYTES_MAX}")
    if len(command.value) > VALUE_BYTES_MAX:
        raise CommandError(f"the value has {len(command.value)} bytes, the limit is {VALUE_BYTES_MAX}")
    if len(command.content_type) > CONTENT_TYPE_BYTES_MAX:
        raise CommandError(f"the content type has more than {CONTENT_TYPE_BYTES_MAX} bytes")
    if not (command.content_type.isascii() and command.content_type.decode("ascii").isprintable()):
        raise CommandError("the content type is not printable ASCII")
    return command
