"""Reads of user values from tables: those that wait together share hops and blocks, and fail alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import pytest

from doug_wire.slots import SLOTS
from raft_node.errors import CorruptionError, FatalError, UnavailableError
from raft_node.kv.keyspace import StoredValue, encode_value, user_key
from raft_node.kv.visibility import Visibility
from raft_node.runtime.reads import reader as readers
from raft_node.runtime.reads.reader import Found, Reader
from raft_node.storage.engine import BlockNeeded, Engine
from raft_node.storage.options import EngineOptions
from raft_node.storage.tables.block import Block
from raft_node.storage.tables.reads import LoadedBlock
from raft_node.storage.tables.sstable import Table
from raft_testing.engines import settle
from raft_testing.files import MemoryFileSystem

D = "/data"
KEYS = [b"%04d" % number for number in range(400)]


def value_of(key: bytes) -> StoredValue:
    return StoredValue(7, b"", key * 10, 1)


class Rig:
    """A reader over some runs of small blocks, of which none is in memory; notes what each hop loads."""

    def __init__(self, cache_bytes: int = 1 << 20) -> None:
        self.fs = MemoryFileSystem()
        self.clock_us = 0
        self.failures: list[FatalError] = []
        self.hops: list[list[tuple[int, int]]] = []
        self._options = EngineOptions(block_bytes=200, block_cache_bytes=cache_bytes, bloom_bits_per_key=0)
        self._start("s1")
        # Some keys lie in the older of two runs, below others of the newer one.
        for index, keys in enumerate((KEYS[::3], KEYS[1::3]), 1):
            self.engine.write([(user_key(key), stored(key)) for key in keys], index, 1)
            self.engine.rotate()
            settle(self.engine, self.fs, D)

    def _start(self, start_id: str) -> None:
        self.engine = Engine.open(self.fs, D, self._options, start_id)
        self.reader = Reader(self.engine, self.failures.append, lambda: Visibility(self.clock_us, [1] * SLOTS))
        self._load_blocks = self.engine.load_blocks
        self.engine.load_blocks = self._note  # type: ignore[method-assign]

    def restart(self, clock_us: int) -> None:
        """Starts anew, with nothing in memory, at a time of the log clock."""
        self.close()
        self.clock_us = clock_us
        self._start("s3")

    def damage(self, needed: BlockNeeded) -> None:
        """Flips a bit of a block that a read needs, and starts anew."""
        self.close()
        table = needed.table
        self.fs.flip_bit(table.path, 8 * sum(map(table.block_bytes, range(needed.position))))
        self._start("s2")

    def _note(self, needed: Sequence[BlockNeeded]) -> list[LoadedBlock]:
        self.hops.append([each.place for each in needed])
        return self._load_blocks(needed)

    def needed(self, keys: Sequence[bytes]) -> list[BlockNeeded]:
        found = [self.reader.get(key) for key in keys]
        assert all(isinstance(each, BlockNeeded) for each in found)
        return [each for each in found if isinstance(each, BlockNeeded)]

    async def read_all(self, needed: Sequence[BlockNeeded]) -> dict[bytes, Found]:
        """What came of reads, by their keys in the engine, as a session has them done."""
        waiting, answers = sorted(needed, key=lambda each: each.place), dict[bytes, Found]()
        while waiting:
            found = await self.reader.load_first(waiting)
            assert 1 <= len(found) <= len(waiting)
            done, waiting = waiting[: len(found)], waiting[len(found) :]
            for each, outcome in zip(done, found, strict=True):
                if isinstance(outcome, BlockNeeded):
                    waiting.append(outcome)
                else:
                    answers[each.key] = outcome
        return answers

    def close(self) -> None:
        self.reader.close()
        self.engine.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def stored(key: bytes) -> bytes:
    value = value_of(key)
    return encode_value(value)


def distinct(places: Sequence[tuple[int, int]]) -> int:
    return len(set(places))


@pytest.mark.pure
async def test_reads_that_wait_together_share_hops_and_blocks(rig: Rig) -> None:
    wanted = [*KEYS[::2], b"0003x", b"zzz"]
    found = [rig.reader.get(key) for key in wanted]
    answers = await rig.read_all([each for each in found if isinstance(each, BlockNeeded)])
    for key, each in zip(wanted, found, strict=True):
        outcome = answers[user_key(key)] if isinstance(each, BlockNeeded) else each
        held = key in KEYS and KEYS.index(key) % 3 != 2
        assert outcome == (value_of(key) if held else None), key
    assert all(distinct(hop) <= readers._HOP_BLOCKS_MAX for hop in rig.hops)
    places = [place for hop in rig.hops for place, _ in groupby(hop)]
    assert distinct(places) > 3 * readers._HOP_BLOCKS_MAX
    assert len(rig.hops) <= distinct(places) / readers._HOP_BLOCKS_MAX + 4
    assert rig.failures == []


@pytest.mark.parametrize(
    ("bound", "value", "count"),
    [("_HOP_BLOCKS_MAX", 3, lambda hop: distinct(hop) == 3), ("_HOP_BYTES_MAX", 1, lambda hop: distinct(hop) == 1)],
)
@pytest.mark.pure
async def test_a_hop_is_short(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    value: int,
    count: Callable[[Sequence[tuple[int, int]]], bool],
) -> None:
    monkeypatch.setattr(readers, bound, value)
    needed = sorted(rig.needed(KEYS[:60]), key=lambda each: each.place)
    found = await rig.reader.load_first(needed)
    (hop,) = rig.hops
    assert len(found) == len(hop) < len(needed) and count(hop)


@pytest.mark.pure
async def test_what_a_read_sees_is_of_the_moment_when_it_began(rig: Rig) -> None:
    key = KEYS[0]
    lease = value_of(key)._replace(expires_us=1_000)
    rig.engine.write([(user_key(key), encode_value(lease))], 3, 1)
    rig.engine.rotate()
    settle(rig.engine, rig.fs, D)
    rig.restart(clock_us=999)
    found = rig.reader.get(key)
    assert isinstance(found, BlockNeeded)
    # While the block is read the lease is renewed, and the clock goes past the time that it had.
    rig.clock_us = 1_001
    assert await rig.reader.load(found) == lease
    assert rig.reader.get(key) is None


@pytest.mark.pure
async def test_a_block_that_came_meanwhile_is_not_read_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(table: Table, position: int) -> Block:
        raise AssertionError(f"block {position} of {table.path} is read")

    (needed,) = rig.needed(KEYS[1:2])
    (again,) = rig.needed(KEYS[1:2])
    assert await rig.reader.load(needed) == value_of(KEYS[1])
    monkeypatch.setattr(Table, "read_block", refuse)
    assert await rig.reader.load(again) == value_of(KEYS[1])


@pytest.mark.pure
async def test_a_damaged_block_fails_the_reads_that_need_it_and_no_others(rig: Rig) -> None:
    keys = KEYS[1:90:3]
    middle = rig.needed(keys)[len(keys) // 2]
    rig.damage(middle)
    needed, bad = rig.needed(keys), middle.place
    assert needed[0].place != bad != needed[-1].place
    answers = await rig.read_all(needed)
    for each in needed:
        if each.place == bad:
            assert isinstance(answers[each.key], UnavailableError)
        else:
            assert isinstance(answers[each.key], StoredValue)
    assert len(rig.failures) == sum(each.place == bad for each in needed) > 0
    assert {type(failure) for failure in rig.failures} == {CorruptionError}


@pytest.mark.pure
async def test_a_value_that_makes_no_sense_fails_alone(rig: Rig) -> None:
    rig.engine.write([(user_key(b"0000a"), b"\7" * 20), (user_key(b"0000b"), stored(b"0000b"))], 3, 1)
    rig.engine.rotate()
    settle(rig.engine, rig.fs, D)
    bad, good = await rig.reader.load_first(rig.needed([b"0000a", b"0000b"]))
    assert isinstance(bad, UnavailableError) and good == value_of(b"0000b")
    assert [type(failure) for failure in rig.failures] == [CorruptionError]


@pytest.mark.pure
async def test_a_read_alone_goes_through_all_runs() -> None:
    rig = Rig(cache_bytes=0)
    for key in (KEYS[0], KEYS[1], KEYS[2]):
        (needed,) = rig.needed([key])
        expected = None if key == KEYS[2] else value_of(key)
        assert await rig.reader.load(needed) == expected
    assert max(map(len, rig.hops)) == 1
    rig.close()
