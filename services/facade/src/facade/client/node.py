"""One raft-node as the facade sees it: a Pipe stream, and a gRPC channel for everything else.

A leaf: it calls nobody above it. The shard decides what the node is asked, and ``facade.client.session`` keeps its
stream. Must not know what a leader is. The stream is opened only once the node has answered on its connection, so that
a record counts as sent only when it may really have left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Literal, NamedTuple, TypeAlias

import grpc.aio

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc
from doug_stream.client import ClientCall
from doug_stream.errors import CallError
from doug_wire.on_behalf import metadata_of
from facade.client.access import current
from facade.client.channels import SCAN_OPTIONS, Channels
from facade.client.link import Link
from facade.client.modes import Kind
from facade.client.operation import Operation
from facade.client.receipts import Headers, Receipt
from facade.client.scan_calls import ScanCalls
from facade.client.sessions import Sessions, entry_of
from facade.discovery.targets import Target
from facade.settings import parse_address

RETIRED_S = 6.0
"""How long a channel that is given up stays open: no unary call on it takes longer."""

RETRY_MIN_S, RETRY_MAX_S = 0.1, 1.0
"""The shortest and the longest pause between two tries to reach a node; each pause is longer than the one before."""

Trouble: TypeAlias = Literal["certificate_expired", "certificate_refused"]
WatchCall: TypeAlias = "grpc.aio.UnaryStreamCall[doug_pb2.WatchRequest, doug_pb2.WatchBatch]"


def behalf() -> tuple[tuple[str, str], ...]:
    """Metadata that tells a node for whom it is called now; the node names them in its log."""
    caller = current.get()
    return metadata_of(caller.access.name, caller.request_id)


class Clock(NamedTuple):
    """The difference between a node's wall clock and this facade's.

    Attributes:
        ahead_ms: How far the node's clock is ahead; negative for behind.
        error_ms: By how much ``ahead_ms`` can be wrong: half of the time that the question and its answer took.
    """

    ahead_ms: float
    error_ms: float


def clock_between(asked_us: int, said_us: int, heard_us: int) -> Clock:
    """The difference to a clock that was told between two looks at the own clock."""
    error_us = max(0, heard_us - asked_us) / 2
    return Clock((said_us - asked_us - error_us) / 1000, error_us / 1000)


def trouble_of(details: str) -> Trouble | None:
    """The trouble with certificates that gRPC's text about a failed connection tells of; None if it tells of none.

    There is nothing but the text; one that is another in a later version is no finding, and breaks nothing.
    """
    if "certificate has expired" in details:
        return "certificate_expired"
    if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
        return "certificate_refused"
    return None


class Node:
    """One raft-node.

    Attributes:
        id: The node's name.
        target: The node's name and address, as discovery gives them.
        address: The host and port at which the node serves Doug.
        admin: The node's admin HTTP address, once a status told it.
        clock: The difference between its wall clock and this facade's, by its last vitals; None before that.
        incarnation: The incarnation of the node, which is its disks, by its last status; 0 before that.
        trouble: Why the node could not be reached when it was last asked; None if it could, or the reason is unknown.
        link: The windows of the node's Pipe stream.
        scans: The calls of Doug.Scan.
        up: Whether the node's Pipe stream is open.
        known: Whether the node was asked for its status since then, and has answered or is about to.
        suspect: Whether the node owed an answer for too long, and has sent nothing since.
        granted: The kinds of waiting reads that it is this node's turn to take.
        copies: Second copies of reads that this node is to serve (``facade.client.hedging``).
        behind_until_s: Until when other replicas are asked first, because this one was not fresh enough.
        slow_until_s: Until when other replicas are asked first, because this one took long to answer.
        zone: The zone in which the node says that it runs; empty before it said so.
        doubted_term: Other nodes are not believed when they say that this one leads in this term or an older one,
        doubted_until_s: before this time: this node said that it does not lead, or its stream was lost.
        applied_index: The last entry that the node had applied, by its last receipt.
        unlisted: Whether discovery names the node no more; it is forgotten when its stream ends.
        retired: Whether the node belongs to its shard no more.
    """

    def __init__(self, node_id: str, target: Target, link: Link, channels: Channels) -> None:
        self.id = node_id
        self.target = target
        self.address = target.address
        self.admin: str | None = None
        self.clock: Clock | None = None
        self.incarnation = 0
        self.trouble: Trouble | None = None
        self.link = link
        self.up = False
        self.known = False
        self.suspect = False
        self.granted: set[Kind] = set()
        self.copies: deque[Operation] = deque()
        self.behind_until_s = 0.0
        self.slow_until_s = 0.0
        self.zone = ""
        self.applied_index = 0
        self.doubted_term = 0
        self.doubted_until_s = 0.0
        self._name = (b"doug-served-by", node_id.encode())
        self._headers: tuple[tuple[int, int, str], Headers] = ((-1, -1, ""), ())
        self._wanted = asyncio.Event()
        self._wake: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self.unlisted = False
        self.retired = False
        self._alias: Target | None = None
        self._channels = channels
        self._closing: set[asyncio.Task[None]] = set()
        self.scans = ScanCalls(channels, target)
        self._watches: grpc.aio.Channel | None = None
        self._watches_version = 0
        self._connect()

    def _connect(self) -> None:
        self._version = self._channels.version
        self._channel = self._channels.open(self.target)
        self._doug = doug_pb2_grpc.DougStub(self._channel)
        self._admin = admin_pb2_grpc.AdminStub(self._channel)

    def _renew(self) -> None:
        """Opens the channel anew if there are newer certificates: gRPC would try the old ones for ever."""
        if self._version != self._channels.version:
            self._reopen()

    def _reopen(self) -> None:
        """Opens the channel anew, so that the node's name is looked up now.

        A name that did not exist is looked up again by gRPC after a pause of its own, which grows to minutes whatever
        the options of the channel say.
        """
        if self.retired:
            return
        self._leave(self._channel)
        self._connect()

    def _leave(self, channel: grpc.aio.Channel) -> None:
        """Closes a channel after the calls that are under way on it have had their time."""
        task = asyncio.create_task(channel.close(RETIRED_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def is_moved(self, target: Target) -> bool:
        """Whether a target that discovery names for this node is at another address than the present one.

        A pod that was dialled by its name and is told by its address now is the same place, as long as it answers.
        """
        if target in (self.target, self._alias):
            return False
        if self.up and self._alias is None and parse_address(self.address).host == target.name:
            self._alias = target
            return False
        return True

    @property
    def speaks(self) -> bool:
        """Whether the node owes no answer, and has told its status since its stream is open."""
        return not self.suspect and (self.known or not self.up)

    def want(self) -> None:
        """Has the node's session open the Pipe stream and keep it open."""
        self._wanted.set()

    def wake(self) -> None:
        """Has the stream's writer look for a batch; all operations of this turn of the event loop will be in it."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def wake_at(self, time_s: float) -> None:
        """Wakes the writer at a time of the loop's clock. Of several times the first one counts until it has come."""
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(time_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.wake()

    def heard(self, message: doug_pb2.BatchResult, sessions: Sessions, now_s: float, *, timed: bool) -> Receipt:
        """Notes the receipt of a message; returns what clients are told of it, with ``timed`` also where time went."""
        said = message.receipt
        self.suspect = False
        self.link.last_heard_s = now_s
        self.zone = said.zone
        self.applied_index = said.applied_index
        known = (said.term, said.applied_index, said.role)
        if known != self._headers[0]:
            headers = (
                self._name,
                (b"doug-role", said.role.encode()),
                (b"doug-term", b"%d" % said.term),
                (b"doug-applied-index", b"%d" % said.applied_index),
            )
            self._headers = (known, headers)
        if said.generation:
            sessions.heard(said.shard, said.generation)
        receipt = Receipt(said.shard, entry_of(said.generation, said.applied_index), self._headers[1], sessions)
        if timed:
            receipt.heard_s = now_s
            receipt.timings = message.timings if message.HasField("timings") else None
        return receipt

    def retire(self) -> None:
        """Ends the node's part in its shard: nothing is sent to it any more, and its answers do not count."""
        self.retired = True
        self.up = False
        self.granted.clear()

    async def status(self, timeout_s: float, *, vitals: bool = False) -> admin_pb2.StatusResponse | None:
        """Admin.Status, with ``vitals`` also how the node is, or None when it did not answer in time."""
        if self.retired:
            return None
        self._renew()
        asked_us = time.time_ns() // 1000
        try:
            status = await self._admin.Status(admin_pb2.StatusRequest(vitals=vitals), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self.trouble = trouble_of(error.details() or "")
            # No other code closes this channel.
            self._reopen()
            return None
        self.trouble = None
        if status.vitals.clock_us:
            self.clock = clock_between(asked_us, status.vitals.clock_us, time.time_ns() // 1000)
        self.admin = status.admin_address or self.admin
        self.incarnation = status.incarnation
        if self.suspect:
            self.suspect, self.slow_until_s = False, 0.0
        return status

    async def events(self, since_us: int, limit: int, timeout_s: float) -> admin_pb2.EventsResponse | None:
        """Admin.Events, or None when it did not answer in time."""
        request = admin_pb2.EventsRequest(since_us=since_us, limit=limit)
        if self.retired:
            return None
        try:
            return await self._admin.Events(request, timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return None

    async def transfer_leadership(self, target: str, timeout_s: float) -> admin_pb2.TransferLeadershipResponse:
        """Admin.TransferLeadership; answers once another node leads.

        Raises:
            grpc.aio.AioRpcError: Leadership did not move; ``doug-code`` in the trailing metadata says why.
        """
        request = admin_pb2.TransferLeadershipRequest(target=target)
        return await self._admin.TransferLeadership(request, timeout=timeout_s, metadata=behalf())

    async def members(self, timeout_s: float) -> admin_pb2.MembersResponse:
        """Admin.Members; this and the changes raise ``AioRpcError`` with a ``doug-code`` unless the node leads."""
        return await self._admin.Members(admin_pb2.MembersRequest(), timeout=timeout_s)

    async def add_member(
        self, request: admin_pb2.AddMemberRequest, timeout_s: float
    ) -> admin_pb2.ChangeMembersResponse:
        """Admin.AddMember."""
        return await self._admin.AddMember(request, timeout=timeout_s, metadata=behalf())

    async def remove_member(
        self, request: admin_pb2.RemoveMemberRequest, timeout_s: float
    ) -> admin_pb2.ChangeMembersResponse:
        """Admin.RemoveMember."""
        return await self._admin.RemoveMember(request, timeout=timeout_s, metadata=behalf())

    async def replace_member(
        self, request: admin_pb2.ReplaceMemberRequest, timeout_s: float
    ) -> admin_pb2.ChangeMembersResponse:
        """Admin.ReplaceMember."""
        return await self._admin.ReplaceMember(request, timeout=timeout_s, metadata=behalf())

    async def get_auth(self, known_revision: int, timeout_s: float) -> admin_pb2.GetAuthResponse:
        """Admin.GetAuth; this and the change raise ``AioRpcError`` with a ``doug-code`` unless the node leads."""
        return await self._admin.GetAuth(admin_pb2.GetAuthRequest(known_revision=known_revision), timeout=timeout_s)

    async def set_auth(self, request: admin_pb2.SetAuthRequest, timeout_s: float) -> admin_pb2.SetAuthResponse:
        """Admin.SetAuth."""
        return await self._admin.SetAuth(request, timeout=timeout_s, metadata=behalf())

    @contextlib.asynccontextmanager
    async def backup(
        self,
    ) -> AsyncIterator[grpc.aio.UnaryStreamCall[admin_pb2.BackupRequest, admin_pb2.BackupResponse]]:
        """Admin.Backup, over a connection of its own; the call ends with the block."""
        channel = self._channels.open(self.target)
        try:
            call = admin_pb2_grpc.AdminStub(channel).Backup(admin_pb2.BackupRequest(), metadata=behalf())
            try:
                yield call
            finally:
                call.cancel()
        finally:
            await channel.close()

    def open_watch(self, request: doug_pb2.WatchRequest) -> WatchCall:
        """Doug.Watch, over a connection that watches have for themselves."""
        if self._watches is not None and self._watches_version != self._channels.version:
            self.drop_watches()
        if self._watches is None:
            self._watches = self._channels.open(self.target, SCAN_OPTIONS)
            self._watches_version = self._channels.version
        return doug_pb2_grpc.DougStub(self._watches).Watch(request)

    def drop_watches(self) -> None:
        """Gives up the connection of watches, which is of no use any more: the next watch opens another one."""
        if self._watches is not None:
            self._leave(self._watches)
            self._watches = None

    async def partitions(self, timeout_s: float) -> doug_pb2.PartitionsResponse:
        """Doug.Partitions.

        Raises:
            grpc.aio.AioRpcError: The node did not answer, or does not lead shard 0.
        """
        return await self._doug.Partitions(doug_pb2.PartitionsRequest(), timeout=timeout_s)

    async def wanted(self) -> None:
        """Waits until ``want`` was called: until then the stream is not opened."""
        await self._wanted.wait()

    async def open_pipe(self) -> ClientCall:
        """Opens the Pipe stream, however long that takes. Requires: no other Pipe stream to the node is open."""
        pause_s = RETRY_MIN_S
        while True:
            try:
                return await self._channels.open_pipe(self.target)
            except CallError:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def idle(self) -> None:
        """Waits until ``wake`` is called."""
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    async def close(self) -> None:
        """Closes the node's channel and its connections.

        Calls that others still wait for get their own time; a call that is cut off looks like a cancellation.
        """
        if self._alarm is not None:
            self._alarm.cancel()
        self.scans.drop()
        self.drop_watches()
        await self._channel.close(RETIRED_S if self.retired else None)
