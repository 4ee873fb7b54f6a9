"""What clients that call a node themselves may ask for: rates, and shares of the node."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from doug.v1 import admin_pb2, doug_pb2
from raft_node.kv.operations.access import Stored
from raft_node.rpc.doug.callers import Callers
from raft_node.rpc.doug.guest_limits import GuestLimits
from raft_node.rpc.doug.guest_room import OF_ALL, OF_ONE, Use, parts_of
from raft_node.rpc.doug.wanted import ADMIN, DOUG
from raft_testing.guests import Aborted, FakeContext, Shard, answered, shown

pb = doug_pb2
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
PUT_APP = pb.Operation(put=pb.PutRequest(key=b"app/a", value=b"1"))
GET_CONFIG = pb.Operation(get=pb.OperationGet(key=b"config/a"))
EVERY_KEY = pb.ScanRequest()


@pytest.fixture
async def shard() -> Shard:
    return Shard()


async def test_a_guest_has_its_share_of_a_node_and_others_have_theirs(shard: Shard) -> None:
    """Facades are not among them: what they ask for is bounded where their clients ask."""
    app, other = shard.makes("app", "read:*"), shard.makes("other", "read:*")
    held = [await shard.callers.admit(shown(app), DOUG, "Scan", EVERY_KEY) for _ in range(OF_ONE.scans)]  # type: ignore[arg-type]
    refused = shown(app)
    assert await shard.calls(refused, "Scan", EVERY_KEY) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.code == "OVERLOADED"
    assert await shard.calls(shown(app), "Get", pb.GetRequest(key=b"k")) is None
    assert await shard.calls(shown(other), "Scan", EVERY_KEY) is None
    for attend in held:
        assert attend is not None
        assert await attend(answered()) == "done"
    assert await shard.calls(shown(app), "Scan", EVERY_KEY) is None
    large = pb.PutRequest(key=b"k", value=bytes(OF_ONE.size + 1))
    assert await shard.calls(shown(shard.makes("w", "write:*")), "Put", large) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await shard.calls(shown(other), "Put", pb.PutRequest(key=b"k")) is DENIED
    assert shard.callers.limits.room.used == Use(), "who is refused holds nothing"


async def limited(client_per_s: int = 0, address_per_s: int = 0) -> tuple[Shard, list[str]]:
    """A shard whose nodes bound rates, and the limits that were counted."""
    shard, counted = Shard(), list[str]()
    limits = GuestLimits(client_per_s, address_per_s, tell=shard.tell, count=counted.append, clock=lambda: shard.now_s)
    shard.callers = Callers(["dougdb-facade"], shard.tell, lambda: shard.now_s, shard.guests, limits)
    return shard, counted


async def test_a_stream_of_messages_is_refused_as_anything_else(shard: Shard) -> None:
    """It has no size: asked for one, a node answered UNKNOWN."""
    context: Any = shown(shard.makes("app", "read:*", "write:*"))
    assert await shard.calls(context, "Pipe", iter(())) is DENIED


EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
PUT = pb.PutRequest(key=b"k")


async def test_a_principal_has_its_rate_at_a_node_and_is_told_when_to_come_again() -> None:
    """What is refused has done nothing; others, operators and facades go on, and the log names who it was once."""
    shard, counted = await limited(client_per_s=4)
    app, other = shard.makes("app", "write:*", "metrics"), shard.makes("other", "write:*")
    assert [await shard.calls(shown(app), "Put", PUT) for _ in range(6)] == [None] * 4 + [EXHAUSTED] * 2
    refused = shown(app)
    assert await shard.calls(refused, "Delete", pb.DeleteRequest(key=b"k")) is EXHAUSTED
    assert refused.trailer == {"doug-code": "OVERLOADED", "retry-after": "1", "grpc-retry-pushback-ms": "1000"}
    assert await shard.calls(shown(app), "Status", admin_pb2.StatusRequest(), ADMIN) is None
    assert await shard.calls(shown(other), "Put", PUT) is None
    for _ in range(9):
        assert await shard.calls(FakeContext(name="dougdb-facade"), "Put", PUT) is None
    assert counted == ["rate"] * 3
    assert shard.lines == [{"event": "caller.limited", "limit": "rate", "client": "token:app", "times": 1}]
    shard.now_s += 0.26
    assert await shard.calls(shown(app), "Put", PUT) is None
    limits = shard.callers.limits
    assert limits.room.used == limits.arriving.used == Use(), "who is refused holds nothing"


async def test_operations_of_batches_and_transactions_count_each() -> None:
    shard, _ = await limited(client_per_s=10)
    tokens_of = [shard.makes(f"app-{number}", "write:*", "read:*") for number in range(2)]
    batch = pb.ExecuteBatchRequest(operations=[PUT_APP] * 30)
    txn = pb.TxnRequest(compare=[pb.Compare(key=b"a", exists=True)], success=[PUT_APP] * 19, failure=[GET_CONFIG] * 10)
    for token, method, request in zip(tokens_of, ("ExecuteBatch", "Txn"), (batch, txn), strict=True):
        assert await shard.calls(shown(token), method, request) is None
        context = shown(token)
        assert await shard.calls(context, "Put", PUT) is EXHAUSTED
        assert context.trailer["retry-after"] == "3"


async def test_an_address_has_its_rate_at_a_node_and_ipv6_one_for_its_network() -> None:
    shard, _ = await limited(address_per_s=3)
    token = shard.makes("app", "write:*")

    async def put(address: str) -> Any:
        context = shown(token)
        context.address = address
        return await shard.calls(context, "Put", PUT)

    assert [await put(f"ipv6:[2001:db8::{number}]:{number}") for number in range(1, 5)] == [None] * 3 + [EXHAUSTED]
    assert await put("ipv6:[2001:db8:0:1::1]:1") is None
    assert await put("ipv4:192.0.2.9:1") is None


async def test_whoever_has_used_up_its_rate_takes_nothing_from_others_at_its_address() -> None:
    shard, _ = await limited(client_per_s=2, address_per_s=6)
    app, other = shard.makes("app", "write:*"), shard.makes("other", "write:*")
    assert [await shard.calls(shown(app), "Put", PUT) for _ in range(9)] == [None] * 2 + [EXHAUSTED] * 7
    assert [await shard.calls(shown(other), "Put", PUT) for _ in range(3)] == [None] * 2 + [EXHAUSTED]


async def test_strangers_at_a_node_have_a_rate_whatever_they_ask_for() -> None:
    """Whoever tries tokens is told to slow down; an operator at the same address gets through."""
    shard, _ = await limited(address_per_s=3)
    token = shard.makes("app", "metrics")
    wrong = "doug_0123456789abcdef_" + "A" * 43
    status = admin_pb2.StatusRequest()
    tried = [await shard.calls(shown(wrong), "Status", status, ADMIN) for _ in range(5)]
    assert tried == [UNKNOWN] * 3 + [EXHAUSTED] * 2
    assert await shard.calls(shown(token), "Status", status, ADMIN) is None


async def test_operators_find_room_at_a_node_that_clients_fill() -> None:
    shard, counted = await limited()
    limits = shard.callers.limits
    for number in range(4):
        assert limits.room.take(f"token:{number}", OF_ONE._replace(scans=0, size=1, watches=0)) == ""
    token = shard.makes("app", "write:*", "metrics")
    assert await shard.calls(shown(token), "Put", PUT) is EXHAUSTED
    assert counted == ["share"]
    assert await shard.calls(shown(token), "Status", admin_pb2.StatusRequest(), ADMIN) is None


async def test_guests_leave_watches_to_facades() -> None:
    """Two of them, with 128 calls each, took all 256 watches of a node: a facade follows a shard by one for all."""
    shard, _ = await limited()
    app, other, third = (shard.makes(name, "watch:*", "read:*") for name in ("app", "other", "third"))

    async def watch(token: str) -> Any:
        context: Any = shown(token)
        try:
            return await shard.callers.admit(context, DOUG, "Watch", pb.WatchRequest())
        except Aborted:
            return context.status

    held = [await watch(token) for token in (app, other) for _ in range(OF_ONE.watches)]
    assert not {EXHAUSTED, DENIED} & set(held)
    assert await watch(app) is EXHAUSTED, "of one guest"
    assert await watch(third) is EXHAUSTED, "of all guests"
    assert await shard.calls(shown(app), "Get", pb.GetRequest(key=b"k")) is None
    assert await held[0](answered()) == "done"
    assert callable(await watch(third))


def test_guests_have_parts_of_what_a_node_serves() -> None:
    assert parts_of(16, 256) == (OF_ONE, OF_ALL)
    one, together = parts_of(4, 8)
    assert (one.scans, one.watches, together.scans, together.watches) == (1, 2, 2, 4)
    assert parts_of(1, 1)[0][:2] == (128, 1), "a node that serves one alone serves it to guests, too"


async def test_no_more_wait_to_be_told_who_they_are_than_may_be_served() -> None:
    """Without a quorum each of them waits for a second, and holds its message: of strangers, too."""
    shard, _ = await limited()
    told = asyncio.Event()
    held = shard.held

    async def late() -> Stored:
        await told.wait()
        return await held()

    token = shard.makes("app", "write:*")
    shard.guests._held = late
    large = pb.PutRequest(key=b"k", value=bytes(1 << 20))
    first = [asyncio.create_task(shard.calls(shown(token), "Put", large)) for _ in range(11)]
    while shard.callers.limits.arriving.used.calls < len(first):
        await asyncio.sleep(0)
    assert await shard.calls(shown(token), "Put", large) is EXHAUSTED
    told.set()
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*first)
    assert set(answers) <= {None, EXHAUSTED} and None in answers
    assert shard.callers.limits.arriving.used == Use()
