"""Clients that call a node themselves: who they are, what they may do, and what a call asks for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from doug.v1 import admin_pb2, doug_pb2
from doug_wire.auth.document import Held, TokenRecord
from doug_wire.auth.grants import KeyRange, Verb, parse_grant
from doug_wire.command import CommandError
from doug_wire.payload import BATCH_OPERATIONS_MAX, TXN_OPERATIONS_MAX
from raft_node.errors import NotLeaderError, UnavailableError
from raft_node.kv.operations.access import Stored
from raft_node.rpc.doug import batch_execution, operations
from raft_node.rpc.doug import callers as callers_module
from raft_node.rpc.doug import guests as guests_module
from raft_node.rpc.doug.callers import UNSURE_S, Callers
from raft_node.rpc.doug.guest_room import Use
from raft_node.rpc.doug.guests import COPY_S, LOOK_S
from raft_node.rpc.doug.wanted import ADMIN, DOUG, OURS_ALONE, RULES, wanted
from raft_testing.guests import Aborted, FakeContext, Shard, shown

pb = doug_pb2
EXPIRES_MS = 2_000_000


DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
PUT_APP = pb.Operation(put=pb.PutRequest(key=b"app/a", value=b"1"))
GET_CONFIG = pb.Operation(get=pb.OperationGet(key=b"config/a"))
EVERY_KEY = pb.ScanRequest()


@pytest.mark.parametrize(
    ("method", "request_", "allowed"),
    [
        ("Get", pb.GetRequest(key=b"config/a"), True),
        ("Get", pb.GetRequest(key=b"config"), False),
        ("Get", pb.GetRequest(key=b"app/a"), False),
        ("Put", pb.PutRequest(key=b"config/a", value=b"1"), False),
        ("Put", pb.PutRequest(key=b"jobs/a", value=b"1"), True),
        ("Delete", pb.DeleteRequest(key=b"jobs/a"), True),
        ("Delete", pb.DeleteRequest(key=b"app/a"), False),
        ("Increment", pb.IncrementRequest(key=b"config/a"), False),
        ("Touch", pb.TouchRequest(key=b"config/a", ttl_ms=1), False),
        ("Txn", pb.TxnRequest(success=[GET_CONFIG]), True),
        ("Txn", pb.TxnRequest(success=[GET_CONFIG], failure=[PUT_APP]), False),
        ("Txn", pb.TxnRequest(compare=[pb.Compare(key=b"app/a", exists=True)], success=[GET_CONFIG]), False),
        ("FindOutcome", pb.FindOutcomeRequest(key=b"jobs/a", idempotency_key="k"), True),
        ("FindOutcome", pb.FindOutcomeRequest(key=b"app/a", idempotency_key="k"), False),
        ("DeleteRange", pb.DeleteRangeRequest(start=b"jobs/", end=b"jobs0"), True),
        ("DeleteRange", pb.DeleteRangeRequest(start=b"jobs/", end=b"jobs1"), False),
        ("DeleteRange", pb.DeleteRangeRequest(all=True), False),
        ("DeleteRange", pb.DeleteRangeRequest(start=b"config/", end=b"config0"), False),
        ("DeleteRange", pb.DeleteRangeRequest(start=b"config/", end=b"config0", dry_run=True), True),
        ("Scan", pb.ScanRequest(start=b"config/", end=b"config0"), True),
        ("Scan", pb.ScanRequest(start=b"config/"), False),
        ("Scan", pb.ScanRequest(start=b"con", end=b"config0"), False),
        ("Scan", pb.ScanRequest(slot=3), False),
        ("Scan", EVERY_KEY, False),
        ("Watch", pb.WatchRequest(start=b"news/", end=b"news0"), True),
        ("Watch", pb.WatchRequest(start=b"config/", end=b"config0"), False),
        ("Partitions", pb.PartitionsRequest(), True),
        ("Pipe", None, False),
    ],
)
async def test_a_client_may_do_what_its_token_allows_and_nothing_else(
    method: str, request_: Any, *, allowed: bool
) -> None:
    shard = Shard()
    token = shard.makes("app", "read:config/", "write:jobs/", "watch:news/")
    assert await shard.calls(shown(token), method, request_) is (None if allowed else DENIED)


async def test_of_a_batch_each_operation_is_judged_by_itself() -> None:
    """What is not allowed is left out, and the log has one line for all of it."""
    shard = Shard()
    token = shard.makes("app", "read:config/", "write:jobs/")
    put_jobs = pb.Operation(put=pb.PutRequest(key=b"jobs/a"))
    get_jobs = pb.Operation(get=pb.OperationGet(key=b"jobs/a"))

    async def left_out(token: str, *asked: pb.Operation) -> frozenset[int]:
        assert await shard.calls(shown(token), "ExecuteBatch", pb.ExecuteBatchRequest(operations=asked)) is None
        return operations.forbidden.get()

    # Each call has a task, and so variables, of its own.
    many = [GET_CONFIG] * 500
    assert await asyncio.create_task(left_out(token, *many)) == frozenset()
    assert shard.lines == []
    asked = (*many, PUT_APP, put_jobs, get_jobs, GET_CONFIG, pb.Operation())
    assert await asyncio.create_task(left_out(token, *asked)) == {500, 502, 504}
    (line,) = shard.lines
    assert (line["principal"], line["outcome"], line["operations"]) == ("token:app", "forbidden", 3)
    assert await asyncio.create_task(left_out(shard.makes("none"), GET_CONFIG, PUT_APP)) == {0, 1}


@pytest.mark.parametrize("named", ["operations", "compare", "success", "failure"])
async def test_what_has_too_many_parts_is_not_looked_at_part_by_part(named: str) -> None:
    """A mebibyte holds half a million empty operations: to judge each took a node 0.8 s and 44 MB."""
    limit, part = (BATCH_OPERATIONS_MAX, 2) if named == "operations" else (TXN_OPERATIONS_MAX, 3)
    made = pb.ExecuteBatchRequest if named == "operations" else pb.TxnRequest
    method = "ExecuteBatch" if named == "operations" else "Txn"
    number = made.DESCRIPTOR.fields_by_name[named].number
    request = made.FromString(bytes((number << 3 | 2, 0)) * (limit * part))
    assert len(list(wanted(DOUG, method, request))) == limit
    with pytest.raises(CommandError, match=f"{limit * part}"):  # It is in no entry.
        if isinstance(request, pb.ExecuteBatchRequest):
            await batch_execution.understand(request)
        else:
            operations.txn_command(request)


ALL_GRANTS = ("read:*", "write:*", "watch:*", "metrics", "admin:members", "admin:backup", "admin:auth")
METHODS = [(service, method) for service, rules in RULES.items() for method in rules]
MESSAGES = {
    method.name: method.input_type
    for file, name in ((doug_pb2, "Doug"), (admin_pb2, "Admin"))
    for method in file.DESCRIPTOR.services_by_name[name].methods
}


def message_of(method: str) -> Any:
    module = doug_pb2 if hasattr(doug_pb2, MESSAGES[method].name) else admin_pb2
    made = getattr(module, MESSAGES[method].name)()
    if method == "Txn":
        made.success.append(PUT_APP)
        made.success.append(GET_CONFIG)
    elif method == "ExecuteBatch":
        made.operations.append(PUT_APP)
        made.operations.append(GET_CONFIG)
    elif "key" in MESSAGES[method].fields_by_name:
        made.key = b"a"
    return made


@pytest.mark.parametrize(("service", "method"), METHODS)
async def test_every_method_asks_for_a_right(service: str, method: str) -> None:
    """A stranger gets nothing, each right alone what it is enough for, and all of them everything but what is ours.

    Of a batch, each operation is judged by itself: what is not allowed is as good as refused.
    """
    shard, request = Shard(), message_of(method)

    async def called(context: FakeContext) -> Any:
        status = await shard.calls(context, method, request, service)
        return DENIED if operations.forbidden.get() else status

    async def calls(context: FakeContext) -> Any:
        return await asyncio.create_task(called(context))  # With variables of its own, as gRPC's calls have.

    none, everything = shard.makes("none"), shard.makes("everything", *ALL_GRANTS)
    assert await calls(FakeContext()) is UNKNOWN
    needs = bool(RULES[service][method])
    assert await calls(shown(none)) is (DENIED if needs else None)
    ours = (service, method) in OURS_ALONE
    assert await calls(shown(everything)) is (DENIED if ours else None)
    for number, grant in enumerate(ALL_GRANTS):
        alone = await calls(shown(shard.makes(f"only-{number}", grant)))
        enough = all(Verb(grant.removesuffix(":*")) in part.verbs for part in wanted(service, method, request))
        assert alone is (None if enough else DENIED), grant
    assert await calls(FakeContext(name="dougdb-facade")) is None


async def test_what_is_no_token_is_nobody() -> None:
    shard = Shard()
    token = shard.makes("app", *ALL_GRANTS)
    wrong = token[:-4] + "AAAA"
    for context in (
        FakeContext(),
        shown(wrong),
        shown("doug-bootstrap-" + "a" * 43),
        shown(token + " "),
        shown(" " + token),
        FakeContext(("authorization", token)),
        FakeContext(("authorization", f"Basic {token}")),
        FakeContext(("authorization", b"Bearer " + token.encode())),
        FakeContext(("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")),
        FakeContext(("authorization", f"Bearer {token}"), tls=False),
    ):
        assert await shard.calls(context, "Partitions", pb.PartitionsRequest()) is UNKNOWN
    assert not any(token.rpartition("_")[2] in str(line) for line in shard.lines), "no token is in the log"
    assert not any(wrong.rpartition("_")[2] in str(line) for line in shard.lines)


async def test_tokens_count_only_where_they_are_a_proof() -> None:
    shard = Shard()
    token = shard.makes("app", *ALL_GRANTS)
    shard.callers = Callers(["dougdb-facade"], shard.tell)
    assert await shard.calls(shown(token), "Partitions", pb.PartitionsRequest()) is UNKNOWN


def certificate_of(name: str, expires_s: float = 10_000_000.0) -> bytes:
    """A certificate as PEM."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start, end = (datetime.fromtimestamp(at_s, UTC) for at_s in (0, expires_s))
    return (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7, start, end)
        .sign(key, None)
        .public_bytes(Encoding.PEM)
    )


