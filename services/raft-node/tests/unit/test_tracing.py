"""The spans of a node: writes from proposal to apply, appends with their parents, and bounds on all that is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from doug_wire.trace_context import TRACES_MAX, TraceContext, decode_traces
from doug_wire.tracing import Tracing
from raft_node import entry as entries
from raft_node.entry import Entry, EntryKind
from raft_node.kv.state_machine import StateMachine
from raft_node.observability import tracing
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import ENTRIES_MAX, ENTRY_KEPT_S, EntryTraces, NodeTraces, WriteTrace
from raft_node.raft.config import RaftConfig
from raft_node.raft.messages import AppendEntries, AppendEntriesResponse, Message
from raft_node.raft.node import RaftNode
from raft_node.raft.types import Configuration, HardState, NodeId, Role, Write
from raft_node.rpc.doug.traced_pipe import TracedSubmission
from raft_node.runtime.driver import Driver
from raft_node.runtime.log.store import LogStore
from raft_node.runtime.writes.proposals import Submission
from raft_node.storage.wal.log import Wal, WalOptions
from raft_testing.fakes import DictStore
from raft_testing.files import MemoryFileSystem
from raft_testing.lockstep import MemoryLog

ME, LEADER = NodeId("a", 1), NodeId("b", 2)
FIRST, SECOND, THIRD = (TraceContext(number, number + 100) for number in (1, 2, 3))


def run(first: int, last: int, term: int = 1) -> list[Entry]:
    return [entries.encode(index, term, EntryKind.COMMAND, 1, b"c") for index in range(first, last + 1)]


class Spans:
    """A node's traces, whose spans the test reads; time is the test's."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.now_s = 100.0
        self.traces = NodeTraces(Tracing(provider, "test", "0"), lambda: self.now_s)

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (found,) = self.named(name)
        return found


@pytest.fixture
def spans() -> Spans:
    return Spans()


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return int(span.parent.span_id)


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


class TestEntryTraces:
    """The contexts of entries that are on their way."""

    def test_they_are_found_by_index_and_term(self) -> None:
        kept = EntryTraces(lambda: 0.0)
        kept.note(3, 1, FIRST)
        kept.note(5, 1, SECOND)
        assert kept.of(run(1, 9)) == [(3, FIRST), (5, SECOND)]
        assert kept.of(run(4, 9)) == [(5, SECOND)]
        assert kept.of(run(1, 4)) == [(3, FIRST)]
        assert kept.of(run(1, 9, term=2)) == [], "another leader's entries"
        assert kept.of([]) == []

    def test_an_entry_takes_the_place_of_what_stood_there_and_behind(self) -> None:
        kept = EntryTraces(lambda: 0.0)
        for index in (3, 4, 5):
            kept.note(index, 1, FIRST)
        kept.note(4, 2, SECOND)
        assert kept.of(run(1, 9)) == [(3, FIRST)]
        assert kept.of(run(4, 9, term=2)) == [(4, SECOND)]

    def test_they_are_bounded_in_number_and_in_age(self) -> None:
        now_s = 0.0
        kept = EntryTraces(lambda: now_s)
        for index in range(1, 2 * ENTRIES_MAX):
            kept.note(index, 1, FIRST)
        assert len(kept) == ENTRIES_MAX
        found = kept.of(run(1, 2 * ENTRIES_MAX))
        assert [index for index, _ in found] == list(range(2 * ENTRIES_MAX - TRACES_MAX, 2 * ENTRIES_MAX))
        now_s = ENTRY_KEPT_S + 1
        assert kept.of(run(1, 2 * ENTRIES_MAX)) == [], "a follower that catches up tells nobody's request"


