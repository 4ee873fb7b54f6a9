"""The driver on a single-voter shard: batching, stalls, reads, and time that stood still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.errors import NotLeaderError, TransferFailedError, TransferRefusedError
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import (
    AppendEntries,
    AppendEntriesResponse,
    Heartbeat,
    HeartbeatResponse,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
    RequestVoteResponse,
    TimeoutNow,
)
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Event
from raft_node.raft.types import Configuration, HardState, NodeId, Role, Write
from raft_node.runtime import driver as drivers
from raft_node.runtime.drain import drain
from raft_node.runtime.driver import Driver, Submission
from raft_testing.fakes import DictStore
from raft_testing.lockstep import MemoryLog

ME, OTHER, THIRD = NodeId("a", 1), NodeId("b", 2), NodeId("c", 3)
ALL = (ME, OTHER, THIRD)


class FakeLog(MemoryLog):
    """A log whose writes become durable when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = True
        self.write_age_s = 0.0
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


class FakeTransport:
    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.asked_to_campaign: list[NodeId] = []

    def send(self, messages: Sequence[Message]) -> None:
        self.sent.extend(messages)
        self.asked_to_campaign += [message.receiver for message in messages if isinstance(message, TimeoutNow)]


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
        self.log, self.store, self.transport = FakeLog(), DictStore(), FakeTransport()
        self.events: list[Event] = []
        self.wanted: list[NodeId] = []
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
            on_snapshots_wanted=self.wanted.extend,
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

    async def lead(self) -> None:
        """Is elected among several voters, and commits what a first leader proposes."""
        await self.settle()
        while self.core.role is not Role.LEADER:
            await self.advance(self.timers[0][0])
            await self.converse()
        await self.converse()
        assert self.driver.machine.created

    async def converse(self, peers: tuple[NodeId, ...] = (OTHER, THIRD)) -> None:
        """Finishes writes and has peers agree with everything, until nothing is left to say."""
        await self.finish_writes()
        while self.transport.sent:
            sent, self.transport.sent = self.transport.sent, []
            for message in sent:
                answer = agree(message)
                if answer is not None and answer.sender in peers:
                    self.driver.receive(answer)
            await self.finish_writes()

    async def let_lead(self, peer: NodeId, commit_index: int = 0) -> None:
        """A peer is elected by the others, and sends its no-op behind what this node has."""
        term, last = self.core.term + 1, self.core.last_index
        prev_term = self.core.log.term(last)
        self.driver.receive(RequestVote(peer, ME, term, last, prev_term, False, True))
        await self.finish_writes()
        noop = [entries.encode(last + 1, term, EntryKind.NOOP, 0)]
        self.driver.receive(AppendEntries(peer, ME, term, last, prev_term, commit_index, noop))
        await self.finish_writes()

    def put(self, sink: ListSink, record_id: int, key: bytes = b"k") -> None:
        command = commands.encode(Opcode.PUT, key, b"", b"v")
        self.driver.submit([Submission(sink, record_id, commands.checksum(command), command)])


def agree(message: Message) -> Message | None:
    """What a peer without objections answers."""
    match message:
        case RequestVote():
            return RequestVoteResponse(message.receiver, ME, message.term, True, message.pre_vote)
        case AppendEntries():
            last = message.prev_log_index + len(message.entries)
            return AppendEntriesResponse(message.receiver, ME, message.term, True, last, 0, 0, 0)
        case Heartbeat():
            return HeartbeatResponse(message.receiver, ME, message.term, message.read_token, message.commit_index)
        case _:
            return None


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


async def test_a_stalled_engine_holds_applying_refuses_writes_and_goes_on_later(rig: Rig) -> None:
    sink = ListSink()
    rig.put(sink, 1)
    await rig.settle()
    rig.store.stalled = True
    rig.put(sink, 2)
    await rig.finish_writes()
    assert sink.results == [(2, Status.OVERLOADED)], "certainly not applied, so whoever waits can try again"
    rig.store.stalled = False
    rig.driver.wake()
    await rig.finish_writes()
    assert sink.results == [(2, Status.OVERLOADED), (1, Status.OK)]


async def test_waiting_writes_are_bounded_in_bytes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "SUBMISSION_BYTES_WAITING_MAX", 30)
    sink = ListSink()
    for record_id in (1, 2, 3):
        rig.put(sink, record_id)
    assert sink.results == [(2, Status.OVERLOADED), (3, Status.OVERLOADED)]


