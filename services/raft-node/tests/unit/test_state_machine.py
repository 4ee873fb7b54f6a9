"""The state machine: what each entry does, and that replicas cannot differ."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.partition_map import PartitionMap
from doug_wire.payload import Txn, encode_batch, encode_txn
from doug_wire.pipe import Status
from doug_wire.slots import slot_of
from raft_node import entry as entries
from raft_node.entry import Entry, EntryKind
from raft_node.errors import CorruptionError
from raft_node.kv.keyspace import STATE_KEY, State, decode_value, user_key
from raft_node.kv.operations import access
from raft_node.kv.ownership import Ownership
from raft_node.kv.partitions import encode_create_shard
from raft_node.kv.state_machine import StateMachine
from raft_node.storage.changes.span import NO_SPAN, Span
from raft_node.storage.tables.reads import BlockNeeded


class DictStore:
    """A store in a dict that keeps what an engine would keep."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.applied_index = 0
        self.batches = 0

    def write(
        self,
        batch: Sequence[tuple[bytes, bytes | None]],
        applied_index: int,
        applied_term: int,
        span: Span = NO_SPAN,
    ) -> None:
        for key, value in batch:
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value
        self.applied_index = applied_index
        self.batches += 1

    def get_blocking(self, key: bytes) -> bytes | None:
        return self.data.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | BlockNeeded | None]:
        return [self.data.get(key) for key in keys]


def command(index: int, opcode: Opcode, key: bytes = b"", value: bytes = b"", epoch: int = 0, at_us: int = 0) -> Entry:
    encoded = commands.encode(opcode, key, b"text/plain" if opcode == Opcode.PUT else b"", value, epoch)
    return entries.encode(index, 1, EntryKind.COMMAND, at_us, encoded)


def create(index: int, shard: int = 0, shards: int = 1) -> Entry:
    return command(index, Opcode.CREATE_SHARD, value=encode_create_shard(shard, shards))


def key_of_shard(shard: int, shards: int) -> bytes:
    owned = Ownership(1, PartitionMap.first(shards).of_shard(shard))
    return next(key for i in range(10_000) if owned.owns_key(key := b"k%d" % i))


def test_a_put_is_stored_with_its_revision_and_content_type() -> None:
    store = DictStore()
    machine = StateMachine.open(store)
    outcomes = machine.apply([create(1), command(2, Opcode.PUT, b"k", b"v", at_us=7)])
    assert outcomes[1] == (Status.OK, 1, None)
    assert decode_value(store.data[user_key(b"k")]) == (1, b"text/plain", b"v", 1, 0, b"")
    assert State.decode(store.data[STATE_KEY]) == State(7, 1)


def test_a_delete_takes_a_revision_and_the_key_away() -> None:
    store = DictStore()
    machine = StateMachine.open(store)
    machine.apply([create(1), command(2, Opcode.PUT, b"k", b"v")])
    assert machine.apply([command(3, Opcode.DELETE, b"k")]) == [(Status.OK, 2, None)]
    assert user_key(b"k") not in store.data


def test_entries_and_the_applied_index_reach_the_store_in_one_batch() -> None:
    store = DictStore()
    StateMachine.open(store).apply([create(1), command(2, Opcode.PUT, b"a", b"1"), command(3, Opcode.PUT, b"b", b"2")])
    assert (store.batches, store.applied_index) == (1, 3)


def test_a_key_of_another_shard_changes_nothing() -> None:
    store = DictStore()
    machine = StateMachine.open(store)
    foreign = key_of_shard(1, 2)
    outcomes = machine.apply([create(1, 0, 2), command(2, Opcode.PUT, foreign, b"v")])
    assert outcomes[1] == (Status.WRONG_SHARD, 0, None)
    assert user_key(foreign) not in store.data
    assert machine.revision == 0


def test_an_outdated_epoch_changes_nothing_and_zero_is_not_checked() -> None:
    machine = StateMachine.open(DictStore())
    machine.apply([create(1)])
    assert machine.apply([command(2, Opcode.PUT, b"k", b"v", epoch=2)]) == [(Status.WRONG_SHARD, 0, None)]
    assert machine.apply([command(3, Opcode.PUT, b"k", b"v", epoch=1)]) == [(Status.OK, 1, None)]
    assert machine.apply([command(4, Opcode.PUT, b"k", b"v", epoch=0)]) == [(Status.OK, 2, None)]


def test_before_its_creation_a_shard_owns_nothing() -> None:
    machine = StateMachine.open(DictStore())
    assert not machine.created
    assert machine.apply([command(1, Opcode.PUT, b"k", b"v")]) == [(Status.WRONG_SHARD, 0, None)]


def test_the_second_creation_is_without_effect() -> None:
    store = DictStore()
    machine = StateMachine.open(store)
    machine.apply([create(1, 0, 2)])
    before = dict(store.data)
    machine.apply([create(2, 0, 4)])
    assert {k: v for k, v in store.data.items() if k != STATE_KEY} == {
        k: v for k, v in before.items() if k != STATE_KEY
    }


