"""Hashes of the state: replicas that are equal agree however they got there, and one that differs is told."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from raft_node import entry as entries
from raft_node.entry import Entry, EntryKind
from raft_node.errors import CorruptionError
from raft_node.kv.keyspace import STATE_HASH_KEY
from raft_node.kv.partitions import encode_create_shard
from raft_node.kv.state_hash import ChainState, Divergence, Mark, chained, marked
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.raft.types import Role
from raft_node.runtime.divergence import MarkedMachine, StateMarks
from raft_node.storage.engine import Engine
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

D = "/data"


class Replica:
    """A state machine on an engine of its own, which may be closed and opened again."""

    def __init__(self) -> None:
        self.fs = MemoryFileSystem()
        self.starts = 0
        self.open()

    def open(self) -> None:
        self.starts += 1
        self.engine = Engine.open(self.fs, D, TINY_OPTIONS, f"s{self.starts}")
        self.machine = StateMachine.open(self.engine)

    def apply(self, log: list[Entry], rng: random.Random | None = None) -> None:
        """Applies what it has not yet, in pieces of any size."""
        at = self.engine.applied_index
        while at < len(log):
            end = len(log) if rng is None else min(len(log), at + rng.randrange(1, 6))
            self.machine.apply(log[at:end])
            at = end


def put(index: int, key: bytes, value: bytes) -> Entry:
    return entries.encode(index, 1, EntryKind.COMMAND, 7, commands.encode(Opcode.PUT, key, b"", value))


def delete(index: int, key: bytes) -> Entry:
    return entries.encode(index, 1, EntryKind.COMMAND, 7, commands.encode(Opcode.DELETE, key))


def mark(index: int, carried: Mark) -> Entry:
    return entries.encode(index, 1, EntryKind.STATE_HASH, 7, carried.encode())


def created() -> Entry:
    value = encode_create_shard(0, 1)
    return entries.encode(1, 1, EntryKind.COMMAND, 7, commands.encode(Opcode.CREATE_SHARD, b"", value=value))


def a_log(leader: Replica, rng: random.Random, count: int = 120) -> list[Entry]:
    """A log as a leader makes it: with a mark after about every ten entries."""
    log = [created()]
    leader.apply(log)
    while len(log) < count:
        index = len(log) + 1
        kind, key = rng.randrange(10), b"key%d" % rng.randrange(20)
        if kind == 0:
            log.append(mark(index, leader.machine.mark))
        elif kind < 4:
            log.append(delete(index, key))
        else:
            log.append(put(index, key, rng.randbytes(rng.randrange(30))))
        leader.apply(log)
    log.append(mark(len(log) + 1, leader.machine.mark))
    leader.apply(log)
    return log


def test_replicas_agree_however_entries_were_grouped_and_across_starts() -> None:
    for seed in range(15):
        rng = random.Random(seed)
        leader, follower, starter = Replica(), Replica(), Replica()
        log = a_log(leader, rng)
        follower.apply(log, rng)
        for end in sorted(rng.sample(range(1, len(log)), 4)):
            starter.apply(log[:end], rng)
            if rng.random() < 0.5:
                starter.engine.rotate()
                settle(starter.engine, starter.fs, D)
            # What was not flushed is applied again.
            starter.open()
        starter.apply(log, rng)
        standing = leader.engine.get_blocking(STATE_HASH_KEY)
        assert standing is not None and ChainState.decode(standing).mark.at == len(log), seed
        for replica in (follower, starter):
            assert replica.engine.get_blocking(STATE_HASH_KEY) == standing, seed
            assert replica.machine.mark == leader.machine.mark and not replica.machine.divergences, seed


@pytest.mark.parametrize("damage", ["value", "key", "removal", "lost", "revision"])
def test_a_replica_that_differs_is_found_at_the_next_comparison_and_at_all_later_ones(damage: str) -> None:
    leader, follower = Replica(), Replica()
    log = [created(), mark(2, Mark())]
    leader.apply(log)
    follower.apply(log)
    good = put(3, b"k", b"value")
    bad = {
        "value": put(3, b"k", b"valuf"),
        "key": put(3, b"l", b"value"),
        "removal": delete(3, b"k"),
        "lost": entries.encode(3, 1, EntryKind.NOOP, 7),
        "revision": good,
    }[damage]
    leader.machine.apply([good])
    if damage == "revision":
        follower.machine.revision += 1
    follower.machine.apply([bad])
    for index in (4, 5, 6):
        entry = mark(index, leader.machine.mark)
        leader.machine.apply([entry])
        follower.machine.apply([entry])
        assert not leader.machine.divergences
        assert len(follower.machine.divergences) == (index > 4) * (index - 4)
    assert follower.machine.divergences[0].at == 4
    assert follower.machine.divergences[0].leader != follower.machine.divergences[0].own
    assert follower.engine.applied_index == 6, "it goes on: a comparison does not tell who is right"


def test_what_a_key_is_and_what_its_value_is_never_mixes() -> None:
    assert chained(1, [(b"ab", b"c")]) != chained(1, [(b"a", b"bc")])
    assert chained(1, [(b"a", b"b"), (b"c", b"d")]) != chained(1, [(b"c", b"d"), (b"a", b"b")])
    assert chained(1, [(b"a", None)]) != chained(1, [(b"a", b"")])
    assert chained(chained(1, [(b"a", b"b")]), [(b"c", None)]) == chained(1, [(b"a", b"b"), (b"c", None)])
    assert marked(1, 2, b"x") != marked(1, 3, b"x") != marked(1, 3, b"y")


def test_the_second_of_two_leaders_that_marked_compares_nothing() -> None:
    replica = Replica()
    replica.apply([created(), mark(2, Mark()), put(3, b"k", b"v")])
    first = replica.machine.mark
    assert first.at == 2
    replica.machine.apply([mark(4, first), mark(5, first), mark(6, Mark()), mark(7, Mark(3, 99))])
    assert not replica.machine.divergences and replica.machine.mark.at == 7


def test_the_bytes_of_a_mark_are_fixed() -> None:
    assert Mark(5, 0x0102030405060708).encode().hex() == "010000000000000005000000000000000807060504030201"
    assert ChainState(9, Mark(5, 6)).encode().hex() == "090000000000000005000000000000000600000000000000"
    assert ChainState.decode(ChainState(9, Mark(5, 6)).encode()) == ChainState(9, Mark(5, 6))
    assert Mark.decode(Mark(5, 6).encode()) == Mark(5, 6)
    # The chain is part of every state: it must come out the same in every version.
    assert chained(7, [(b"\x01k", b"v"), (b"\x01l", None)]) == 0xB82520CD949C62A6
    assert marked(7, 5, b"counters") == 0xB3BBE46B519D88B4


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x02" + bytes(23), b"\x01\x01" + bytes(22), b"\x01" + bytes(24)])
def test_a_mark_that_is_not_known_stops_the_node(content: bytes) -> None:
    replica = Replica()
    with pytest.raises(CorruptionError, match="entry 1 is not a mark of a known format"):
        replica.machine.apply([entries.encode(1, 1, EntryKind.STATE_HASH, 7, content)])


async def test_only_a_leader_marks_once_enough_was_applied_and_again_in_another_term() -> None:
    machine: MarkedMachine = SimpleNamespace(mark=Mark(), divergences=[])
    state = SimpleNamespace(role=Role.FOLLOWER, term=1, applied=50)
    proposed: list[bytes] = []
    accepts = [True]

    def propose(kind: EntryKind, command: bytes) -> bool:
        assert kind == EntryKind.STATE_HASH
        proposed.append(command)
        return accepts[0]

    told: list[tuple[str, dict[str, object]]] = []
    metrics = Metrics(0)

    def record(name: str, **details: object) -> None:
        told.append((name, details))

    def standing() -> tuple[Role, int, int, MarkedMachine]:
        return state.role, state.term, state.applied, machine

    marks = StateMarks(10, standing, propose, metrics, record)

    async def looked() -> int:
        marks.look()
        marks.look()
        await asyncio.sleep(0)
        return len(proposed)

    assert await looked() == 0
    state.role, state.applied = Role.LEADER, 9
    assert await looked() == 0
    state.applied = 10
    assert await looked() == 1 and await looked() == 1, "one proposal is under way"
    state.term = 2
    assert await looked() == 2, "the one before may be lost"
    machine.mark = Mark(11, 7)
    state.applied = 21
    accepts[0] = False
    assert await looked() == 3 and await looked() == 4, "what is refused is tried again"
    assert proposed[-1] == Mark(11, 7).encode()
    machine.divergences = [Divergence(11, 1, 2)]
    marks.look()
    assert told == [("state_diverged", {"index": 11, "own": "0" * 15 + "1", "leader": "0" * 15 + "2"})]
    assert metrics.registry.get_sample_value("dougdb_state_divergence_total", {"shard": "0"}) == 1
    assert not machine.divergences
    await asyncio.sleep(0)
    before = len(proposed)
    state.applied = 1 << 40
    off = StateMarks(0, standing, propose, metrics, record)
    off.look()
    await asyncio.sleep(0)
    assert len(proposed) == before
