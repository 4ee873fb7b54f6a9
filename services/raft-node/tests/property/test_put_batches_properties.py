"""Batches of puts do the same whether they are carried out by columns or put by put."""

from __future__ import annotations

import random

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.partition_map import SlotRange
from doug_wire.payload import encode_batch
from doug_wire.puts import Puts
from doug_wire.slots import SLOTS
from raft_node import entry as entries
from raft_node.entry import Entry, EntryKind
from raft_node.errors import CorruptionError
from raft_node.kv import put_batches
from raft_node.kv.keyspace import SLOTS_KEY, VALUE_FORMAT, VALUE_HEADER
from raft_node.kv.operations.work import Outcome
from raft_node.kv.ownership import Ownership
from raft_node.kv.partitions import encode_create_shard
from raft_node.kv.state_machine import StateMachine
from raft_testing.fakes import DictStore

pytestmark = pytest.mark.pure

BATCHES = 60
HALF = SLOTS // 2
OWNERSHIPS = {
    "every slot": (SlotRange(0, SLOTS - 1, 0, 1),),
    "every slot, at several epochs": (SlotRange(0, HALF, 0, 1), SlotRange(HALF + 1, SLOTS - 1, 0, 3)),
    "half of the slots": (SlotRange(0, HALF, 0, 3),),
}


class Slow(StateMachine):
    """Carries out every batch put by put."""

    def _put_all(self, *_: object) -> None:
        return None


def entry(index: int, command: bytes) -> Entry:
    return entries.encode(index, 1, EntryKind.COMMAND, index, command)


def drawn(chance: random.Random) -> list[Entry]:
    """Batches of puts, with other operations and other commands here and there."""
    made: list[Entry] = []
    while len(made) < BATCHES:
        count, size = chance.choice((1, 2, 30)), chance.choice((3, -1))
        epoch = chance.choice((0, 0, 1, 3))
        operations = []
        for _ in range(count):
            key = b"%c%b" % (chance.choice(b"abcdefgh"), chance.choice((b"", b"", b"{t}", b"{")))
            value = b"v" * (size if size >= 0 else chance.randrange(5))
            operations.append(commands.encode(Opcode.PUT, key, b"", value, chance.choice((epoch, epoch, 0))))
        if chance.random() < 0.2:
            other = chance.choice(
                (
                    commands.encode(Opcode.DELETE, b"a"),
                    commands.encode(Opcode.PUT, b"b", b"type", b"v"),
                    commands.encode(Opcode.PUT, b"c", b"", b"v", condition=commands.ABSENT),
                    commands.encode(Opcode.GET, b"d"),
                )
            )
            operations.insert(chance.randrange(count + 1), other)
        value = encode_batch(operations)
        made.append(entry(len(made) + 1, commands.encode(Opcode.BATCH, b"a", b"", value)))
        if chance.random() < 0.3:
            made.append(entry(len(made) + 1, commands.encode(Opcode.PUT, b"a", b"", b"alone")))
        if chance.random() < 0.3:
            bound = commands.encode(Opcode.DELETE, b"b", condition=commands.EXISTS)
            made.append(entry(len(made) + 1, bound))
    return made


@pytest.mark.parametrize("owned", OWNERSHIPS)
@pytest.mark.parametrize("seed", range(6))
def test_puts_do_the_same_by_columns_and_one_by_one(seed: int, owned: str) -> None:
    chance = random.Random(seed)
    log = drawn(chance)
    found = []
    for kind in (StateMachine, Slow):
        store = DictStore()
        store.data[SLOTS_KEY] = Ownership(3, OWNERSHIPS[owned]).encode()
        machine = kind.open(store)
        outcomes: list[Outcome] = []
        while len(outcomes) < len(log):
            outcomes += machine.apply(log[len(outcomes) : len(outcomes) + chance.choice((1, 2, 5, 40))])
        found.append((outcomes, store.data, machine.revision))
    assert found[0] == found[1]
    assert len({value for value in found[0][1].values() if value is not None}) > 5


@pytest.mark.parametrize("count", [1, 2, 250, 251])
@pytest.mark.parametrize("epoch", [1, 256, (1 << 32) - 1])
@pytest.mark.parametrize("revision", [1, 250, (1 << 32) - 2, (1 << 56) - 1, (1 << 63) - 1, (1 << 64) - 251])
def test_headers_that_are_counted_up_as_one_number_carry_into_no_other_field(
    revision: int, epoch: int, count: int
) -> None:
    """At every border of the fields, and with one epoch or several, by which they are made in two ways."""
    values = [bytes((place % 256,)) * (place % 3) for place in range(count)]
    for epochs in ((epoch,) * count, (*(epoch,) * (count - 1), 7)):
        puts = Puts([b"k"] * count, values, epochs, -1)
        assert [*put_batches._stored(puts, epochs, revision)] == [
            VALUE_HEADER.pack(VALUE_FORMAT, 0, 0, epochs[place], revision + place) + values[place]
            for place in range(count)
        ]


def test_a_malformed_batch_stops_the_node_as_if_it_had_been_carried_out_one_by_one() -> None:
    """Every byte of a batch, changed in every bit: refused by both, or carried out by both alike."""
    create = entry(1, commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)))
    put = commands.encode(Opcode.PUT, b"k", b"", b"v", 1)
    good = commands.encode(Opcode.BATCH, b"k", b"", encode_batch([put, put]))
    refused = 0
    for place in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            found: list[object] = []
            for kind in (StateMachine, Slow):
                store = DictStore()
                try:
                    found.append((kind.open(store).apply([create, entry(2, bytes(bad))]), store.data))
                except CorruptionError as error:
                    found.append(str(error))
                    assert not store.data
            assert found[0] == found[1], (place, bit)
            refused += isinstance(found[0], str)
    assert refused
