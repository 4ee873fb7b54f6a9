"""The plain calls of Doug on a real state machine: every operation, its refusals, and time without writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire.command import Opcode
from doug_wire.payload import BATCH_PART, TXN_OPERATIONS_MAX
from doug_wire.pipe import Status
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.kv.partitions import encode_create_shard
from raft_node.kv.state_machine import StateMachine
from raft_node.observability.metrics import Metrics
from raft_node.rpc.doug import operations
from raft_node.rpc.doug.batch_execution import SLICE
from raft_node.rpc.doug.replica import LeaderHint
from raft_node.rpc.doug.service import DougService
from raft_node.runtime.reads.freshness import Freshness
from raft_node.runtime.reads.reader import Reader
from raft_node.runtime.writes.proposals import Submission
from raft_node.storage.engine import Engine
from raft_node.storage.options import EngineOptions
from raft_testing.files import MemoryFileSystem

NOW_US = 1_764_000_000_000_000


class Aborted(grpc.aio.AbortError):
    """What grpc raises out of ``abort``."""


class FakeContext:
    """A call that the test made."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.metadata: dict[str, str] = {}
        self.pages: list[pb.ScanPage] = []

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self.code, self.metadata = code, dict(metadata)
        raise Aborted(details)

    async def write(self, page: pb.ScanPage) -> None:
        self.pages.append(page)


class Rig:
    """A shard of one replica, whose entries are applied at once. Also its driver.

    Attributes:
        clock_us: The clock of the node.
        refuses: What becomes of further writes instead.
        refuses_at: Behind which entry they are refused as overload.
        clock_entries: How often the log clock was moved for a reader.
    """

    def __init__(self) -> None:
        self.engine = Engine.open(MemoryFileSystem(), "/data", EngineOptions(), "s")
        self.machine = StateMachine.open(self.engine)
        self.clock_us = NOW_US
        self.refuses: Status | None = None
        self.refuses_at: int | None = None
        self.clock_entries = 0
        self.index = 0
        self._apply(EntryKind.COMMAND, commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)))
        self.machine.next_due_us = 1 << 63  # As the leader's upkeep knows it.
        self.reader = Reader(self.engine, lambda _: None, lambda: self.machine.visibility)
        shard: Any = SimpleNamespace(
            number=0,
            is_leader=True,
            takes_requests=True,
            serves_local_reads=True,
            driver=self,
            reader=self.reader,
            receipt=lambda proven_s=0.0: pb.Receipt(node_id="n", term=3),
            freshness=Freshness(self, lambda: 0.0, lambda: 0.0),
            leader=lambda: LeaderHint("", ""),
        )
        self.service = DougService(Metrics(0))
        self.service.attach(shard)

    @property
    def applied_index(self) -> int:
        return self.engine.applied_index

    def now_us(self) -> int:
        return self.clock_us

    def read(self, callback: Callable[[bool], None], *, forward: bool = False) -> None:
        callback(True)

    def move_clock(self, callback: Callable[[bool], None]) -> None:
        self.clock_entries += 1
        self._apply(EntryKind.CLOCK, b"")
        callback(True)

    def submit(self, submissions: Sequence[Submission]) -> None:
        for submission in submissions:
            if self.index == self.refuses_at:
                submission.sink.resolve(submission.record_id, Status.OVERLOADED, 0)
                continue
            if self.refuses is not None:
                submission.sink.resolve(submission.record_id, self.refuses, 0)
                continue
            outcome = self._apply(EntryKind.COMMAND, submission.command)
            submission.sink.resolve(submission.record_id, *outcome)

    def _apply(self, kind: EntryKind, command: bytes) -> Any:
        self.index += 1
        (outcome,) = self.machine.apply([entries.encode(self.index, 1, kind, self.clock_us, command)])
        return outcome

    async def ask(self, call: Callable[[Any, Any], Awaitable[Any]], request: object) -> Any:
        return await call(request, FakeContext())

    async def refusal(self, call: Callable[[Any, Any], Awaitable[Any]], request: object) -> FakeContext:
        context = FakeContext()
        with pytest.raises(Aborted):
            await call(request, context)
        return context

    async def scan(self, request: pb.ScanRequest) -> list[bytes]:
        context: Any = FakeContext()
        request.messages = True
        await self.service.Scan(request, context)
        return [entry.key for page in context.pages for entry in page.entries]


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.reader.close()


