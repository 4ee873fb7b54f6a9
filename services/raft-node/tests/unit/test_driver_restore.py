"""The driver while a snapshot is installed: nothing is written or applied, and everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from raft_node import entry as entries_codec
from raft_node.entry import Entry, EntryKind
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse, Heartbeat, HeartbeatResponse, Message
from raft_node.raft.node import RaftNode
from raft_node.raft.types import Configuration, HardState, NodeId, Write
from raft_node.runtime.driver import Driver
from raft_testing.fakes import DictStore
from raft_testing.lockstep import MemoryLog

ME, LEADER, OTHER = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3)
ALL = Configuration((ME, LEADER, OTHER))
SNAPSHOT = 20


def noops(first: int, *terms: int) -> list[Entry]:
    return [entries_codec.encode(index, term, EntryKind.NOOP, 0) for index, term in enumerate(terms, first)]


class FakeLog(MemoryLog):
    """A log whose writes become durable when the test says so."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(entries)
        self.idle = True
        self.write_age_s = 0.0
        self.last_write_s = (0.0, 0.0)
        self.under_way: Write | None = None

    def write(self, write: Write) -> None:
        assert self.idle
        self.idle = False
        self.under_way = write

    def finish(self, driver: Driver) -> None:
        write, self.under_way = self.under_way, None
        assert write is not None
        super().write(write)
        self.idle = True
        driver.durable(write.sequence)


class Rig:
    """A follower with the entries 1 to 5, of which two are committed and applied."""

    def __init__(self) -> None:
        self.log, self.store = FakeLog(noops(1, *[1] * 5)), DictStore()
        self.sent: list[Message] = []
        self.wanted: list[NodeId] = []
        self.core = RaftNode(RaftConfig(), ME, self.log, HardState(1, None, 2), ALL, 0, Random(1))
        transport: Any = self
        log: Any = self.log
        self.driver = Driver(
            self.core,
            log,
            StateMachine.open(self.store),
            self.store,
            transport,
            Metrics(0),
            tick_ms=10,
            proposal_timeout_ms=1000,
            shard=0,
            shards=1,
            on_event=lambda event: None,
            on_applied=lambda: None,
            on_snapshots_wanted=self.wanted.extend,
            on_failure=lambda error: None,
        )
        self.driver.wake()

    def send(self, messages: Sequence[Message]) -> None:
        self.sent.extend(messages)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def give(self, message: Message) -> None:
        self.driver.receive(message)
        await self.settle()

    def append(self, previous: int, previous_term: int, commit: int, *terms: int) -> AppendEntries:
        entries = noops(previous + 1, *terms)
        return AppendEntries(LEADER, ME, max(1, previous_term, *terms), previous, previous_term, commit, entries)

    def begin(self, term: int = 3) -> HardState | None:
        return self.driver.begin_restore(SNAPSHOT, term, ALL, 0)

    async def end(self, term: int = 3) -> None:
        """What the installer does at the end."""
        self.store.applied_index = SNAPSHOT
        self.driver.take_state(StateMachine.open(self.store), SNAPSHOT)
        self.log.reset(SNAPSHOT, term)
        self.driver.end_restore()
        await self.settle()

    def restoring(self) -> bool:
        return self.driver.restoring

    def writing(self) -> bool:
        return self.log.under_way is not None

    def stop(self) -> None:
        self.driver.stop()


@pytest.fixture
async def rig() -> Any:
    made = Rig()
    await made.settle()
    assert made.driver.applied_index == 2
    yield made
    made.stop()


async def test_what_reads_see_changes_in_one_step(rig: Rig) -> None:
    assert rig.begin() == HardState(3, None, SNAPSHOT)
    assert rig.core.applied_index == SNAPSHOT
    assert rig.driver.applied_index == 2, "reads still see the old state"
    assert rig.restoring()
    rig.store.applied_index = SNAPSHOT
    rig.driver.take_state(StateMachine.open(rig.store), SNAPSHOT)
    assert rig.driver.applied_index == SNAPSHOT and rig.restoring()
    rig.log.reset(SNAPSHOT, 3)
    rig.driver.end_restore()
    assert rig.driver.applied_index == SNAPSHOT and not rig.restoring()


