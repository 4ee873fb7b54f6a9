"""The Admin service: what operators ask of one node, also while it is starting.

It only turns requests and answers; what a node is, does and remembers, it hears from ``Operated``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, NoReturn, Protocol

import grpc
import grpc.aio

from doug.v1 import admin_pb2 as pb
from doug.v1 import admin_pb2_grpc
from doug_wire.auth import document as documents
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
from raft_node.rpc.raft.streams import BROKEN
from raft_node.runtime.events import EventRing
from raft_node.runtime.members.changes import MemberChange

Context = grpc.aio.ServicerContext[Any, Any]

FOUND_S = 30.0
"""How long a new member that does not answer is asked for, at most: as long as Kubernetes may keep in mind that a name
does not exist. The pod is there before its name is known everywhere."""
FIND_EVERY_S = 0.25
SETTLED_S = 3.0
"""What is left of a call's time after that: for one more question (2 s), and for the change itself."""


CODES: tuple[tuple[type[DougError], str, grpc.StatusCode], ...] = (
    (NotLeaderError, "NOT_LEADER", grpc.StatusCode.FAILED_PRECONDITION),
    (AlreadyLeaderError, "ALREADY_LEADER", grpc.StatusCode.FAILED_PRECONDITION),
    (UnknownMemberError, "UNKNOWN_MEMBER", grpc.StatusCode.INVALID_ARGUMENT),
    (TransferRefusedError, "TRANSFER_REFUSED", grpc.StatusCode.FAILED_PRECONDITION),
    (TransferFailedError, "TRANSFER_FAILED", grpc.StatusCode.ABORTED),
    (UnavailableError, "UNAVAILABLE", grpc.StatusCode.UNAVAILABLE),
    (ChangeUnderWayError, "CHANGE_UNDER_WAY", grpc.StatusCode.FAILED_PRECONDITION),
    (LastVoterError, "LAST_VOTER", grpc.StatusCode.FAILED_PRECONDITION),
    (QuorumAtRiskError, "QUORUM_AT_RISK", grpc.StatusCode.FAILED_PRECONDITION),
    (NoSuchMemberError, "UNKNOWN_MEMBER", grpc.StatusCode.INVALID_ARGUMENT),
    (AlreadyMemberError, "ALREADY_MEMBER", grpc.StatusCode.FAILED_PRECONDITION),
    (UnreachableError, "MEMBER_UNREACHABLE", grpc.StatusCode.FAILED_PRECONDITION),
    (WrongNodeError, "WRONG_NODE", grpc.StatusCode.FAILED_PRECONDITION),
    (ConfigurationRefusedError, "MEMBERS_REFUSED", grpc.StatusCode.FAILED_PRECONDITION),
    (ChangedError, "CHANGED", grpc.StatusCode.ABORTED),
    (SupersededError, "NOT_APPLIED", grpc.StatusCode.ABORTED),
    (OutcomeUnknownError, "UNKNOWN", grpc.StatusCode.DEADLINE_EXCEEDED),
)
"""The ``doug-code`` and the status of each refusal, by its class; the first class that fits counts."""


class Leadership(NamedTuple):
    """The leader's name and address, as far as a node knows them; empty while it knows no leader."""

    leader_id: str
    leader_address: str
    term: int


