"""Watches of a node: they tell what the log says, wherever they begin and however the log was cut into batches."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire.command import Condition, ConditionKind, Opcode
from doug_wire.payload import Compare, CompareKind, Txn, encode_batch, encode_increment, encode_txn
from doug_wire.puts import encode_puts
from doug_wire.watch import Change, ChangeKind, decode_changes
from raft_node import entry as entries
from raft_node.entry import Entry, EntryKind
from raft_node.errors import OverloadedError
from raft_node.kv.changes import EVERYTHING, Filter, Removal, changes_in, encode_removals
from raft_node.kv.keyspace import DUE_PREFIX, USER_PREFIX, VALUE_FORMAT, VALUE_HEADER, decode_value
from raft_node.kv.operations.expiry import encode_expire
from raft_node.kv.partitions import encode_create_shard
from raft_node.kv.state_machine import StateMachine
from raft_node.rpc.doug import watch_stream
from raft_node.runtime.reads.watches import STEP_EFFECTS, HistoryGoneError, Position, Watches
from raft_node.storage.engine import BlockNeeded, Engine
from raft_node.storage.snapshots.checkpoint import Checkpoint
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

D = "/data"
OPTIONS = replace(TINY_OPTIONS, history_bytes_max=1 << 20)
SECOND_US = 1_000_000


class Node:
    """A state machine over a real engine."""

    def __init__(self, fs: MemoryFileSystem, name: str = "s", options: object = OPTIONS, directory: str = D) -> None:
        self.fs = fs
        self.directory = directory
        self.engine = Engine.open(fs, directory, options, name)  # type: ignore[arg-type]
        self.machine = StateMachine.open(self.engine)
        self.engine.begin_history(self.machine.revision)
        self.damage: list[str] = []
        self.watched: list[bool] = []
        self.watches = Watches(self.engine, lambda: self.machine, 8, self.damage.append, self.watched.append)

    def apply(self, log: Sequence[Entry]) -> None:
        while log:
            done = len(self.machine.apply(log))
            log = log[done:]
            found = []
            for needed in self.machine.needed:
                value: bytes | BlockNeeded | None = needed
                while isinstance(value, BlockNeeded):
                    value = self.engine.resume(self.engine.load_block(value))
                found.append((needed.key, value))
            self.machine.loaded(found)

    def flush(self) -> None:
        self.engine.rotate()
        settle(self.engine, self.fs, self.directory)

    def adopt(self, checkpoint: Checkpoint) -> None:
        """A snapshot takes the place of the state."""
        adoption = self.engine.adopt(checkpoint)
        assert adoption is not None
        adoption.run()
        self.engine.finish_adoption(adoption)
        self.machine = StateMachine.open(self.engine)
        self.engine.begin_history(self.machine.revision)

    def state(self) -> dict[bytes, bytes]:
        return dict(self.engine.scan(USER_PREFIX, b"\x02"))

    def notes(self) -> list[bytes]:
        return [key for key, _ in self.engine.scan(DUE_PREFIX, b"\x00due0")]


def replica_of(node: Node, applied_index: int = 0) -> Any:
    """What a stream to a client needs to know of a node."""
    return SimpleNamespace(
        watches=node.watches,
        serves_local_reads=True,
        receipt=pb.Receipt,
        peers=SimpleNamespace(me=SimpleNamespace(cluster_id=b"c")),
        driver=SimpleNamespace(applied_index=applied_index, node=SimpleNamespace(leader="n")),
    )


async def told(node: Node, position: Position, wanted: Filter = EVERYTHING) -> list[Change]:
    """Everything behind a position."""
    watch = node.watches.open(position, wanted)
    found: list[Change] = []
    try:
        while (step := await node.watches.step(watch)) is not None:
            found += decode_changes(step.records)
            assert step.upto == watch.position.revision
    finally:
        node.watches.close(watch)
    return found


def random_command(chance: random.Random, revision: int) -> bytes:
    """Any command on a few keys."""
    key = b"k%d" % chance.randrange(8)
    condition = chance.choice(
        [
            None,
            Condition(ConditionKind.EXISTS, 0),
            Condition(ConditionKind.ABSENT, 0),
            Condition(ConditionKind.REVISION, 3),
        ]
    )
    ttl = chance.choice([0, 0, 1000, commands.KEEP])
    kind = chance.randrange(5)
    if kind == 0:
        return commands.encode(Opcode.DELETE, key, condition=condition)
    if kind == 1:
        return commands.encode(Opcode.INCREMENT, b"n" + key, value=encode_increment(2, 5))
    if kind == 2:
        return commands.encode(Opcode.TOUCH, key, ttl=1000)
    return commands.encode(
        Opcode.PUT, key, b"text/plain", b"v%d" % revision * chance.randrange(1, 30), 0, condition, ttl
    )


def random_log(chance: random.Random, count: int) -> list[Entry]:
    """A log of all kinds of commands; expiries are put in by ``with_expiries``."""
    log = [entry(1, commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)), 0)]
    for index in range(2, count + 2):
        kind = chance.randrange(8)
        if kind == 0:
            success = [random_command(chance, index) for _ in range(chance.randrange(5))]
            compare = [Compare(CompareKind.EXISTS, b"k1")] if chance.random() < 0.3 else []
            txn = Txn(tuple(compare), tuple(success), tuple(success[:1]))
            command = commands.encode(Opcode.TXN, b"k0", value=encode_txn(txn))
        elif kind == 1:
            batch = [random_command(chance, index) for _ in range(chance.randrange(1, 6))]
            command = commands.encode(Opcode.BATCH, b"k0", value=encode_batch(batch))
        else:
            command = random_command(chance, index)
        log.append(entry(index, command, index * SECOND_US // 5))
    return log


def entry(index: int, command: bytes, at_us: int) -> Entry:
    return entries.encode(index, 1, EntryKind.COMMAND, at_us, command)


def log_with_expiries(chance: random.Random, count: int) -> tuple[list[Entry], list[Change], dict[bytes, bytes]]:
    """A log, and what it does when each entry is applied alone: its changes and the state at the end."""
    node = Node(MemoryFileSystem(), options=replace(OPTIONS, memtable_bytes=1 << 20))
    log: list[Entry] = []
    for each in random_log(chance, count):
        made = entry(len(log) + 1, each.command, each.timestamp_us)
        node.apply([made])
        log.append(made)
        if chance.random() < 0.2 and (notes := node.notes()):
            expire = commands.encode(Opcode.EXPIRE, b"", value=encode_expire(notes[:3]))
            log.append(entry(len(log) + 1, expire, each.timestamp_us))
            node.apply(log[-1:])
    return log, asyncio.run(told(node, Position(0))), node.state()


def check_changes(changes: list[Change], state: dict[bytes, bytes], last: int) -> None:
    """That changes end in a state, with every revision once and in order."""
    found: dict[bytes, int] = {}
    for change in changes:
        if change.kind == ChangeKind.PUT:
            found[change.key] = change.revision
        else:
            found.pop(change.key, None)
    assert found == {key[1:]: decode_value(value).revision for key, value in state.items()}
    assert sorted({change.revision for change in changes}) == list(range(1, last + 1))
    orders = [(change.revision, change.place) for change in changes]
    assert orders == sorted(set(orders)), "a change is told twice, or out of order"
    for this, following in zip(changes, [*changes[1:], None], strict=True):
        assert this.last == (following is None or following.revision != this.revision)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_told_is_the_log_whatever_was_flushed_and_from_every_position_on(seed: int) -> None:
    chance = random.Random(seed)
    log, expected, state = log_with_expiries(chance, 120)
    last = max(change.revision for change in expected)
    check_changes(expected, state, last)
    assert {change.kind for change in expected} == set(map(int, ChangeKind))
    node = Node(MemoryFileSystem())
    while log:
        size = chance.randrange(1, 12)
        node.apply(log[:size])
        log = log[size:]
        if chance.random() < 0.3:
            node.flush()
    assert node.state() == state and node.engine.history.kept_bytes > 0

    async def from_everywhere() -> None:
        assert await told(node, Position(0)) == expected
        for number, change in enumerate(expected):
            position = Position(change.revision, 0 if change.last else change.place + 1)
            assert await told(node, position) == expected[number + 1 :]

    asyncio.run(from_everywhere())
    node.watches.close_all()


def test_a_filter_leaves_out_what_is_not_wanted_and_places_stay() -> None:
    log, expected, _ = log_with_expiries(random.Random(3), 80)
    node = Node(MemoryFileSystem())
    node.apply(log[:50])
    node.flush()
    node.apply(log[50:])
    wanted = Filter(b"k2", b"k5", frozenset({int(ChangeKind.PUT), int(ChangeKind.EXPIRE)}), values=False)
    found = asyncio.run(told(node, Position(0), wanted))
    assert found == [change._replace(value=b"") for change in expected if wanted.wants(change.kind, change.key)]
    node.watches.close_all()


def test_a_transaction_that_changes_a_key_twice_is_one_change_of_it() -> None:
    node = Node(MemoryFileSystem())
    put = commands.encode(Opcode.PUT, b"a", b"", b"1")
    other = commands.encode(Opcode.PUT, b"b", b"", b"2")
    again = commands.encode(Opcode.PUT, b"a", b"", b"3")
    gone = commands.encode(Opcode.DELETE, b"b")
    txn = commands.encode(Opcode.TXN, b"a", value=encode_txn(Txn((), (put, other, again, gone), ())))
    create = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
    node.apply([entry(1, create, 0), entry(2, txn, 1)])
    changes = asyncio.run(told(node, Position(0)))
    assert [(change.kind, change.key, change.value, change.place, change.last) for change in changes] == [
        (ChangeKind.PUT, b"a", b"3", 0, False),
        (ChangeKind.DELETE, b"b", b"", 1, True),
    ]
    assert {change.revision for change in changes} == {1}
    node.watches.close_all()


def test_a_transaction_that_is_undone_leaves_no_removal() -> None:
    node = Node(MemoryFileSystem())
    create = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
    word = commands.encode(Opcode.PUT, b"n", b"", b"word")
    gone = commands.encode(Opcode.DELETE, b"n")
    fails = commands.encode(Opcode.INCREMENT, b"w", value=encode_increment(1, 0))
    text = commands.encode(Opcode.PUT, b"w", b"", b"word")
    txn = commands.encode(Opcode.TXN, b"n", value=encode_txn(Txn((), (gone, fails), ())))
    after = commands.encode(Opcode.DELETE, b"w")
    log = [create, word, text, txn, after]
    node.apply([entry(index, command, index) for index, command in enumerate(log, 1)])
    changes = asyncio.run(told(node, Position(0)))
    assert [(change.kind, change.key, change.revision) for change in changes] == [
        (ChangeKind.PUT, b"n", 1),
        (ChangeKind.PUT, b"w", 2),
        (ChangeKind.DELETE, b"w", 3),
    ]
    node.watches.close_all()


def test_at_below_and_above_the_oldest_position() -> None:
    log, expected, _ = log_with_expiries(random.Random(7), 200)
    node = Node(MemoryFileSystem(), options=replace(OPTIONS, history_bytes_max=6000))
    for first in range(0, len(log), 5):
        node.apply(log[first : first + 5])
        settle(node.engine, node.fs, D)
    oldest = node.watches.oldest
    assert 0 < oldest < node.machine.revision

    async def around() -> None:
        assert await told(node, Position(oldest)) == [each for each in expected if each.revision > oldest]
        assert await told(node, Position(oldest + 1)) == [each for each in expected if each.revision > oldest + 1]
        with pytest.raises(HistoryGoneError) as gone:
            await told(node, Position(oldest - 1))
        assert gone.value.oldest == oldest

    asyncio.run(around())
    node.watches.close_all()


def test_a_restart_goes_on_with_the_history_that_was_kept() -> None:
    chance = random.Random(11)
    log, expected, _ = log_with_expiries(chance, 150)
    fs = MemoryFileSystem()
    node = Node(fs)
    node.apply(log[:60])
    node.flush()
    node.apply(log[60:110])
    node.watches.close_all()
    flushed = node.engine.flushed_index
    node.engine.close()
    again = Node(fs, "again")
    assert again.engine.applied_index == flushed
    again.apply(log[flushed:])
    assert asyncio.run(told(again, Position(0))) == expected
    again.watches.close_all()


def test_what_is_damaged_is_gone_and_the_node_goes_on() -> None:
    log, expected, _ = log_with_expiries(random.Random(13), 60)
    fs = MemoryFileSystem()
    node = Node(fs)
    node.apply(log[:40])
    node.flush()
    node.apply(log[40:])
    name = next(name for name in fs.list_directory(D) if name.endswith(".hst"))
    fs.flip_bit(f"{D}/{name}", 8 * 70)
    with pytest.raises(HistoryGoneError) as gone:
        asyncio.run(told(node, Position(0)))
    assert len(node.damage) == 1
    oldest = gone.value.oldest
    assert asyncio.run(told(node, Position(oldest))) == [each for each in expected if each.revision > oldest]
    node.watches.close_all()


def test_a_waiting_watch_wakes_up_when_something_is_applied_and_they_are_bounded() -> None:
    async def scenario() -> None:
        node = Node(MemoryFileSystem())
        create = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
        node.apply([entry(1, create, 0)])
        watch = node.watches.open(None, EVERYTHING)
        assert await node.watches.step(watch) is None
        waiting = asyncio.ensure_future(node.watches.wait(watch, 60))
        await asyncio.sleep(0)
        node.apply([entry(2, commands.encode(Opcode.PUT, b"k", b"", b"v"), 1)])
        node.watches.poke()
        await waiting
        step = await node.watches.step(watch)
        assert step is not None and [change.key for change in decode_changes(step.records)] == [b"k"]
        others = [node.watches.open(None, EVERYTHING) for _ in range(7)]
        with pytest.raises(OverloadedError):
            node.watches.open(None, EVERYTHING)
        for each in (watch, *others):
            node.watches.close(each)
        assert node.watches.open_count == 0
        node.watches.close_all()

    asyncio.run(scenario())


def test_whether_anybody_watches_is_told_when_the_first_one_comes_and_when_the_last_one_goes() -> None:
    node = Node(MemoryFileSystem())
    first, second = (node.watches.open(None, EVERYTHING) for _ in range(2))
    assert node.watched == [True]
    node.watches.close(first)
    node.watches.close(first)
    assert node.watched == [True]
    node.watches.close(second)
    node.watches.close(second)
    assert node.watched == [True, False]


def puts(index: int, count: int) -> Entry:
    """An entry with so many puts."""
    keys = [b"k%d/%d" % (index, number) for number in range(count)]
    return entry(index, commands.encode(Opcode.BATCH, keys[0], b"", encode_puts(keys, [b"v"] * count)), index)


def test_a_step_looks_at_few_changes_however_few_are_wanted() -> None:
    """A watch of other keys looked at 64 batches of all that was written fast: a second of the loop of a leader."""
    node = Node(MemoryFileSystem(), options=replace(OPTIONS, memtable_bytes=8 << 20))
    node.apply([entry(1, commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)), 0)])
    for index in range(2, 34):
        node.apply([puts(index, 1000)])

    async def stepwise() -> list[int]:
        watch, upto = node.watches.open(Position(0), Filter(b"k9/7", b"k9/8")), [0]
        keys: list[bytes] = []
        while (step := await node.watches.step(watch)) is not None:
            upto.append(step.upto)
            keys += [change.key for change in decode_changes(step.records)]
        assert sorted(keys) == sorted(b"k9/%d" % number for number in (7, *range(70, 80), *range(700, 800)))
        return upto

    upto = asyncio.run(stepwise())
    assert upto[-1] == 32_000
    assert max(after - before for before, after in pairwise(upto)) <= STEP_EFFECTS + 1000
    node.watches.close_all()


def test_of_a_change_of_several_keys_the_wanted_ones_keep_their_places() -> None:
    batch, notes = [], []
    for place, (key, revision, there) in enumerate(
        [(b"a", 1, True), (b"b", 2, True), (b"c", 2, False), (b"b", 2, True), (b"d", 2, True), (b"c", 3, True)]
    ):
        value = VALUE_HEADER.pack(VALUE_FORMAT, 0, 0, 1, revision) + b"v" if there else None
        batch.append((USER_PREFIX + key, value))
        if not there:
            notes.append(Removal(place, revision, int(ChangeKind.DELETE)))
    batch.append((b"\x00state", b""))
    every = changes_in(batch, encode_removals(notes), (0, 0))
    assert [(each.key, each.revision, each.place, each.last) for each in every] == [
        (b"a", 1, 0, True), (b"b", 2, 0, False), (b"c", 2, 1, False), (b"d", 2, 2, True), (b"c", 3, 0, True)
    ]  # fmt: skip
    for start, end in ((b"", b"b"), (b"b", None), (b"c", b"d"), (b"d", None), (b"e", None), (b"b", b"c")):
        wanted = Filter(start, end)
        expected = [each for each in every if wanted.wants(each.kind, each.key)]
        assert changes_in(batch, encode_removals(notes), (0, 0), wanted) == expected


async def test_progress_is_told_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs as much as a message with changes: 64 watches of one client took all of a node, told nothing."""
    asked: list[float] = []

    async def tell(replica: object, watch: object, write: object, progress_s: float, *, messages: bool) -> None:
        asked.append(progress_s)

    monkeypatch.setattr(watch_stream, "_tell", tell)
    node = Node(MemoryFileSystem())
    replica, sent = replica_of(node), asyncio.Queue[pb.WatchBatch]()
    for asked_ms in (0, 1, 99, 250):
        await watch_stream.send(replica, pb.WatchRequest(now=True, progress_ms=asked_ms), sent.put)
    assert asked == [1.0, 0.1, 0.1, 0.25]
    node.watches.close_all()


