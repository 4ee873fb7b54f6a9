"""What operators are told when they move leadership or change members: what came of it, or why it cannot be."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from doug.v1 import admin_pb2 as pb
from doug_wire.auth.document import EMPTY
from raft_node.errors import (
    AlreadyLeaderError,
    AlreadyMemberError,
    ChangedError,
    ChangeUnderWayError,
    ConfigurationRefusedError,
    DougError,
    LastVoterError,
    NoSuchMemberError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    QuorumAtRiskError,
    SupersededError,
    TransferFailedError,
    TransferRefusedError,
    UnavailableError,
    UnknownMemberError,
    UnreachableError,
    WrongNodeError,
)
from raft_node.kv.operations.access import COPY, Stored
from raft_node.raft.types import NodeId
from raft_node.rpc.admin_service import AdminService, Leadership
from raft_node.runtime.events import EventRing
from raft_node.runtime.members.changes import MemberChange


class Aborted(Exception):  # noqa: N818
    """What grpc raises out of ``abort``."""


class FakeContext:
    def __init__(self) -> None:
        self.status: grpc.StatusCode | None = None
        self.metadata: dict[str, str] = {}
        self.left_s: float | None = None

    def time_remaining(self) -> float | None:
        return self.left_s

    async def abort(self, status: grpc.StatusCode, details: str, metadata: tuple[tuple[str, str], ...]) -> None:
        self.status, self.metadata = status, dict(metadata)
        raise Aborted(details)


class FakeNode:
    def __init__(self, error: DougError | None = None) -> None:
        self.error = error
        self.targets: list[str] = []
        self.drained = False
        self.changes: list[tuple[object, ...]] = []
        self.stored = Stored(4, b"document")

    def status(self, *, vitals: bool) -> pb.StatusResponse:
        return pb.StatusResponse(node_id="n")

    async def transfer_leadership(self, target: str) -> Leadership:
        self.targets.append(target)
        if self.error is not None:
            raise self.error
        return Leadership(target or "best", "127.0.0.1:1", 9)

    async def drain(self) -> Leadership:
        self.drained = True
        if self.error is not None:
            raise self.error
        return Leadership("other", "127.0.0.1:2", 8)

    def members(self) -> pb.MembersResponse:
        if self.error is not None:
            raise self.error
        return pb.MembersResponse(term=3, members=[pb.ShardMember(name="a")])

    async def add_member(self, name: str, address: str, incarnation: int) -> MemberChange:
        return self.changed("add", name, address)

    async def remove_member(self, name: str, *, force: bool) -> MemberChange:
        return self.changed("remove", name, force)

    async def replace_member(self, name: str, address: str, incarnation: int, *, force: bool) -> MemberChange:
        return self.changed("replace", name, address, force)

    async def backup(self, write: Any) -> None:
        await write(pb.BackupResponse(header=pb.BackupHeader(index=7)))
        if self.error is not None:
            raise self.error

    async def auth(self) -> Stored:
        if self.error is not None:
            raise self.error
        return self.stored

    async def set_auth(self, stored: Stored, expected: int) -> int:
        if self.error is not None:
            raise self.error
        self.changes.append((stored, expected))
        return stored.revision

    def changed(self, *what: object) -> MemberChange:
        if self.error is not None:
            raise self.error
        self.changes.append(what)
        return MemberChange(NodeId("x", 5), 4, 9, 2)


_ANY: Any = FakeContext()


def service_of(node: FakeNode) -> AdminService:
    return AdminService("n", 0, node, EventRing(10, 10_000))


async def test_a_transfer_answers_who_leads() -> None:
    node, context = FakeNode(), FakeContext()
    service: Any = service_of(node)
    answer = await service.TransferLeadership(pb.TransferLeadershipRequest(target="shard-0-2"), context)
    assert (answer.leader_id, answer.leader_address, answer.term) == ("shard-0-2", "127.0.0.1:1", 9)
    answer = await service.TransferLeadership(pb.TransferLeadershipRequest(), context)
    assert (answer.leader_id, node.targets) == ("best", ["shard-0-2", ""])


async def test_a_drain_answers_who_leads() -> None:
    node = FakeNode()
    service: Any = service_of(node)
    answer = await service.Drain(pb.DrainRequest(), FakeContext())
    assert (answer.leader_id, answer.leader_address, answer.term, node.drained) == ("other", "127.0.0.1:2", 8, True)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotLeaderError("b", "127.0.0.1:3"), grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER"),
        (AlreadyLeaderError("a leads already"), grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_LEADER"),
        (UnknownMemberError("no member x"), grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_MEMBER"),
        (TransferRefusedError("no other voter"), grpc.StatusCode.FAILED_PRECONDITION, "TRANSFER_REFUSED"),
        (TransferFailedError("too late"), grpc.StatusCode.ABORTED, "TRANSFER_FAILED"),
        (UnavailableError("starting"), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("method", ["TransferLeadership", "Drain"])
async def test_a_refusal_says_why(method: str, error: DougError, status: grpc.StatusCode, code: str) -> None:
    context = FakeContext()
    request = pb.DrainRequest() if method == "Drain" else pb.TransferLeadershipRequest(target="x")
    with pytest.raises(Aborted):
        await getattr(service_of(FakeNode(error)), method)(request, context)
    assert (context.status, context.metadata["doug-code"]) == (status, code)
    if code == "NOT_LEADER":
        assert context.metadata["doug-leader-id"] == "b"
        assert context.metadata["doug-leader-address"] == "127.0.0.1:3"


async def test_an_error_that_no_rule_names_is_a_defect() -> None:
    service: Any = service_of(FakeNode(OverloadedError("?")))
    with pytest.raises(OverloadedError):
        await service.Drain(pb.DrainRequest(), FakeContext())


async def test_changes_of_members_are_handed_on_and_answered() -> None:
    node, context = FakeNode(), FakeContext()
    service: Any = service_of(node)
    assert (await service.Members(pb.MembersRequest(), context)).members[0].name == "a"
    for call in (
        service.AddMember(pb.AddMemberRequest(name="x", address="h:1"), context),
        service.RemoveMember(pb.RemoveMemberRequest(name="x", force=True), context),
        service.ReplaceMember(pb.ReplaceMemberRequest(name="x", address="h:1", force=True), context),
    ):
        answer = await call
        expected = pb.ChangeMembersResponse(name="x", incarnation=5, removed_incarnation=4, index=9, term=2)
        assert answer == expected
    assert node.changes == [("add", "x", "h:1"), ("remove", "x", True), ("replace", "x", "h:1", True)]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotLeaderError("b", "127.0.0.1:3"), grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER"),
        (ChangeUnderWayError("?"), grpc.StatusCode.FAILED_PRECONDITION, "CHANGE_UNDER_WAY"),
        (LastVoterError("?"), grpc.StatusCode.FAILED_PRECONDITION, "LAST_VOTER"),
        (QuorumAtRiskError("?"), grpc.StatusCode.FAILED_PRECONDITION, "QUORUM_AT_RISK"),
        (NoSuchMemberError("?"), grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_MEMBER"),
        (AlreadyMemberError("?"), grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_MEMBER"),
        (UnreachableError("?"), grpc.StatusCode.FAILED_PRECONDITION, "MEMBER_UNREACHABLE"),
        (WrongNodeError("?"), grpc.StatusCode.FAILED_PRECONDITION, "WRONG_NODE"),
        (ConfigurationRefusedError("?"), grpc.StatusCode.FAILED_PRECONDITION, "MEMBERS_REFUSED"),
        (SupersededError("?"), grpc.StatusCode.ABORTED, "NOT_APPLIED"),
        (OutcomeUnknownError("?"), grpc.StatusCode.DEADLINE_EXCEEDED, "UNKNOWN"),
        (UnavailableError("?"), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("method", ["Members", "AddMember", "RemoveMember", "ReplaceMember"])
async def test_a_refused_change_says_why(method: str, error: DougError, status: grpc.StatusCode, code: str) -> None:
    context = FakeContext()
    kinds = {"AddMember": pb.AddMemberRequest, "RemoveMember": pb.RemoveMemberRequest}
    request = kinds.get(method, pb.ReplaceMemberRequest)(name="x") if method != "Members" else pb.MembersRequest()
    with pytest.raises(Aborted):
        await getattr(service_of(FakeNode(error)), method)(request, context)
    assert (context.status, context.metadata["doug-code"]) == (status, code)


@pytest.mark.parametrize(
    ("given_s", "there_after_s", "found", "left_s"),
    [
        (10.0, 0.0, True, 10.0),
        (10.0, 4.0, True, 6.0),
        (10.0, 7.0, True, 3.0),
        (10.0, 7.25, False, 3.0),
        (2.0, 0.25, False, 2.0),
        (None, 0.25, False, None),
        (3600.0, 30.0, True, 3570.0),
        (3600.0, 30.25, False, 3570.0),
    ],
)
@pytest.mark.parametrize("method", ["AddMember", "ReplaceMember"])
async def test_a_node_whose_name_is_not_known_yet_is_waited_for_as_long_as_the_call_allows(
    method: str, given_s: float | None, there_after_s: float, found: bool, left_s: float | None
) -> None:
    """A pod that comes back is there before its name is: it was refused as unreachable, although it ran."""
    node, context = FakeNode(UnreachableError("nobody answers at h:1")), FakeContext()
    context.left_s, waited_s = given_s, 0.0

    async def pause(seconds: float) -> None:
        nonlocal waited_s
        waited_s += seconds
        if context.left_s is not None:
            context.left_s -= seconds
        if waited_s >= there_after_s:
            node.error = None

    if not there_after_s:
        node.error = None
    service: Any = AdminService("n", 0, node, EventRing(10, 10_000), pause=pause)
    request = {"AddMember": pb.AddMemberRequest, "ReplaceMember": pb.ReplaceMemberRequest}[method]
    call = getattr(service, method)(request(name="x", address="h:1"), context)
    if found:
        assert (await call).name == "x"
    else:
        with pytest.raises(Aborted, match="nobody answers"):
            await call
        assert (context.metadata["doug-code"], node.changes) == ("MEMBER_UNREACHABLE", [])
    assert context.left_s == left_s


async def test_whoever_else_is_refused_is_refused_at_once() -> None:
    """Asking again would not change it; and who leads no more must say so while there is time to ask another."""
    node, context = FakeNode(UnreachableError("?")), FakeContext()
    context.left_s = 10.0
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        node.error = NotLeaderError("b", "127.0.0.1:3")

    service: Any = AdminService("n", 0, node, EventRing(10, 10_000), pause=pause)
    with pytest.raises(Aborted):
        await service.AddMember(pb.AddMemberRequest(name="x", address="h:1"), context)
    assert (context.metadata["doug-code"], len(paused)) == ("NOT_LEADER", 1)


async def test_who_may_do_what_is_told_once() -> None:
    service, context = service_of(FakeNode()), _ANY
    first = await service.GetAuth(pb.GetAuthRequest(), context)
    assert (first.revision, first.document) == (4, b"document")
    again = await service.GetAuth(pb.GetAuthRequest(known_revision=4), context)
    assert (again.revision, again.document) == (4, b"")


async def test_who_may_do_what_is_changed_in_shard_0_and_copied_elsewhere() -> None:
    document = EMPTY.encode()
    node = FakeNode()
    first, other = service_of(node), AdminService("n", 3, node, EventRing(10, 10_000))
    change = pb.SetAuthRequest(expected_revision=4, revision=5, document=document)
    copy = pb.SetAuthRequest(revision=5, document=document, copy=True)
    assert (await first.SetAuth(change, _ANY)).revision == 5
    assert (await other.SetAuth(copy, _ANY)).revision == 5
    assert node.changes == [(Stored(5, document), 4), (Stored(5, document), COPY)]
    for service, request in ((first, copy), (other, change), (first, pb.SetAuthRequest(document=b"{}"))):
        context = FakeContext()
        with pytest.raises(Aborted):
            await service.SetAuth(request, context)  # type: ignore[arg-type]
        assert context.metadata == {"doug-code": "INVALID"}


async def test_who_knows_the_newest_document_says_so_by_asking() -> None:
    """Until then a node that holds a copy judges nobody by it: there may be a newer one."""
    told: list[bool] = []
    service = AdminService("n", 3, FakeNode(), EventRing(10, 10_000), lambda: told.append(True))
    await service.GetAuth(pb.GetAuthRequest(known_revision=5), _ANY)
    assert told == [], "it is behind what the asker knows"
    await service.GetAuth(pb.GetAuthRequest(known_revision=4), _ANY)
    await service.SetAuth(pb.SetAuthRequest(revision=5, document=EMPTY.encode(), copy=True), _ANY)
    assert len(told) == 2


async def test_a_change_of_something_older_is_refused() -> None:
    context = FakeContext()
    change = pb.SetAuthRequest(expected_revision=4, revision=5, document=EMPTY.encode())
    with pytest.raises(Aborted):
        await service_of(FakeNode(ChangedError(7))).SetAuth(change, context)  # type: ignore[arg-type]
    assert (context.status, context.metadata) == (grpc.StatusCode.ABORTED, {"doug-code": "CHANGED"})
