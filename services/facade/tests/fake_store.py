"""What a fake shard does with commands: the contract of docs/api.md and docs/formats.md in as few lines as possible.

Written by itself, so that it shares no defect with the real one; it keeps no log and forgets no token.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire import payload
from doug_wire.command import KEEP, Command, Condition, ConditionKind, Opcode
from doug_wire.payload import CompareKind
from doug_wire.pipe import ResultRecord, Status, encode_result
from doug_wire.watch import Change, ChangeKind


class Entry(NamedTuple):
    value: bytes
    content_type: bytes
    revision: int
    expires_at_ms: int = 0
    content_encoding: bytes = b""


def result(status: int, revision: int = 0, entry: Entry | None = None, value: bytes = b"") -> ResultRecord:
    if entry is None:
        return ResultRecord(0, status, revision, b"", value)
    return ResultRecord(
        0, status, entry.revision, entry.content_type, entry.value, entry.expires_at_ms, entry.content_encoding
    )


class FakeStore:
    """The keys and tokens of a shard."""

    def __init__(self) -> None:
        self.data: dict[bytes, Entry] = {}
        self.tokens: dict[bytes, tuple[int, ResultRecord]] = {}
        self.tokens_max = 1_000_000
        self.expired_tokens: set[bytes] = set()
        self.revision = 0
        self.now_ms = 1_700_000_000_000
        self.changes: list[Change] = []
        """What every key went through, in order."""
        self.entries = 0
        """How many commands were applied, each as one entry of the log."""

    def get(self, key: bytes) -> ResultRecord:
        found = self.data.get(key)
        entry = None if found is None else Entry(*found)  # Tests may put plain tuples there.
        if entry is None or 0 < entry.expires_at_ms <= self.now_ms:
            return result(Status.NOT_FOUND)
        return result(Status.OK, 0, entry)

    def look_up(self, token: bytes) -> ResultRecord:
        found = self.tokens.get(token)
        return result(Status.NOT_FOUND) if found is None else result(Status.OK, value=encode_result(*found[1]))

    def apply(self, command: Command) -> ResultRecord:
        self.entries += 1
        return self._once(command)

    def _once(self, command: Command) -> ResultRecord:
        token = command.token
        if token is None:
            return self._carry_out(command)
        known = self.tokens.get(token.id)
        if known is not None:
            if known[0] != token.fingerprint:
                return result(Status.TOKEN_REUSED)
            return known[1]._replace(replayed=True)
        if token.id in self.expired_tokens:
            return result(Status.TOKEN_EXPIRED)
        if len(self.tokens) >= self.tokens_max:
            return result(Status.TOKENS_FULL)
        found = self._carry_out(command)
        self.tokens[token.id] = (token.fingerprint, found)
        return found

    def _carry_out(self, command: Command) -> ResultRecord:
        if command.opcode == Opcode.BATCH:
            found = [self._once(commands.decode(each)) for each in payload.decode_batch(command.value)]
            return result(Status.OK, self.revision, value=payload.encode_results(found))
        if command.opcode == Opcode.TXN:
            return self._transact(payload.decode_txn(command.value))
        if command.opcode == Opcode.GET:
            return self.get(command.key)
        return self._write(command)

    def _transact(self, txn: payload.Txn) -> ResultRecord:
        succeeded = all(self._compare(compare) for compare in txn.compares)
        before = copy.copy(self.data), self.revision
        found = [self._carry_out(commands.decode(each)) for each in (txn.success if succeeded else txn.failure)]
        failed = [each for each in found if each.status not in (Status.OK, Status.NOT_FOUND)]
        if failed:
            self.data, self.revision = before
            return failed[0]
        return result(
            Status.OK,
            self.revision,
            value=payload.encode_txn_result(payload.TxnResult(succeeded, tuple(found))),
        )

    def _compare(self, compare: payload.Compare) -> bool:
        found = self.get(compare.key)
        exists = found.status == Status.OK
        if compare.kind == CompareKind.EXISTS:
            return exists
        if compare.kind == CompareKind.ABSENT:
            return not exists
        if compare.kind == CompareKind.REVISION:
            return exists and found.revision == compare.revision
        return exists and found.value == compare.value

    def _write(self, command: Command) -> ResultRecord:
        found = self.get(command.key)
        exists = found.status == Status.OK
        if not _holds(command.condition, exists, found.revision):
            return result(Status.PRECONDITION_FAILED, found.revision if exists else 0)
        if command.opcode == Opcode.DELETE:
            self.data.pop(command.key, None)
            self.revision += 1
            self.changes.append(Change(ChangeKind.DELETE, True, 0, command.key, self.revision))
            return result(Status.OK, self.revision)
        if command.opcode == Opcode.TOUCH and not exists:
            return result(Status.NOT_FOUND)
        value, content_type, encoding = command.value, command.content_type, command.content_encoding
        expires_at_ms = self.now_ms + command.ttl if command.ttl > 0 else 0
        if command.ttl == KEEP or (command.opcode == Opcode.INCREMENT and not command.ttl):
            expires_at_ms = found.expires_at_ms
        shown = b""
        if command.opcode == Opcode.INCREMENT:
            step = payload.decode_increment(command.value)
            try:
                number = (int(found.value) if exists else step.initial) + step.by
            except ValueError:
                return result(Status.NOT_A_NUMBER)
            if not payload.INT64_MIN <= number <= payload.INT64_MAX:
                return result(Status.OVERFLOW)
            value, content_type, encoding = str(number).encode(), found.content_type, found.content_encoding
            shown = value
        elif command.opcode == Opcode.TOUCH:
            value, content_type, encoding = found.value, found.content_type, found.content_encoding
        self.revision += 1
        self.data[command.key] = Entry(value, content_type, self.revision, expires_at_ms, encoding)
        self.changes.append(
            Change(ChangeKind.PUT, True, 0, command.key, self.revision, value, content_type, encoding, expires_at_ms)
        )
        return result(Status.OK, self.revision, value=shown)._replace(expires_at_ms=expires_at_ms)


def _holds(condition: Condition | None, exists: bool, revision: int) -> bool:
    if condition is None:
        return True
    if condition.kind == ConditionKind.EXISTS:
        return exists
    if condition.kind == ConditionKind.ABSENT:
        return not exists
    return exists and revision == condition.revision


def keys_of(command: Command) -> Sequence[bytes]:
    """The keys that a command is about."""
    if command.opcode == Opcode.BATCH:
        return [commands.decode(each).key for each in payload.decode_batch(command.value)]
    if command.opcode == Opcode.TXN:
        txn = payload.decode_txn(command.value)
        return [each.key for each in txn.compares] + [
            commands.decode(each).key for each in (*txn.success, *txn.failure)
        ]
    return [command.key]
