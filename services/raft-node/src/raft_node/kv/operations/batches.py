"""Batches: commands of one shard that share an entry of the log, and have nothing else to do with each other.

Invariant: each has the effect and the outcome that it would have alone, at its place in the log.
"""

from __future__ import annotations

from doug_wire import command as commands
from doug_wire import pipe
from doug_wire.command import Command, Opcode
from doug_wire.payload import RESULT_BYTES_MAX, decode_batch
from doug_wire.pipe import Status
from doug_wire.slots import slot_of
from raft_node.kv.keyspace import USER_PREFIX, VALUE_FORMAT, VALUE_HEADER
from raft_node.kv.operations import singles, tokens
from raft_node.kv.operations.work import WRONG_SHARD, Details, Outcome, TooMuchReadError, Work

_PLAIN_PUT = bytes((Opcode.PUT, 0))
_PLAIN = (_PLAIN_PUT, bytes((Opcode.DELETE, 0)))
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
    encode = pipe.encode_result
    for place, operation in enumerate(decode_batch(command.value)):
        if operation[:2] == _PLAIN_PUT:
            status, revision = _put(work, operation)
            results.append(encode(place, status, revision))
            continue
        result = encode(*one(work, commands.decode(operation)).record(place))
        size += len(result)
        if size > RESULT_BYTES_MAX:
            return None
        results.append(result)
    return results


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
                keys.append(tokens.key_of(decoded, decoded.token))
    return keys


def _put(work: Work, operation: bytes) -> tuple[int, int]:
    """Carries out a put without options, as ``plain.put`` does: a batch is mostly made of these, of thousands."""
    _, _, key_bytes, type_bytes, _, epoch = commands.HEADER.unpack_from(operation)
    key_end = _HEADER_BYTES + key_bytes
    key = operation[_HEADER_BYTES:key_end]
    owned = work.ownership.epochs[slot_of(key)]
    if not owned or (epoch and epoch != owned):
        return Status.WRONG_SHARD, 0
    work.revision += 1
    header = VALUE_HEADER.pack(VALUE_FORMAT, 0, type_bytes, owned, work.revision)
    work.effects.append((USER_PREFIX + key, header + operation[key_end:]))
    return Status.OK, work.revision
