"""What a few bytes of the log may cost every replica: memory, and time on the event loop."""

from __future__ import annotations

from typing import Any

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.idempotency import with_token
from doug_wire.partition_map import PartitionMap
from doug_wire.payload import (
    Compare,
    CompareKind,
    Txn,
    decode_batch_result,
    decode_txn_result,
    encode_batch,
    encode_increment,
    encode_txn,
)
from doug_wire.pipe import Status
from raft_node import entry as entries
from raft_node.entry import Entry, EntryKind
from raft_node.kv.keyspace import STATE_KEY, StoredValue, encode_value, user_key
from raft_node.kv.operations.work import Limits, Outcome, Work
from raft_node.kv.ownership import Ownership
from raft_node.kv.partitions import encode_create_shard
from raft_node.kv.state_machine import StateMachine
from raft_testing.fakes import DictStore

LARGE = b"x" * ((1 << 20) - 200)
GET = commands.encode(Opcode.GET, b"k")
TOUCH = commands.encode(Opcode.TOUCH, b"k", ttl=60_000)


class Shard:
    """A state machine and the log before it."""

    def __init__(self) -> None:
        self.store = DictStore()
        self.machine = StateMachine.open(self.store)
        self.do(commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)))

    def entry(self, command: bytes, ahead: int = 1, at_us: int = 0) -> Entry:
        return entries.encode(self.store.applied_index + ahead, 1, EntryKind.COMMAND, at_us, command)

    def do(self, command: bytes, at_us: int = 0) -> Outcome:
        (outcome,) = self.machine.apply([self.entry(command, at_us=at_us)])
        return outcome

    def put(self, key: bytes, value: bytes) -> None:
        self.do(commands.encode(Opcode.PUT, key, b"", value))


@pytest.fixture
def shard() -> Shard:
    return Shard()


def txn(*operations: bytes, compares: tuple[Compare, ...] = (), failure: tuple[bytes, ...] = ()) -> bytes:
    return commands.encode(Opcode.TXN, b"k", b"", encode_txn(Txn(compares, operations, failure)))


def batch(*operations: bytes) -> bytes:
    return commands.encode(Opcode.BATCH, b"k", b"", encode_batch(operations))


CONDITIONAL = commands.encode(Opcode.PUT, b"k", b"", LARGE, condition=commands.EXISTS)
READING = {"txn": txn(GET), "batch": batch(GET), "touches": txn(TOUCH), "touch": TOUCH, "condition": CONDITIONAL}


@pytest.mark.parametrize("command", READING.values(), ids=READING)
def test_a_chunk_of_entries_that_read_much_is_applied_in_parts(shard: Shard, command: bytes) -> None:
    shard.put(b"k", LARGE)
    chunk = [shard.entry(command, n) for n in range(1, 41)]
    outcomes: list[Outcome] = []
    calls = 0
    while len(outcomes) < len(chunk):
        some = shard.machine.apply(chunk[len(outcomes) :])
        assert 0 < len(some) <= 5
        assert not shard.machine.needed
        outcomes += some
        calls += 1
    assert calls >= 8
    assert {outcome.status for outcome in outcomes} == {Status.OK}


def test_a_chunk_of_costly_entries_is_applied_in_parts_that_change_nothing_of_their_effects() -> None:
    increment = commands.encode(Opcode.INCREMENT, b"n", b"", encode_increment(1))
    whole, parts = Shard(), Shard()
    for _ in range(3000):
        whole.do(increment)
    chunk = [parts.entry(increment, n) for n in range(1, 3001)]
    applied = 0
    while applied < len(chunk):
        some = len(parts.machine.apply(chunk[applied:]))
        assert 0 < some <= 1000
        applied += some
    assert parts.store.data[user_key(b"n")] == whole.store.data[user_key(b"n")]
    assert parts.store.data[STATE_KEY] == whole.store.data[STATE_KEY]


@pytest.mark.parametrize("command", [txn(*[TOUCH] * 100), batch(*[TOUCH] * 100)], ids=["txn", "batch"])
def test_one_entry_reads_and_stores_a_bounded_number_of_bytes(shard: Shard, command: bytes) -> None:
    shard.put(b"k", LARGE)
    before = dict(shard.store.data)
    assert shard.do(command).status == Status.RESULT_TOO_LARGE
    assert shard.store.data == before


