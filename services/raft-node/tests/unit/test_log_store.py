"""The log's port to the core: drops and resets beside writes, and what is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from raft_node import entry as entries
from raft_node.entry import Entry, EntryKind
from raft_node.errors import DiskError, FatalError
from raft_node.observability.metrics import Metrics
from raft_node.raft.types import HardState, NodeId, Write
from raft_node.runtime.log import store as log_stores
from raft_node.runtime.log.store import LogStore
from raft_node.storage.wal.log import PrefixDrop, Wal, WalOptions
from raft_testing.files import MemoryFileSystem

D = "/wal"
OPTIONS = WalOptions(segment_bytes=4096)


def run(first: int, count: int, term: int = 1) -> list[Entry]:
    return [entries.encode(index, term, EntryKind.COMMAND, 1, b"c" * 300) for index in range(first, first + count)]


class Rig:
    def __init__(self) -> None:
        self.fs = MemoryFileSystem()
        self.fs.make_directory(D)
        self.wal = Wal.open(self.fs, D, OPTIONS)
        self.durable: asyncio.Queue[int] = asyncio.Queue()
        self.failures: list[FatalError] = []
        self.compacted: list[tuple[int, int]] = []
        self.sequence = 0
        self.log = LogStore(
            self.wal,
            Metrics(0),
            self.durable.put_nowait,
            self.failures.append,
            on_compacted=lambda before, after: self.compacted.append((before, after)),
        )

    def idle(self) -> bool:
        return self.log.idle

    async def write(self, count: int, term: int = 1) -> None:
        self.begin_write(count, term)
        await self.durable.get()

    def begin_write(self, count: int, term: int = 1) -> None:
        self.sequence += 1
        self.log.write(Write(self.sequence, HardState(term, None, 0), None, run(self.log.last_index + 1, count, term)))


@contextmanager
def opened() -> Iterator[Rig]:
    rig = Rig()
    try:
        yield rig
    finally:
        rig.log.close()
    assert not rig.failures


async def test_the_log_stays_bounded_when_its_beginning_may_go() -> None:
    with opened() as rig:

        def segments() -> int:
            return len([name for name in rig.fs.list_directory(D) if name.endswith(".wal")])

        async def drop_what_may_go() -> None:
            first = rig.log.first_index_within(4 * 4096)
            if first > rig.log.first_index:
                rig.log.drop_prefix(first)
            # A drop and a preparation run beside.
            await asyncio.sleep(0.001)

        for _ in range(60):
            await rig.write(5)
            await drop_what_may_go()
        assert rig.log.last_index == 300
        async with asyncio.timeout(60):
            while rig.log.first_index <= 200 or rig.log.size_bytes > 7 * 4096 or segments() > 7:
                await drop_what_may_go()
        assert rig.compacted and rig.compacted[0][0] == 1 and rig.compacted[-1][1] == rig.log.first_index
        assert all(before < after for before, after in rig.compacted)
        with pytest.raises(AssertionError):
            rig.log.entries(1, 2, 1)
    assert Wal.open(rig.fs, D, OPTIONS).last_index == 300


async def test_a_reset_waits_for_the_write_before_it() -> None:
    with opened() as rig:
        await rig.write(5)
        rig.begin_write(5)
        resetting = asyncio.create_task(rig.log.reset(50, 3, HardState(4, NodeId("b", 2), 50)))
        await asyncio.sleep(0)
        assert not rig.idle()
        await resetting
        assert rig.durable.get_nowait() == 2
        assert rig.idle()
        assert (rig.log.first_index, rig.log.last_index, rig.log.term(50)) == (51, 50, 3)
        assert rig.log.hard_state == HardState(4, NodeId("b", 2), 50)
        assert rig.compacted == [(1, 51)]
        await rig.write(2, term=4)
        assert rig.log.last_index == 52
    again = Wal.open(rig.fs, D, OPTIONS)
    assert (again.first_index, again.last_index) == (51, 52)


async def test_a_drop_that_fails_stops_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(drop: PrefixDrop) -> None:
        raise DiskError(D, "remove", OSError(5, "Input/output error"))

    monkeypatch.setattr(PrefixDrop, "run", fails)
    rig = Rig()
    while not rig.compacted:
        await rig.write(5)
        rig.log.drop_prefix(rig.log.first_index_within(2 * 4096))
    async with asyncio.timeout(60):
        while not rig.failures:
            await asyncio.sleep(0.001)
    rig.log.close()


@pytest.mark.pure
async def test_a_long_write_goes_to_the_disk_in_pieces_and_its_age_is_that_of_a_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write of many seconds on a slow disk that goes on is no disk that hangs."""
    monkeypatch.setattr(log_stores, "PIECE_BYTES_MAX", 1000)
    monkeypatch.setattr(log_stores, "PIECE_BYTES_MIN", 1000)
    with opened() as rig:
        appended: list[tuple[int, int, bool]] = []
        append = rig.wal.append

        def watched(hard_state: Any, truncate_from: int | None, new: Sequence[Entry]) -> Any:
            commit = -1 if hard_state is None else hard_state.commit_index
            appended.append((len(new), commit, truncate_from is not None))
            return append(hard_state, truncate_from, new)

        monkeypatch.setattr(rig.wal, "append", watched)
        began: list[float] = []
        progressed = rig.log._progressed

        def noted() -> None:
            progressed()
            began.append(rig.log._started_s)

        monkeypatch.setattr(rig.log, "_progressed", noted)
        rig.log.write(Write(1, HardState(1, None, 20), None, run(1, 20)))
        assert await rig.durable.get() == 1
        assert rig.log.last_index == 20 and len(rig.log.entries(1, 21, 1 << 20)) == 20
        assert [count for count, _, _ in appended] == [2] * 10
        assert [commit for _, commit, _ in appended] == [2, *[-1] * 8, 20], "never beyond what is there"
        assert len(began) == 9
        appended.clear()
        rig.log.write(Write(2, HardState(2, None, 20), 19, run(19, 5, term=2)))
        assert await rig.durable.get() == 2
        assert [cut for _, _, cut in appended] == [True, False, False]
        assert rig.log.last_index == 23 and rig.log.hard_state == HardState(2, None, 20)
        again = Wal.open_for_read(rig.fs, D)
        assert [entry.term for entry in again.entries(19, 24, 1 << 20)] == [2] * 5


async def test_the_speed_of_the_disk_bounds_the_next_piece() -> None:
    with opened() as rig:
        log = rig.log
        log._learn_speed(4 << 20, 4.0)
        assert log._piece_bytes == 256 << 10
        log._learn_speed(256 << 10, 100.0)
        assert log._piece_bytes == log_stores.PIECE_BYTES_MIN
        log._learn_speed(64 << 10, 0.0001)
        assert log._piece_bytes == 2 * log_stores.PIECE_BYTES_MIN, "it grows with care"
        for _ in range(20):
            log._learn_speed(4 << 20, 0.001)
        assert log._piece_bytes == log_stores.PIECE_BYTES_MAX
