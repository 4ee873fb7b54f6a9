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
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import count as count_from
from itertools import repeat
from operator import add

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.payload import BATCH_PART
from doug_wire.puts import Puts, decode_puts, encode_results
from doug_wire.slots import slots_of
from raft_node.entry import HEADER_BYTES
from raft_node.kv.keyspace import USER_PREFIX, VALUE_FORMAT, VALUE_HEADER, VALUE_HEADER_BYTES
from raft_node.kv.ownership import Ownership

_START = HEADER_BYTES + commands.HEADER.size
_BATCH = int(Opcode.BATCH)

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


def _owned(puts: Puts, ownership: Ownership) -> Sequence[int] | None:
    """The epochs at which the keys' slots are owned; None if a put would be refused for that."""
    told = set(puts.epochs)
    epoch = ownership.everywhere
    if epoch:
        return (epoch,) * len(puts.keys) if told <= {0, epoch} else None
    epochs = [ownership.epochs[slot] for slot in slots_of(puts.keys)]
    if told != {0} and any(asked not in (0, owned) for asked, owned in zip(puts.epochs, epochs, strict=True)):
        return None
    return None if 0 in epochs else epochs


def _stored(puts: Puts, epochs: Sequence[int], revision: int) -> Iterable[bytes]:
    """The values as they are stored, with revisions from this one on."""
    count = len(epochs)
    if count <= BATCH_PART and epochs.count(epochs[0]) == count and revision + count <= 1 << 64:
        # All headers are one number: what a revision adds to it is added to all of them at once.
        first, step, cut = _headers_from_zero(count, epochs[0])
        return map(add, cut((first + revision * step).to_bytes(VALUE_HEADER_BYTES * count, "little")), puts.values)
    heads = map(VALUE_HEADER.pack, repeat(VALUE_FORMAT), repeat(0), repeat(0), epochs, count_from(revision))
    return map(add, heads, puts.values)


@lru_cache(maxsize=BATCH_PART)
def _headers_from_zero(count: int, epoch: int) -> tuple[int, int, Callable[[bytes], tuple[bytes, ...]]]:
    """As numbers, the headers of so many values from revision 0 on, and the difference that the next revision makes.

    The last one cuts headers apart.
    """
    first = b"".join([VALUE_HEADER.pack(VALUE_FORMAT, 0, 0, epoch, place) for place in range(count)])
    step = VALUE_HEADER.pack(0, 0, 0, 0, 1) * count
    cut = struct.Struct(f"{VALUE_HEADER_BYTES}s" * count)
    return int.from_bytes(first, "little"), int.from_bytes(step, "little"), cut.unpack
