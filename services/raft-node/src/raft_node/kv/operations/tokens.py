"""Tokens: a command with a token is carried out once, and every further time answered with its first outcome.

What became of a token is kept in the replicated state, so that it is found after a change of leaders, a restart and a
restore, and moves with its slot. Tokens are scoped to a client and to the slot of the command's key.

Invariants:
1. A token is looked up before anything else of its command is judged.
2. Only outcomes that were decided here are kept: success, a failed condition, a number that is none. A command that was
   refused before has left no token, nor has one for another shard.
3. A token is kept for ``Limits.kept_us`` of log time at least, with its whole outcome. ``Limits.count_max`` tokens and
   ``Limits.bytes_max`` bytes of them are never exceeded: a command whose outcome has no room is refused, before
   anything is done or with all of it undone, and never are others forgotten for it. Nor does one principal take the
   room of all (``raft_node.kv.operations.shares``).
4. What is older than tokens are kept is refused when the client's key tells (a UUID of version 7, or what a facade
   makes of one for an operation of a batch), for nobody knows any more what became of it. Whoever lengthens the time
   brings back nothing that was forgotten: for keys from before, the shorter time counts on.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire import pipe
from doug_wire.command import Command, Opcode, Token
from doug_wire.pipe import PipeError, ResultRecord, Status
from doug_wire.slots import slot_of
from raft_node.errors import CorruptionError
from raft_node.kv.keyspace import token_key
from raft_node.kv.operations import shares
from raft_node.kv.operations.work import Details, Limits, Outcome, Work

_RECORD = struct.Struct("<BQQ")
_LIMITS = struct.Struct("<QQQ")
_BEFORE = struct.Struct("<QQ")
_FORMAT = 1
_SMALL_BYTES = _RECORD.size + 128 + commands.CONTENT_TYPE_BYTES_MAX
"""The largest record of a command for one key, which tells at most a number, its type and a time."""
_MANY = (Opcode.TXN, Opcode.BATCH)
_FULL = Outcome(Status.TOKENS_FULL, 0)
# Facades derive the keys of a batch's operations from the key of the batch: a slash, and the place within it.
_UUID7 = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}(?:/[0-9]+)?", re.IGNORECASE)

_KEPT = frozenset(
    {Status.OK, Status.NOT_FOUND, Status.PRECONDITION_FAILED, Status.NOT_A_NUMBER, Status.OVERFLOW}
    | {Status.RESULT_TOO_LARGE}
)


class TokenRecord(NamedTuple):
    """The kept outcome of a command with a token.

    Attributes:
        deadline_us: The log time from which on the token is forgotten.
        fingerprint: The fingerprint of the request.
        result: The outcome, as a result record with id 0.
    """

    deadline_us: int
    fingerprint: int
    result: ResultRecord

    def encode(self) -> bytes:
        """The stored bytes of the record."""
        return _RECORD.pack(_FORMAT, self.deadline_us, self.fingerprint) + pipe.encode_result(*self.result)

    @classmethod
    def decode(cls, data: bytes) -> TokenRecord:
        """The opposite of ``encode``.

        Raises:
            CorruptionError: The bytes are not what ``encode`` makes.
        """
        if len(data) < _RECORD.size or data[0] != _FORMAT:
            raise CorruptionError("state", 0, f"a token of {len(data)} bytes, or of an unknown format")
        _, deadline_us, fingerprint = _RECORD.unpack_from(data)
        try:
            (result,) = pipe.decode_results(data[_RECORD.size :])
        except (PipeError, ValueError) as error:
            raise CorruptionError("state", 0, f"a token without an outcome: {error}") from error
        return cls(deadline_us, fingerprint, result)


def key_of(command: Command, token: Token) -> bytes:
    """The key under which the outcome of a command's token is kept."""
    return token_key(slot_of(command.key), token.id)


def keys_to_read(command: Command, token: Token) -> list[bytes]:
    """The keys of the keyspace that are read for the token of a command."""
    share = shares.key_of(token.id)
    return [key_of(command, token), share] if share else [key_of(command, token)]


def known(work: Work, command: Command, token: Token) -> Outcome | None:
    """The outcome that a command's token has already decided; None if the command is to be carried out.

    Requires: the slot of the command's key is owned.
    """
    data = work.read(key_of(command, token))
    if data is not None:
        record = TokenRecord.decode(data)
        if record.deadline_us > work.clock_us:
            work.count(len(data))
            if record.fingerprint != token.fingerprint:
                return Outcome(Status.TOKEN_REUSED, 0)
            return replayed(record)
    if _is_older_than_kept(token, work.clock_us, work.limits):
        return Outcome(Status.TOKEN_EXPIRED, 0)
    # An expired token that is still there is replaced by the new one.
    if data is None and shares.is_used_up(work, token.id):
        return _FULL
    key = key_of(command, token)
    return None if _fits(work, key, data, _SMALL_BYTES) else _FULL


