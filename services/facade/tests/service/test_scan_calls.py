"""Doug.Scan from a facade to a node: one connection for all scans, own streams where the node has them, grpcio else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest

from doug.v1 import doug_pb2
from doug_stream.codes import StatusCode
from doug_stream.errors import CallError
from doug_stream.front import Front
from doug_stream.limits import Limits
from doug_stream.server import Method, Server, ServerCall
from facade.client.channels import Channels
from facade.client.scan_calls import PATH, ScanCall, ScanCalls
from facade.discovery.targets import Target

PAGES = 3


class Place:
    """A node's port: the own server, and grpcio's behind it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.own = Server({PATH: Method(self._own_scan, doug_pb2.ScanRequest.FromString, _encoded)}, self.limits)
        self.served: list[str] = []
        """Which of the two has served each scan."""
        self.gate = asyncio.Event()
        self.whole = 0
        """How many scans came to their own end."""
        self.port = 0

    async def _own_scan(self, _: object, call: ServerCall) -> None:
        await self._send(await call.read(), call, "own")

    async def Scan(self, request: Any, context: Any) -> None:  # noqa: N802
        await self._send(request, context, "grpcio")

    async def _send(self, request: doug_pb2.ScanRequest, call: Any, by: str) -> None:
        self.served.append(by)
        if request.start == b"refuse":
            await call.abort(grpc.StatusCode.ABORTED, "so it is", (("doug-code", "SCAN_EXPIRED"),))
        for number in range(1, PAGES + 1):
            await call.write(doug_pb2.ScanPage(count=number, last=number == PAGES))
            if request.start == b"wait":
                await asyncio.Event().wait()
        if request.start == b"late":
            await self.gate.wait()
        self.whole += 1


def _encoded(message: Any) -> bytes:
    encoded: bytes = message.SerializeToString()
    return encoded


Make = Callable[..., Awaitable[tuple[Place, ScanCalls]]]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def start(*, own: bool = True, **limits: float) -> tuple[Place, ScanCalls]:
            place = Place(Limits(**limits))  # type: ignore[arg-type]  # A test gives each its type.
            if not own:
                place.own.methods.clear()
            behind = grpc.aio.server()
            handler = grpc.unary_stream_rpc_method_handler(place.Scan, doug_pb2.ScanRequest.FromString, _encoded)
            handlers = grpc.method_handlers_generic_handler("doug.v1.Doug", {"Scan": handler})
            behind.add_generic_rpc_handlers((handlers,))
            inner = behind.add_insecure_port("127.0.0.1:0")
            await behind.start()
            stack.push_async_callback(behind.stop, 0)
            front = Front(place.own, ("127.0.0.1", inner), None)
            await front.listen("127.0.0.1", 0)
            stack.push_async_callback(place.own.stop, 0.1)
            stack.push_async_callback(front.stop)
            place.port = front.port
            calls = ScanCalls(Channels(), Target(f"127.0.0.1:{front.port}", "node"))
            stack.callback(calls.drop)
            return place, calls

        yield start


async def counts(call: ScanCall) -> list[int]:
    """The counts of all pages of a scan, up to the one that says that it is the last."""
    found = []
    while True:
        page = await call.read()
        found.append(page.count)
        if page.last:
            call.leave()
            return found


def scan(calls: ScanCalls, start: bytes = b"") -> ScanCall:
    return calls.open(doug_pb2.ScanRequest(start=start))


async def test_all_scans_share_one_connection_of_the_own_streams(make: Make) -> None:
    place, calls = await make()
    assert await asyncio.gather(*(counts(scan(calls)) for _ in range(5))) == [[1, 2, 3]] * 5
    assert await counts(scan(calls)) == [1, 2, 3]
    assert place.served == ["own"] * 6 and len(place.own.endpoints) == 1


