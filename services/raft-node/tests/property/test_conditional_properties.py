"""However commands are read and cut into calls, they do the same: without decoding, decoded once, and decoded anew."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from doug_wire import command as commands
from doug_wire.command import Command, Condition, ConditionKind, Opcode
from raft_node import entry as entries
from raft_node.entry import HEADER_BYTES, Entry, EntryKind
from raft_node.errors import CorruptionError
from raft_node.kv import fetching
from raft_node.kv.changes import decode_removals
from raft_node.kv.fetching import KEPT_BYTES_MAX, Fetching
from raft_node.kv.keyspace import StoredValue, encode_value, user_key
from raft_node.kv.operations.work import Outcome
from raft_node.kv.partitions import encode_create_shard
from raft_node.kv.state_machine import StateMachine
from raft_node.storage.changes.span import NO_SPAN, Span
from raft_node.storage.tables.reads import BlockNeeded
from raft_testing.fakes import DictStore
from raft_testing.wishes import KEYS, Wishes

pytestmark = pytest.mark.pure

COMMANDS = 400
OTHER_EPOCH = encode_value(StoredValue(1, b"t", b"of an earlier ownership", 7))


class Store(DictStore):
    """A store that keeps the changes, and has some keys on disk."""

    def __init__(self, chance: random.Random | None) -> None:
        super().__init__()
        self.removed: list[tuple[bytes, int, int]] = []
        self.data[user_key(KEYS[0])] = OTHER_EPOCH
        self._chance = chance

    def write(
        self,
        batch: Sequence[tuple[bytes, bytes | None]],
        applied_index: int,
        applied_term: int,
        span: Span = NO_SPAN,
    ) -> None:
        super().write(batch, applied_index, applied_term, span)
        for place, (kind, revision) in decode_removals(span.notes).items():
            key, value = batch[place]
            assert value is None
            self.removed.append((key, kind, revision))

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | BlockNeeded | None]:
        found = super().multi_get(keys)
        if self._chance is None:
            return found
        return [cold(key) if self._chance.random() < 0.02 else value for key, value in zip(keys, found, strict=True)]


def cold(key: bytes) -> BlockNeeded:
    needed = BlockNeeded.__new__(BlockNeeded)
    needed.key = key
    return needed


class Decoding(StateMachine):
    """A state machine that decodes every command with a condition."""

    def _judge(self, entries: object, *_: object) -> Entry | None:
        return next(iter(entries))  # type: ignore[call-overload, no-any-return]


class Anew(Fetching):
    """Decodes a command whenever it is needed."""

    def command(self, entry: Entry) -> Command:
        return fetching.decode(entry)


def entry(index: int, command: bytes, now_us: int = 0) -> Entry:
    return entries.encode(index, 1, EntryKind.COMMAND, now_us, command)


def drawn(chance: random.Random) -> list[Entry]:
    """What clients wish, and conditions more than anything else."""
    wishes = Wishes(chance, "1")
    made = [entry(1, commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)))]
    now_us = 0
    while len(made) < COMMANDS:
        now_us += chance.choice((0, 0, 10_000))
        index = len(made) + 1
        command = wishes.draw().command
        if chance.random() < 0.7:
            key = chance.choice((*KEYS, b"of other shards"))
            kind = chance.choice(tuple(ConditionKind))
            number = max(index - chance.choice((1, 2, 3, 5)), 0) if kind == ConditionKind.REVISION else 0
            opcode = chance.choice((Opcode.PUT, Opcode.PUT, Opcode.DELETE))
            value = b"v%d" % index if opcode == Opcode.PUT else b""
            encoding = b"gzip" if opcode == Opcode.PUT and chance.random() < 0.05 else b""
            epoch = chance.choice((0, 0, 1, 2))
            command = commands.encode(opcode, key, b"", value, epoch, Condition(kind, number), 0, None, encoding)
        if command:
            made.append(entry(index, command, now_us))
    return made


def carry_out(machine: StateMachine, store: Store, log: Sequence[Entry], chance: random.Random | None) -> list[Outcome]:
    """Applies a log in calls of any size, or one by one."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(log):
        some = 1 if chance is None else chance.choice((1, 2, 5, 40, 400))
        outcomes += machine.apply(log[len(outcomes) : len(outcomes) + some])
        if machine.needed:
            machine.loaded([(needed.key, store.data.get(needed.key)) for needed in machine.needed])
    return outcomes


@pytest.mark.parametrize("seed", range(12))
def test_commands_do_the_same_however_they_are_read(seed: int) -> None:
    chance = random.Random(seed)
    log = drawn(chance)
    found = []
    for kind, decodes_anew, together in (
        (StateMachine, False, True), (Decoding, False, True), (StateMachine, True, True), (Decoding, True, False),
    ):  # fmt: skip
        store = Store(chance if together else None)
        machine = kind.open(store)
        if decodes_anew:
            machine._fetching = Anew(store)
        outcomes = carry_out(machine, store, log, chance if together else None)
        found.append((outcomes, store.data, store.removed, machine.revision, machine.tokens, machine.token_bytes))
    assert found[0] == found[1] == found[2] == found[3]
    conditional = [outcome.status for outcome in found[0][0]]
    assert len(set(conditional)) >= 3, "all of it comes about"


@pytest.mark.parametrize("condition", [commands.EXISTS, commands.ABSENT, commands.revision(1)])
def test_a_malformed_command_stops_the_node_as_if_it_had_been_decoded(condition: Condition) -> None:
    """Every byte before the value, changed in every bit: refused by both, or carried out by both alike."""
    create = entry(1, commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)))
    good = commands.encode(Opcode.PUT, b"k", b"t", b"v", 1, condition)
    refused = 0
    for place in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            log = [create, entry(2, commands.encode(Opcode.PUT, b"k", b"", b"old")), entry(3, bytes(bad))]
            found: list[object] = []
            for kind in (StateMachine, Decoding):
                store = DictStore()
                machine = kind.open(store)
                try:
                    found.append((machine.apply(log), store.data))
                except CorruptionError as error:
                    found.append(str(error))
                    assert not store.data
            assert found[0] == found[1] or (isinstance(found[0], str) and isinstance(found[1], str)), (place, bit)
            refused += isinstance(found[0], str)
    assert refused


def test_a_kept_command_counts_for_its_bytes_alone_and_is_bounded() -> None:
    store = DictStore()
    held = Fetching(store)
    one = entry(5, commands.encode(Opcode.PUT, b"k", b"", b"one", ttl=5))
    assert held.command(one) is held.command(one)
    other = entry(5, commands.encode(Opcode.PUT, b"k", b"", b"two", ttl=5))
    assert held.command(other).value == b"two"
    assert held.command(one) == commands.decode(one.data, HEADER_BYTES)
    held.forget()
    assert held._commands == {}
    large = b"x" * ((1 << 20) - 300)
    for index in range(20):
        held.command(entry(index, commands.encode(Opcode.PUT, b"k", b"", large, ttl=5)))
    assert 0 < sum(len(data) for data, _ in held._commands.values()) <= KEPT_BYTES_MAX