class TestWrites:
    """From arrival to answer at the leader."""

    def test_a_write_tells_of_its_way(self, spans: Spans) -> None:
        write = spans.traces.write(FIRST)
        spans.traces.proposed(7, 3, [None, write])
        spans.traces.committed(run(7, 8, term=3))
        spans.traces.applied(run(7, 8, term=3))
        write.end(Status.OK)
        told, replicate = spans.one("doug write"), spans.one("raft replicate")
        assert (parent_of(told), parent_of(replicate)) == (FIRST.span_id, id_of(told))
        assert [event.name for event in told.events] == ["proposed", "committed", "applied"]
        assert dict(replicate.attributes or {}) == {"dougdb.index": 8, "dougdb.term": 3}
        assert dict(told.attributes or {})["dougdb.status"] == "OK"

    def test_another_leaders_entry_is_not_its_commit(self, spans: Spans) -> None:
        write = spans.traces.write(FIRST)
        spans.traces.proposed(7, 3, [write])
        spans.traces.committed(run(7, 7, term=4))
        write.end(Status.NOT_APPLIED)
        told = spans.one("doug write")
        assert [event.name for event in told.events] == ["proposed"]
        assert told.status.description == "NOT_APPLIED"

    def test_it_ends_once_and_is_forgotten(self, spans: Spans) -> None:
        early, late = spans.traces.write(FIRST), spans.traces.write(SECOND)
        early.end(None)
        spans.traces.proposed(7, 3, [early, late])
        late.end(Status.OK)
        late.end(Status.UNKNOWN)
        assert len(spans.named("doug write")) == 2
        assert len(spans.named("raft replicate")) == 1, "whose client has left is not followed further"
        assert not spans.traces._proposals

    def test_proposals_are_bounded(self, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tracing, "PROPOSALS_MAX", 2)
        writes = [spans.traces.write(FIRST) for _ in range(5)]
        spans.traces.proposed(1, 1, writes)
        assert len(spans.traces._proposals) == 2
        for write in writes:
            write.end(Status.OK)
        assert (len(spans.named("doug write")), len(spans.named("raft replicate"))) == (5, 5)


class TestAppends:
    """A follower, from AppendEntries to its answer."""

    @staticmethod
    def message(first: int, last: int, term: int = 1) -> AppendEntries:
        return AppendEntries(LEADER, ME, term, first - 1, term, 0, run(first, last, term))

    @staticmethod
    def answer(match_index: int, *, success: bool = True) -> AppendEntriesResponse:
        return AppendEntriesResponse(ME, LEADER, 1, success, match_index, 0, 0, 0)

    def test_what_serves_several_has_a_parent_and_links(self, spans: Spans) -> None:
        spans.traces.received(self.message(5, 9), {5: FIRST, 7: SECOND, 9: THIRD})
        assert spans.ended == ()
        spans.traces.acknowledged(self.answer(8))
        assert spans.ended == (), "not all of it is on disk"
        spans.traces.acknowledged(self.answer(9))
        append = spans.one("raft append")
        assert parent_of(append) == FIRST.span_id
        assert [link.context.span_id for link in append.links] == [SECOND.span_id, THIRD.span_id]
        told = dict(append.attributes or {})
        assert told == {"dougdb.peer": "b", "dougdb.term": 1, "dougdb.first_index": 5, "dougdb.entries": 5}

    def test_its_log_write_is_a_child_of_it_once(self, spans: Spans) -> None:
        message = self.message(5, 9)
        spans.traces.received(message, {5: FIRST, 7: SECOND})
        written = spans.traces.log_write(message.entries)
        assert written is not None
        written.end()
        spans.traces.acknowledged(self.answer(9))
        sync = spans.one("wal append")
        assert (parent_of(sync), sync.links) == (id_of(spans.one("raft append")), ())

    def test_contexts_of_entries_that_are_not_there_are_ignored(self, spans: Spans) -> None:
        spans.traces.received(self.message(5, 9), {4: FIRST, 10: SECOND, 1 << 63: THIRD})
        spans.traces.acknowledged(self.answer(9))
        assert spans.ended == ()
        assert len(spans.traces.entries) == 0

    def test_a_refusal_and_a_repetition_are_told(self, spans: Spans) -> None:
        spans.traces.received(self.message(5, 6), {5: FIRST})
        spans.traces.received(self.message(5, 6), {5: FIRST})
        assert [span.status.description for span in spans.ended] == ["superseded"]
        spans.traces.acknowledged(self.answer(0, success=False))
        assert [span.status.description for span in spans.ended] == ["superseded", "refused"]

    def test_appends_without_an_answer_are_bounded(self, spans: Spans) -> None:
        for index in range(1, 3 * tracing.APPENDS_MAX):
            spans.traces.received(self.message(index, index), {index: FIRST})
        assert len(spans.traces._appends) == tracing.APPENDS_MAX