async def test_a_leader_whose_disk_hangs_steps_down(rig: Rig) -> None:
    rig.put(ListSink(), 1)
    await rig.settle()
    rig.log.write_age_s = drivers.HUNG_WRITE_S / 2
    rig.driver.expire()
    assert rig.core.role is Role.LEADER
    rig.log.write_age_s = drivers.HUNG_WRITE_S * 2
    rig.driver.expire()
    assert rig.core.leadership is None


async def test_a_follower_asks_its_leader_for_reads_that_may_be_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, ALL)
    answers: list[tuple[str, bool]] = []
    rig.driver.read(lambda ok: answers.append(("too early", ok)), forward=True)
    await rig.let_lead(OTHER, commit_index=1)
    rig.driver.read(lambda ok: answers.append(("here", ok)))
    assert answers == [("too early", False), ("here", False)]
    rig.driver.read(lambda ok: answers.append(("anywhere", ok)), forward=True)
    await rig.finish_writes()
    (asked,) = [message for message in rig.transport.sent if isinstance(message, ReadIndexRequest)]
    rig.driver.receive(ReadIndexResponse(OTHER, ME, asked.term, asked.token, 1))
    await rig.finish_writes()
    assert answers[2:] == [("anywhere", True)]
    rig.driver.stop()
    rig.driver.read(lambda ok: answers.append(("too late", ok)), forward=True)
    assert answers[3:] == [("too late", False)]


async def test_waiting_reads_are_bounded_and_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "READS_WAITING_MAX", 1)
    rig = Rig(monkeypatch)
    await rig.elect()
    rig.log.idle = False  # The entry of the new term can no longer commit; reads would wait for it.
    answers: list[bool] = []
    rig.core.resign("test")
    rig.driver.read(answers.append)
    assert answers == [False]
    held = Rig(monkeypatch, voters=(ME,))
    await held.elect()
    monkeypatch.setattr(held.core, "read_index", lambda context: None)
    held.driver.read(answers.append)
    await held.settle()
    held.driver.read(answers.append)
    assert answers == [False, False], "the second one is beyond the bound"
    held.now_s += 1.0
    held.driver.expire()
    assert answers == [False, False, False]


async def test_timers_that_are_always_late_still_elect_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    await rig.settle()
    for _ in range(10):
        await rig.advance(rig.timers[0][0] + 0.05)
        await rig.finish_writes()
    assert rig.core.role is Role.LEADER


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
    monkeypatch.setattr(rig.driver, "_disk_full", lambda: True)
    rig.put(sink, 3)
    assert sink.results[1:] == [(3, Status.DISK_FULL)]


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
    assert rig.core.leadership is None
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
    assert rig.core.leadership is None
    assert rig.core.ticks_to_deadline() >= RaftConfig().election_timeout_ticks


async def test_a_hand_over_holds_writes_back_and_refuses_them_once_another_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()
    sink, answers = ListSink(), list[bool]()
    rig.put(sink, 1)
    await rig.settle()
    handing_over = asyncio.create_task(rig.driver.hand_over(OTHER, 5.0))
    await rig.settle()
    rig.put(sink, 2)
    rig.driver.read(answers.append)
    last = rig.core.last_index
    await rig.converse()
    assert rig.core.last_index == last, "nothing more is proposed"
    assert sink.results == [(1, Status.OK)], "what was proposed before is still answered"
    assert answers == [True], "it leads until another is elected, and so may serve reads"
    assert rig.transport.asked_to_campaign == [OTHER]
    rig.driver.receive(RequestVote(OTHER, ME, rig.core.term + 1, last, rig.core.log.term(last), False, True))
    await rig.finish_writes()
    assert rig.core.role is Role.FOLLOWER
    rig.put(sink, 3)
    rig.driver.read(answers.append)
    await rig.settle()
    assert (sink.results[1:], answers[1:]) == ([], []), "nobody knows yet where to send them"
    rig.driver.receive(Heartbeat(OTHER, ME, rig.core.term, 0, 0))
    await rig.settle()
    assert await handing_over == OTHER
    await rig.settle()
    assert sink.results[1:] == [(2, Status.NOT_LEADER), (3, Status.NOT_LEADER)]
    assert answers[1:] == [False]
    assert not rig.driver.holding
    rig.put(sink, 4)
    assert sink.results[-1] == (4, Status.NOT_LEADER)