def exists(wanted: bool) -> pb.WriteOptions:
    return pb.WriteOptions(condition=pb.Condition(exists=wanted))


def at(revision: int) -> pb.WriteOptions:
    return pb.WriteOptions(condition=pb.Condition(revision=revision))


def once(key: str) -> pb.WriteOptions:
    return pb.WriteOptions(idempotency_key=key)


@pytest.mark.pure
async def test_conditions_hold_or_tell_the_revision_that_is(rig: Rig) -> None:
    put, delete = rig.service.Put, rig.service.Delete
    created = await rig.ask(put, pb.PutRequest(key=b"k", value=b"1", options=exists(False)))
    for refused in (
        await rig.refusal(put, pb.PutRequest(key=b"k", value=b"2", options=exists(False))),
        await rig.refusal(put, pb.PutRequest(key=b"k", value=b"2", options=at(created.revision + 1))),
        await rig.refusal(delete, pb.DeleteRequest(key=b"k", options=at(created.revision + 1))),
    ):
        assert (refused.code, refused.metadata["doug-code"]) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "PRECONDITION_FAILED",
        )
        assert refused.metadata["doug-revision"] == str(created.revision)
    absent = await rig.refusal(put, pb.PutRequest(key=b"none", options=exists(True)))
    assert absent.metadata["doug-revision"] == "0"
    replaced = await rig.ask(put, pb.PutRequest(key=b"k", value=b"2", options=at(created.revision)))
    assert replaced.revision > created.revision
    await rig.ask(delete, pb.DeleteRequest(key=b"k", options=exists(True)))
    assert not (await rig.ask(rig.service.Get, pb.GetRequest(key=b"k"))).found


@pytest.mark.pure
async def test_what_a_put_says_of_the_value_is_told_by_a_get(rig: Rig) -> None:
    wrote = await rig.ask(
        rig.service.Put,
        pb.PutRequest(key=b"k", value=b"v", content_type="text/plain", content_encoding="gzip", ttl_ms=5_000),
    )
    found = await rig.ask(rig.service.Get, pb.GetRequest(key=b"k"))
    assert (found.value, found.content_type, found.content_encoding) == (b"v", "text/plain", "gzip")
    assert found.expires_at_ms == wrote.expires_at_ms == NOW_US // 1000 + 5_000
    kept = await rig.ask(rig.service.Put, pb.PutRequest(key=b"k", value=b"w", keep_expiry=True))
    assert kept.expires_at_ms == wrote.expires_at_ms
    touched = await rig.ask(rig.service.Touch, pb.TouchRequest(key=b"k", ttl_ms=9_000, options=at(kept.revision)))
    assert touched.expires_at_ms == NOW_US // 1000 + 9_000
    cleared = await rig.ask(rig.service.Put, pb.PutRequest(key=b"k", value=b"x"))
    assert cleared.expires_at_ms == 0
    refused = await rig.refusal(rig.service.Touch, pb.TouchRequest(key=b"none", ttl_ms=1))
    assert (refused.code, refused.metadata["doug-code"]) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


