"""The table of the commands for one key, as they come alone, in batches and in transactions."""

from __future__ import annotations

from collections.abc import Callable

from doug_wire.command import Command, CommandError, Opcode
from doug_wire.slots import slot_of
from raft_node.kv.keyspace import user_key
from raft_node.kv.operations import counters, plain
from raft_node.kv.operations.work import WRONG_SHARD, Outcome, Work, reads_value

Handler = Callable[[Work, Command, int], Outcome]
"""Carries a command out; the last argument is the epoch of the key's slot."""

HANDLERS: dict[int, Handler] = {
    Opcode.PUT: plain.put,
    Opcode.DELETE: plain.delete,
    Opcode.INCREMENT: counters.increment,
    Opcode.TOUCH: plain.touch,
    Opcode.GET: plain.get,
}

_BLIND = (Opcode.PUT, Opcode.DELETE)


def carry_out(work: Work, command: Command) -> Outcome:
    """Carries out a command for one key, if its slot is owned.

    Raises:
        CommandError: The command is none for one key. No node proposes such a batch or transaction; a newer one may.
    """
    handler = HANDLERS.get(command.opcode)
    if handler is None:
        raise CommandError(f"the opcode {command.opcode} within a batch or transaction")
    epoch = work.ownership.epochs[slot_of(command.key)]
    if not epoch or (command.epoch and command.epoch != epoch):
        return WRONG_SHARD
    return handler(work, command, epoch)


def keys_to_read(command: Command) -> list[bytes]:
    """The keys of the keyspace that a command for one key reads."""
    if command.opcode in _BLIND and not reads_value(command):
        return []
    return [user_key(command.key)]
