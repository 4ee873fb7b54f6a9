"""Doug.Scan over real gRPC, on an engine with a fake driver: pages, refusals, bounds on time and number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from doug.v1 import doug_pb2 as pb
from doug.v1 import doug_pb2_grpc
from doug_stream.client import ClientEndpoint, connect
from doug_stream.errors import CallError
from doug_stream.limits import Limits
from doug_wire.partition_map import SlotRange
from doug_wire.scan import PAGE_BYTES_MAX, PREFIX, ScanRecord, decode_page
from doug_wire.slots import SLOTS, slot_of
from raft_node.errors import CorruptionError, FatalError, OverloadedError
from raft_node.kv.keyspace import StoredValue, encode_value, user_key
from raft_node.kv.ownership import Ownership
from raft_node.kv.scan import Scan, ScanOptions
from raft_node.kv.visibility import Visibility
from raft_node.observability.metrics import Metrics
from raft_node.rpc import listener as listener_module
from raft_node.rpc.channels import SERVER_OPTIONS
from raft_node.rpc.doug import scan_stream
from raft_node.rpc.doug.replica import LeaderHint
from raft_node.rpc.doug.service import DougService
from raft_node.rpc.hot_streams import SCAN, encode
from raft_node.rpc.interceptor import CountingInterceptor
from raft_node.rpc.listener import Listener
from raft_node.runtime.reads.freshness import Freshness
from raft_node.runtime.reads.reader import Reader
from raft_node.runtime.reads.scans import OTHERS_MAX, ScanLimits
from raft_node.storage.engine import Engine
from raft_node.storage.options import EngineOptions
from raft_testing.files import MemoryFileSystem

pytestmark = pytest.mark.sockets

D = "/data"
OPTIONS = [("grpc.http2.bdp_probe", 0)]
FOREIGN = b"foreign"


class Rig:
    """One node: what it has applied is what the test writes into the engine."""

    def __init__(self, limits: ScanLimits) -> None:
        self.fs = MemoryFileSystem()
        self.engine = Engine.open(self.fs, D, EngineOptions(block_bytes=200), "s")
        self.failures: list[FatalError] = []
        self.reader = Reader(self.engine, self.failures.append, lambda: Visibility(0, self.machine.epochs), limits)
        lost = slot_of(FOREIGN)
        owned = Ownership(3, [SlotRange(0, lost - 1, 0, 3), SlotRange(lost + 1, SLOTS - 1, 0, 3)])
        self.machine = SimpleNamespace(created=True, ownership=owned, epochs=owned.epochs, clock_us=0, revision=0)
        self.confirms = True
        self.forwarded: list[bool] = []
        driver: Any = SimpleNamespace(machine=self.machine, read=self._read, applied_index=7, proven_s=98.0)
        self.shard = SimpleNamespace(
            number=0,
            is_leader=False,
            serves_local_reads=True,
            driver=driver,
            reader=self.reader,
            receipt=lambda proven_s: pb.Receipt(node_id="n", term=3, applied_index=self.engine.applied_index),
            leader=lambda: LeaderHint("shard-0-3", "127.0.0.1:21009"),
            freshness=Freshness(driver, lambda: 98.0, lambda: 100.0),
        )
        self.service = DougService(Metrics(0))
        self.service.attach(self.shard)  # type: ignore[arg-type]
        self.doug: Any = None

    def _read(self, callback: Callable[[bool], None], *, forward: bool = False) -> None:
        self.forwarded.append(forward)
        callback(self.confirms)

    def write(self, *keys: bytes, value: bytes = b"v") -> None:
        self.machine.revision += 1
        data = encode_value(StoredValue(self.machine.revision, b"text/plain", value, 3))
        self.engine.write([(user_key(key), data) for key in keys], self.engine.applied_index + 1, 1)

    async def pages(self, **asked: Any) -> list[pb.ScanPage]:
        return [page async for page in self.doug.Scan(pb.ScanRequest(**asked))]

    async def records(self, **asked: Any) -> list[ScanRecord]:
        return [record for page in await self.pages(**asked) for record in decode_page(page.records)]

    async def refusal(self, **asked: Any) -> tuple[grpc.StatusCode, dict[str, str]]:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.pages(**asked)
        return refused.value.code(), dict(refused.value.trailing_metadata() or ())

    async def ended(self) -> None:
        async with asyncio.timeout(60):
            while self.reader.scans.under_way:
                await asyncio.sleep(0.005)


Make = Callable[..., Any]


class OwnCall:
    """A call of the own streams, with the errors of grpcio."""

    def __init__(self, endpoint: ClientEndpoint, request: pb.ScanRequest) -> None:
        self._call = endpoint.call(SCAN.path, encode, SCAN.decode_answer)
        self._request: pb.ScanRequest | None = request

    async def read(self) -> Any:
        try:
            if self._request is not None:
                request, self._request = self._request, None
                await self._call.write(request)
                await self._call.done_writing()
            return await self._call.read()
        except CallError as error:
            (code,) = (code for code in grpc.StatusCode if code.value[0] == error.status)
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*error.trailers)) from None

    async def __aiter__(self) -> AsyncIterator[pb.ScanPage]:
        while (page := await self.read()) is not grpc.aio.EOF:
            yield page

    def cancel(self) -> None:
        self._call.cancel()


def call_on_loopback(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", OPTIONS)


@pytest.fixture(params=["grpcio to grpcio", "own to own", "grpcio to own"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Starts a node's port for clients, with either client and either server behind it."""
    client, server = request.param.split(" to ")
    async with AsyncExitStack() as stack:

        async def start(limits: ScanLimits = ScanLimits(), admit: Any = None) -> Rig:  # noqa: B008  # It never changes.
            rig = Rig(limits)
            stack.callback(rig.engine.close)
            stack.callback(rig.reader.close)
            behind = grpc.aio.server(options=SERVER_OPTIONS)
            doug_pb2_grpc.add_DougServicer_to_server(rig.service, behind)
            counting = CountingInterceptor(Metrics(0), rig.failures.append, admit)
            listener = Listener(behind, {SCAN: rig.service.Scan}, counting, None, 16)
            await listener.open("127.0.0.1:0", "client")
            stack.push_async_callback(listener.stop, 0)
            assert listener._front is not None
            port = listener._front.port
            if client == "own":
                endpoint = await connect("127.0.0.1", port, limits=Limits(window_bytes=128 << 10))
                stack.callback(endpoint.close)
                rig.doug = SimpleNamespace(Scan=partial(OwnCall, endpoint))
                return rig
            if server == "own":
                # No client of grpcio's gets there by itself; this shows that it could.
                straight = await asyncio.get_running_loop().create_server(listener._own.endpoint, "127.0.0.1", 0)
                stack.callback(straight.close)
                port = straight.sockets[0].getsockname()[1]
            rig.doug = doug_pb2_grpc.DougStub(await stack.enter_async_context(call_on_loopback(port)))
            return rig

        yield start


