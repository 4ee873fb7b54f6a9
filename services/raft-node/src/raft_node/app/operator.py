"""The calls of operators to one node: status, leadership, draining, members. The Admin service is the way in.

It knows the running replica once ``attach`` has given it that; until then it says that the node is starting. Once a
node is draining it hands leadership over whenever it gets it; only a new start takes that back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from doug.v1 import admin_pb2
from raft_node import __version__
from raft_node.errors import (
    AlreadyLeaderError,
    NotLeaderError,
    TransferFailedError,
    UnavailableError,
    UnknownMemberError,
)
from raft_node.kv.operations.access import Stored
from raft_node.observability.logs import get_logger
from raft_node.raft.membership import members_of
from raft_node.raft.types import Role
from raft_node.rpc.admin_service import Leadership
from raft_node.rpc.doug.replica import Replica
from raft_node.rpc.raft.addresses import AddressBook
from raft_node.rpc.snapshots.backup_stream import BackupStream, Write
from raft_node.runtime import access
from raft_node.runtime.events import Recorder
from raft_node.runtime.leadership.drain import drain
from raft_node.runtime.leadership.holds import Hold
from raft_node.runtime.log.store import LogStore
from raft_node.runtime.members.changes import MemberChange, Membership, MemberView
from raft_node.settings import NodeSettings

_log = get_logger()

WAITING = "waiting"
"""The role, beside the core's own, of a node that waits to be admitted as a member."""


class RunningParts(NamedTuple):
    """The parts of a running node that operators have to do with."""

    replica: Replica
    log: LogStore
    membership: Membership
    addresses: AddressBook
    backups: BackupStream