class Operated(Protocol):
    """The node, as far as the service of operators asks it."""

    def status(self, *, vitals: bool) -> pb.StatusResponse:
        """The node's role, term and indexes; with ``vitals`` also how the node is."""

    async def transfer_leadership(self, target: str) -> Leadership:
        """Hands leadership over to a voter, empty for the most caught-up one; returns the leader of afterwards.

        Raises:
            NotLeaderError: Another node leads, or none.
            TransferRefusedError: The target cannot take over.
            TransferFailedError: No other node was seen to take over in time.
            UnavailableError: The node is starting.
        """

    async def drain(self) -> Leadership:
        """Makes the node ready to be stopped; raises what ``transfer_leadership`` does."""

    def members(self) -> pb.MembersResponse:
        """The members as the leader sees them; raises NotLeaderError or UnavailableError."""

    async def add_member(self, name: str, address: str, incarnation: int) -> MemberChange:
        """Admits a node as a learner.

        Raises:
            NotLeaderError: Another node leads, or none.
            ConfigurationRefusedError: The node cannot be admitted, or not now; nothing was changed.
            SupersededError: A new leader has cut the change off.
            OutcomeUnknownError: Nobody can tell whether the change will come to stay.
            UnavailableError: The node is starting.
        """

    async def remove_member(self, name: str, *, force: bool) -> MemberChange:
        """Removes a member; raises what ``add_member`` does."""

    async def replace_member(self, name: str, address: str, incarnation: int, *, force: bool) -> MemberChange:
        """Admits a node's new incarnation in place of its old one; raises what ``add_member`` does."""

    async def backup(self, write: Callable[[pb.BackupResponse], Awaitable[None]]) -> None:
        """Sends this node's state, as of now.

        Raises:
            UnavailableError: The backup cannot be made, or not be sent, here and now.
        """

    async def auth(self) -> Stored:
        """The document of users and rights, as the leader holds it; raises NotLeaderError or UnavailableError."""

    async def set_auth(self, stored: Stored, expected: int) -> int:
        """Changes the document of users and rights; raises what ``raft_node.runtime.access.change`` does."""