async def test_a_hand_over_that_fails_lets_the_held_writes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()
    sink = ListSink()
    handing_over = asyncio.create_task(rig.driver.hand_over(OTHER, 5.0))
    await rig.settle()
    rig.put(sink, 1)
    while not handing_over.done():
        await rig.converse()
        await rig.advance(rig.now_s + 0.01)
    with pytest.raises(TransferFailedError, match="timeout"):
        await handing_over
    await rig.converse()
    assert rig.core.role is Role.LEADER
    assert sink.results == [(1, Status.OK)]


async def test_two_hand_overs_at_once_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()
    first = asyncio.create_task(rig.driver.hand_over(OTHER, 5.0))
    await rig.settle()
    second = asyncio.create_task(rig.driver.hand_over(THIRD, 5.0))
    await rig.converse()
    await rig.let_lead(THIRD)
    assert (await first, await second) == (THIRD, THIRD)
    assert not rig.driver.holding


async def test_a_hand_over_is_refused_where_it_makes_no_sense(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    with pytest.raises(TransferRefusedError):
        await rig.driver.hand_over(None, 1.0)
    assert not rig.driver.holding
    other = Rig(monkeypatch, voters=ALL)
    with pytest.raises(NotLeaderError):
        await other.driver.hand_over(None, 1.0)
    assert not other.driver.holding


async def test_a_hand_over_ends_with_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()
    sink, answers = ListSink(), list[bool]()
    handing_over = asyncio.create_task(rig.driver.hand_over(None, 5.0))
    await rig.settle()
    rig.put(sink, 1)
    rig.driver.read(answers.append)
    rig.driver.stop()
    with pytest.raises(TransferFailedError):
        await handing_over
    assert (sink.results, answers) == ([(1, Status.NOT_LEADER)], [False])


async def test_draining_moves_leadership_and_answers_what_was_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()
    sink = ListSink()
    rig.put(sink, 1)
    await rig.finish_writes()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        rig.driver.receive(Heartbeat(OTHER, ME, rig.core.term, rig.core.last_index, 0))
        await rig.settle()

    draining = asyncio.create_task(drain(rig.driver, 3.0, 0.3, sleep))
    await rig.settle()
    rig.put(sink, 2)
    # The target has the entry, and is elected before this node hears that it is committed.
    await rig.let_lead(OTHER)
    assert await draining == OTHER
    assert sorted(sink.results) == [(1, Status.OK), (2, Status.NOT_LEADER)]
    assert slept, "it waited for the commit index"


async def test_draining_gives_up_soon_when_all_nodes_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()
    sink = ListSink()
    rig.put(sink, 1)
    began_s = rig.now_s

    async def sleep(seconds: float) -> None:
        await rig.advance(rig.now_s + seconds)

    draining = asyncio.create_task(drain(rig.driver, 3.0, 0.3, sleep))
    while not draining.done():
        await rig.finish_writes()
        await rig.advance(rig.now_s + 0.01)
    assert await draining is None
    assert rig.now_s - began_s < 2.5
    rig.driver.stop()
    assert sink.results == [(1, Status.UNKNOWN)]


async def test_draining_a_shard_of_one_node_answers_and_holds_the_rest(rig: Rig) -> None:
    sink = ListSink()
    rig.put(sink, 1)
    await rig.settle()

    async def sleep(seconds: float) -> None:
        await rig.finish_writes()

    draining = asyncio.create_task(drain(rig.driver, 3.0, 0.3, sleep))
    await rig.settle()
    rig.put(sink, 2)
    assert await draining is None
    assert sink.results == [(1, Status.OK)]
    rig.driver.stop()
    assert sink.results == [(1, Status.OK), (2, Status.NOT_LEADER)]


async def test_draining_a_follower_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, voters=ALL)
    rig.driver.receive(Heartbeat(OTHER, ME, 1, 0, 0))
    await rig.settle()

    async def sleep(seconds: float) -> None:
        raise AssertionError("there is nothing to wait for")

    assert await drain(rig.driver, 3.0, 0.3, sleep) == OTHER
    assert not rig.driver.holding
