"""The unary calls of Doug against a fake replica: what each refusal says, and that nothing refused is proposed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire.pipe import Status
from doug_wire.slots import slot_of
from raft_node.errors import UnavailableError
from raft_node.kv.keyspace import StoredValue
from raft_node.observability.metrics import Metrics
from raft_node.rpc.doug.replica import LeaderHint
from raft_node.rpc.doug.service import DougService
from raft_node.runtime.driver import Submission
from raft_node.runtime.reads.freshness import Freshness

FOREIGN = b"foreign"


class Aborted(Exception):  # noqa: N818
    """What grpc raises out of ``abort``."""


class FakeContext:
    """A call that the test made."""

    code: grpc.StatusCode | None = None
    details = ""
    metadata: dict[str, str]

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self.code, self.details, self.metadata = code, details, dict(metadata)
        raise Aborted


class FakeDriver:
    """Takes proposals and reads; the test decides what becomes of them."""

    def __init__(self) -> None:
        self.submitted: list[Submission] = []
        self.machine = SimpleNamespace(
            created=True,
            owns=lambda slot, epoch: slot != slot_of(FOREIGN) and epoch in (0, 1),
            partition_map=lambda: None,
        )
        self.confirms = True
        self.forwarded: list[bool] = []
        self.applied_index, self.proven_s = 7, 98.0

    def submit(self, submissions: Sequence[Submission]) -> None:
        self.submitted.extend(submissions)

    def read(self, callback: Callable[[bool], None], *, forward: bool = False) -> None:
        self.forwarded.append(forward)
        callback(self.confirms)


class Rig:
    def __init__(self) -> None:
        self.driver = FakeDriver()
        self.data: dict[bytes, StoredValue] = {}
        self.shard = SimpleNamespace(
            number=0,
            is_leader=True,
            takes_requests=True,
            serves_local_reads=True,
            driver=self.driver,
            reader=SimpleNamespace(get=self.data.get),
            receipt=lambda proven_s=0.0: pb.Receipt(node_id="n", term=3),
            leader=lambda: LeaderHint("shard-0-3", "127.0.0.1:21009"),
            freshness=Freshness(self.driver, lambda: self.driver.proven_s, lambda: 100.0),
        )
        self.service = DougService(Metrics(0))
        self.service.attach(self.shard)  # type: ignore[arg-type]

    async def refusal(self, call: Callable[[Any, Any], Awaitable[object]], request: object) -> FakeContext:
        """The refusal of a call; nothing may have been proposed."""
        context = FakeContext()
        with pytest.raises(Aborted):
            await call(request, context)
        assert self.driver.submitted == []
        return context


@pytest.fixture
def rig() -> Rig:
    return Rig()


def calls(rig: Rig, key: bytes, epoch: int = 0) -> list[tuple[Callable[[Any, Any], Awaitable[object]], object]]:
    """Every call that names a key."""
    return [
        (rig.service.Put, pb.PutRequest(key=key, value=b"v", epoch=epoch)),
        (rig.service.Delete, pb.DeleteRequest(key=key, epoch=epoch)),
        (rig.service.Get, pb.GetRequest(key=key, epoch=epoch)),
    ]


async def test_defect_7_a_refusal_by_a_follower_carries_the_leaders_address(rig: Rig) -> None:
    rig.shard.is_leader = rig.shard.takes_requests = False
    rig.driver.confirms = False
    for call, request in calls(rig, b"k"):
        context = await rig.refusal(call, request)
        assert context.code is grpc.StatusCode.FAILED_PRECONDITION
        assert context.metadata["doug-code"] == "NOT_LEADER"
        assert context.metadata["doug-leader-id"] == "shard-0-3"
        assert context.metadata["doug-leader-address"] == "127.0.0.1:21009"


@pytest.mark.pure
async def test_a_follower_serves_a_linearizable_read_when_it_is_asked_to_forward_it(rig: Rig) -> None:
    rig.shard.is_leader = rig.shard.takes_requests = False
    rig.data[b"k"] = StoredValue(7, b"text/plain", b"value")
    for request in (pb.GetRequest(key=b"k", forward=True), pb.GetRequest(key=b"k")):
        assert (await rig.service.Get(request, FakeContext())).value == b"value"  # type: ignore[arg-type]
    assert rig.driver.forwarded == [True, False], "the driver refuses what nobody allowed it to forward"


async def test_while_no_leader_is_known_the_address_is_empty(rig: Rig) -> None:
    rig.shard.is_leader = rig.shard.takes_requests = False
    rig.shard.leader = lambda: LeaderHint("", "")
    context = await rig.refusal(rig.service.Put, pb.PutRequest(key=b"k"))
    assert (context.metadata["doug-leader-id"], context.metadata["doug-leader-address"]) == ("", "")


async def test_keys_of_other_shards_and_outdated_epochs_are_refused(rig: Rig) -> None:
    for key, epoch in ((FOREIGN, 0), (b"k", 9)):
        for call, request in calls(rig, key, epoch):
            context = await rig.refusal(call, request)
            assert context.code is grpc.StatusCode.FAILED_PRECONDITION
            assert context.metadata["doug-code"] == "WRONG_SHARD"


async def test_a_node_outside_of_the_shard_serves_no_reads(rig: Rig) -> None:
    rig.shard.serves_local_reads = False
    context = await rig.refusal(rig.service.Get, pb.GetRequest(key=b"k", consistency=pb.CONSISTENCY_EVENTUAL))
    assert (context.code, context.metadata["doug-code"]) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


async def test_the_map_lies_in_shard_0(rig: Rig) -> None:
    rig.shard.number = 1
    context = await rig.refusal(rig.service.Partitions, pb.PartitionsRequest())
    assert context.metadata["doug-code"] == "WRONG_SHARD"


@pytest.mark.parametrize("key", [b"", b"k" * (commands.KEY_BYTES_MAX + 1)])
async def test_keys_have_bounds(rig: Rig, key: bytes) -> None:
    for call, request in calls(rig, key):
        context = await rig.refusal(call, request)
        assert (context.code, context.metadata["doug-code"]) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")


async def test_values_and_content_types_have_bounds(rig: Rig) -> None:
    for request in (
        pb.PutRequest(key=b"k", value=bytes(commands.VALUE_BYTES_MAX + 1)),
        pb.PutRequest(key=b"k", content_type="x" * (commands.CONTENT_TYPE_BYTES_MAX + 1)),
    ):
        context = await rig.refusal(rig.service.Put, request)
        assert (context.code, context.metadata["doug-code"]) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")


async def test_a_node_that_is_starting_says_so() -> None:
    rig = Rig()
    rig.service = DougService(Metrics(0))
    for call, request in calls(rig, b"k"):
        context = await rig.refusal(call, request)
        assert (context.code, context.metadata["doug-code"]) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status.NOT_APPLIED, grpc.StatusCode.ABORTED),
        (Status.OVERLOADED, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Status.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED),
        (Status.WRONG_SHARD, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_what_becomes_of_a_proposal_is_told(rig: Rig, status: Status, code: grpc.StatusCode) -> None:
    context: Any = FakeContext()
    call = asyncio.create_task(rig.service.Put(pb.PutRequest(key=b"k", value=b"v"), context))
    await asyncio.sleep(0)
    (submission,) = rig.driver.submitted
    submission.sink.resolve(submission.record_id, status, 0)
    with pytest.raises(Aborted):
        await call
    assert (context.code, context.metadata["doug-code"]) == (code, status.name)


async def test_an_applied_put_tells_its_revision_and_who_answers(rig: Rig) -> None:
    context: Any = FakeContext()
    call = asyncio.create_task(rig.service.Put(pb.PutRequest(key=b"k", value=b"v", content_type="text/plain"), context))
    await asyncio.sleep(0)
    (submission,) = rig.driver.submitted
    stored = commands.decode(submission.command)
    assert (stored.key, stored.value, stored.content_type) == (b"k", b"v", b"text/plain")
    submission.sink.resolve(submission.record_id, Status.OK, 7)
    answer = await call
    assert (answer.revision, answer.receipt.node_id, answer.receipt.term) == (7, "n", 3)


@pytest.mark.pure
async def test_reads_find_or_do_not_find(rig: Rig) -> None:
    rig.data[b"k"] = StoredValue(4, b"text/plain", b"value")
    context: Any = FakeContext()
    found = await rig.service.Get(pb.GetRequest(key=b"k"), context)
    assert (found.found, found.value, found.content_type, found.revision) == (True, b"value", "text/plain", 4)
    assert not (await rig.service.Get(pb.GetRequest(key=b"other"), context)).found


async def test_an_eventual_read_needs_no_leader(rig: Rig) -> None:
    rig.driver.confirms = False
    rig.data[b"k"] = StoredValue(4, b"", b"value")
    context: Any = FakeContext()
    request = pb.GetRequest(key=b"k", consistency=pb.CONSISTENCY_EVENTUAL)
    assert (await rig.service.Get(request, context)).value == b"value"


async def test_a_value_that_makes_no_sense_is_not_answered(rig: Rig) -> None:
    def refuse(key: bytes) -> None:
        raise UnavailableError("a value of no known format")

    rig.shard.reader = SimpleNamespace(get=refuse)
    context = await rig.refusal(rig.service.Get, pb.GetRequest(key=b"k"))
    assert context.code is grpc.StatusCode.UNAVAILABLE
