"""What commands a client may send: the one place where both services find that out.

``doug_wire.command`` and ``doug_wire.payload`` tell bytes from nonsense; this module tells what sense they must make.
It knows nothing of what commands do, nor of slots.

Invariant: a command that passes is carried out by every replica without a further check of its form.
"""

from __future__ import annotations

import re

from doug_wire import command as commands
from doug_wire import payload
from doug_wire.command import KEEP, Command, CommandError, Opcode
from doug_wire.puts import Puts, decode_puts

_PRINTABLE = re.compile(rb"[\x20-\x7e]*\Z")
_SINGLE = frozenset({Opcode.PUT, Opcode.DELETE, Opcode.INCREMENT, Opcode.TOUCH})
_WITHIN = _SINGLE | {Opcode.GET}
_OUTER = _SINGLE | {Opcode.TXN, Opcode.BATCH}
_WITHOUT_VALUE = frozenset({Opcode.DELETE, Opcode.TOUCH, Opcode.GET})


def validate(data: bytes) -> Command:
    """Decodes a command that a client sent and checks that a client may send it.

    Raises:
        CommandError: The command is malformed, too large, or not one that clients may send.
    """
    command = commands.decode(data)
    if command.opcode == Opcode.PUT:
        _check(command)
        return command
    if command.opcode not in _OUTER:
        raise CommandError(f"opcode {command.opcode} is not for clients")
    _check(command)
    if command.opcode == Opcode.TXN:
        _check_txn(command)
    elif command.opcode == Opcode.BATCH:
        _check_batch(command)
    return command


def keys_of(command: Command) -> list[bytes]:
    """All keys that a valid command of a client reads or writes."""
    if command.opcode == Opcode.BATCH:
        return [commands.decode(operation).key for operation in payload.decode_batch(command.value)]
    if command.opcode == Opcode.TXN:
        txn = payload.decode_txn(command.value)
        operations = (*txn.success, *txn.failure)
        return [compare.key for compare in txn.compares] + [commands.decode(each).key for each in operations]
    return [command.key]


def is_printable(text: bytes) -> bool:
    """Whether a content type or encoding can be kept: the one rule, for both services."""
    return _PRINTABLE.match(text) is not None


def _check(command: Command) -> None:
    """Checks the fields of a command by themselves."""
    _check_key(command.key)
    many = command.opcode in (Opcode.TXN, Opcode.BATCH)
    limit = payload.PAYLOAD_BYTES_MAX if many else commands.VALUE_BYTES_MAX
    if len(command.value) > limit:
        raise CommandError(f"the value has {len(command.value)} bytes, the limit is {limit}")
    if command.content_type:
        _check_text("content type", command.content_type, commands.CONTENT_TYPE_BYTES_MAX)
    if command.opcode == Opcode.PUT and not command.content_encoding:
        return
    if command.content_encoding:
        _check_text("content encoding", command.content_encoding, commands.CONTENT_ENCODING_BYTES_MAX)
    if command.opcode == Opcode.INCREMENT:
        payload.decode_increment(command.value)
        if command.content_encoding:
            raise CommandError("a number has no content encoding")
    elif command.opcode in _WITHOUT_VALUE and (command.value or command.content_type or command.content_encoding):
        raise CommandError(f"opcode {command.opcode} has no value")
    if many and (command.condition is not None or command.ttl or command.content_type or command.content_encoding):
        raise CommandError("a transaction or a batch has no condition, expiry or type of its own")
    if command.ttl and command.opcode in (Opcode.DELETE, Opcode.GET):
        raise CommandError(f"opcode {command.opcode} sets no expiry")
    if command.opcode == Opcode.TOUCH and command.ttl in (0, KEEP):
        raise CommandError("a touch says when the key expires")
    if command.opcode == Opcode.GET and (command.condition is not None or command.token is not None):
        raise CommandError("a read has neither condition nor token")


def _check_key(key: bytes) -> None:
    if not key:
        raise CommandError("the key is empty")
    if len(key) > commands.KEY_BYTES_MAX:
        raise CommandError(f"the key has {len(key)} bytes, the limit is {commands.KEY_BYTES_MAX}")


def _check_text(what: str, text: bytes, bytes_max: int) -> None:
    if len(text) > bytes_max:
        raise CommandError(f"the {what} has more than {bytes_max} bytes")
    if not is_printable(text):
        raise CommandError(f"the {what} is not printable ASCII")


def _check_batch(command: Command) -> None:
    puts = decode_puts(command.value)
    if puts is not None and command.key in puts.keys and _are_within_limits(puts):
        return  # Nearly all large batches. What is wrong with one of several puts is found below.
    operations = payload.decode_batch(command.value)
    if not 0 < len(operations) <= payload.BATCH_OPERATIONS_MAX:
        raise CommandError(f"a batch has 1 to {payload.BATCH_OPERATIONS_MAX} operations, not {len(operations)}")
    unpack, start, put = commands.HEADER.unpack_from, commands.HEADER.size, int(Opcode.PUT)
    key_max, value_max = commands.KEY_BYTES_MAX, commands.VALUE_BYTES_MAX
    keys, others = [], []
    for operation in operations:
        if len(operation) > start:
            opcode, flags, key_bytes, type_bytes, value_bytes, _ = unpack(operation)
            if opcode == put and not flags and not type_bytes and 0 < key_bytes <= key_max:
                key_end = start + key_bytes
                if key_end + value_bytes == len(operation) and value_bytes <= value_max:
                    # Nearly all operations of large batches: a put without options, and all is well with it.
                    keys.append(operation[start:key_end])
                    continue
        others.append(operation)
    costly = sum(operation[:2] not in payload.PLAIN for operation in others)
    if costly > payload.BATCH_COSTLY_MAX:
        raise CommandError(f"{costly} operations that read or have options, and at most {payload.BATCH_COSTLY_MAX}")
    keys += [_check_within(operation).key for operation in others]
    if command.key not in keys:
        raise CommandError("the key of a batch is none of its operations'")


def _are_within_limits(puts: Puts) -> bool:
    key_sizes = list(map(len, puts.keys))
    largest = puts.value_bytes if puts.value_bytes >= 0 else max(map(len, puts.values))
    return (
        len(key_sizes) <= payload.BATCH_OPERATIONS_MAX
        and min(key_sizes) > 0
        and max(key_sizes) <= commands.KEY_BYTES_MAX
        and largest <= commands.VALUE_BYTES_MAX
    )


def _check_txn(command: Command) -> None:
    txn = payload.decode_txn(command.value)
    for what, parts in zip(("compares", "success operations", "failure operations"), txn, strict=True):
        if len(parts) > payload.TXN_OPERATIONS_MAX:
            raise CommandError(f"a transaction has at most {payload.TXN_OPERATIONS_MAX} {what}, not {len(parts)}")
    keys = []
    for compare in txn.compares:
        _check_key(compare.key)
        keys.append(compare.key)
    for operation in (*txn.success, *txn.failure):
        within = _check_within(operation)
        if within.token is not None:
            raise CommandError("an operation within a transaction has a token of its own")
        keys.append(within.key)
    if command.key not in keys:
        raise CommandError("the key of a transaction is none of its compares' or operations'")


def _check_within(data: bytes) -> Command:
    command = commands.decode(data)
    if command.opcode not in _WITHIN:
        raise CommandError(f"opcode {command.opcode} is not for a transaction or a batch")
    _check(command)
    return command
