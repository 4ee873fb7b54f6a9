"""Sampled records of a Pipe stream, and sampled unary calls: a span from arrival to answer, and none for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire import pipe
from doug_wire.command import Opcode
from doug_wire.pipe import Status
from doug_wire.trace_context import TraceContext, encode_traces
from doug_wire.tracing import Tracing
from raft_node.kv.keyspace import StoredValue
from raft_node.observability.metrics import Metrics
from raft_node.observability.tracing import NodeTraces
from raft_node.rpc.doug import traced_pipe
from raft_node.rpc.doug.pipe import PipeSession
from raft_node.rpc.doug.service import DougService
from raft_node.rpc.doug.traced_pipe import RecordSpans
from raft_node.runtime.driver import Submission
from raft_node.runtime.log.commit_times import NodeTimes
from raft_node.runtime.reads.freshness import Freshness

pytestmark = pytest.mark.pure

CALLER = TraceContext(1, 2)
TRACEPARENT = ("traceparent", f"00-{1:032x}-{2:016x}-01")


class Aborted(Exception):  # noqa: N818
    """What grpc raises out of ``abort``."""


class FakeContext:
    """A stream or a call of the test."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self.metadata = metadata
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[pb.BatchResult] = []

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self.metadata

    async def read(self) -> Any:
        return await self.incoming.get()

    async def write(self, message: pb.BatchResult) -> None:
        self.sent.append(message)

    async def abort(self, *arguments: object) -> None:
        raise Aborted


class FakeDriver:
    """Takes proposals and reads; the test decides what becomes of them."""

    def __init__(self) -> None:
        self.machine = SimpleNamespace(created=True, owns=lambda slot, epoch: True)
        self.submitted: list[Submission] = []
        self.reads: list[Callable[[bool], None]] = []
        self.applied_index, self.proven_s = 7, 98.0
        self.times = NodeTimes()

    def submit(self, submissions: Sequence[Submission]) -> None:
        self.submitted.extend(submissions)

    def read(self, callback: Callable[[bool], None], *, forward: bool = False) -> None:
        self.reads.append(callback)


class Rig:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = NodeTraces(Tracing(provider, "test", "0"), lambda: 0.0)
        self.driver = FakeDriver()
        self.data: dict[bytes, StoredValue] = {}
        self.context = FakeContext()
        shard: Any = SimpleNamespace(
            number=0,
            is_leader=True,
            takes_requests=True,
            serves_local_reads=True,
            driver=self.driver,
            reader=SimpleNamespace(get=self.data.get),
            receipt=lambda proven_s=0.0: pb.Receipt(node_id="n", term=3),
            leader=lambda: SimpleNamespace(id="", address=""),
            freshness=Freshness(self.driver, lambda: self.driver.proven_s, lambda: 100.0),
        )
        context: Any = self.context
        self.shard, self.spans = shard, RecordSpans(self.traces)
        self.session = PipeSession(shard, context, Metrics(0), self.spans)
        self.task = asyncio.create_task(self.session.run())

    async def send(self, kind: pb.BatchKind.ValueType, records: bytes, *traced: int) -> None:
        traces = encode_traces([(record_id, CALLER) for record_id in traced])
        self.context.incoming.put_nowait(pb.Batch(kind=kind, records=records, traces=traces))
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self) -> None:
        self.context.incoming.put_nowait(grpc.aio.EOF)
        await self.task

    def told(self) -> list[tuple[str, str]]:
        """The names of the spans that ended, and how."""
        return [(span.name, outcome_of(span)) for span in self.exporter.get_finished_spans()]


def outcome_of(span: ReadableSpan) -> str:
    return str((span.attributes or {}).get("dougdb.status", span.status.description or ""))


def write(record_id: int, key: bytes = b"k") -> bytes:
    command = commands.encode(Opcode.PUT, key, b"", b"v")
    return pipe.encode_write(record_id, commands.checksum(command), command)


async def test_of_a_batch_the_sampled_writes_have_spans() -> None:
    rig = Rig()
    await rig.send(pb.BATCH_KIND_WRITE, write(1) + write(2) + write(3), 2)
    assert [submission.trace is not None for submission in rig.driver.submitted] == [False, True, False]
    for submission in rig.driver.submitted:
        submission.sink.resolve(submission.record_id, Status.OK, 7)
    assert rig.told() == [("doug write", "OK")]
    await rig.end()


