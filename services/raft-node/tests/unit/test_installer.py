"""A snapshot takes the place of state and log: in its order, at once for readers, and through a crash at every step."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import xxhash

from raft_node import entry as entries
from raft_node.app.storage import first_configuration, open_storage
from raft_node.entry import Entry, EntryKind
from raft_node.errors import CorruptionError, DiskError, FatalError, IdentityError
from raft_node.kv.keyspace import CONFIGURATION_KEY
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.raft.configuration import encode_configuration
from raft_node.raft.types import Configuration, HardState, NodeId
from raft_node.runtime.log.store import LogStore, to_wal
from raft_node.runtime.snapshots.installer import Installer
from raft_node.settings import NodeSettings
from raft_node.storage.engine import Engine
from raft_node.storage.snapshots.checkpoint import CHECKPOINT, CheckpointFile
from raft_node.storage.snapshots.incoming import INCOMING, IncomingSnapshot, SnapshotHeader
from raft_node.storage.snapshots.installing import INSTALLING, read_installing
from raft_node.storage.wal.log import Wal
from raft_testing.engines import TINY_OPTIONS, settle
from raft_testing.files import MemoryFileSystem

WAL, DATA = "/wal", "/data"
A, B, C = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3)
OLD, NEW = Configuration((A, B)), Configuration((A, B, C))
SETTINGS = NodeSettings(
    node_id="a", shard_id=0, peers="a=h:1,b=h:2", wal_dir=WAL, data_dir=DATA, wal_segment_bytes=65536
)
SNAPSHOT_INDEX, SNAPSHOT_TERM, TIME_US = 60, 4, 7_000


def an_entry(index: int, term: int, configuration: Configuration | None = None) -> Entry:
    if configuration is not None:
        command = encode_configuration(configuration)
        return entries.encode(index, term, EntryKind.CONFIGURATION, index * 10, command)
    return entries.encode(index, term, EntryKind.NOOP, index * 10)


def a_log(last: int, term: int) -> list[Entry]:
    return [an_entry(1, 1, OLD), *(an_entry(index, term) for index in range(2, last + 1))]


def a_header(fs: MemoryFileSystem) -> tuple[SnapshotHeader, list[bytes]]:
    """A snapshot of another node, up to entry 60."""
    engine = Engine.open(fs, "/sender", TINY_OPTIONS, "s1")
    machine = StateMachine.open(engine)
    machine.apply(a_log(50, 3))
    last = entries.encode(SNAPSHOT_INDEX, SNAPSHOT_TERM, EntryKind.NOOP, TIME_US)
    machine.apply(
        [an_entry(51, 3, NEW), *(an_entry(index, SNAPSHOT_TERM) for index in range(52, SNAPSHOT_INDEX)), last]
    )
    engine.rotate()
    settle(engine, fs, "/sender")
    checkpoint = engine.checkpoint("/sender/out").run()
    engine.close()
    content = fs.read_file(f"/sender/out/{CHECKPOINT}")
    files = (CheckpointFile(CHECKPOINT, len(content), xxhash.xxh3_64_intdigest(content)), *checkpoint.files)
    header = SnapshotHeader("ab12", SNAPSHOT_INDEX, SNAPSHOT_TERM, encode_configuration(NEW), TIME_US, files)
    return header, [fs.read_file(f"/sender/out/{file.name}") for file in files]


class FakeDriver:
    """The driver, as far as an installation needs it; the core's decision is the test's."""

    def __init__(self, commit_index: int) -> None:
        self.node: Any = self
        self.commit_index = commit_index
        self.machine: StateMachine | None = None
        self.steps: list[str] = []

    def begin_restore(self, index: int, term: int, configuration: Configuration, timestamp_us: int) -> HardState | None:
        if index <= self.commit_index:
            return None
        assert (configuration, timestamp_us) == (NEW, TIME_US)
        self.steps.append("begin")
        return HardState(max(term, 4), None, index)

    def take_state(self, machine: StateMachine, index: int) -> None:
        self.steps.append("state")
        self.machine = machine

    def end_restore(self) -> None:
        self.steps.append("end")


class FakeMaintenance:
    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        yield


class Rig:
    """A node with a log of 40 entries, of which 20 are flushed, and a complete snapshot up to 60."""

    def __init__(self, log_entries: list[Entry] | None = None, commit_index: int = 30) -> None:
        self.fs = MemoryFileSystem()
        self.header, contents = a_header(self.fs)
        for directory in (WAL, DATA):
            self.fs.make_directory(directory)
        opened = open_storage(self.fs, SETTINGS, "s1")
        self.wal, self.engine = opened.wal, opened.engine
        log = a_log(40, 3) if log_entries is None else log_entries
        self.wal.publish(self.wal.append(to_wal(HardState(3, B, commit_index)), None, log))
        StateMachine.open(self.engine).apply(log[:20])
        self.engine.rotate()
        settle(self.engine, self.fs, DATA)
        StateMachine.open(self.engine).apply(log[20:30])
        first_configuration(self.fs, DATA, self.wal)
        self.incoming = IncomingSnapshot.open(self.fs, DATA, self.header)
        for number, content in enumerate(contents):
            self.incoming.write(number, 0, content)
        self.driver = FakeDriver(commit_index)
        self.failed: asyncio.Future[FatalError] = asyncio.get_running_loop().create_future()
        self.log = LogStore(self.wal, Metrics(0), lambda sequence: None, self.failed.set_result)
        self.threads = ThreadPoolExecutor(1)
        driver: Any = self.driver
        maintenance: Any = FakeMaintenance()
        self.installer = Installer(self.fs, DATA, driver, self.engine, self.log, maintenance, self.threads)

    async def install(self) -> bool:
        """Installs; raises what the node would stop for."""
        installing = asyncio.create_task(self.installer.install(self.incoming))
        failed: asyncio.Future[Any] = self.failed
        await asyncio.wait({installing, failed}, return_when=asyncio.FIRST_COMPLETED)
        if not installing.done():
            installing.cancel()
            raise failed.result()
        return installing.result()

    def stop(self) -> None:
        self.log.close()
        self.threads.shutdown()

    def start_again(self) -> tuple[Wal, Engine]:
        opened = open_storage(self.fs, SETTINGS, f"s{self.fs.crashes + 2}")
        return opened.wal, opened.engine


def assert_new(wal: Wal, engine: Engine) -> None:
    assert (engine.applied_index, engine.applied_term) == (SNAPSHOT_INDEX, SNAPSHOT_TERM)
    assert engine.get_blocking(CONFIGURATION_KEY) == encode_configuration(NEW)
    assert StateMachine.open(engine).clock_us == TIME_US
    assert (wal.first_index, wal.last_index) == (SNAPSHOT_INDEX + 1, SNAPSHOT_INDEX)
    assert wal.hard_state.term >= SNAPSHOT_TERM
    assert wal.term(SNAPSHOT_INDEX) == SNAPSHOT_TERM


async def test_state_and_log_begin_behind_the_snapshot() -> None:
    rig = Rig()
    try:
        assert rig.installer.wants(rig.header)
        assert await rig.install()
        assert rig.driver.steps == ["begin", "state", "end"]
        assert rig.driver.machine is not None and rig.driver.machine.clock_us == TIME_US
        assert_new(rig.wal, rig.engine)
        assert read_installing(rig.fs, DATA) is None
        assert not rig.fs.exists(f"{DATA}/{INCOMING}")
    finally:
        rig.stop()
    rig.fs.crash(random.Random(1))
    assert_new(*rig.start_again())


async def test_entries_behind_the_snapshot_stay_when_they_match() -> None:
    log = [an_entry(1, 1, OLD), *(an_entry(index, SNAPSHOT_TERM) for index in range(2, 71))]
    rig = Rig(log)
    rig.driver.begin_restore = lambda *facts: HardState(5, None, SNAPSHOT_INDEX)  # type: ignore[method-assign]
    try:
        assert await rig.install()
        assert (rig.wal.first_index, rig.wal.last_index) == (1, 70)
    finally:
        rig.stop()
    wal, engine = rig.start_again()
    assert (wal.last_index, engine.applied_index, wal.hard_state.term) == (70, SNAPSHOT_INDEX, 5)


async def test_one_that_is_of_no_use_any_more_changes_nothing() -> None:
    rig = Rig(a_log(70, 3), commit_index=65)
    try:
        assert not rig.installer.wants(rig.header)
        assert not await rig.install()
        assert rig.driver.steps == []
        assert (rig.engine.applied_index, rig.wal.last_index) == (30, 70)
        assert not rig.fs.exists(f"{DATA}/{INSTALLING}") and not rig.fs.exists(f"{DATA}/{INCOMING}")
    finally:
        rig.stop()


async def test_one_whose_announced_facts_are_not_its_own_is_refused_and_gone() -> None:
    rig = Rig()
    wrong = SnapshotHeader("ab12", SNAPSHOT_INDEX, SNAPSHOT_TERM, encode_configuration(OLD), TIME_US, rig.header.files)
    rig.incoming.header = wrong
    try:
        with pytest.raises(CorruptionError, match="another configuration"):
            await rig.install()
        assert rig.driver.steps == [] and not rig.fs.exists(f"{DATA}/{INCOMING}")
        assert rig.engine.applied_index == 30
    finally:
        rig.stop()


async def test_a_crash_at_any_step_leaves_the_old_or_the_new() -> None:
    outcomes: dict[str, int] = {"old": 0, "new": 0, "cut": 0}
    for seed in range(3):
        step = 0
        while True:
            step += 1
            rig = Rig()
            rig.fs.fail_at(step)
            try:
                await rig.install()
            except FatalError:
                pass
            else:
                break
            finally:
                rig.stop()
            rig.fs.heal()
            rig.fs.crash(random.Random(seed * 1000 + step))
            cut = rig.fs.exists(f"{DATA}/{INSTALLING}")
            wal, engine = rig.start_again()
            if engine.applied_index == SNAPSHOT_INDEX:
                assert_new(wal, engine)
                outcomes["cut" if cut else "new"] += 1
            else:
                # What was not flushed is replayed from the log, which is whole.
                assert (engine.applied_index, wal.first_index, wal.last_index) == (20, 1, 40)
                assert wal.hard_state == to_wal(HardState(3, B, 30))
                outcomes["old"] += 1
            assert not rig.fs.exists(f"{DATA}/{INSTALLING}")
            rig.fs.crash(random.Random(seed))
            again, engine_again = rig.start_again()
            assert (again.last_index, engine_again.applied_index) == (wal.last_index, engine.applied_index)
    print(outcomes)
    assert min(outcomes.values()) > 0, outcomes


async def cut_before_the_reset() -> Rig:
    """A node that died between the switch of the state and the reset of the log."""
    rig = Rig()

    async def dies(index: int, term: int, hard_state: HardState) -> None:
        raise DiskError(WAL, "sync", OSError(5, "Input/output error"))

    rig.log.reset = dies  # type: ignore[method-assign]
    with pytest.raises(DiskError):
        await rig.install()
    rig.stop()
    rig.fs.crash(random.Random(1))
    return rig


async def test_a_log_that_was_wiped_meanwhile_is_refused() -> None:
    rig = await cut_before_the_reset()
    for name in rig.fs.list_directory(WAL):
        rig.fs.remove(f"{WAL}/{name}")
    with pytest.raises(IdentityError, match="wiped or replaced"):
        rig.start_again()
    assert rig.fs.exists(f"{DATA}/{INSTALLING}")


async def test_a_log_behind_its_state_is_refused_without_the_note() -> None:
    rig = await cut_before_the_reset()
    rig.fs.remove(f"{DATA}/{INSTALLING}")
    with pytest.raises(IdentityError, match="wiped or replaced"):
        rig.start_again()


async def test_a_note_of_another_snapshot_excuses_nothing() -> None:
    rig = await cut_before_the_reset()
    note = rig.fs.read_file(f"{DATA}/{INSTALLING}")
    rig.fs.flip_bit(f"{DATA}/{INSTALLING}", 8 * note.index(b"60") + 1)
    with pytest.raises(CorruptionError, match="checksum"):
        rig.start_again()


async def test_data_that_ends_before_the_log_begins_is_refused() -> None:
    rig = Rig()
    await rig.install()
    rig.stop()
    for name in rig.fs.list_directory(DATA):
        rig.fs.remove(f"{DATA}/{name}")
    with pytest.raises(IdentityError, match="wiped or replaced by older data"):
        rig.start_again()


async def test_the_first_configuration_outlives_its_entry() -> None:
    rig = Rig()
    first = a_log(1, 1)[0].data
    await rig.install()
    rig.stop()
    wal, _ = rig.start_again()
    assert wal.first_index > 1
    assert first_configuration(rig.fs, DATA, wal) == first
    rig.fs.flip_bit(f"{DATA}/FIRST-CONFIGURATION", 100)
    with pytest.raises(CorruptionError):
        first_configuration(rig.fs, DATA, wal)
    rig.fs.remove(f"{DATA}/FIRST-CONFIGURATION")
    assert first_configuration(rig.fs, DATA, wal) == b""