@pytest.mark.pure
async def test_numbers_are_counted_and_others_are_refused(rig: Rig) -> None:
    increment = rig.service.Increment
    assert (await rig.ask(increment, pb.IncrementRequest(key=b"n", initial=40))).value == 41
    assert (await rig.ask(increment, pb.IncrementRequest(key=b"n", by=-1))).value == 40
    assert (await rig.ask(increment, pb.IncrementRequest(key=b"n", by=0))).value == 40
    assert (await rig.ask(rig.service.Get, pb.GetRequest(key=b"n"))).value == b"40"
    over = await rig.refusal(increment, pb.IncrementRequest(key=b"n", by=(1 << 63) - 1))
    assert (over.code, over.metadata["doug-code"]) == (grpc.StatusCode.OUT_OF_RANGE, "OVERFLOW")
    await rig.ask(rig.service.Put, pb.PutRequest(key=b"text", value=b"four"))
    text = await rig.refusal(increment, pb.IncrementRequest(key=b"text"))
    assert (text.code, text.metadata["doug-code"]) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_A_NUMBER")


async def test_a_client_that_is_judged_is_told_of_an_outcome_and_not_what_was_read(rig: Rig) -> None:
    """It names one key of a transaction, and may have lost the right to read the others since."""
    await rig.ask(rig.service.Put, pb.PutRequest(key=b"{a}secret", value=b"word"))
    write, read = pb.PutRequest(key=b"{a}own", value=b"1"), pb.OperationGet(key=b"{a}secret")
    both = [pb.Operation(put=write), pb.Operation(get=read)]
    operations.identity.set("token:app")
    done = await rig.ask(rig.service.Txn, pb.TxnRequest(success=both, idempotency_key="once"))
    assert done.results[1].value == b"word"
    asked = pb.FindOutcomeRequest(key=b"{a}own", idempotency_key="once")
    found = await rig.ask(rig.service.FindOutcome, asked)
    assert (found.found, found.result.revision) == (True, done.revision)
    assert b"word" not in found.SerializeToString()