class AdminService(admin_pb2_grpc.AdminServicer):
    """Serves operators."""

    def __init__(
        self,
        node_id: str,
        shard: int,
        node: Operated,
        events: EventRing,
        is_newest: Callable[[], None] = lambda: None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Ties the parts together.

        Args:
            node_id: This node's name.
            shard: The number of the node's shard.
            node: The node that answers the calls.
            events: The newest events of this process.
            is_newest: Called when a facade has said that the document of users that this shard holds is the newest.
            pause: Waits some seconds before a new member is asked for again.
        """
        self._is_newest = is_newest
        self._pause = pause
        self._node_id = node_id
        self._shard = shard
        self._node = node
        self._events = events

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:  # noqa: N802
        """Tells the role, the term and the indexes of this node."""
        return self._node.status(vitals=request.vitals)

    async def Events(self, request: pb.EventsRequest, context: Context) -> pb.EventsResponse:  # noqa: N802
        """Tells what this process did and why, as far as its ring still holds it."""
        events = self._events
        records, cut = events.since(request.since_us, request.limit)
        return pb.EventsResponse(
            node_id=self._node_id,
            shard=self._shard,
            start_id=events.start_id,
            clock_us=events.now_us(),
            forgotten=events.forgotten,
            cut=cut,
            events=[
                pb.Event(
                    sequence=record.sequence,
                    time_us=record.time_us,
                    monotonic_us=record.monotonic_us,
                    term=record.term,
                    name=record.name,
                    details=record.details,
                    count=record.count,
                    last_time_us=record.last_time_us,
                )
                for record in records
            ],
        )

    async def TransferLeadership(  # noqa: N802
        self, request: pb.TransferLeadershipRequest, context: Context
    ) -> pb.TransferLeadershipResponse:
        """Hands leadership over; answers once another node leads."""
        try:
            leader = await self._node.transfer_leadership(request.target)
        except DougError as error:
            await self._refuse(error, context)
        return pb.TransferLeadershipResponse(
            leader_id=leader.leader_id, leader_address=leader.leader_address, term=leader.term
        )

    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:  # noqa: N802
        """Makes the node ready to be stopped; answers once it does not lead."""
        try:
            leader = await self._node.drain()
        except DougError as error:
            await self._refuse(error, context)
        return pb.DrainResponse(leader_id=leader.leader_id, leader_address=leader.leader_address, term=leader.term)

    async def Members(self, request: pb.MembersRequest, context: Context) -> pb.MembersResponse:  # noqa: N802
        """Tells the members of the shard, as its leader sees them."""
        try:
            return self._node.members()
        except DougError as error:
            await self._refuse(error, context)

    async def AddMember(  # noqa: N802
        self, request: pb.AddMemberRequest, context: Context
    ) -> pb.ChangeMembersResponse:
        """Admits a node as a learner; answers once that is committed."""
        return await self._change(
            lambda: self._node.add_member(request.name, request.address, request.incarnation), context
        )

    async def RemoveMember(  # noqa: N802
        self, request: pb.RemoveMemberRequest, context: Context
    ) -> pb.ChangeMembersResponse:
        """Removes a member; answers once that is committed."""
        return await self._change(lambda: self._node.remove_member(request.name, force=request.force), context)

    async def ReplaceMember(  # noqa: N802
        self, request: pb.ReplaceMemberRequest, context: Context
    ) -> pb.ChangeMembersResponse:
        """Admits a node's new incarnation in place of its old one; answers once that is committed."""
        name, address, incarnation = request.name, request.address, request.incarnation
        return await self._change(
            lambda: self._node.replace_member(name, address, incarnation, force=request.force), context
        )

    async def Backup(self, request: pb.BackupRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Sends this node's state, as of now; the stream ends when all of it was sent."""
        try:
            await self._node.backup(context.write)
        except DougError as error:
            # The reason of the failure of a call that is gone is not needed.
            with contextlib.suppress(*BROKEN):
                await self._refuse(error, context)

    async def GetAuth(self, request: pb.GetAuthRequest, context: Context) -> pb.GetAuthResponse:  # noqa: N802
        """Tells the document of users and rights that this shard holds."""
        try:
            held = await self._node.auth()
        except DougError as error:
            await self._refuse(error, context)
        known = held.revision == request.known_revision
        if known:
            self._is_newest()
        return pb.GetAuthResponse(revision=held.revision, document=b"" if known else held.document)

    async def SetAuth(self, request: pb.SetAuthRequest, context: Context) -> pb.SetAuthResponse:  # noqa: N802
        """Changes the document of users and rights, if it still has the revision that the change was made from."""
        try:
            documents.decode(request.document)
        except documents.DocumentError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"INVALID: {error}", (("doug-code", "INVALID"),))
        if request.copy == (self._shard == 0):
            detail = "INVALID: shard 0 holds what counts, and the others copies of it"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, detail, (("doug-code", "INVALID"),))
        expected = COPY if request.copy else request.expected_revision
        try:
            revision = await self._node.set_auth(Stored(request.revision, request.document), expected)
        except DougError as error:
            await self._refuse(error, context)
        self._is_newest()
        return pb.SetAuthResponse(revision=revision)

    async def _change(
        self, change: Callable[[], Awaitable[MemberChange]], context: Context
    ) -> pb.ChangeMembersResponse:
        try:
            done = await self._once_found(change, context)
        except DougError as error:
            await self._refuse(error, context)
        return pb.ChangeMembersResponse(
            name=done.member.name,
            incarnation=done.member.incarnation,
            removed_incarnation=done.removed,
            index=done.entry_index,
            term=done.term,
        )

    async def _once_found(self, change: Callable[[], Awaitable[MemberChange]], context: Context) -> MemberChange:
        """Makes a change, again while the node that it is about does not answer and the call has time for that.

        Nothing was proposed then, so it may be asked for again. A call without a deadline does not wait.
        """
        given_s: float = context.time_remaining() or 0.0
        patient_s = min(FOUND_S, given_s - SETTLED_S)
        while True:
            try:
                return await change()
            except UnreachableError:
                left_s: float = context.time_remaining() or 0.0
                if given_s - left_s + FIND_EVERY_S > patient_s:
                    raise
            await self._pause(FIND_EVERY_S)

    async def _refuse(self, error: DougError, context: Context) -> NoReturn:
        for kind, code, status in CODES:
            if isinstance(error, kind):
                metadata: tuple[tuple[str, str], ...] = (("doug-code", code),)
                if isinstance(error, NotLeaderError):
                    hints = (("doug-leader-id", error.leader_id), ("doug-leader-address", error.leader_address))
                    metadata = (*metadata, *hints)
                await context.abort(status, f"{code}: {error}", metadata)
        raise error