async def test_a_certificate_with_a_name_is_a_proof_in_its_mode() -> None:
    """It is judged like a token; the names of facades and nodes stay theirs, and a token goes before it."""
    shard = Shard(modes=("mtls", "token"))
    token = shard.makes("app", "read:config/")
    shard.becomes(shard.document.with_role("r", [parse_grant("read:jobs/")]).with_user("cert:ann", "r"))
    read, other = pb.GetRequest(key=b"jobs/a"), pb.GetRequest(key=b"config/a")
    ann = certificate_of("ann")
    assert await shard.calls(FakeContext(pem=ann), "Get", read) is None
    assert await shard.calls(FakeContext(pem=ann), "Get", other) is DENIED
    assert await shard.calls(FakeContext(pem=ann), "Pipe", None) is DENIED
    assert await shard.calls(FakeContext(pem=certificate_of("bob")), "Get", read) is DENIED
    for metadata in (("authorization", f"Bearer {token}x"), ("authorization", ""), ("authorization", "Bearer")):
        assert await shard.calls(FakeContext(metadata, pem=ann), "Get", read) is UNKNOWN, "what is shown counts alone"
    with_token = FakeContext(("authorization", f"Bearer {token}"), pem=ann)
    assert await shard.calls(with_token, "Get", other) is None
    assert await shard.calls(FakeContext(pem=ann, tls=False), "Get", read) is UNKNOWN
    assert await shard.calls(FakeContext(pem=certificate_of("dougdb-facade")), "Pipe", None) is DENIED
    assert await shard.calls(FakeContext(pem=ann, name="dougdb-facade"), "Pipe", None) is None
    shard.becomes(shard.document.without_user("cert:ann", "r"))
    assert await shard.calls(FakeContext(pem=ann), "Get", read) is DENIED
    without = Shard()
    without.becomes(shard.document.with_user("cert:ann", "admin"))
    assert await without.calls(FakeContext(pem=ann), "Get", read) is UNKNOWN