async def test_a_key_makes_a_write_happen_once_and_its_outcome_is_found(rig: Rig) -> None:
    request = pb.IncrementRequest(key=b"n", options=once("first"))
    first = await rig.ask(rig.service.Increment, request)
    again = await rig.ask(rig.service.Increment, request)
    assert (again.value, again.revision, again.replayed, first.replayed) == (1, first.revision, True, False)
    other = await rig.refusal(rig.service.Increment, pb.IncrementRequest(key=b"n", by=2, options=once("first")))
    assert (other.code, other.metadata["doug-code"]) == (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_REUSED")
    found = await rig.ask(rig.service.FindOutcome, pb.FindOutcomeRequest(key=b"n", idempotency_key="first"))
    assert (found.found, found.result.revision, found.result.value) == (True, first.revision, b"1")
    assert not (await rig.ask(rig.service.FindOutcome, pb.FindOutcomeRequest(key=b"n", idempotency_key="no"))).found
    # A facade gives each write of a batch a longer key than a client may give.
    for length, refused in ((275, False), (276, True)):
        asked = pb.FindOutcomeRequest(key=b"n", idempotency_key="k" * length)
        if refused:
            assert (await rig.refusal(rig.service.FindOutcome, asked)).code == grpc.StatusCode.INVALID_ARGUMENT
        else:
            assert not (await rig.ask(rig.service.FindOutcome, asked)).found
    # A refusal that was decided is kept too, and says that it is an old one.
    absent = pb.Condition(exists=False)
    failing = pb.PutRequest(key=b"n", options=pb.WriteOptions(condition=absent, idempotency_key="c"))
    assert "doug-replayed" not in (await rig.refusal(rig.service.Put, failing)).metadata
    await rig.ask(rig.service.Delete, pb.DeleteRequest(key=b"n"))
    assert (await rig.refusal(rig.service.Put, failing)).metadata["doug-replayed"] == "true"


def put(key: bytes, value: bytes = b"v", **more: Any) -> pb.Operation:
    return pb.Operation(put=pb.PutRequest(key=key, value=value, **more))


@pytest.mark.pure
async def test_a_transaction_does_one_list_or_the_other(rig: Rig) -> None:
    await rig.ask(rig.service.Put, pb.PutRequest(key=b"a", value=b"1"))
    request = pb.TxnRequest(
        compare=[pb.Compare(key=b"a", value=b"1"), pb.Compare(key=b"b", exists=False)],
        success=[
            put(b"b"),
            pb.Operation(increment=pb.IncrementRequest(key=b"a", by=4)),
            pb.Operation(get=pb.OperationGet(key=b"a")),
        ],
        failure=[pb.Operation(get=pb.OperationGet(key=b"b")), pb.Operation(delete=pb.DeleteRequest(key=b"b"))],
    )
    done = await rig.ask(rig.service.Txn, request)
    assert done.succeeded and [each.revision for each in done.results] == [done.revision] * 3
    assert done.results[2].value == b"5"
    failed = await rig.ask(rig.service.Txn, request)
    assert not failed.succeeded and failed.results[0].value == b"v"
    undone = await rig.refusal(
        rig.service.Txn, pb.TxnRequest(success=[put(b"b"), put(b"c", options=exists(True))], idempotency_key="t")
    )
    assert (undone.metadata["doug-code"], undone.metadata["doug-operation"]) == ("PRECONDITION_FAILED", "1")
    assert not (await rig.ask(rig.service.Get, pb.GetRequest(key=b"b"))).found


async def test_operations_of_a_batch_are_answered_as_if_alone(rig: Rig) -> None:
    batch = pb.ExecuteBatchRequest(
        operations=[
            put(b"a", b"1", options=once("x")),
            put(b"a", options=exists(False)),
            pb.Operation(increment=pb.IncrementRequest(key=b"a")),
            pb.Operation(get=pb.OperationGet(key=b"none")),
            pb.Operation(touch=pb.TouchRequest(key=b"a", ttl_ms=1)),
        ]
    )
    results = (await rig.ask(rig.service.ExecuteBatch, batch)).results
    assert [each.status for each in results] == [
        pb.OPERATION_STATUS_OK,
        pb.OPERATION_STATUS_PRECONDITION_FAILED,
        pb.OPERATION_STATUS_OK,
        pb.OPERATION_STATUS_NOT_FOUND,
        pb.OPERATION_STATUS_OK,
    ]
    assert results[2].value == b"2"
    assert (await rig.ask(rig.service.ExecuteBatch, batch)).results[0].replayed


@pytest.mark.pure
async def test_what_the_caller_may_not_do_is_refused_in_its_place_and_the_rest_of_a_batch_goes_on(rig: Rig) -> None:
    """The places come from ``Callers.admit``, by the variable ``operations.forbidden``."""
    count = 3 * BATCH_PART
    odd = frozenset(range(1, count, 2))
    batch = pb.ExecuteBatchRequest(operations=[put(b"%d" % number, b"v") for number in range(count)])
    operations.forbidden.set(odd)
    before = rig.index
    results = (await rig.ask(rig.service.ExecuteBatch, batch)).results
    expected = (pb.OPERATION_STATUS_OK, pb.OPERATION_STATUS_FORBIDDEN)
    assert [each.status for each in results] == [expected[place % 2] for place in range(count)]
    assert rig.index - before == 2, "what is left out takes no room in the log"
    for number in (0, 1, count - 2, count - 1):
        found = await rig.ask(rig.service.Get, pb.GetRequest(key=b"%d" % number))
        assert found.found is (number % 2 == 0)
    operations.forbidden.set(frozenset(range(count)))
    before = rig.index
    results = (await rig.ask(rig.service.ExecuteBatch, batch)).results
    assert {each.status for each in results} == {pb.OPERATION_STATUS_FORBIDDEN}
    assert (len(results), rig.index) == (count, before)


def test_the_statuses_of_operations_are_those_of_the_records() -> None:
    for name, number in pb.OperationStatus.items():
        assert int(Status[name.removeprefix("OPERATION_STATUS_")]) == int(number)


async def test_what_makes_no_sense_is_refused_and_changes_nothing(rig: Rig) -> None:
    service, long = rig.service, b"k" * 70_000
    nothing = pb.WriteOptions(condition=pb.Condition())
    before = rig.index
    for call, request in (
        (service.Put, pb.PutRequest(key=b"k", ttl_ms=1, keep_expiry=True)),
        (service.Put, pb.PutRequest(key=b"k", ttl_ms=1 << 63)),
        (service.Put, pb.PutRequest(key=b"k", options=nothing)),
        (service.Put, pb.PutRequest(key=b"k", content_type="x\n")),
        (service.Put, pb.PutRequest(key=b"k", content_type="x" * 70_000)),
        (service.Put, pb.PutRequest(key=b"k", content_encoding="x" * 300)),
        (service.Put, pb.PutRequest(key=b"k", options=once("x" * 256))),
        (service.Put, pb.PutRequest(key=b"k", options=once("ü"))),
        (service.Put, pb.PutRequest(key=long, options=once("x"))),
        (service.Touch, pb.TouchRequest(key=b"k")),
        (service.Txn, pb.TxnRequest()),
        (service.Txn, pb.TxnRequest(compare=[pb.Compare(key=b"k")])),
        (service.Txn, pb.TxnRequest(compare=[pb.Compare(key=long, exists=True)])),
        (service.Txn, pb.TxnRequest(success=[pb.Operation()])),
        (service.Txn, pb.TxnRequest(success=[put(b"k", options=once("x"))])),
        (service.Txn, pb.TxnRequest(success=[put(b"k")] * (TXN_OPERATIONS_MAX + 1))),
        (service.Txn, pb.TxnRequest(failure=[put(b"k")] * 70_000)),
        (service.ExecuteBatch, pb.ExecuteBatchRequest()),
        (service.ExecuteBatch, pb.ExecuteBatchRequest(operations=[put(b"")])),
        (service.FindOutcome, pb.FindOutcomeRequest(key=b"k")),
        (service.FindOutcome, pb.FindOutcomeRequest(idempotency_key="x")),
        (service.DeleteRange, pb.DeleteRangeRequest()),
        (service.DeleteRange, pb.DeleteRangeRequest(start=b"a", all=True)),
        (service.DeleteRange, pb.DeleteRangeRequest(start=b"a", limit=100_001)),
        (service.DeleteRange, pb.DeleteRangeRequest(start=b"a" * 2000)),
    ):
        refused = await rig.refusal(call, request)
        assert (refused.code, refused.metadata["doug-code"]) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID"), request
    assert rig.index == before


async def fill(rig: Rig, count: int) -> None:
    for number in range(count):
        await rig.ask(rig.service.Put, pb.PutRequest(key=b"t/%05d" % number))


async def test_a_range_is_counted_then_deleted_in_steps(rig: Rig) -> None:
    await fill(rig, 1_200)
    await rig.ask(rig.service.Put, pb.PutRequest(key=b"u"))
    delete = rig.service.DeleteRange
    counted = await rig.ask(delete, pb.DeleteRangeRequest(start=b"t/", end=b"t0", dry_run=True))
    assert (counted.found, counted.deleted, counted.complete) == (1_200, 0, True)
    before = rig.index
    some = await rig.ask(delete, pb.DeleteRangeRequest(start=b"t/", end=b"t0", limit=1_100))
    assert (some.found, some.deleted, some.complete) == (1_100, 1_100, False)
    assert rig.index - before == 3, "one entry for many keys"
    rest = await rig.ask(delete, pb.DeleteRangeRequest(start=some.next_start, end=b"t0", limit=100))
    assert (rest.deleted, rest.complete, rest.next_start) == (100, True, b"")
    assert await rig.scan(pb.ScanRequest()) == [b"u"]
    everything = await rig.ask(delete, pb.DeleteRangeRequest(all=True))
    assert (everything.deleted, everything.complete) == (1, True)


async def test_a_deletion_that_fails_says_where_to_go_on(rig: Rig) -> None:
    await fill(rig, 700)
    done = rig.submit

    def fail_later(submissions: Sequence[Submission]) -> None:
        done(submissions)
        rig.refuses = Status.OVERLOADED

    rig.submit = fail_later  # type: ignore[method-assign]
    some = await rig.ask(rig.service.DeleteRange, pb.DeleteRangeRequest(start=b"t/"))
    assert (some.deleted, some.complete, some.next_start) == (500, False, b"t/00499\0")
    refused = await rig.refusal(rig.service.DeleteRange, pb.DeleteRangeRequest(start=some.next_start))
    assert refused.metadata["doug-code"] == "OVERLOADED"


@pytest.mark.pure
async def test_what_has_expired_by_the_leaders_clock_is_seen_by_no_linearizable_read(rig: Rig) -> None:
    """Nobody writes, so the log's clock stands still until a reader has it moved."""
    await rig.ask(rig.service.Put, pb.PutRequest(key=b"k", ttl_ms=1_000))
    await rig.ask(rig.service.Put, pb.PutRequest(key=b"l", ttl_ms=2_000))
    assert await rig.scan(pb.ScanRequest()) == [b"k", b"l"]
    assert rig.clock_entries == 0, "nothing is due"
    rig.clock_us += 1_000_000
    eventual = pb.GetRequest(key=b"k", consistency=pb.CONSISTENCY_EVENTUAL)
    assert (await rig.ask(rig.service.Get, eventual)).found, "some applied state"
    assert not (await rig.ask(rig.service.Get, pb.GetRequest(key=b"k"))).found
    rig.clock_us += 1_000_000
    assert await rig.scan(pb.ScanRequest(consistency=pb.CONSISTENCY_EVENTUAL)) == [b"l"]
    assert await rig.scan(pb.ScanRequest()) == []
    assert rig.clock_entries == 2


async def test_a_scan_sees_nothing_expired_while_the_upkeep_looks(rig: Rig) -> None:
    await rig.ask(rig.service.Put, pb.PutRequest(key=b"k", ttl_ms=1_000))
    rig.clock_us += 1_000_000
    rig.machine.next_due_us, rig.machine.looking = 1 << 63, True
    assert await rig.scan(pb.ScanRequest()) == []


async def test_many_costly_operations_of_a_batch_never_have_the_event_loop_for_long(rig: Rig) -> None:
    count = 10_000
    increments = [pb.Operation(increment=pb.IncrementRequest(key=b"n"))] * count
    turns = [0]
    done = asyncio.Event()

    async def others() -> None:
        while not done.is_set():
            turns[0] += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    first = rig.index
    told = await rig.ask(rig.service.ExecuteBatch, pb.ExecuteBatchRequest(operations=increments))
    done.set()
    await other
    assert [int(each.value) for each in told.results] == list(range(1, count + 1))
    assert rig.index - first == count // BATCH_PART, "no entry has more of them"
    assert turns[0] >= 2 * count // SLICE


async def test_a_batch_that_is_refused_half_way_is_unknown_and_one_at_its_beginning_is_not(rig: Rig) -> None:
    puts = [put(b"%d" % number) for number in range(2 * BATCH_PART)]
    rig.refuses_at = rig.index + 1
    refused = await rig.refusal(rig.service.ExecuteBatch, pb.ExecuteBatchRequest(operations=puts))
    assert refused.metadata["doug-code"] == "UNKNOWN"
    rig.refuses_at = rig.index
    refused = await rig.refusal(rig.service.ExecuteBatch, pb.ExecuteBatchRequest(operations=puts))
    assert refused.metadata["doug-code"] == "OVERLOADED"


async def test_a_batch_is_understood_as_a_whole_before_anything_of_it_is_done(rig: Rig) -> None:
    before = rig.index
    puts = [put(b"%d" % number) for number in range(2 * BATCH_PART)]
    for wrong in ([*puts, put(b"")], [*puts, put(b"k", b"v" * (1 << 20)), put(b"k", b"v" * (1 << 20))], puts * 21):
        refused = await rig.refusal(rig.service.ExecuteBatch, pb.ExecuteBatchRequest(operations=wrong))
        assert refused.metadata["doug-code"] == "INVALID"
    assert rig.index == before