def test_progress_never_runs_ahead_of_what_was_told() -> None:
    """What a step says it has told is what its records end with, also when more waits than goes into a message."""
    node = Node(MemoryFileSystem(), options=replace(OPTIONS, memtable_bytes=8 << 20))
    create = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
    node.apply([entry(1, create, 0)])
    for index in range(2, 12):
        node.apply([entry(index, commands.encode(Opcode.PUT, b"k", b"", b"v" * 60_000), index)])

    async def stepwise() -> None:
        watch = node.watches.open(Position(0), EVERYTHING)
        revisions: list[int] = []
        while (step := await node.watches.step(watch)) is not None:
            revisions += [change.revision for change in decode_changes(step.records)]
            assert step.upto == revisions[-1], "progress ahead of the stream"
        assert revisions == list(range(1, 11))

    asyncio.run(stepwise())
    node.watches.close_all()


async def test_a_message_tells_the_entry_up_to_which_all_was_sent_once_it_was() -> None:
    node = Node(MemoryFileSystem(), options=replace(OPTIONS, memtable_bytes=8 << 20))
    create = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
    node.apply([entry(1, create, 0), entry(2, commands.encode(Opcode.RECOVER, b""), 0)])
    floor = node.machine.floor
    for index in range(3, 13):
        node.apply([entry(index, commands.encode(Opcode.PUT, b"k", b"", b"v" * 60_000), index)])
    replica = replica_of(node, 12)
    sent: asyncio.Queue[pb.WatchBatch] = asyncio.Queue()
    sending = asyncio.create_task(watch_stream.send(replica, pb.WatchRequest(after=floor), sent.put))
    batches = [await sent.get()]
    while batches[-1].revision < floor + 10:
        batches.append(await sent.get())
    sending.cancel()
    assert [batch.applied_index for batch in batches] == [0] * (len(batches) - 1) + [12]
    assert len(batches) > 2
    node.watches.close_all()


