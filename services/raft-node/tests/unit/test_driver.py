"""The driver on a single-voter shard: batching, stalls, reads, and time that stood still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import Heartbeat, Message
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Event
from raft_node.raft.types import Configuration, HardState, NodeId, Role, Write
from raft_node.runtime import driver as drivers
from raft_node.runtime.driver import Driver, Submission
from raft_node.testing.lockstep import MemoryLog

ME, OTHER = NodeId("a", 1), NodeId("b", 2)


class FakeLog(MemoryLog):
    """A log whose writes become durable when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = True
        self.writes: list[Write] = []

    def write(self, write: Write) -> None:
        assert self.idle
        self.idle = False
        self.writes.append(write)

    def finish(self, driver: Driver) -> None:
        write = self.writes[-1]
        assert write.truncate_from is None
        self.stored.extend(write.entries)
        self.idle = True
        driver.durable(write.sequence)


class FakeStore:
    def __init__(self) -> None:
        self.data: dict[bytes, bytes | None] = {}
        self.applied_index = 0
        self.stalled = False

    def write(self, batch: Sequence[tuple[bytes, bytes | None]], applied_index: int, applied_term: int) -> None:
        self.data.update(batch)
        self.applied_index = applied_index

    def get_blocking(self, key: bytes) -> bytes | None:
        return self.data.get(key)


class FakeTransport:
    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, messages: Sequence[Message]) -> None:
        self.sent.extend(messages)


class ListSink:
    def __init__(self) -> None:
        self.results: list[tuple[int, int]] = []

    def resolve(self, record_id: int, status: int, revision: int) -> None:
        self.results.append((record_id, status))


