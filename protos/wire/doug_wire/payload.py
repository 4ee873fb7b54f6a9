"""What stands in the value of an increment, a transaction and a batch (docs/formats.md, Payloads).

All integers are little-endian::

    increment    i64 by | i64 initial
    batch        u32 count | operations
    transaction  u16 compares | u16 success operations | u16 failure operations | compares | operations
    operation    u32 bytes | command (doug_wire.command)
    compare      u8 kind (1 exists, 2 absent, 3 revision, 4 value) | u64 revision | u16 key bytes | u32 value bytes
                 | key | value

The answer to a batch is one result record (``doug_wire.pipe``) for each operation, one behind the other, whose ids
count from 0; that to a transaction is ``u8 succeeded`` and the same for the operations that were carried out. This
module knows nothing of what commands do.

Invariant: one sequence of bytes stands for a payload, and one payload for a sequence of bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire import pipe
from doug_wire.command import CommandError, Opcode
from doug_wire.pipe import PipeError, ResultRecord

_INCREMENT = struct.Struct("<qq")
_COUNT = struct.Struct("<I")
_TXN = struct.Struct("<HHH")
_COMPARE = struct.Struct("<BQHI")

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
TXN_OPERATIONS_MAX = 128
"""The most compares of a transaction, and as many success and as many failure operations."""
BATCH_OPERATIONS_MAX = 10_000
BATCH_COSTLY_MAX = 1_000
"""The most operations of a batch other than plain puts and deletes: every replica carries it out in one go."""
BATCH_PART = 250
"""The number of operations of a batch that become one entry of a shard's log. A replica applies an entry in one go and
answers nobody meanwhile: where cores are few, 10,000 operations at once cost elections."""
PLAIN = (bytes((Opcode.PUT, 0)), bytes((Opcode.DELETE, 0)))
"""The first bytes of plain puts and deletes: the opcode, and flags without an option."""
PAYLOAD_BYTES_MAX = 2 << 20
"""The most bytes of a transaction or batch in one command: two values of the greatest size, or many small ones."""
RESULT_BYTES_MAX = 1 << 20
"""The most bytes of the results of a transaction or batch; one that would give more is refused, unapplied."""


class Increment(NamedTuple):
    """The number that is added to a value, and the number that a missing key counts as."""

    by: int
    initial: int = 0


class CompareKind(IntEnum):
    """The kinds of comparisons in a transaction. DO NOT CHANGE THESE VALUES: they are in every log."""

    EXISTS = 1
    ABSENT = 2
    REVISION = 3
    VALUE = 4


class Compare(NamedTuple):
    """One comparison of a transaction; ``revision`` and ``value`` count for their kinds alone."""

    kind: int
    key: bytes
    revision: int = 0
    value: bytes = b""


class Txn(NamedTuple):
    """A transaction: if all compares hold, ``success`` is carried out, otherwise ``failure``; all of it or nothing."""

    compares: tuple[Compare, ...]
    success: tuple[bytes, ...]
    failure: tuple[bytes, ...]


class TxnResult(NamedTuple):
    """The result of a transaction: whether its compares held, and the results of the operations carried out."""

    succeeded: bool
    results: tuple[ResultRecord, ...]


def encode_increment(by: int, initial: int = 0) -> bytes:
    """The value of an INCREMENT."""
    return _INCREMENT.pack(by, initial)


def decode_increment(value: bytes) -> Increment:
    """The opposite of ``encode_increment``.

    Raises:
        CommandError: The bytes are something else.
    """
    if len(value) != _INCREMENT.size:
        raise CommandError(f"an increment of {len(value)} bytes")
    return Increment(*_INCREMENT.unpack(value))


def encode_batch(operations: Sequence[bytes]) -> bytes:
    """The value of a BATCH of encoded commands."""
    return _COUNT.pack(len(operations)) + _join(operations)


def decode_batch(value: bytes) -> tuple[bytes, ...]:
    """The opposite of ``encode_batch``.

    Raises:
        CommandError: The bytes are something else.
    """
    if len(value) < _COUNT.size:
        raise CommandError("a batch is shorter than its header")
    operations, end = _cut(value, _COUNT.size, _COUNT.unpack_from(value)[0])
    if end != len(value):
        raise CommandError("there are bytes behind the operations of a batch")
    return operations


def frees_space(command: bytes) -> bool:
    """Whether a command only removes, so that a node with a full disk takes it. Requires: the command is valid."""
    opcode = command[0]
    if opcode == Opcode.BATCH:
        return all(map(frees_space, decode_batch(commands.decode(command).value)))
    return opcode in (Opcode.DELETE, Opcode.EXPIRE)


def encode_txn(txn: Txn) -> bytes:
    """The value of a TXN."""
    compares = b"".join(
        _COMPARE.pack(compare.kind, compare.revision, len(compare.key), len(compare.value))
        + compare.key
        + compare.value
        for compare in txn.compares
    )
    counts = _TXN.pack(len(txn.compares), len(txn.success), len(txn.failure))
    return counts + compares + _join(txn.success) + _join(txn.failure)


def decode_txn(value: bytes) -> Txn:
    """The opposite of ``encode_txn``.

    Raises:
        CommandError: The bytes are something else.
    """
    if len(value) < _TXN.size:
        raise CommandError("a transaction is shorter than its header")
    compare_count, success_count, failure_count = _TXN.unpack_from(value)
    position = _TXN.size
    compares = []
    for _ in range(compare_count):
        compare, position = _decode_compare(value, position)
        compares.append(compare)
    success, position = _cut(value, position, success_count)
    failure, position = _cut(value, position, failure_count)
    if position != len(value):
        raise CommandError("there are bytes behind the operations of a transaction")
    return Txn(tuple(compares), success, failure)


def encode_txn_result(result: TxnResult) -> bytes:
    """The payload of the answer to a transaction."""
    return bytes((result.succeeded,)) + encode_results(result.results)


def decode_txn_result(payload: bytes) -> TxnResult:
    """The opposite of ``encode_txn_result``.

    Raises:
        PipeError: The bytes are something else.
    """
    if payload[:1] not in (b"\0", b"\1"):
        raise PipeError("the answer to a transaction does not say whether it succeeded")
    return TxnResult(payload[0] == 1, decode_batch_result(payload[1:]))


def encode_results(results: Sequence[ResultRecord]) -> bytes:
    """The payload of the answer to a batch."""
    return b"".join([pipe.encode_result(*result) for result in results])


def decode_batch_result(payload: bytes) -> tuple[ResultRecord, ...]:
    """The opposite of ``encode_results``.

    Raises:
        PipeError: The bytes are something else.
    """
    return tuple(pipe.decode_results(payload))


def _join(operations: Sequence[bytes]) -> bytes:
    return b"".join([part for operation in operations for part in (_COUNT.pack(len(operation)), operation)])


def _cut(value: bytes, position: int, count: int) -> tuple[tuple[bytes, ...], int]:
    """The next ``count`` operations from ``position`` on, and the offset of their end."""
    operations: list[bytes] = []
    unpack, header, append = _COUNT.unpack_from, _COUNT.size, operations.append
    try:
        for _ in range(count):
            (size,) = unpack(value, position)
            start = position + header
            position = start + size
            append(value[start:position])
    except struct.error:
        raise CommandError("an operation is cut off") from None
    # Behind one that is cut off there is nothing to be unpacked, so this is found at the last one.
    if position > len(value):
        raise CommandError("an operation is cut off")
    return tuple(operations), position


def _decode_compare(value: bytes, position: int) -> tuple[Compare, int]:
    start = position + _COMPARE.size
    if start > len(value):
        raise CommandError("a compare is cut off")
    kind, revision, key_bytes, value_bytes = _COMPARE.unpack_from(value, position)
    key_end = start + key_bytes
    end = key_end + value_bytes
    if end > len(value):
        raise CommandError("a compare is cut off")
    if (
        not CompareKind.EXISTS <= kind <= CompareKind.VALUE
        or (revision and kind != CompareKind.REVISION)
        or (value_bytes and kind != CompareKind.VALUE)
    ):
        raise CommandError(f"unknown compare {kind}")
    return Compare(kind, value[start:key_end], revision, value[key_end:end]), end