async def test_a_write_that_is_refused_says_why() -> None:
    rig = Rig()
    await rig.send(pb.BATCH_KIND_WRITE, write(1, key=b""), 1)
    assert rig.told() == [("doug write", "INVALID")]
    await rig.send(pb.BATCH_KIND_WRITE, write(2), 2)
    rig.driver.submitted[0].sink.resolve(2, Status.NOT_LEADER, 0)
    assert rig.told()[1:] == [("doug write", "NOT_LEADER")]
    await rig.end()


async def test_reads_have_a_span_for_the_round_that_confirms_them() -> None:
    rig = Rig()
    rig.data[b"a"] = StoredValue(4, b"", b"value")
    records = b"".join(pipe.encode_read(number, 0, key) for number, key in enumerate((b"a", b"b", b"a")))
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, records, 0, 1)
    assert rig.told() == []
    rig.driver.reads[0](True)
    assert rig.told() == [
        ("raft read_index", ""),
        ("raft read_index", ""),
        ("doug read", "OK"),
        ("doug read", "NOT_FOUND"),
    ]
    await rig.send(pb.BATCH_KIND_READ_LOCAL, pipe.encode_read(9, 0, b"a"), 9)
    assert rig.told()[4:] == [("doug read", "OK")]
    await rig.end()


async def test_spans_end_with_their_stream() -> None:
    rig = Rig()
    await rig.send(pb.BATCH_KIND_WRITE, write(1), 1)
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, pipe.encode_read(2, 0, b"a"), 2)
    await rig.end()
    assert rig.told() == [("doug write", "client_left"), ("raft read_index", ""), ("doug read", "client_left")]
    rig.driver.submitted[0].sink.resolve(1, Status.OK, 1)
    rig.driver.reads[0](True)
    assert len(rig.told()) == 3


async def test_contexts_of_records_that_never_come_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced_pipe, "SPANS_MAX", 3)
    rig = Rig()
    await rig.send(pb.BATCH_KIND_WRITE, write(1), *range(10, 20))
    assert len(rig.spans._spans) == 3
    rig.driver.submitted[0].sink.resolve(1, Status.OK, 7)
    await rig.end()


def unary(rig: Rig) -> DougService:
    service = DougService(Metrics(0), rig.traces)
    service.attach(rig.shard)
    return service


async def put(rig: Rig, status: Status, *metadata: tuple[str, str | bytes]) -> None:
    context: Any = FakeContext(*metadata)
    call = asyncio.create_task(unary(rig).Put(pb.PutRequest(key=b"k", value=b"v"), context))
    while not rig.driver.submitted:
        await asyncio.sleep(0)
    submission = rig.driver.submitted.pop()
    submission.sink.resolve(submission.record_id, status, 1)
    if status != Status.OK:
        with pytest.raises(Aborted):
            await call
    else:
        await call


async def test_unary_writes_take_the_callers_traceparent() -> None:
    rig = Rig()
    await put(rig, Status.OK, TRACEPARENT)
    await put(rig, Status.DISK_FULL, ("traceparent", TRACEPARENT[1].encode()))
    assert rig.told() == [("doug write", "OK"), ("doug write", "DISK_FULL")]
    for metadata in ((), (("traceparent", "nonsense"),), (TRACEPARENT, TRACEPARENT), (("traceparent", "00-1-2-00"),)):
        await put(rig, Status.OK, *metadata)
    await put(rig, Status.OK, ("traceparent", TRACEPARENT[1][:-1] + "0"))
    assert len(rig.told()) == 2
    await rig.end()


async def test_unary_reads_take_it_too() -> None:
    rig = Rig()
    context: Any = FakeContext(TRACEPARENT)
    for confirmed, outcome in ((True, "NOT_FOUND"), (False, "refused")):
        call = asyncio.create_task(unary(rig).Get(pb.GetRequest(key=b"k"), context))
        while not rig.driver.reads:
            await asyncio.sleep(0)
        rig.driver.reads.pop()(confirmed)
        await asyncio.gather(call, return_exceptions=True)
        assert rig.told()[-2:] == [("raft read_index", ""), ("doug read", outcome)]
    await rig.end()
