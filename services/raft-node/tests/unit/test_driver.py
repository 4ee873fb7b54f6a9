"""The driver on a single-voter shard: batching, stalls, reads, and time that stood still."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.payload import Txn, encode_batch, encode_txn, frees_space
from doug_wire.pipe import Status
from raft_node.entry import EntryKind
from raft_node.errors import CorruptionError, NotLeaderError, TransferFailedError, TransferRefusedError
from raft_node.kv.operations.work import NEVER_US
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import (
    Heartbeat,
    Message,
    ReadIndexRequest,
    ReadIndexResponse,
    RequestVote,
)
from raft_node.raft.node import Proposal
from raft_node.raft.types import Role
from raft_node.runtime import driver as drivers
from raft_node.runtime.driver import Submission
from raft_node.runtime.writes import waiting as waiting_writes
from raft_testing.driver_rig import ALL, ME, OTHER, THIRD, ListSink, Rig


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
    monkeypatch.setattr(waiting_writes, "SUBMISSION_BYTES_WAITING_MAX", 30)
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


async def test_a_leader_tells_nobody_its_index_before_the_log_says_what_has_expired(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A follower judges what has expired by the log; so the log must say first what the leader's clock says."""
    rig = Rig(monkeypatch, ALL)
    await rig.lead()
    machine, term = rig.driver.machine, rig.core.term
    machine.next_due_us = NEVER_US
    indexes = await answers_to(rig, ReadIndexRequest(OTHER, ME, term, 1))
    assert indexes == [rig.driver.applied_index], "nothing expires: no entry is written for it"
    machine.next_due_us = 0
    before, now_us = rig.driver.applied_index, rig.driver.now_us()
    assert machine.clock_us < now_us
    assert await answers_to(rig, ReadIndexRequest(OTHER, ME, term, 2)) == [before + 1]
    assert machine.clock_us >= now_us


async def test_while_the_log_clock_cannot_be_moved_nobody_is_told_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, ALL)
    await rig.lead()
    request = ReadIndexRequest(OTHER, ME, rig.core.term, 1)
    with rig.driver.hold():
        assert await answers_to(rig, request) == []
    assert len(await answers_to(rig, request)) == 1, "whoever asked asks again"


async def answers_to(rig: Rig, request: ReadIndexRequest) -> list[int]:
    """Has a follower ask, and gives the indexes that it is told."""
    found: list[int] = []
    send = rig.transport.send

    def listen(messages: Sequence[Message]) -> None:
        found.extend(message.read_index for message in messages if isinstance(message, ReadIndexResponse))
        send(messages)

    rig.transport.send = listen  # type: ignore[method-assign]
    rig.driver.receive(request)
    await rig.converse()
    rig.transport.send = send  # type: ignore[method-assign]
    return found


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


async def test_a_log_that_is_ahead_of_the_clock_goes_on_from_its_time(rig: Rig) -> None:
    far_us = rig.driver.now_us() + 24 * 3600 * 1_000_000
    rig.core.propose([Proposal(EntryKind.CLOCK, b"", commands.checksum(b""))], far_us)
    rig.driver.wake()
    await rig.finish_writes()
    rig.core.resign("a test")
    rig.driver.wake()
    await rig.settle()
    await rig.elect()
    first_us = rig.driver.now_us()
    assert first_us >= far_us
    while rig.driver.now_us() == first_us:
        pass  # A microsecond passes.
    moved: list[bool] = []
    rig.driver.move_clock(moved.append)
    await rig.finish_writes()
    assert moved == [True]
    assert rig.driver.machine.clock_us > far_us, "the time of the log goes on"
    registry = rig.driver._metrics.registry
    assert (registry.get_sample_value("dougdb_log_clock_ahead_seconds", {"shard": "0"}) or 0) > 86_000


async def test_large_results_are_applied_in_parts_and_all_are_answered(rig: Rig) -> None:
    puts, sink = ListSink(), ListSink()
    put = commands.encode(Opcode.PUT, b"k", b"", b"x" * ((1 << 20) - 200))
    get = commands.encode(Opcode.TXN, b"k", b"", encode_txn(Txn((), (commands.encode(Opcode.GET, b"k"),), ())))
    rig.driver.submit([Submission(puts, 0, commands.checksum(put), put)])
    await rig.finish_writes()
    rig.driver.submit([Submission(sink, n, commands.checksum(get), get) for n in range(12)])
    for _ in range(4):
        await rig.finish_writes()
    assert sink.results == [(n, Status.OK) for n in range(12)]
    assert rig.driver.applied_index == rig.core.commit_index


async def test_a_full_queue_refuses(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_writes, "SUBMISSIONS_WAITING_MAX", 1)
    sink = ListSink()
    rig.put(sink, 1)
    rig.put(sink, 2)
    assert sink.results == [(2, Status.OVERLOADED)]
    monkeypatch.setattr(rig.driver._waiting, "_disk_full", lambda: True)
    rig.put(sink, 3)
    assert sink.results[1:] == [(3, Status.DISK_FULL)]


async def test_on_a_full_disk_is_taken_what_frees_space(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.driver._waiting, "_disk_full", lambda: True)
    monkeypatch.setattr(rig.driver._waiting, "_taken_when_full", frees_space)
    put, delete = commands.encode(Opcode.PUT, b"k", value=b"v"), commands.encode(Opcode.DELETE, b"k")
    written = [put, delete, *(batch(*each) for each in ((delete, delete), (delete, put)))]
    sink = ListSink()
    rig.driver.submit([Submission(sink, number, commands.checksum(each), each) for number, each in enumerate(written)])
    assert sink.results == [(0, Status.DISK_FULL), (3, Status.DISK_FULL)]
    await rig.finish_writes()
    assert sorted(sink.results[2:]) == [(1, Status.OK), (2, Status.OK)]
    expire = commands.encode(Opcode.EXPIRE, b"")
    assert rig.driver.propose(EntryKind.COMMAND, expire) and not rig.driver.propose(EntryKind.COMMAND, put)


def batch(*operations: bytes) -> bytes:
    return commands.encode(Opcode.BATCH, b"k", value=encode_batch(operations))


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


@pytest.mark.pure
async def test_what_ends_the_node_is_told_once_and_the_driver_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that cannot be applied, found within a turn: not a defect, but this node's end with its exit code."""
    rig = Rig(monkeypatch, voters=ALL)
    await rig.lead()
    sink = ListSink()
    rig.put(sink, 1)
    await rig.settle()
    broken = CorruptionError("log", 1, "an entry that this version does not know")

    def fail(entries: object) -> list[object]:
        raise broken

    monkeypatch.setattr(rig.driver.machine, "apply", fail)
    await rig.converse()
    assert rig.failures == [broken]
    assert sink.results == [(1, Status.UNKNOWN)]
    rig.driver.receive(Heartbeat(OTHER, ME, rig.core.term + 1, 0, 0))
    await rig.settle()
    assert rig.core.role is Role.LEADER, "nothing is done any more"
    rig.driver.stop()
    assert len(sink.results) == 1