async def test_a_certificate_ends_and_so_does_what_it_may(shard: Shard) -> None:
    """On an open connection, and in the middle of what lasts, too."""
    shard.guests.modes = ("mtls",)
    shard.becomes(shard.document.with_user("cert:ann", "reader"))
    context: Any = FakeContext(pem=certificate_of("ann", EXPIRES_MS / 1000))
    attend = await shard.callers.admit(context, DOUG, "Watch", pb.WatchRequest())
    assert attend is not None
    begun = asyncio.Event()

    async def watch() -> None:
        begun.set()
        await asyncio.Event().wait()

    serving = asyncio.ensure_future(attend(watch()))
    async with asyncio.timeout(60):
        await begun.wait()
        shard.now_s = EXPIRES_MS / 1000
        with pytest.raises(Aborted):
            await serving
    assert context.status is UNKNOWN
    assert await shard.calls(context, "Get", pb.GetRequest(key=b"a")) is UNKNOWN


async def test_a_refusal_says_what_would_count() -> None:
    for modes, counts in (
        (("token",), "At a node a token (dougctl auth token) counts;"),
        (("mtls",), "At a node a certificate with a name counts;"),
        (("mtls", "token"), "At a node a token (dougctl auth token) or a certificate with a name counts;"),
        (("oidc",), "At a node nothing counts;"),
    ):
        shard = Shard(modes=modes)
        context: Any = shown("a.b.c")
        with pytest.raises(Aborted, match=re.escape(counts)):
            await shard.callers.admit(context, DOUG, "Partitions", pb.PartitionsRequest())


