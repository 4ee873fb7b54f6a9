"""What the metrics rest on: commit times, round trips, volumes, and the counting of calls."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from doug.v1 import raft_pb2
from raft_node.errors import CorruptionError, FatalError
from raft_node.observability.metrics import Metrics
from raft_node.observability.volumes import Volumes, measure
from raft_node.rpc.interceptor import CountingInterceptor
from raft_node.rpc.raft.round_trips import EVERY_S, MISSING_S, RoundTrips
from raft_node.rpc.raft.streams import ClientStream
from raft_node.runtime.log.commit_times import CommitTimes, NodeTimes, WriteTimes

# -- commit times ---------------------------------------------------------------------------------------------------


def test_a_batch_is_measured_once_its_last_entry_is_committed() -> None:
    seen: list[float] = []
    times = CommitTimes(seen.append)
    times.proposed(4, 2, 10.0)
    times.proposed(6, 2, 11.0)
    times.committed(3, 2, 12.0)
    assert seen == []
    times.committed(6, 2, 12.5)
    assert seen == [2.5, 1.5]
    times.committed(9, 2, 13.0)
    assert seen == [2.5, 1.5]


def test_what_another_term_commits_is_not_measured() -> None:
    seen: list[float] = []
    times = CommitTimes(seen.append)
    times.proposed(4, 2, 10.0)
    times.committed(4, 3, 12.0)
    times.proposed(7, 2, 13.0)
    times.proposed(6, 5, 14.0)  # A new term: what was proposed before is forgotten.
    times.committed(7, 5, 15.0)
    assert seen == [1.0]


def test_a_batch_is_told_with_what_the_leaders_own_disk_took() -> None:
    node = NodeTimes()
    times = CommitTimes(lambda seconds: None, node)
    times.proposed(4, 2, 10.0)
    times.proposed(6, 2, 11.0)
    times.written(4, 0.25, 0.5)
    times.committed(4, 2, 12.0)
    assert node.write == WriteTimes(0.25, 0.5, 2.0)
    # Others had it first: this disk says nothing of it.
    times.committed(6, 2, 12.5)
    assert node.write == WriteTimes(0.0, 0.0, 1.5)


# -- round trips ----------------------------------------------------------------------------------------------------


def open_stream(seen: list[float]) -> RoundTrips:
    """A stream whose first heartbeat was answered at 0.5 s: it waited for the connection, and says nothing."""
    trips = RoundTrips(seen.append)
    trips.sent(0.0)
    trips.answered(0.5)
    assert seen == []
    return trips


def test_one_heartbeat_at_a_time_is_measured_and_not_too_often() -> None:
    seen: list[float] = []
    trips = open_stream(seen)
    trips.sent(1.0)
    trips.sent(1.01)
    trips.answered(1.02)
    trips.answered(1.03)
    assert seen == [pytest.approx(0.02)]
    trips.sent(1.05)  # Too early for the next one.
    trips.answered(1.06)
    trips.sent(1.0 + EVERY_S)
    trips.answered(1.0 + EVERY_S + 0.005)
    assert seen == [pytest.approx(0.02), pytest.approx(0.005)]


def test_an_answer_is_never_taken_for_that_of_another_heartbeat() -> None:
    seen: list[float] = []
    trips = open_stream(seen)
    trips.sent(1.0)
    trips.answered(1.01)
    trips.sent(1.05)
    trips.sent(1.2)  # Measured, while the one before is not answered yet.
    trips.answered(1.21)
    assert seen == [pytest.approx(0.01)]
    trips.answered(1.3)
    assert seen == [pytest.approx(0.01), pytest.approx(0.1)]


def test_after_a_missing_answer_only_a_new_stream_is_measured() -> None:
    seen: list[float] = []
    trips = open_stream(seen)
    trips.sent(1.0)
    trips.sent(1.0 + MISSING_S + 1)
    trips.answered(1.0 + MISSING_S + 1.1)
    assert seen == []
    trips.broken()
    trips.sent(19.0)
    trips.answered(19.9)
    trips.sent(20.0)
    trips.answered(20.5)
    assert seen == [0.5]


async def test_only_what_leaves_the_outbox_is_told_and_before_it_is_written() -> None:
    """What gave way in a full outbox is never answered, so that it must not be counted."""
    log: list[str] = []

    class Call:
        async def write(self, request: str) -> None:
            log.append(f"write {request}")

        async def read(self) -> object:
            while len(log) < 4:
                await asyncio.sleep(0)
            return grpc.aio.EOF

        def cancel(self) -> bool:
            return True

    async def open_call() -> Call:
        return Call()

    stream: ClientStream[str, str] = ClientStream(
        open_call,
        2,
        log.append,
        lambda: None,
        lambda: log.append("broken"),
        lambda request: log.append(f"leaves {request}"),
    )
    for message in ("a", "b", "c"):
        stream.outbox.put(message)
    task = asyncio.create_task(stream.run())
    async with asyncio.timeout(60):
        while "broken" not in log:
            await asyncio.sleep(0)
    task.cancel()
    assert log == ["leaves b", "write b", "leaves c", "write c", "broken"]


# -- volumes --------------------------------------------------------------------------------------------------------


async def test_volumes_are_looked_at_and_a_missing_one_is_left_out(tmp_path: Path) -> None:
    paths = {"wal": str(tmp_path), "data": str(tmp_path / "missing")}
    assert measure(paths).keys() == {"wal"}
    volumes = Volumes(paths)
    assert volumes.space == {}
    task = asyncio.create_task(volumes.run())
    async with asyncio.timeout(60):
        while not volumes.space:
            await asyncio.sleep(0)
    task.cancel()
    assert 0 < volumes.space["wal"].free_bytes <= volumes.space["wal"].total_bytes


# -- calls ----------------------------------------------------------------------------------------------------------


@dataclass
class Details:
    method: str
    invocation_metadata: Any = ()


class Context:
    def __init__(self, code: object) -> None:
        self._code = code

    def code(self) -> object:
        return self._code


class Rig:
    """An interceptor in front of one behaviour."""

    def __init__(self, admit: Any = None) -> None:
        self.metrics = Metrics(3)
        self.failures: list[FatalError] = []
        self.interceptor = CountingInterceptor(self.metrics, self.failures.append, admit)
        self.asked = 0

    async def handler(self, behaviour: Any, method: str = "/doug.v1.Doug/Get", make: Any = None) -> Any:
        make = make or grpc.unary_unary_rpc_method_handler

        async def continuation(details: Any) -> Any:
            self.asked += 1
            return None if behaviour is None else make(behaviour)

        return await self.interceptor.intercept_service(continuation, Details(method))

    def value(self, name: str, **labels: str) -> float | None:
        common = {"shard": "3", "grpc_service": "doug.v1.Doug", "grpc_method": "Get", "grpc_type": "unary"}
        return self.metrics.registry.get_sample_value(name, {**common, **labels})


@pytest.mark.parametrize(
    ("make", "kind", "judged"),
    [
        (grpc.unary_unary_rpc_method_handler, "unary_unary", "request"),
        (grpc.unary_stream_rpc_method_handler, "unary_stream", "request"),
        (grpc.stream_unary_rpc_method_handler, "stream_unary", None),
        (grpc.stream_stream_rpc_method_handler, "stream_stream", None),
    ],
)
async def test_a_caller_is_judged_by_the_request_and_for_a_stream_of_them_by_none(
    make: Any, kind: str, judged: object
) -> None:
    """gRPC hands an iterator over; taken for a request, it made refusals of Pipe fail with a traceback."""
    asked: list[object] = []

    async def admit(context: object, service: str, method: str, request: object) -> None:
        asked.append(request)

    async def behaviour(request: object, context: object) -> object:
        return request

    handler = await Rig(admit).handler(behaviour, make=make)
    assert await getattr(handler, kind)("request", Context(0)) == "request"
    assert asked == [judged]


async def test_a_call_is_counted_with_its_outcome() -> None:
    rig = Rig()
    errors: list[BaseException | None] = [None, grpc.aio.AbortError(), ValueError("a defect"), asyncio.CancelledError()]

    async def behaviour(request: object, context: object) -> object:
        error = errors.pop(0)
        if error is not None:
            raise error
        return request

    handler = await rig.handler(behaviour)
    assert await rig.handler(behaviour) is handler
    assert rig.asked == 1, "the method is wrapped once"
    assert await handler.unary_unary("request", Context(0)) == "request"
    with pytest.raises(grpc.aio.AbortError):
        await handler.unary_unary("request", Context(grpc.StatusCode.ABORTED))
    with pytest.raises(ValueError, match="a defect"):
        await handler.unary_unary("request", Context(0))
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_unary("request", Context(0))
    assert rig.value("grpc_server_started_total") == 4
    assert rig.value("grpc_server_handling_seconds_count") == 4
    for code in ("OK", "ABORTED", "UNKNOWN", "CANCELLED"):
        assert rig.value("grpc_server_handled_total", grpc_code=code) == 1, code


async def test_what_ends_the_node_is_told_although_grpc_would_only_answer_it() -> None:
    rig, broken = Rig(), CorruptionError("000001.sst", 17, "a checksum")

    async def behaviour(request: object, context: object) -> object:
        raise broken

    handler = await rig.handler(behaviour)
    with pytest.raises(CorruptionError):
        await handler.unary_unary("request", Context(0))
    assert rig.failures == [broken]


async def test_a_status_that_is_a_number_is_named() -> None:
    rig = Rig()

    async def behaviour(request: object, context: object) -> object:
        raise grpc.aio.AbortError

    handler = await rig.handler(behaviour)
    with pytest.raises(grpc.aio.AbortError):
        await handler.unary_unary("request", Context(9))
    assert rig.value("grpc_server_handled_total", grpc_code="FAILED_PRECONDITION") == 1


@pytest.mark.parametrize(
    ("make", "kind", "field"),
    [
        (grpc.unary_stream_rpc_method_handler, "server_stream", "unary_stream"),
        (grpc.stream_unary_rpc_method_handler, "client_stream", "stream_unary"),
        (grpc.stream_stream_rpc_method_handler, "bidi_stream", "stream_stream"),
    ],
)
async def test_a_stream_is_one_call_and_has_no_duration(make: Any, kind: str, field: str) -> None:
    rig = Rig()

    async def behaviour(request: object, context: object) -> None:
        return None

    handler = await rig.handler(behaviour, make=make)
    await getattr(handler, field)("request", Context(0))
    assert rig.value("grpc_server_handled_total", grpc_type=kind, grpc_code="OK") == 1
    assert rig.value("grpc_server_handling_seconds_count", grpc_type=kind) is None


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", "/strangers.Own/Name"])
async def test_what_is_not_ours_is_not_counted(method: str) -> None:
    rig = Rig()

    async def behaviour(request: object, context: object) -> None:
        return None

    handler = await rig.handler(behaviour, method)
    assert handler.unary_unary is behaviour
    assert await rig.handler(None, "/doug.v1.Doug/Missing") is None
    assert not [sample for family in rig.metrics.grpc_started.collect() for sample in family.samples]


def test_messages_of_every_method_of_the_raft_service_have_a_type() -> None:
    metrics = Metrics(0)
    methods = [method.name for method in raft_pb2.DESCRIPTOR.services_by_name["Raft"].methods]
    for method in methods:
        metrics.sent("Raft", method).inc()
    metrics.sent("Doug", "Pipe").inc()
    sent = metrics.raft_messages_sent()
    assert len(sent) == len(methods)
    assert {"append_entries", "heartbeat", "request_vote", "timeout_now", "read_index"} <= sent.keys()