def test_a_key_whose_expiry_was_put_off_is_not_told_to_have_expired() -> None:
    node = Node(MemoryFileSystem())
    create = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
    node.apply([entry(1, create, 0), entry(2, commands.encode(Opcode.PUT, b"k", b"", b"v", ttl=1000), SECOND_US)])
    first = node.notes()
    node.apply([entry(3, commands.encode(Opcode.PUT, b"k", b"", b"w", ttl=9000), SECOND_US)])
    expire = commands.encode(Opcode.EXPIRE, b"", value=encode_expire(first))
    node.apply([entry(4, expire, 3 * SECOND_US), entry(5, expire, 4 * SECOND_US)])
    assert [change.kind for change in asyncio.run(told(node, Position(0)))] == [ChangeKind.PUT, ChangeKind.PUT]
    later = commands.encode(Opcode.EXPIRE, b"", value=encode_expire(node.notes()))
    node.apply([entry(6, later, 20 * SECOND_US), entry(7, later, 21 * SECOND_US)])
    changes = asyncio.run(told(node, Position(0)))
    assert [change.kind for change in changes] == [ChangeKind.PUT, ChangeKind.PUT, ChangeKind.EXPIRE]
    node.watches.close_all()


@pytest.mark.parametrize("seed", range(4))
def test_a_replica_that_came_by_a_snapshot_tells_nothing_twice(seed: int) -> None:
    """It applies what follows in other batches than those that a watch was told by before, and the watch goes on."""
    chance = random.Random(seed)
    log, expected, state = log_with_expiries(chance, 90)
    fs = MemoryFileSystem()
    leader = Node(fs)
    leader.apply(log[:40])
    leader.flush()
    checkpoint = leader.engine.checkpoint("/snapshot").run()
    behind = Node(fs, "behind", directory="/behind")
    behind.apply(log[: chance.randrange(1, 40)])
    behind.adopt(checkpoint)
    mark = behind.machine.revision
    behind.apply(log[checkpoint.applied_index :])
    assert behind.state() == state and behind.watches.oldest == mark

    async def go_on() -> None:
        # Whoever watches there from the snapshot on has the batches encoded, for those that come from elsewhere, too.
        rest = [each for each in expected if each.revision > mark]
        assert await told(behind, Position(mark)) == rest
        for number, change in enumerate(rest):
            position = Position(change.revision, 0 if change.last else change.place + 1)
            assert await told(behind, position) == rest[number + 1 :]
        with pytest.raises(HistoryGoneError):
            await told(behind, Position(mark - 1))

    asyncio.run(go_on())
    leader.watches.close_all()
    behind.watches.close_all()