async def test_heartbeats_are_answered_and_nothing_is_written_or_applied_meanwhile(rig: Rig) -> None:
    rig.begin()
    await rig.settle()
    rig.sent.clear()
    await rig.give(Heartbeat(LEADER, ME, 3, SNAPSHOT, 7))
    assert [type(message) for message in rig.sent] == [HeartbeatResponse]
    await rig.give(rig.append(SNAPSHOT, 3, SNAPSHOT + 1, 3, 3))
    assert not rig.writing(), "the log is still that of before"
    assert rig.store.applied_index == 2
    assert not any(isinstance(message, AppendEntriesResponse) for message in rig.sent), "nothing of it is durable"
    await rig.end()
    assert rig.writing()
    rig.log.finish(rig.driver)
    await rig.settle()
    answers = [message for message in rig.sent if isinstance(message, AppendEntriesResponse)]
    assert [(answer.success, answer.match_index) for answer in answers] == [(True, SNAPSHOT + 2)]
    assert rig.log.first_index == SNAPSHOT + 1 and rig.log.last_index == SNAPSHOT + 2
    assert rig.driver.applied_index == SNAPSHOT + 1 == rig.store.applied_index


async def test_entries_that_were_held_back_are_void(rig: Rig) -> None:
    rig.store.stalled = True
    await rig.give(rig.append(5, 1, 5))
    assert rig.driver._held and rig.store.applied_index == 2
    rig.begin()
    rig.store.stalled = False
    rig.driver.wake()
    await rig.settle()
    assert rig.store.applied_index == 2
    await rig.end()
    assert rig.driver.applied_index == SNAPSHOT == rig.store.applied_index


async def test_entries_that_stay_behind_the_snapshot_are_applied_after_it(rig: Rig) -> None:
    await rig.give(rig.append(5, 1, 2, *[1] * 20))
    rig.log.finish(rig.driver)
    await rig.settle()
    assert rig.begin(term=1) is not None
    await rig.give(Heartbeat(LEADER, ME, 1, 25, 0))
    assert rig.store.applied_index == 2
    await rig.end(term=1)
    assert rig.driver.applied_index == 25 == rig.store.applied_index


async def test_a_write_under_way_ends_first_and_no_other_follows(rig: Rig) -> None:
    await rig.give(rig.append(5, 1, 2, 1))
    assert rig.writing()
    rig.begin()
    rig.log.finish(rig.driver)
    await rig.settle()
    assert not rig.writing() and rig.log.idle
    await rig.end()


async def test_one_that_is_no_step_forward_is_refused(rig: Rig) -> None:
    await rig.give(rig.append(5, 1, 5, *[1] * 16))
    rig.log.finish(rig.driver)
    await rig.give(Heartbeat(LEADER, ME, 1, SNAPSHOT, 0))
    assert rig.begin(term=1) is None
    assert not rig.restoring() and rig.driver.applied_index == SNAPSHOT


async def test_a_driver_that_was_stopped_takes_none(rig: Rig) -> None:
    rig.driver.stop()
    assert rig.begin() is None


async def test_peers_that_need_a_snapshot_are_told_and_their_ends_reach_the_core(rig: Rig) -> None:
    ends: list[tuple[object, ...]] = []
    core: Any = rig.core
    core._state.outbox.snapshots_wanted.append(OTHER)
    rig.driver.wake()
    await rig.settle()
    assert rig.wanted == [OTHER]
    core.snapshot_sent = lambda peer, index: ends.append((peer, index))
    core.snapshot_failed = lambda peer: ends.append((peer,))
    rig.driver.snapshot_sent(OTHER, 9)
    rig.driver.snapshot_failed(OTHER)
    assert ends == [(OTHER, 9), (OTHER,)]