async def test_a_scan_tells_its_point_in_the_log_first_and_its_end_last(make: Make) -> None:
    rig = await make()
    rig.write(b"b", FOREIGN)
    rig.write(b"a")
    first, *others = await rig.pages()
    assert (first.revision, first.receipt.node_id, first.records, first.last) == (2, "n", b"", False)
    lost = slot_of(FOREIGN)
    assert [(getattr(each, "from"), each.to, each.epoch) for each in first.slots] == [
        (0, lost - 1, 3),
        (lost + 1, SLOTS - 1, 3),
    ]
    (page,) = others
    assert (page.count, page.last, page.limited) == (2, True, False)
    assert decode_page(page.records) == [
        ScanRecord(0, b"a", 2, b"v", b"text/plain"),
        ScanRecord(0, b"b", 1, b"v", b"text/plain"),
    ]


async def test_every_option_reaches_the_scan(make: Make) -> None:
    rig = await make()
    rig.write(b"a", b"b/1", b"b/2", b"c", b"d")
    for asked, keys in (
        ({"start": b"b", "end": b"d"}, [b"b/1", b"b/2", b"c"]),
        ({"reverse": True, "limit": 2}, [b"d", b"c"]),
        ({"delimiter": b"/"}, [b"a", b"b/", b"c", b"d"]),
        ({"delimiter": b"/", "prefix_bytes": 2}, [b"a", b"b/1", b"b/2", b"c", b"d"]),
        ({"page_bytes_max": 1}, [b"a", b"b/1", b"b/2", b"c", b"d"]),
        ({"slot": slot_of(b"b/2")}, [b"b/2"]),
        ({"slot": slot_of(b"b/2"), "end": b"b/2"}, []),
    ):
        assert [record.key for record in await rig.records(**asked)] == keys, asked
    assert {record.value for record in await rig.records(keys_only=True)} == {b""}
    counted = await rig.pages(count_only=True, delimiter=b"/")
    assert (sum(page.count for page in counted), {page.records for page in counted}) == (4, {b""})
    assert [page.limited for page in await rig.pages(limit=2)] == [False, True]