class FakeLog(MemoryLog):
    """A log whose writes are durable at once when the test asks."""

    idle = True
    write_age_s = 0.0
    last_write_s = (0.0, 0.0)

    def write(self, write: Write) -> None:
        self.idle = False
        self.pending = write

    def finish(self, driver: Driver) -> None:
        self.stored.extend(self.pending.entries)
        self.idle = True
        driver.durable(self.pending.sequence)


class Sent:
    def send(self, messages: Sequence[Message]) -> None:
        assert not messages, "there are no others"


class Sink:
    def __init__(self, trace: WriteTrace) -> None:
        self.trace = trace
        self.status = -1

    def resolve(self, record_id: int, status: int, revision: int, details: object = None) -> None:
        self.status = status
        self.trace.end(status)


async def settle(log: FakeLog, driver: Driver) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
        if not log.idle:
            log.finish(driver)


async def test_the_driver_tells_of_sampled_writes(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1000.0)
    log, store = FakeLog(), DictStore()
    core = RaftNode(RaftConfig(), ME, log, HardState(), Configuration((ME,)), 0, Random(1))
    driver = Driver(
        core,
        log,  # type: ignore[arg-type]
        StateMachine.open(store),
        store,
        Sent(),
        Metrics(0),
        tick_ms=10,
        proposal_timeout_ms=1000,
        shard=0,
        shards=1,
        on_event=lambda event: None,
        on_applied=lambda: None,
        on_snapshots_wanted=lambda wanted: None,
        on_failure=lambda error: None,
        traces=spans.traces,
    )
    driver.start()
    for _ in range(100):
        core.tick(1)
    driver.wake()
    await settle(log, driver)
    assert core.role is Role.LEADER
    command = commands.encode(Opcode.PUT, b"k", b"", b"v")
    sink = Sink(spans.traces.write(FIRST))
    crc = commands.checksum(command)
    sampled = TracedSubmission.of(Submission(sink, 1, crc, command), sink.trace)
    driver.submit([sampled, Submission(sink, 2, crc, command)])
    await settle(log, driver)
    assert sink.status == Status.OK
    assert [event.name for event in spans.one("doug write").events] == ["proposed", "committed", "applied"]
    assert log.stored[-1].index == core.commit_index
    assert decode_traces(spans.traces.encoded(log.stored)).keys() == {core.commit_index - 1}
    driver.stop()


async def test_a_write_of_the_log_is_a_span_until_it_is_durable(spans: Spans) -> None:
    fs = MemoryFileSystem()
    fs.make_directory("/wal")
    wal = Wal.open(fs, "/wal", WalOptions(segment_bytes=4096))
    durable: asyncio.Queue[int] = asyncio.Queue()
    log = LogStore(wal, Metrics(0), durable.put_nowait, lambda error: None, traces=spans.traces)
    try:
        spans.traces.entries.note(2, 1, FIRST)
        log.write(Write(1, HardState(1, None, 0), None, run(1, 3)))
        assert spans.ended == ()
        async with asyncio.timeout(60):
            assert await durable.get() == 1
        assert parent_of(spans.one("wal append")) == FIRST.span_id
        log.write(Write(2, HardState(1, None, 0), None, run(4, 4)))
        async with asyncio.timeout(60):
            assert await durable.get() == 2
        assert len(spans.ended) == 1, "nobody's request"
    finally:
        log.close()
