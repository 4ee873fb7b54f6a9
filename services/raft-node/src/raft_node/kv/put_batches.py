"""Batches of puts without options, carried out by columns: most bytes that are written fast come so.

Five replicas do this for each of hundreds of puts, and a start for the whole log: hence no loop in Python where one
call does all of them. It takes only what it sees through in full: a batch with anything else in it, a malformed one,
or one of which a key is not this shard's, is left to ``raft_node.kv.operations.batches``.

Invariants:
1. What is carried out here has the outcome and the effects that ``operations.batches`` would have given it.
2. A batch that is left is untouched: nothing of it was done.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from itertools import repeat

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.puts import Puts, decode_puts, encode_results
from doug_wire.slots import slots_of
from raft_node.entry import HEADER_BYTES
from raft_node.kv.keyspace import USER_PREFIX, VALUE_FORMAT, VALUE_HEADER
from raft_node.kv.ownership import Ownership

_START = HEADER_BYTES + commands.HEADER.size
_BATCH = int(Opcode.BATCH)
_LAYOUTS = 32

Effects = list[tuple[bytes, bytes | None]]


def carry_out(data: bytes, ownership: Ownership, revision: int, effects: Effects) -> tuple[bytes, int] | None:
    """Carries out the command of an entry if it is a batch of puts.

    Args:
        data: The bytes of the entry. Requires: they have a command, with its header at least.
        ownership: The slots of the shard.
        revision: The last revision given out.
        effects: The keys and values to be written, to which those of the puts are added.

    Returns:
        The results of the puts, and the last revision given out; None if the command is left.
    """
    opcode, flags, key_bytes, type_bytes, value_bytes, _ = commands.HEADER.unpack_from(data, HEADER_BYTES)
    value_at = _START + key_bytes + type_bytes
    if opcode != _BATCH or flags or value_at + value_bytes != len(data):
        return None
    puts = decode_puts(data, value_at)
    if puts is None:
        return None
    epochs = _owned(puts, ownership)
    if epochs is None:
        return None
    prefix, count = USER_PREFIX, len(puts.keys)
    effects += zip([prefix + key for key in puts.keys], _stored(puts, epochs, revision + 1), strict=True)
    return encode_results(count, revision + 1), revision + count


def _owned(puts: Puts, ownership: Ownership) -> Iterable[int] | None:
    """The epochs at which the keys' slots are owned; None if a put would be refused for that."""
    told = set(puts.epochs)
    epoch = ownership.everywhere
    if epoch:
        return repeat(epoch) if told <= {0, epoch} else None
    epochs = [ownership.epochs[slot] for slot in slots_of(puts.keys)]
    if told != {0} and any(asked not in (0, owned) for asked, owned in zip(puts.epochs, epochs, strict=True)):
        return None
    return None if 0 in epochs else epochs


def _stored(puts: Puts, epochs: Iterable[int], revision: int) -> Iterable[bytes]:
    """The values as they are stored, with revisions from this one on."""
    fixed = repeat(VALUE_FORMAT), repeat(0), repeat(0)
    revisions = range(revision, revision + len(puts.keys))
    if puts.value_bytes >= 0:
        return map(_layout(puts.value_bytes).pack, *fixed, epochs, revisions, puts.values)
    heads = map(VALUE_HEADER.pack, *fixed, epochs, revisions)
    return [head + value for head, value in zip(heads, puts.values, strict=True)]


@lru_cache(maxsize=_LAYOUTS)
def _layout(value_bytes: int) -> struct.Struct:
    return struct.Struct(f"{VALUE_HEADER.format}{value_bytes}s")