def test_what_two_leaders_in_a_row_remove_has_expired_once() -> None:
    node = Node(MemoryFileSystem())
    create = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
    node.apply([entry(1, create, 0), entry(2, commands.encode(Opcode.PUT, b"k", b"", b"v", ttl=1000), SECOND_US)])
    expire = commands.encode(Opcode.EXPIRE, b"", value=encode_expire(node.notes()))
    node.apply([entry(3, expire, 3 * SECOND_US), entry(4, expire, 3 * SECOND_US)])
    changes = asyncio.run(told(node, Position(0)))
    assert [(change.kind, change.revision) for change in changes] == [(ChangeKind.PUT, 1), (ChangeKind.EXPIRE, 2)]
    assert node.machine.revision == 2
    node.watches.close_all()


def test_a_delete_is_told_although_its_key_is_put_again_at_once() -> None:
    """Before and after the flush, which merges the two into what is there at the end."""
    node = Node(MemoryFileSystem())
    create = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
    put, gone = commands.encode(Opcode.PUT, b"k", b"", b"v"), commands.encode(Opcode.DELETE, b"k")
    node.apply([entry(index, command, index) for index, command in enumerate((create, put, gone, put, gone, put), 1)])
    wanted = [ChangeKind.PUT, ChangeKind.DELETE] * 2 + [ChangeKind.PUT]
    assert [change.kind for change in asyncio.run(told(node, Position(0)))] == wanted
    node.flush()
    assert [change.kind for change in asyncio.run(told(node, Position(0)))] == wanted
    node.watches.close_all()