async def test_scans_that_were_read_to_their_last_page_reset_nothing(make: Make) -> None:
    """The node would end the connection of them all after so many resets."""
    place, calls = await make(resets_burst=1, resets_per_s=0.001)
    for _ in range(20):
        assert await counts(scan(calls, b"late")) == [1, 2, 3]
    (endpoint,) = place.own.endpoints
    place.gate.set()
    async with asyncio.timeout(60):
        while place.own.tasks:
            await asyncio.sleep(0.005)
    assert not endpoint.core.over and place.whole == 20


async def test_scans_that_are_given_up_cut_no_other_scan_off(make: Make) -> None:
    place, calls = await make(resets_per_s=0.001)
    other = scan(calls)
    assert (await other.read()).count == 1
    for _ in range(place.limits.resets_burst + 20):
        call = scan(calls, b"wait")
        assert (await call.read()).count == 1
        call.cancel()
    assert [(await other.read()).count for _ in range(2)] == [2, 3]
    other.leave()
    async with asyncio.timeout(60):
        while place.own.tasks:
            await asyncio.sleep(0.005)


async def test_more_scans_than_a_connection_takes_get_another_one(make: Make) -> None:
    place, calls = await make(streams_max=8)
    under_way = [scan(calls, b"wait") for _ in range(place.limits.streams_max + 3)]
    for call in under_way:
        assert (await call.read()).count == 1
    assert len(place.own.endpoints) == 2
    for call in under_way:
        call.cancel()


async def test_a_node_that_does_not_know_the_own_stream_is_asked_by_grpcio(make: Make) -> None:
    place, calls = await make(own=False)
    for _ in range(3):
        assert await counts(scan(calls)) == [1, 2, 3]
    assert place.served == ["grpcio"] * 3 and len(place.own.endpoints) == 1
    # It is asked anew over the next connection: the node may be of another version then.
    place.own.methods[PATH] = Method(place._own_scan, doug_pb2.ScanRequest.FromString, _encoded)
    calls.drop()
    assert await counts(scan(calls)) == [1, 2, 3]
    assert place.served[-1] == "own"


@pytest.mark.parametrize("own", [True, False])
async def test_a_refusal_tells_why_either_way(make: Make, own: bool) -> None:
    _, calls = await make(own=own)
    with pytest.raises(CallError) as refused:
        await scan(calls, b"refuse").read()
    error = refused.value
    assert (error.status, error.details, dict(error.trailers)["doug-code"]) == (
        StatusCode.ABORTED,
        "so it is",
        "SCAN_EXPIRED",
    )


async def test_a_node_that_is_gone_is_found_again_when_it_is_back(make: Make) -> None:
    place, calls = await make()
    assert await counts(scan(calls)) == [1, 2, 3]
    connection = await calls._connected()
    for endpoint in list(place.own.endpoints):
        endpoint.abort("a test")
    await connection.closed
    assert await counts(scan(calls)) == [1, 2, 3]
    gone = ScanCalls(Channels(), Target("127.0.0.1:1", "node"))
    for _ in range(2):
        with pytest.raises(CallError) as refused:
            await scan(gone).read()
        assert refused.value.status == StatusCode.UNAVAILABLE


async def test_who_gives_up_while_it_is_dialled_takes_nothing_from_others(make: Make) -> None:
    _, calls = await make()
    first = asyncio.ensure_future(scan(calls).read())
    second = asyncio.ensure_future(counts(scan(calls)))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == [1, 2, 3]


async def test_newer_certificates_count_from_the_next_scan_on(make: Make) -> None:
    place, calls = await make()
    under_way = scan(calls, b"wait")
    assert (await under_way.read()).count == 1

    class Newer(Channels):
        version = 1

    calls._channels = Newer()
    assert await counts(scan(calls)) == [1, 2, 3]
    assert len(place.own.endpoints) == 2
    under_way.cancel()
    async with asyncio.timeout(60):
        while len(place.own.endpoints) > 1:
            await asyncio.sleep(0.005)
