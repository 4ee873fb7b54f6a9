"""Batches: commands of one shard that share an entry of the log, and have nothing else to do with each other.

Invariant: each has the effect and the outcome that it would have alone, at its place in the log.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from doug_wire import command as commands
from doug_wire import pipe
from doug_wire.command import Command, CommandError, Opcode
from doug_wire.payload import RESULT_BYTES_MAX, decode_batch
from doug_wire.pipe import Status
from doug_wire.slots import slot_of
from raft_node.kv.keyspace import USER_PREFIX, VALUE_FORMAT, VALUE_HEADER
from raft_node.kv.operations import singles, tokens
from raft_node.kv.operations.work import WRONG_SHARD, Details, Outcome, TooMuchReadError, Work

_PUT = int(Opcode.PUT)
_PLAIN = (bytes((Opcode.PUT, 0)), bytes((Opcode.DELETE, 0)))
_HEADER_BYTES = commands.HEADER.size
_TOO_LARGE = Outcome(Status.RESULT_TOO_LARGE, 0)


def carry_out_all(work: Work, command: Command) -> Outcome:
    """Carries a batch out; its results are in the value of the outcome."""
    mark = work.mark()
    try:
        results = _results(work, command)
    except TooMuchReadError:
        results = None
    if results is None:
        work.undo(mark)
        return _TOO_LARGE
    work.end_bound()
    return Outcome(Status.OK, work.revision, Details(value=b"".join(results)))


def _results(work: Work, command: Command) -> list[bytes] | None:
    """The results of the operations of a batch; None if they are too large."""
    results: list[bytes] = []
    size = 0
    remaining = iter(decode_batch(command.value))
    while (operation := _put_plain(work, remaining, results)) is not None:
        place = len(results)
        result = pipe.encode_result(*one(work, commands.decode(operation)).record(place))
        size += len(result)
        if size > RESULT_BYTES_MAX:
            return None
        results.append(result)
    return results


def _put_plain(work: Work, remaining: Iterator[bytes], results: list[bytes]) -> bytes | None:
    """Carries out puts without options, as ``plain.put`` does, up to an operation of another kind, which it returns."""
    # Five replicas do this for each of thousands: hence no look-up by name within, as in ``StateMachine.apply``.
    unpack, pack, slot, told = commands.HEADER.unpack_from, VALUE_HEADER.pack, slot_of, pipe.RESULT.pack
    epochs, write, append = work.ownership.epochs, work.effects.append, results.append
    value_format, prefix, start, put = VALUE_FORMAT, USER_PREFIX, _HEADER_BYTES, _PUT
    revision, ok, wrong_shard = work.revision, int(Status.OK), int(Status.WRONG_SHARD)
    operation: bytes | None
    try:
        for place, operation in enumerate(remaining, len(results)):
            opcode, flags, key_bytes, type_bytes, _, epoch = unpack(operation)
            if flags or opcode != put:
                break
            key_end = start + key_bytes
            key = operation[start:key_end]
            owned = epochs[slot(key)]
            if not owned or (epoch and epoch != owned):
                append(told(place, wrong_shard, 0, 0, 0, 0))
                continue
            revision += 1
            write((prefix + key, pack(value_format, 0, type_bytes, owned, revision) + operation[key_end:]))
            append(told(place, ok, 0, revision, 0, 0))
        else:
            operation = None
    except struct.error:
        raise CommandError("a command is shorter than its header") from None
    work.revision = revision
    return operation


def one(work: Work, command: Command) -> Outcome:
    """Carries a command for one key out, once if it has a token."""
    if command.token is None:
        return singles.carry_out(work, command)
    if not work.ownership.owns_key(command.key, command.epoch):
        return WRONG_SHARD
    return tokens.carry_out_once(work, command, singles.carry_out)


def keys_to_read(command: Command) -> list[bytes]:
    """The keys of the keyspace that a batch reads."""
    keys = []
    for operation in decode_batch(command.value):
        if operation[:2] not in _PLAIN:
            decoded = commands.decode(operation)
            keys += singles.keys_to_read(decoded)
            if decoded.token is not None:
                keys += tokens.keys_to_read(decoded, decoded.token)
    return keys