class Operator:
    """The node as its operators see it.

    Attributes:
        incarnation: The node's incarnation; 0 before it is known.
        draining: Whether the node is about to be stopped.
        is_waiting: Tells whether the node is no member, and waits to be admitted.
        vitals: Tells how the node is; None while it is starting.
    """

    def __init__(
        self, settings: NodeSettings, record: Recorder, show_readiness: Callable[[bool], Awaitable[None]]
    ) -> None:
        """Begins without the parts of a running node: ``attach`` gives them.

        Args:
            settings: The node's settings.
            record: Notes events in the timeline.
            show_readiness: Tells the health service whether the node is ready.
        """
        self._settings = settings
        self._record = record
        self._show_readiness = show_readiness
        self._parts: RunningParts | None = None
        self._changes: set[asyncio.Future[MemberChange]] = set()
        self.incarnation = 0
        self.draining = False
        self.is_waiting: Callable[[], bool] = lambda: False
        self.vitals: Callable[[], admin_pb2.Vitals | None] = lambda: None

    def attach(self, parts: RunningParts) -> None:
        """Takes the parts of the running node, which answer from now on."""
        self._parts = parts

    def status(self, *, vitals: bool) -> admin_pb2.StatusResponse:
        """See ``Operated``."""
        settings = self._settings
        response = admin_pb2.StatusResponse(
            node_id=settings.node_id,
            shard=settings.shard_id,
            role=Role.FOLLOWER.value,
            client_address=settings.client_address,
            peer_address=settings.peer_listen,
            admin_address=settings.admin_address,
            incarnation=self.incarnation,
            version=__version__,
            initial_shards=settings.initial_shards,
        )
        parts = self._parts
        if parts is not None:
            replica = parts.replica
            core = replica.driver.node
            response.role = core.role.value
            response.term = core.term
            response.commit_index = core.commit_index
            response.applied_index = parts.replica.driver.applied_index
            response.last_log_index = core.last_index
            response.first_log_index = parts.log.first_index
            response.leader_id, response.leader_address = replica.leader()
            response.cluster_id = replica.peers.me.cluster_id
        if self.is_waiting():
            response.role = WAITING
        told = self.vitals() if vitals else None
        if told is not None:
            response.vitals.CopyFrom(told)
        return response

    # Leadership.

    async def transfer_leadership(self, target: str) -> Leadership:
        """See ``Operated``."""
        replica = self._leading().replica
        core = replica.driver.node
        members = {member.name: member for member in members_of(core.configuration)}
        if target and target not in members:
            raise UnknownMemberError(f"shard {replica.number} has no member {target}")
        if target == core.id.name:
            raise AlreadyLeaderError(f"{target} leads already")
        timeout_s = self._settings.drain_timeout_ms / 1000
        leader = await replica.driver.hand_over(members[target] if target else None, timeout_s)
        if target and leader.name != target:
            raise TransferFailedError(f"{leader.name} leads now, not {target}")
        return self._leadership(replica)

    async def drain(self) -> Leadership:
        """See ``Operated``."""
        replica = self._running().replica
        self.draining = True
        self._record("drain_began")
        await self._show_readiness(False)
        with replica.driver.hold() as hold:
            await self.settle(hold)
        if replica.is_leader:
            self.draining = False
            await self._show_readiness(True)
            raise TransferFailedError("nobody took over; this node goes on")
        return self._leadership(replica)

    async def settle(self, hold: Hold) -> None:
        """Hands leadership over and waits until all proposals are answered. Requires: a replica.

        Args:
            hold: Holds the driver's requests back; the caller ends it.
        """
        assert self._parts is not None
        settings, driver = self._settings, self._parts.replica.driver
        leader = await drain(driver, hold, settings.drain_timeout_ms / 1000, settings.election_timeout_max_ms / 1000)
        left = len(driver.pending)
        self._record("drained", leader=leader.name if leader else "", unanswered=left)
        _log.info("node.drained", leader=leader.name if leader else "", unanswered=left)

    async def settle_again(self) -> None:
        """Hands over again the leadership to which a drained node was elected all the same."""
        with self._running().replica.driver.hold() as hold:
            await self.settle(hold)

    # Members.

    def members(self) -> admin_pb2.MembersResponse:
        """See ``Operated``."""
        parts = self._leading()
        core = parts.replica.driver.node
        return admin_pb2.MembersResponse(
            term=core.term,
            commit_index=core.commit_index,
            last_log_index=core.last_index,
            changing=parts.membership.changing,
            members=[_message(parts, view) for view in parts.membership.views()],
        )

    async def add_member(self, name: str, address: str, incarnation: int) -> MemberChange:
        """See ``Operated``."""
        return await self._change(lambda membership: membership.add(name, address, incarnation))

    async def remove_member(self, name: str, *, force: bool) -> MemberChange:
        """See ``Operated``."""
        return await self._change(lambda membership: membership.remove(name, force=force))

    async def replace_member(self, name: str, address: str, incarnation: int, *, force: bool) -> MemberChange:
        """See ``Operated``."""
        return await self._change(
            lambda membership: membership.replace(name, address, force=force, incarnation=incarnation)
        )

    # State.

    async def backup(self, write: Write) -> None:
        """See ``Operated``."""
        await self._running().backups.send(write)

    async def auth(self) -> Stored:
        """See ``Operated``."""
        replica = self._leading().replica
        try:
            return await access.read(replica.driver)
        except NotLeaderError:
            raise NotLeaderError(*replica.leader()) from None

    async def auth_here(self) -> Stored:
        """The document of users and rights by which this node may judge clients itself.

        In shard 0 every member may, once its leader has confirmed that it is up to date; in the others the leader
        alone, since it alone is told whether its copy is the newest.

        Raises:
            NotLeaderError: Only the leader can tell, or there is none.
            UnavailableError: The node is starting, or is no member.
        """
        replica = self._running().replica
        if not replica.serves_local_reads:
            raise UnavailableError("this node is no member of its shard now")
        try:
            return await access.read(replica.driver, forward=replica.number == 0)
        except NotLeaderError:
            raise NotLeaderError(*replica.leader()) from None

    async def set_auth(self, stored: Stored, expected: int) -> int:
        """See ``Operated``."""
        replica = self._leading().replica
        try:
            return await access.change(replica.driver, stored, expected)
        except NotLeaderError:
            raise NotLeaderError(*replica.leader()) from None

    async def _change(self, change: Callable[[Membership], Awaitable[MemberChange]]) -> MemberChange:
        parts = self._leading()
        # The caller may leave; a change that has begun is carried through all the same.
        task = asyncio.ensure_future(change(parts.membership))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(task)
        except NotLeaderError:
            # The leader was deposed meanwhile, and nothing was changed.
            raise NotLeaderError(*parts.replica.leader()) from None

    # Helpers.

    def _running(self) -> RunningParts:
        if self._parts is None:
            raise UnavailableError("the node is starting")
        return self._parts

    def _leading(self) -> RunningParts:
        parts = self._running()
        if not parts.replica.is_leader:
            raise NotLeaderError(*parts.replica.leader())
        return parts

    @staticmethod
    def _leadership(replica: Replica) -> Leadership:
        return Leadership(*replica.leader(), replica.driver.node.term)


def _message(parts: RunningParts, view: MemberView) -> admin_pb2.ShardMember:
    member = view.member
    return admin_pb2.ShardMember(
        name=member.name,
        incarnation=member.incarnation,
        role="voter" if view.voter else "learner",
        leader=view.leader,
        address=parts.addresses.find(member) or "",
        client_address=parts.replica.peers.client_addresses.get(member.name, ""),
        match_index=view.match_index,
        lag=view.lag,
        state=view.state,
        healthy=view.healthy,
    )