async def test_no_watch_goes_on_behind_the_recovery_of_a_shard_that_may_have_lost_changes() -> None:
    node = Node(MemoryFileSystem())
    put = commands.encode(Opcode.PUT, b"k", b"", b"v")
    node.apply(
        [
            entry(1, commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)), 0),
            entry(2, put, 0),
            entry(3, commands.encode(Opcode.RECOVER, b""), 0),
            entry(4, put, 0),
        ]
    )
    recovered = node.machine.floor
    assert node.watches.oldest == recovered > 1
    assert [change.revision for change in await told(node, Position(recovered))] == [recovered + 1]
    node.flush()
    assert node.watches.oldest == recovered


async def test_a_watch_that_began_before_a_recovery_was_applied_does_not_go_on_behind_it() -> None:
    """A replica that replays its log, or catches up, does not know yet that what its client has seen may be lost."""
    node = Node(MemoryFileSystem())
    put = commands.encode(Opcode.PUT, b"k", b"", b"v")
    made = commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1))
    node.apply([entry(1, made, 0), entry(2, put, 0)])
    watch = node.watches.open(Position(5), EVERYTHING)
    assert await node.watches.step(watch) is None
    node.apply([entry(3, commands.encode(Opcode.RECOVER, b""), 0), entry(4, put, 0)])
    with pytest.raises(HistoryGoneError):
        await node.watches.step(watch)
    node.watches.close_all()