async def test_clients_without_our_codec_get_messages(make: Make) -> None:
    rig = await make()
    rig.write(b"a", b"b/1")
    _, page = await rig.pages(messages=True, delimiter=b"/")
    assert page.records == b""
    assert list(page.entries) == [
        pb.ScanEntry(key=b"a", revision=1, value=b"v", content_type="text/plain"),
        pb.ScanEntry(key=b"b/", prefix=True),
    ]
    assert [record.kind for record in await rig.records(delimiter=b"/")] == [0, PREFIX]


async def test_linearizable_scans_are_confirmed_and_eventual_ones_are_not(make: Make) -> None:
    rig = await make()
    rig.write(b"a")
    await rig.pages()
    await rig.pages(forward=True)
    await rig.pages(consistency=pb.CONSISTENCY_EVENTUAL)
    assert rig.forwarded == [False, True]
    rig.confirms = False
    code, metadata = await rig.refusal()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert (metadata["doug-code"], metadata["doug-leader-id"]) == ("NOT_LEADER", "shard-0-3")
    assert len(await rig.records(consistency=pb.CONSISTENCY_EVENTUAL)) == 1
    rig.shard.serves_local_reads = False
    assert (await rig.refusal(consistency=pb.CONSISTENCY_EVENTUAL))[1]["doug-code"] == "UNAVAILABLE"


@pytest.mark.parametrize(
    "asked",
    [
        {"start": bytes(1026)},
        {"end": bytes(1026)},
        {"delimiter": bytes(65)},
        {"prefix_bytes": 1},
        {"slot": SLOTS},
        {"slot": 0, "delimiter": b"/"},
        {"page_bytes_max": PAGE_BYTES_MAX + 1},
    ],
)
async def test_what_makes_no_sense_is_refused(make: Make, asked: dict[str, Any]) -> None:
    rig = await make()
    code, metadata = await rig.refusal(**asked)
    assert (code, metadata["doug-code"]) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID")