def keep(work: Work, command: Command, token: Token, outcome: Outcome) -> bool:
    """Keeps the outcome of a command that was carried out, if it must be kept; returns False if there is no room."""
    if outcome.status not in _KEPT:
        return True
    key = key_of(command, token)
    deadline_us = work.clock_us + work.limits.kept_us
    record = TokenRecord(deadline_us, token.fingerprint, outcome.record(0)).encode()
    before = work.read(key)
    if not _fits(work, key, before, len(record)):
        return False
    added, grown = int(before is None), size_of(key, record) - (0 if before is None else size_of(key, before))
    work.tokens += added
    work.token_bytes += grown
    shares.change(work, token.id, added, grown)
    work.write(key, record)
    work.note_due(deadline_us, key)
    return True


def carry_out_once(work: Work, command: Command, handler: Callable[[Work, Command], Outcome]) -> Outcome:
    """Carries out a command that has a token, unless the token has already decided it.

    Requires: the command is for one key, or stands alone in its entry, so that its effects can be undone.
    """
    assert command.token is not None
    outcome = known(work, command, command.token)
    if outcome is not None:
        return outcome
    before = work.mark() if command.opcode in _MANY else None
    outcome = handler(work, command)
    if keep(work, command, command.token, outcome):
        return outcome
    assert before is not None, "the outcome of a command for one key is small"
    work.undo(before)
    return _FULL


def size_of(key: bytes, record: bytes) -> int:
    """The bytes for which a token counts: those of its key and its record."""
    return len(key) + len(record)


def replayed(record: TokenRecord) -> Outcome:
    """The first outcome once more."""
    result = record.result
    details = Details(result.content_type, result.value, result.expires_at_ms, result.content_encoding, True)
    return Outcome(result.status, result.revision, details)


def encode_limits(limits: Limits) -> bytes:
    """The value of a SET_LIMITS command."""
    return _LIMITS.pack(*limits.wanted)


def decode_limits(data: bytes) -> Limits:
    """The opposite of ``encode_limits``.

    Raises:
        ValueError: The bytes are not what ``encode_limits`` makes.
    """
    if len(data) != _LIMITS.size:
        raise ValueError(f"limits in {len(data)} bytes")
    limits = Limits(*_LIMITS.unpack(data))
    if limits.kept_us >= 1 << 62:
        raise ValueError("tokens would be kept for ever")
    return limits


def changed_limits(old: Limits, wanted: Limits, clock_us: int) -> Limits:
    """The limits that count from a SET_LIMITS command on."""
    before_us, before_kept_us = old.before_us, old.before_kept_us
    if wanted.kept_us > old.kept_us:
        # What an even shorter time has forgotten before stays forgotten, unless it would be too old anyway.
        matters = before_us + old.kept_us > clock_us
        before_kept_us = min(old.kept_us, before_kept_us) if matters else old.kept_us
        before_us = clock_us + 1
    return wanted._replace(before_us=before_us, before_kept_us=before_kept_us)


def encode_stored_limits(limits: Limits) -> bytes:
    """The bytes that are stored under ``LIMITS_KEY``."""
    data = encode_limits(limits)
    return data + _BEFORE.pack(limits.before_us, limits.before_kept_us) if limits.before_us else data


def decode_stored_limits(data: bytes) -> Limits:
    """The opposite of ``encode_stored_limits``.

    Raises:
        ValueError: The bytes are not what ``encode_stored_limits`` makes.
    """
    limits = decode_limits(data[: _LIMITS.size])
    if len(data) == _LIMITS.size:
        return limits
    if len(data) != _LIMITS.size + _BEFORE.size:
        raise ValueError(f"limits in {len(data)} bytes")
    before_us, before_kept_us = _BEFORE.unpack_from(data, _LIMITS.size)
    if not before_us:
        raise ValueError("a time before that is not there")
    return limits._replace(before_us=before_us, before_kept_us=before_kept_us)


def _fits(work: Work, key: bytes, before: bytes | None, record_bytes: int) -> bool:
    """Whether there is room for a record in the place of what is stored under its key."""
    given_back = 0 if before is None else size_of(key, before)
    return work.token_bytes - given_back + len(key) + record_bytes <= work.limits.bytes_max


def _is_older_than_kept(token: Token, clock_us: int, limits: Limits) -> bool:
    client_key = token.id[token.id.find(b"\0") + 1 :]
    if not _UUID7.fullmatch(client_key):
        return False
    made_us = 1000 * int(client_key[:8] + client_key[9:13], 16)
    kept_us = limits.kept_us if made_us >= limits.before_us else min(limits.kept_us, limits.before_kept_us)
    return made_us + kept_us <= clock_us
