"""The table of all commands that may read: what each needs, and who carries it out.

A put and a delete without options need neither: ``raft_node.kv.state_machine`` does them by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from doug_wire.command import Command, Opcode
from raft_node.kv.operations import batches, expiry, singles, tokens, transactions
from raft_node.kv.operations.work import WRONG_SHARD, Outcome, Work

_Handler = Callable[[Work, Command], Outcome]
_Keys = Callable[[Command], list[bytes]]

_HANDLERS: dict[int, _Handler] = {
    **dict.fromkeys(singles.HANDLERS, singles.carry_out),
    Opcode.TXN: transactions.transact,
    Opcode.BATCH: batches.carry_out_all,
    Opcode.EXPIRE: expiry.expire,
}
_KEYS: dict[int, _Keys] = {
    **dict.fromkeys(singles.HANDLERS, singles.keys_to_read),
    Opcode.TXN: transactions.keys_to_read,
    Opcode.BATCH: batches.keys_to_read,
    Opcode.EXPIRE: expiry.keys_to_read,
}


def is_known(opcode: int) -> bool:
    """Whether there is a command with this opcode."""
    return opcode in _HANDLERS


def keys_to_read(command: Command) -> list[bytes]:
    """The keys of the keyspace that must be fetched before a command is carried out.

    Raises:
        CommandError: The command is malformed.
    """
    keys = _KEYS[command.opcode](command)
    if command.token is not None:
        keys += tokens.keys_to_read(command, command.token)
    return keys


def carry_out(work: Work, command: Command) -> Outcome:
    """Carries a command out, once if it has a token.

    Raises:
        CommandError: The command is malformed.
    """
    handler, token = _HANDLERS[command.opcode], command.token
    if token is None:
        return handler(work, command)
    if not work.ownership.owns_key(command.key, command.epoch):
        return WRONG_SHARD
    return tokens.carry_out_once(work, command, handler)