class Rig:
    """A driver with fakes around it. The loop's clock is the test's: ``now_s``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, voters: tuple[NodeId, ...] = (ME,)) -> None:
        self.now_s = 1000.0
        loop = asyncio.get_running_loop()
        self.timers: list[tuple[float, Callable[..., None], tuple[object, ...]]] = []

        class Handle:
            def __init__(handle, entry: tuple[float, Callable[..., None], tuple[object, ...]]) -> None:  # noqa: N805
                handle.entry = entry

            def cancel(handle) -> None:  # noqa: N805
                if handle.entry in self.timers:
                    self.timers.remove(handle.entry)

        def call_at(when: float, callback: Callable[..., None], *arguments: object) -> Handle:
            entry = (when, callback, arguments)
            self.timers.append(entry)
            return Handle(entry)

        monkeypatch.setattr(loop, "time", lambda: self.now_s)
        monkeypatch.setattr(loop, "call_at", call_at)
        self.log, self.store, self.transport = FakeLog(), FakeStore(), FakeTransport()
        self.events: list[Event] = []
        self.core = RaftNode(RaftConfig(), ME, self.log, HardState(), Configuration(voters), 0, Random(1))
        self.driver = Driver(
            self.core,
            self.log,  # type: ignore[arg-type]
            StateMachine(self.store),
            self.store,
            self.transport,
            Metrics(0),
            tick_ms=10,
            proposal_timeout_ms=1000,
            shard=0,
            shards=1,
            on_event=self.events.append,
            on_applied=lambda: None,
        )
        self.driver.start()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def finish_writes(self) -> None:
        await self.settle()
        while not self.log.idle:
            self.log.finish(self.driver)
            await self.settle()

    async def advance(self, to_s: float) -> None:
        """Moves the clock to a time and fires the timers that are due, as late as that makes them."""
        self.now_s = to_s
        for entry in [timer for timer in self.timers if timer[0] <= to_s]:
            self.timers.remove(entry)
            entry[1](*entry[2])
        await self.settle()

    async def elect(self) -> None:
        await self.settle()
        while self.core.role is not Role.LEADER:
            await self.advance(self.timers[0][0])
            await self.finish_writes()
        await self.finish_writes()
        assert self.driver.machine.created

    def put(self, sink: ListSink, record_id: int, key: bytes = b"k") -> None:
        command = commands.encode(Opcode.PUT, key, b"", b"v")
        self.driver.submit([Submission(sink, record_id, commands.checksum(command), command)])


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    made = Rig(monkeypatch)
    await made.elect()
    return made


async def test_the_first_leader_creates_its_shard_once(rig: Rig) -> None:
    assert rig.driver.machine.owns(0, 1)
    assert len([event for event in rig.events if event.name == "became_leader"]) == 1


async def test_what_arrives_in_one_turn_is_one_write(rig: Rig) -> None:
    sink, before = ListSink(), len(rig.log.writes)
    for record_id in range(10):
        rig.put(sink, record_id)
    await rig.settle()
    assert len(rig.log.writes) == before + 1
    assert len(rig.log.writes[-1].entries) == 10


async def test_what_arrives_during_a_write_is_the_next_one(rig: Rig) -> None:
    sink = ListSink()
    rig.put(sink, 1)
    await rig.settle()
    before = len(rig.log.writes)
    for record_id in (2, 3, 4):
        rig.put(sink, record_id)
        await rig.settle()
    assert len(rig.log.writes) == before
    await rig.finish_writes()
    assert len(rig.log.writes) == before + 1
    assert sink.results == [(1, Status.OK), (2, Status.OK), (3, Status.OK), (4, Status.OK)]


async def test_nothing_is_answered_before_it_is_durable(rig: Rig) -> None:
    sink = ListSink()
    rig.put(sink, 1)
    await rig.settle()
    assert sink.results == []
    await rig.finish_writes()
    assert sink.results == [(1, Status.OK)]


async def test_a_stalled_engine_holds_applying_and_proposing_and_goes_on_later(rig: Rig) -> None:
    sink = ListSink()
    rig.put(sink, 1)
    await rig.settle()
    rig.store.stalled = True
    rig.put(sink, 2)
    await rig.finish_writes()
    assert sink.results == []
    rig.store.stalled = False
    rig.driver.wake()
    await rig.finish_writes()
    assert sink.results == [(1, Status.OK), (2, Status.OK)]


async def test_a_stall_is_told_when_it_begins_and_ends(rig: Rig) -> None:
    rig.events.clear()
    rig.store.stalled = True
    rig.driver.wake()
    await rig.settle()
    rig.driver.wake()
    await rig.settle()
    assert [event.name for event in rig.events] == ["stall_began"]
    rig.now_s += 1.5
    rig.store.stalled = False
    rig.driver.wake()
    await rig.settle()
    assert [event.name for event in rig.events] == ["stall_began", "stall_ended"]
    assert rig.events[1].fields["duration_ms"] == 1500


async def test_a_full_queue_refuses(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "SUBMISSIONS_WAITING_MAX", 1)
    sink = ListSink()
    rig.put(sink, 1)
    rig.put(sink, 2)
    assert sink.results == [(2, Status.OVERLOADED)]


async def test_a_read_waits_for_what_was_committed_before(rig: Rig) -> None:
    answers: list[bool] = []
    rig.driver.read(answers.append)
    await rig.settle()
    assert answers == [True]


async def test_stopping_answers_everything(rig: Rig) -> None:
    sink, answers = ListSink(), list[bool]()
    rig.put(sink, 1)
    await rig.settle()
    rig.put(sink, 2)
    rig.driver.read(answers.append)
    rig.driver.stop()
    assert sorted(sink.results) == [(1, Status.UNKNOWN), (2, Status.NOT_LEADER)]
    assert answers == [False]
    rig.put(sink, 3)
    assert sink.results[-1] == (3, Status.NOT_LEADER)


async def test_an_unanswered_proposal_becomes_unknown(rig: Rig) -> None:
    sink = ListSink()
    rig.put(sink, 1)
    await rig.settle()
    rig.driver.expire()
    assert sink.results == []
    rig.now_s += 1.0
    rig.driver.expire()
    assert sink.results == [(1, Status.UNKNOWN)]


async def test_a_process_that_stood_still_reads_its_messages_before_it_campaigns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, voters=(ME, OTHER))
    await rig.settle()
    due_s = rig.timers[0][0]
    await rig.advance(due_s + 10.0)
    assert rig.core.role is Role.FOLLOWER, "it must not campaign for the time it slept"
    assert not rig.transport.sent
    # The leader's heartbeat was in the socket all the time.
    rig.driver.receive(Heartbeat(OTHER, ME, 1, 0, 0))
    await rig.settle()
    await rig.advance(rig.now_s + 0.02)
    assert rig.core.role is Role.FOLLOWER
    assert rig.core.leader == OTHER


async def test_a_process_that_stood_still_campaigns_a_tick_later_when_there_was_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, voters=(ME, OTHER))
    await rig.settle()
    await rig.advance(rig.timers[0][0] + 10.0)
    await rig.advance(rig.timers[0][0])
    assert rig.core.role is Role.PRE_CANDIDATE


async def test_a_message_that_comes_late_puts_the_election_off(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=(ME, OTHER))
    await rig.settle()
    rig.now_s += 60.0
    rig.driver.receive(Heartbeat(OTHER, ME, 1, 0, 0))
    await rig.settle()
    assert rig.core.role is Role.FOLLOWER
    assert rig.core.ticks_to_deadline() >= RaftConfig().election_timeout_ticks