def test_only_shard_0_holds_the_partition_map() -> None:
    first, second = StateMachine.open(DictStore()), StateMachine.open(DictStore())
    first.apply([create(1, 0, 2)])
    second.apply([create(1, 1, 2)])
    known = first.partition_map()
    assert known is not None and known.ranges == PartitionMap.first(2).ranges
    assert second.partition_map() is None


def test_a_restart_takes_the_state_up_again() -> None:
    store = DictStore()
    machine = StateMachine.open(store)
    machine.apply([create(1, 1, 2), command(2, Opcode.PUT, key_of_shard(1, 2), b"v", at_us=9)])
    again = StateMachine.open(store)
    assert (again.revision, again.clock_us, again.created) == (1, 9, True)
    assert again.owns(slot_of(key_of_shard(1, 2)), 1)
    assert not again.owns(slot_of(key_of_shard(0, 2)), 0)


def test_the_log_clock_never_goes_back() -> None:
    machine = StateMachine.open(DictStore())
    machine.apply([create(1), command(2, Opcode.PUT, b"k", b"v", at_us=50)])
    machine.apply([entries.encode(3, 2, EntryKind.NOOP, 20)])
    assert machine.clock_us == 50


@pytest.mark.parametrize(
    "entry",
    [
        entries.encode(2, 1, 99, 0),
        entries.encode(2, 1, EntryKind.COMMAND, 0, commands.encode(77, b"k")),
        command(2, Opcode.BATCH, b"k", encode_batch([commands.encode(77, b"k")])),
        command(2, Opcode.BATCH, b"k", encode_batch([commands.encode(Opcode.TXN, b"k")])),
        command(2, Opcode.BATCH, b"k", encode_batch([b""])),
        command(2, Opcode.BATCH, b"k", encode_batch([commands.encode(Opcode.PUT, b"k")[:9]])),
        command(2, Opcode.TXN, b"k", encode_txn(Txn((), (commands.encode(77, b"k"),), ()))),
    ],
)
def test_what_is_unknown_stops_the_node_instead_of_being_skipped(entry: Entry) -> None:
    machine = StateMachine.open(DictStore())
    machine.apply([create(1)])
    with pytest.raises(CorruptionError):
        machine.apply([entry])


def test_an_entry_is_never_applied_twice_or_out_of_order() -> None:
    machine = StateMachine.open(DictStore())
    machine.apply([create(1)])
    with pytest.raises(AssertionError):
        machine.apply([create(1)])
    with pytest.raises(AssertionError):
        machine.apply([command(3, Opcode.PUT, b"k", b"v")])


def set_auth(index: int, expected: int, revision: int, document: bytes) -> Entry:
    return command(index, Opcode.SET_AUTH, value=access.encode_change(expected, revision, document))


def test_who_may_do_what_changes_by_comparing_its_revision_and_outlives_a_restart() -> None:
    store = DictStore()
    machine = StateMachine.open(store)
    outcomes = machine.apply(
        [create(1), set_auth(2, 0, 1, b"one"), set_auth(3, 0, 1, b"late"), set_auth(4, 1, 3, b"gap"),
         set_auth(5, 1, 2, b"two"), command(6, Opcode.PUT, b"k", b"v")]
    )  # fmt: skip
    refused = Status.PRECONDITION_FAILED
    assert [outcome[:2] for outcome in outcomes[1:]] == [
        (Status.OK, 1), (refused, 1), (refused, 1), (Status.OK, 2), (Status.OK, 1)
    ], "a user's revisions do not count changes of rights"  # fmt: skip
    assert machine.auth == StateMachine.open(store).auth == access.Stored(2, b"two")


def test_a_copy_of_who_may_do_what_only_becomes_newer() -> None:
    machine = StateMachine.open(DictStore())
    outcomes = machine.apply(
        [create(1), *(set_auth(index, access.COPY, revision, b"r%d" % revision)
                      for index, revision in ((2, 7), (3, 7), (4, 6), (5, 9)))]
    )  # fmt: skip
    applied, refused = Status.OK, Status.PRECONDITION_FAILED
    assert [outcome[:2] for outcome in outcomes[1:]] == [(applied, 7), (refused, 7), (refused, 7), (applied, 9)]
    assert machine.auth == access.Stored(9, b"r9")


@pytest.mark.parametrize("value", [b"", b"\0" * 16], ids=["empty", "without a document"])
def test_a_change_of_rights_that_is_none_stops_the_node(value: bytes) -> None:
    machine = StateMachine.open(DictStore())
    with pytest.raises(CorruptionError):
        machine.apply([create(1), command(2, Opcode.SET_AUTH, value=value)])


@pytest.mark.parametrize("stored", [b"", b"\0" * 8], ids=["empty", "without a document"])
def test_stored_rights_that_are_none_are_damage(stored: bytes) -> None:
    with pytest.raises(CorruptionError):
        access.Stored.decode(stored)
    assert access.Stored.decode(None) == access.Stored()