async def test_a_token_ends_and_so_does_what_it_may() -> None:
    shard = Shard()
    token = shard.makes("app", "read:config/", expires_ms=EXPIRES_MS)
    request = pb.GetRequest(key=b"config/a")
    assert await shard.calls(shown(token), "Get", request) is None
    shard.now_s = EXPIRES_MS / 1000
    assert await shard.calls(shown(token), "Get", request) is UNKNOWN
    again = shard.makes("again", "read:config/")
    assert await shard.calls(shown(again), "Get", request) is None
    shard.becomes(shard.document.without_token("again"))
    assert await shard.calls(shown(again), "Get", request) is UNKNOWN


async def test_who_cannot_tell_serves_nobody() -> None:
    shard = Shard()
    token = shard.makes("app", "read:config/")
    request = pb.GetRequest(key=b"config/a")
    shard.error = NotLeaderError("shard-1-0", "10.0.0.1:7000")
    context = shown(token)
    assert await shard.calls(context, "Get", request) is grpc.StatusCode.FAILED_PRECONDITION
    assert context.code == "NOT_LEADER"
    shard.error = UnavailableError("it starts")
    assert await shard.calls(shown(token), "Get", request) is grpc.StatusCode.UNAVAILABLE
    shard.error = None
    assert await shard.calls(shown(token), "Get", request) is None
    asked = shard.asked
    assert await shard.calls(shown(token), "Get", request) is None
    assert shard.asked == asked, "what was confirmed just now counts"
    shard.error, shard.now_s = UnavailableError("no quorum"), shard.now_s + LOOK_S
    assert await shard.calls(shown(token), "Get", request) is grpc.StatusCode.UNAVAILABLE


async def test_a_quorum_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests_module, "HELD_S", 0.001)
    shard = Shard()
    token = shard.makes("app", "read:config/")

    async def never() -> Stored:
        answer: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        return await answer

    shard.guests._held = never
    async with asyncio.timeout(60):
        status = await shard.calls(shown(token), "Get", pb.GetRequest(key=b"config/a"))
    assert status is grpc.StatusCode.UNAVAILABLE


async def test_a_copy_counts_only_while_a_facade_says_that_it_is_the_newest() -> None:
    shard = Shard(is_copy=True)
    token = shard.makes("app", "read:config/")
    request = pb.GetRequest(key=b"config/a")
    assert await shard.calls(shown(token), "Get", request) is grpc.StatusCode.UNAVAILABLE
    shard.guests.told()
    assert await shard.calls(shown(token), "Get", request) is None
    shard.now_s += COPY_S + 1
    assert await shard.calls(shown(token), "Get", request) is grpc.StatusCode.UNAVAILABLE


async def test_idempotency_keys_belong_to_their_principal() -> None:
    shard = Shard()
    token = shard.makes("app", "write:*")
    request = pb.PutRequest(key=b"a", options=pb.WriteOptions(idempotency_key="k"))

    async def token_of(context: FakeContext) -> bytes:
        assert await shard.calls(context, "Put", request) is None
        found = operations.put_command(request).token
        assert found is not None
        assert operations.token_id("k") == found.id
        return found.id

    # Each call has a task, and so variables, of its own.
    guest = await asyncio.create_task(token_of(shown(token)))
    facade = await asyncio.create_task(token_of(FakeContext(name="dougdb-facade")))
    assert (guest, facade) == (b"token:app\0k", b"\0k")