async def test_a_caller_that_reads_nothing_holds_a_page_and_is_told_that_it_was_too_slow(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make(ScanLimits(idle_s=0.2))
    for number in range(400):
        rig.write(b"%04d" % number, value=bytes(20_000))
    steps = 0
    step, release = rig.reader.scans.step, Scan.release
    released = asyncio.Event()

    async def count(scan: Any) -> Any:
        nonlocal steps
        steps += 1
        return await step(scan)

    def note(scan: Scan) -> None:
        release(scan)
        released.set()

    rig.reader.scans.step = count
    monkeypatch.setattr(Scan, "release", note)
    call = rig.doug.Scan(pb.ScanRequest())
    assert (await call.read()).revision == 400
    await released.wait()
    assert steps * 128 << 10 < 4 << 20, "what nobody reads is not made"
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        while await call.read() is not grpc.aio.EOF:
            pass
    assert ended.value.code() is grpc.StatusCode.ABORTED
    assert dict(ended.value.trailing_metadata() or ())["doug-code"] == "SCAN_EXPIRED"
    await rig.ended()


async def test_a_scan_that_lives_too_long_ends_and_lets_its_tables_go(make: Make) -> None:
    rig = await make(ScanLimits(hold_s=0.0))
    rig.write(*(b"%05d" % number for number in range(5000)))
    code, metadata = await rig.refusal()
    assert (code, metadata["doug-code"]) == (grpc.StatusCode.ABORTED, "SCAN_EXPIRED")
    assert rig.reader.scans.under_way == 0


async def test_scans_are_bounded_in_number_and_one_that_is_cancelled_makes_room(make: Make) -> None:
    rig = await make(ScanLimits(scans_max=1, yield_s=3600.0))
    rig.write(*(b"%05d" % number for number in range(100)), value=bytes(20_000))
    call = rig.doug.Scan(pb.ScanRequest())
    await call.read()
    code, metadata = await rig.refusal()
    assert (code, metadata["doug-code"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    call.cancel()
    await rig.ended()
    assert len(await rig.records()) == 100


async def test_who_reads_nothing_makes_way_for_others_and_is_told_so(make: Make) -> None:
    rig = await make(ScanLimits(scans_max=1, yield_s=0.0))
    for number in range(40):
        rig.write(b"%04d" % number, value=bytes(20_000))
    scans, gate = rig.reader.scans, asyncio.Event()
    begun: list[list[pb.ScanPage]] = []
    sending = []

    async def send(pages: list[pb.ScanPage]) -> None:
        async def write(page: pb.ScanPage) -> None:
            pages.append(page)
            if len(pages) > 1:
                await gate.wait()

        await scan_stream.send(rig.shard, ScanOptions(), write, messages=False)

    for count in range(OTHERS_MAX + 1):
        begun.append([])
        sending.append(asyncio.create_task(send(begun[-1])))
        async with asyncio.timeout(60):
            while len(begun[-1]) < 2:
                await asyncio.sleep(0.005)
        assert (scans.under_way, scans._others) == (1, count), "it has a place, and the one before has none"
    with pytest.raises(OverloadedError):
        await send([])
    gate.set()
    ended = await asyncio.gather(*sending, return_exceptions=True)
    assert [type(each) for each in ended] == [scan_stream.ScanExpiredError] * OTHERS_MAX + [type(None)]
    assert sum(page.count for page in begun[-1]) == 40
    assert (scans.under_way, scans._others) == (0, 0)


@pytest.mark.pure
async def test_a_damaged_block_stops_the_node_and_says_unavailable(make: Make) -> None:
    rig = await make()

    def damaged(start: bytes, end: bytes | None, reverse: bool) -> Iterator[Any]:
        raise CorruptionError("000001.sst", 0, "the checksum does not fit")

    rig.engine.hold = lambda: SimpleNamespace(columns=damaged)
    code, metadata = await rig.refusal()
    assert (code, metadata["doug-code"]) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert len(rig.failures) == 1


@pytest.mark.parametrize("make", ["own to own"], indirect=True)
async def test_a_scan_whose_request_does_not_come_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "READ_S", 0.001)
    rig = await make()
    silent = rig.doug.Scan(pb.ScanRequest())
    silent._request = None
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await silent.read()
    assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("make", ["own to own", "grpcio to own"], indirect=True)
async def test_the_own_server_judges_who_scans_by_what_is_asked_for(make: Make) -> None:
    judged = []

    async def admit(context: Any, service: str, method: str, request: Any) -> None:
        judged.append((service, method, request.start))
        if request.start == b"secret":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN", (("doug-code", "FORBIDDEN"),))

    rig = await make(admit=admit)
    rig.write(b"a")
    assert len(await rig.records()) == 1
    assert await rig.refusal(start=b"secret") == (grpc.StatusCode.PERMISSION_DENIED, {"doug-code": "FORBIDDEN"})
    assert judged == [("doug.v1.Doug", "Scan", b""), ("doug.v1.Doug", "Scan", b"secret")]
    assert rig.reader.scans.under_way == 0


@pytest.mark.parametrize("make", ["own to own"], indirect=True)
async def test_a_call_without_a_request_is_refused(make: Make) -> None:
    rig = await make()
    call = rig.doug.Scan.args[0].call(SCAN.path, encode, SCAN.decode_answer)
    await call.done_writing()
    with pytest.raises(CallError, match="INTERNAL"):
        await call.read()
