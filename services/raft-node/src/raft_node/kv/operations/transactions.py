"""Transactions: compares, then all of one list of operations or all of the other.

Invariants:
1. A transaction is carried out as a whole or leaves nothing; no other command comes between its operations.
2. All its changes have one revision.
3. Whoever sends keys that this shard does not own all gets WRONG_SHARD, and nothing is changed.
"""

from __future__ import annotations

from doug_wire import command as commands
from doug_wire.command import Command
from doug_wire.payload import (
    RESULT_BYTES_MAX,
    Compare,
    CompareKind,
    Txn,
    TxnResult,
    decode_txn,
    encode_txn_result,
)
from doug_wire.pipe import ResultRecord, Status
from raft_node.kv.keyspace import user_key
from raft_node.kv.operations import singles
from raft_node.kv.operations.work import WRONG_SHARD, Details, Mark, Outcome, TooMuchReadError, Work

_GOES_ON = (Status.OK, Status.NOT_FOUND)
"""The outcomes of operations after which a transaction goes on; every other one undoes it."""


def transact(work: Work, command: Command) -> Outcome:
    """Carries a transaction out.

    When an operation fails, the outcome has its status and revision, and its place among the operations in the value.
    """
    txn = decode_txn(command.value)
    if not _owned(work, command, txn):
        return WRONG_SHARD
    mark = work.begin_transaction()
    try:
        return _carry_out(work, txn, mark)
    except TooMuchReadError:
        work.undo(mark)
        return Outcome(Status.RESULT_TOO_LARGE, 0)


def _carry_out(work: Work, txn: Txn, mark: Mark) -> Outcome:
    succeeded = all(_holds(work, compare) for compare in txn.compares)
    results: list[ResultRecord] = []
    size = 0
    for place, operation in enumerate(txn.success if succeeded else txn.failure):
        outcome = singles.carry_out(work, commands.decode(operation))
        size += 0 if outcome.details is None else len(outcome.details.value)
        if outcome.status not in _GOES_ON or size > RESULT_BYTES_MAX:
            work.undo(mark)
            if outcome.status in _GOES_ON:
                return Outcome(Status.RESULT_TOO_LARGE, 0)
            return Outcome(outcome.status, outcome.revision, Details(value=b"%d" % place))
        results.append(outcome.record(place))
    work.end_transaction(mark)
    answer = encode_txn_result(TxnResult(succeeded, tuple(results)))
    return Outcome(Status.OK, work.revision, Details(value=answer))


def keys_to_read(command: Command) -> list[bytes]:
    """The keys of the keyspace that a transaction may read."""
    txn = decode_txn(command.value)
    keys = [user_key(compare.key) for compare in txn.compares]
    for operation in (*txn.success, *txn.failure):
        keys += singles.keys_to_read(commands.decode(operation))
    return keys


def _owned(work: Work, command: Command, txn: Txn) -> bool:
    owns = work.ownership.owns_key
    if not owns(command.key, command.epoch) or not all(owns(compare.key) for compare in txn.compares):
        return False
    operations = [commands.decode(operation) for operation in (*txn.success, *txn.failure)]
    return all(owns(operation.key, operation.epoch) for operation in operations)


def _holds(work: Work, compare: Compare) -> bool:
    current = work.current(compare.key)
    if compare.kind == CompareKind.ABSENT:
        return current is None
    if current is None:
        return False
    if compare.kind == CompareKind.REVISION:
        return current.revision == compare.revision
    if compare.kind == CompareKind.VALUE:
        return current.value == compare.value
    return True
