"""A reference state machine in as few lines as possible, with which the real one is compared.

It is written from docs/api.md and docs/formats.md, keeps everything in plain dictionaries, and shares nothing with
``raft_node.kv`` but the codecs. Simulations and property tests compare every outcome of the real one with its.

Invariants:
1. The shard owns every slot, at epoch 1, once it is created, and no slot before.
2. ``states`` has the state after each applied entry, so that a read can be compared with the state of its entry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire.command import KEEP, Command, ConditionKind, Opcode
from doug_wire.payload import (
    RESULT_BYTES_MAX,
    CompareKind,
    TxnResult,
    decode_batch,
    decode_increment,
    decode_txn,
    encode_results,
    encode_txn_result,
)
from doug_wire.pipe import ResultRecord, Status
from doug_wire.slots import slot_of
from raft_node.entry import Entry, EntryKind
from raft_node.kv.keyspace import split_due_key
from raft_node.kv.operations.expiry import decode_expire
from raft_node.kv.operations.tokens import decode_limits

_INT64 = range(-(1 << 63), 1 << 63)
_KEPT = (Status.OK, Status.NOT_FOUND, Status.PRECONDITION_FAILED, Status.NOT_A_NUMBER, Status.OVERFLOW)


class Held(NamedTuple):
    """The value of a key; ``expires_us`` 0: it does not expire."""

    revision: int
    value: bytes
    content_type: bytes = b""
    content_encoding: bytes = b""
    expires_us: int = 0

    def result(self) -> ResultRecord:
        """The result of a read that finds it."""
        expires_at_ms = self.expires_us // 1000
        return _result(Status.OK, self.revision, self.value, self.content_type, expires_at_ms, self.content_encoding)


class State(NamedTuple):
    """The state after an entry."""

    clock_us: int
    held: dict[bytes, Held]

    def get(self, key: bytes) -> Held | None:
        """The visible value of a key."""
        found = self.held.get(key)
        return None if found is None or 0 < found.expires_us <= self.clock_us else found

    def scan(self) -> list[tuple[bytes, int, bytes]]:
        """All visible keys in order, with their revisions and values."""
        visible = [(key, self.get(key)) for key in sorted(self.held)]
        return [(key, found.revision, found.value) for key, found in visible if found is not None]


class _Kept(NamedTuple):
    fingerprint: int
    deadline_us: int
    result: ResultRecord


class _UndoneError(Exception):
    """A transaction failed and must change nothing."""

    def __init__(self, result: ResultRecord) -> None:
        super().__init__()
        self.result = result


def _result(
    status: int,
    revision: int = 0,
    value: bytes = b"",
    content_type: bytes = b"",
    expires_at_ms: int = 0,
    content_encoding: bytes = b"",
) -> ResultRecord:
    return ResultRecord(0, status, revision, content_type, value, expires_at_ms, content_encoding)


def _token_bytes(place: tuple[int, bytes], result: ResultRecord | None) -> int:
    """The bytes for which a token counts; without a result, the bytes that must be free for one."""
    return 9 + len(place[1]) + (400 if result is None else 17 + len(encode_results((result._replace(id=0),))))


def _changes(opcode: int, result: ResultRecord) -> bool:
    return opcode != Opcode.GET and result.status == Status.OK


class Reference:
    """A shard.

    Attributes:
        revision: The last revision.
        states: The state after each applied entry, by its index.
    """

    def __init__(self) -> None:
        self.revision = 0
        self.states: dict[int, State] = {0: State(0, {})}
        self._created = False
        self._clock_us = 0
        self._held: dict[bytes, Held] = {}
        self._tokens: dict[tuple[int, bytes], _Kept] = {}
        self._kept_us, self._tokens_max, self._token_bytes_max = 24 * 3600 * 1_000_000, 100_000, 256 << 20
        self._in_transaction = False

    @property
    def tokens(self) -> int:
        """How many tokens are kept."""
        return len(self._tokens)

    @property
    def token_bytes(self) -> int:
        """How many bytes the tokens take, with their keys."""
        return sum(_token_bytes(place, kept.result) for place, kept in self._tokens.items())

    def apply(self, entry: Entry) -> ResultRecord:
        """Applies the next entry; returns its result."""
        self._clock_us = max(self._clock_us, entry.timestamp_us)
        result = _result(Status.OK)
        if entry.kind == EntryKind.COMMAND:
            result = self._command(commands.decode(entry.command))
        self.states[entry.index] = State(self._clock_us, dict(self._held))
        return result

    def _command(self, command: Command) -> ResultRecord:
        match command.opcode:
            case Opcode.CREATE_SHARD:
                self._created = True
            case Opcode.SET_LIMITS:
                self._kept_us, self._tokens_max, self._token_bytes_max = decode_limits(command.value).wanted
            case Opcode.EXPIRE:
                return _result(Status.OK, self._expire(command))
            case _:
                return self._once(command, self._whole)
        return _result(Status.OK)

    def _expire(self, command: Command) -> int:
        notes = decode_expire(command.value)
        for note in notes:
            deadline_us, stored_key = split_due_key(note)
            if deadline_us > self._clock_us:
                continue
            if stored_key[:1] == b"\x01":
                held = self._held.get(stored_key[1:])
                if held is not None and held.expires_us == deadline_us:
                    del self._held[stored_key[1:]]
                    self.revision += 1
            for place, kept in list(self._tokens.items()):
                named = b"\x00token/" + place[0].to_bytes(2, "big") + place[1]
                if named == stored_key and kept.deadline_us == deadline_us:
                    del self._tokens[place]
        return len(notes)

    def _once(self, command: Command, carry_out: Callable[[Command], ResultRecord]) -> ResultRecord:
        token = command.token
        # A batch has no result of its own: each of its commands is compared by itself.
        if command.opcode != Opcode.BATCH and (not self._created or command.epoch not in (0, 1)):
            return _result(Status.WRONG_SHARD)
        if token is None:
            return carry_out(command)
        place = slot_of(command.key), token.id
        kept = self._tokens.get(place)
        if kept is not None and kept.deadline_us > self._clock_us:
            if kept.fingerprint != token.fingerprint:
                return _result(Status.TOKEN_REUSED)
            return kept.result._replace(replayed=True)
        if kept is None and (len(self._tokens) >= self._tokens_max or self._has_its_share(token.id)):
            return _result(Status.TOKENS_FULL)
        given_back = 0 if kept is None else _token_bytes(place, kept.result)
        room = self._token_bytes_max - self.token_bytes + given_back
        if _token_bytes(place, None) > room:
            return _result(Status.TOKENS_FULL)
        held, revision = dict(self._held), self.revision
        result = carry_out(command)
        if result.status in _KEPT:
            if _token_bytes(place, result) > room:
                self._held, self.revision = held, revision
                return _result(Status.TOKENS_FULL)
            self._tokens[place] = _Kept(token.fingerprint, self._clock_us + self._kept_us, result)
        return result

    def _has_its_share(self, token_id: bytes) -> bool:
        """Whether as much is kept for the owner of a token as is free."""
        owner, _, _ = token_id.partition(b"\0")
        own = [(place, kept) for place, kept in self._tokens.items() if place[1].partition(b"\0")[0] == owner]
        size = sum(_token_bytes(place, kept.result) for place, kept in own)
        return bool(owner) and (
            len(own) >= self._tokens_max - len(self._tokens) or size >= self._token_bytes_max - self.token_bytes
        )

    def _whole(self, command: Command) -> ResultRecord:
        if command.opcode == Opcode.BATCH:
            each = [self._once(commands.decode(data), self._single) for data in decode_batch(command.value)]
            results = [result._replace(id=place) for place, result in enumerate(each)]
            return _result(Status.OK, self.revision, encode_results(results))
        if command.opcode == Opcode.TXN:
            return self._transact(command)
        return self._single(command)

    def _transact(self, command: Command) -> ResultRecord:
        txn = decode_txn(command.value)
        held, revision = dict(self._held), self.revision
        state = State(self._clock_us, held)
        holds = True
        for compare in txn.compares:
            found = state.get(compare.key)
            holds = (
                holds
                and {
                    CompareKind.EXISTS: found is not None,
                    CompareKind.ABSENT: found is None,
                    CompareKind.REVISION: found is not None and found.revision == compare.revision,
                    CompareKind.VALUE: found is not None and found.value == compare.value,
                }[CompareKind(compare.kind)]
            )
        self.revision += 1
        self._in_transaction = True
        results = []
        try:
            for place, data in enumerate(txn.success if holds else txn.failure):
                result = self._single(commands.decode(data))
                if result.status not in (Status.OK, Status.NOT_FOUND):
                    raise _UndoneError(_result(result.status, result.revision, b"%d" % place))
                results.append(result._replace(id=place))
        except _UndoneError as undone:
            self._held, self.revision = held, revision
            return undone.result
        finally:
            self._in_transaction = False
        done = zip(txn.success if holds else txn.failure, results, strict=True)
        if not any(_changes(commands.decode(data).opcode, result) for data, result in done):
            self.revision = revision
        answer = encode_txn_result(TxnResult(holds, tuple(results)))
        assert len(answer) < RESULT_BYTES_MAX, "the reference knows no results of this size"
        return _result(Status.OK, self.revision, answer)

    def _single(self, command: Command) -> ResultRecord:
        key = command.key
        found = State(self._clock_us, self._held).get(key)
        condition = command.condition
        if condition is not None:
            revision = 0 if found is None else found.revision
            holds = {
                ConditionKind.EXISTS: found is not None,
                ConditionKind.ABSENT: found is None,
                ConditionKind.REVISION: found is not None and revision == condition.revision,
            }[ConditionKind(condition.kind)]
            if not holds:
                return _result(Status.PRECONDITION_FAILED, revision)
        match command.opcode:
            case Opcode.GET:
                return _result(Status.NOT_FOUND) if found is None else found.result()
            case Opcode.DELETE:
                self._held.pop(key, None)
                return _result(Status.OK, self._next())
            case Opcode.PUT:
                return self._put(command, found)
            case Opcode.TOUCH:
                if found is None:
                    return _result(Status.NOT_FOUND)
                return self._write(key, found._replace(expires_us=self._clock_us + command.ttl * 1000))
            case _:
                return self._increment(command, found)

    def _put(self, command: Command, found: Held | None) -> ResultRecord:
        expires_us = self._clock_us + command.ttl * 1000 if command.ttl > 0 else 0
        if command.ttl == KEEP and found is not None:
            expires_us = found.expires_us
        held = Held(0, command.value, command.content_type, command.content_encoding, expires_us)
        return self._write(command.key, held)

    def _increment(self, command: Command, found: Held | None) -> ResultRecord:
        by, initial = decode_increment(command.value)
        revision = 0 if found is None else found.revision
        number = initial
        if found is not None:
            text = found.value.decode("latin-1")
            if found.content_encoding or not text.removeprefix("-").isdecimal() or str(int(text)) != text:
                return _result(Status.NOT_A_NUMBER, revision)
            number = int(text)
            if number not in _INT64:
                return _result(Status.NOT_A_NUMBER, revision)
        number += by
        if number not in _INT64:
            return _result(Status.OVERFLOW, revision)
        expires_us = self._clock_us + command.ttl * 1000 if command.ttl > 0 else 0
        if command.ttl <= 0 and found is not None:
            expires_us = found.expires_us
        kind = command.content_type if found is None else found.content_type
        result = self._write(command.key, Held(0, b"%d" % number, kind, b"", expires_us))
        return result._replace(value=b"%d" % number, content_type=kind)

    def _write(self, key: bytes, held: Held) -> ResultRecord:
        self._held[key] = held._replace(revision=self._next())
        return _result(Status.OK, self.revision, expires_at_ms=held.expires_us // 1000)

    def _next(self) -> int:
        if not self._in_transaction:
            self.revision += 1
        return self.revision