Lasting = Callable[[str, str, Any], Awaitable[Callable[[Awaitable[Any]], Awaitable[Any]]]]


@pytest.fixture
async def shard(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shard]:
    monkeypatch.setattr(callers_module, "ATTEND_S", 0.001)
    yield Shard()


@pytest.mark.parametrize("change", ["revoked", "less", "unknown"])
async def test_what_lasts_ends_with_the_right_to_it(shard: Shard, change: str) -> None:
    token = shard.makes("app", "watch:news/")
    context: Any = shown(token)
    attend = await shard.callers.admit(context, DOUG, "Watch", pb.WatchRequest(start=b"news/", end=b"news0"))
    assert attend is not None
    begun, ended = asyncio.Event(), asyncio.Event()

    async def watch() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    serving = asyncio.ensure_future(attend(watch()))
    async with asyncio.timeout(60):
        await begun.wait()
        if change == "revoked":
            shard.becomes(shard.document.without_token("app"))
        elif change == "less":
            record = shard.document.tokens["app"]
            less = TokenRecord(record.id, record.salt, record.digest, Held((parse_grant("watch:old/"),)), 1)
            shard.becomes(shard.document.without_token("app").with_token("app", less))
        else:
            shard.now_s, shard.error = shard.now_s + UNSURE_S, NotLeaderError()
        with pytest.raises(Aborted):
            await serving
    assert ended.is_set()
    expected = {"revoked": UNKNOWN, "less": DENIED, "unknown": grpc.StatusCode.UNAVAILABLE}
    assert context.status is expected[change]


async def test_an_election_ends_nothing_that_is_allowed(shard: Shard) -> None:
    context: Any = shown(shard.makes("app", "watch:*"))
    attend = await shard.callers.admit(context, DOUG, "Watch", pb.WatchRequest())
    assert attend is not None
    shard.now_s, shard.error = shard.now_s + LOOK_S, NotLeaderError()
    before = shard.asked

    async def watch() -> str:
        while shard.asked < before + 3:
            await asyncio.sleep(0)
        shard.error = None
        while shard.asked < before + 4:
            await asyncio.sleep(0)
        return "done"

    async with asyncio.timeout(60):
        assert await attend(watch()) == "done"
    assert context.status is None


async def test_what_lasts_and_is_allowed_ends_by_itself(shard: Shard) -> None:
    context: Any = shown(shard.makes("app", "read:*"))
    attend = await shard.callers.admit(context, DOUG, "Scan", EVERY_KEY)
    assert attend is not None
    looked = asyncio.Event()
    held = shard.held

    async def seen() -> Stored:
        looked.set()
        return await held()

    shard.guests._held = seen
    shard.now_s += LOOK_S

    async def scan() -> str:
        await looked.wait()
        return "done"

    async with asyncio.timeout(60):
        assert await attend(scan()) == "done"

    async def fails() -> None:
        raise UnavailableError("a block is damaged")

    again = await shard.callers.admit(context, DOUG, "Scan", EVERY_KEY)
    assert again is not None
    with pytest.raises(UnavailableError, match="damaged"):
        await again(fails())
    assert context.status is None
    assert shard.callers.limits.room.used == Use(), "nothing is held any more"


async def test_a_long_batch_ends_when_the_rights_change(shard: Shard) -> None:
    token = shard.makes("app", "write:app/")
    context: Any = shown(token)
    request = pb.ExecuteBatchRequest(operations=[PUT_APP, GET_CONFIG])
    attend = await shard.callers.admit(context, DOUG, "ExecuteBatch", request)
    assert attend is not None

    async def batch() -> None:
        shard.becomes(shard.document.without_token("app"))
        shard.makes("app", "write:app/b")
        await asyncio.Event().wait()

    async with asyncio.timeout(60):
        with pytest.raises(Aborted):
            await attend(batch())
    assert context.status is UNKNOWN
    assert shard.callers.limits.room.used == Use()


def test_a_range_is_judged_with_both_ends() -> None:
    (part,) = wanted(DOUG, "Scan", pb.ScanRequest(start=b"a", end=b"b"))
    assert part.target == KeyRange(b"a", b"b")
    assert list(wanted(ADMIN, "Backup", admin_pb2.BackupRequest())) == [(frozenset({Verb.BACKUP}), None)]