def test_the_bound_ends_with_its_entry(shard: Shard) -> None:
    shard.put(b"k", LARGE)
    good = txn(*[TOUCH] * 5)
    chunk = [shard.entry(good, 1), shard.entry(commands.encode(Opcode.TOUCH, b"k", ttl=5), 2)]
    while chunk:
        outcomes = shard.machine.apply(chunk)
        assert all(outcome.status == Status.OK for outcome in outcomes)
        del chunk[: len(outcomes)]


def test_what_was_left_out_because_much_was_named_is_fetched_when_it_is_read(shard: Shard) -> None:
    keys = [b"k%02d" % n for n in range(24)]
    for key in keys:
        shard.put(key, LARGE)
    compares = (Compare(CompareKind.ABSENT, keys[0]), *(Compare(CompareKind.EXISTS, key) for key in keys))
    last = commands.encode(Opcode.DELETE, keys[-1], condition=commands.EXISTS)
    command = commands.encode(Opcode.TXN, keys[0], b"", encode_txn(Txn(compares, (), (last,))))
    outcome = shard.do(command)
    assert outcome.details is not None
    result = decode_txn_result(outcome.details.value)
    assert (result.succeeded, [each.status for each in result.results]) == (False, [Status.OK])
    assert shard.store.data[user_key(keys[-1])] is None


class Counted(list[Any]):
    """A list that counts how many of its items were copied."""

    copied = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.copied += len(found) if isinstance(place, slice) else 0
        return found

    def __iter__(self) -> Any:
        self.copied += len(self)
        return super().__iter__()


def test_a_transaction_that_fails_costs_what_it_did_and_not_what_was_done_before() -> None:
    work = Work(Ownership(1, PartitionMap.first(1).of_shard(0)), Limits(), 0, 0)
    work.effects = effects = Counted()
    old = encode_value(StoredValue(1, b"", b"old", 1))
    work.take({user_key(b"a"): None})
    for n in range(1000):
        work.write(user_key(b"%d" % n), old)
    for _ in range(100):
        mark = work.begin_transaction()
        work.store(b"5", StoredValue(2, b"", b"new", 1))
        work.store(b"a", StoredValue(2, b"", b"new", 1))
        found = work.current(b"5")
        assert found is not None
        assert found.value == b"new"
        work.undo(mark)
        kept = work.current(b"5")
        assert kept is not None
        assert kept.value == b"old"
        assert work.current(b"a") is None
    assert len(effects) == 1000
    assert effects.copied < 3000


def test_what_is_older_than_tokens_are_kept_is_refused_in_a_batch_too(shard: Shard) -> None:
    made_us = 1_700_000_000_000_000
    made_ms = made_us // 1000
    key = f"{made_ms >> 16:08x}-{made_ms & 0xFFFF:04x}-7000-8000-000000000000"
    wanted = commands.Command(Opcode.INCREMENT, b"k", b"", encode_increment(1), 0)
    # As a facade makes the keys of a batch's operations.
    command = batch(commands.encode(*with_token(wanted, "", f"{key}/0")))

    def status(at_us: int) -> int:
        outcome = shard.do(command, at_us)
        assert outcome.details is not None
        return decode_batch_result(outcome.details.value)[0].status

    assert status(made_us) == Status.OK
    assert status(made_us + 25 * 3600 * 1_000_000) == Status.TOKEN_EXPIRED


@pytest.mark.parametrize("kind", [EntryKind.NOOP, EntryKind.CLOCK])
def test_entries_that_are_no_commands_stand_among_those_that_read_much(shard: Shard, kind: EntryKind) -> None:
    shard.put(b"k", LARGE)
    first = shard.store.applied_index + 1
    chunk = [shard.entry(txn(GET), 1 + n) if n % 2 == 0 else entries.encode(first + n, 1, kind, 0) for n in range(40)]
    applied = 0
    while applied < len(chunk):
        some = len(shard.machine.apply(chunk[applied:]))
        assert some > 0
        applied += some
    assert shard.store.applied_index == chunk[-1].index
