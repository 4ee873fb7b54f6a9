"""The parts of a node that have to do with members: changes, its own standing, what peers are told, unfit leaders.

It ties the parts together; each of them is described where it is. A node whose disk has forgotten what it had
acknowledged ends here too: only the leader can say what that was, and it is asked at its own address, so that nobody
else can make a node give its volumes up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from doug.v1 import raft_pb2 as pb
from raft_node.app.context import Context
from raft_node.app.standing import Standing
from raft_node.app.unfit_leader import CALL_TIMEOUT_S, UnfitLeader
from raft_node.observability.logs import get_logger
from raft_node.raft.ready import Event
from raft_node.raft.types import NodeId
from raft_node.rpc.raft.addresses import AddressBook
from raft_node.rpc.raft.identify import identify
from raft_node.rpc.raft.service import RaftService
from raft_node.rpc.raft.vouching import Vouching
from raft_node.runtime.driver import Driver
from raft_node.runtime.members.changes import Identified, MemberEvents, Membership
from raft_node.runtime.members.identity import Identity

_IDENTIFY_TIMEOUT_S = 2.0
VOUCH_TIMEOUT_S = 0.5
"""How long a peer's answer about a sender is waited for: less than for a vote."""

_log = get_logger()


class Members:
    """The parts of one node that have to do with members.

    Attributes:
        membership: Changes the members for operators.
        standing: Whether this node is a member, as its peers know it.
        unfit: Moves leadership away when this node should not lead.
    """

    def __init__(
        self,
        context: Context,
        identity: Identity,
        driver: Driver,
        book: AddressBook,
        on_lost: Callable[[int, int], None],
    ) -> None:
        """Builds the parts; ``duties`` run them.

        Args:
            context: The node's surroundings.
            identity: The node's identity.
            driver: The running loop.
            book: The addresses of members.
            on_lost: Called if the disk has certainly lost entries: with the last acknowledged one, and the last of the
                log.
        """
        settings, security, record = context.settings, context.security, context.timeline.record
        space = context.space
        self._shard = settings.shard_id
        self._driver = driver
        self._book = book
        self._certificates = security.certificates
        self._disk_low: Callable[[], bool] = lambda: space.low
        self._on_lost = on_lost
        self._checking: asyncio.Task[None] | None = None
        core = driver.node
        self._me = core.id
        self.membership = Membership(
            driver,
            settings.shard_id,
            identity.cluster_id,
            self._who_is,
            settings.peer_addresses,
            security.check_address,
        )
        self._events = MemberEvents(core.applied_configuration, record)
        self.standing = Standing(
            core.id,
            settings.shard_id,
            identity.cluster_id.encode(),
            lambda: (core.configuration, max(core.configuration_index, core.applied_index)),
            lambda: core.leader is not None,
            book.all,
            record,
            security.certificates,
        )
        self._vouching = Vouching(
            core.id,
            settings.shard_id,
            identity.cluster_id.encode(),
            lambda: (core.configuration, core.applied_configuration),
            book.all,
            self._ask_about,
        )
        self.unfit = UnfitLeader(driver, self._disk_low, book.find, self._ask, settings.drain_timeout_ms / 1000)

    def tell(self, service: RaftService) -> None:
        """Has the Raft service tell other nodes how this node stands."""
        core = self._driver.node
        service.members = lambda: (core.applied_configuration, core.applied_index)
        service.disk_low = self._disk_low
        service.stalled = lambda: self.unfit.stalled
        service.acknowledged = self._acknowledged
        service.address_of = self._book.find
        service.is_member = self._vouching.is_member

    def duties(self) -> list[Coroutine[Any, Any, None]]:
        """The coroutines that run for as long as the node does."""
        return [self.standing.run(), self.unfit.run()]

    def heard(self, event: Event) -> None:
        """Takes an event of the core."""
        if event.name == "configuration_committed":
            self._events.committed(self._driver.node.configuration)
        elif event.name == "log_lost" and self._checking is None:
            acknowledged = event.fields["acknowledged"]
            assert isinstance(acknowledged, int)
            self._checking = asyncio.create_task(self._check_loss(acknowledged))
            self._checking.add_done_callback(self._checked)

    async def close(self) -> None:
        """Ends the work that is under way."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)

    async def _who_is(self, address: str) -> Identified | None:
        found = await self._ask(address, _IDENTIFY_TIMEOUT_S)
        if found is None:
            return None
        member = NodeId(found.member.name, found.member.incarnation)
        return Identified(member, found.shard, found.cluster_id.decode())

    async def _ask(self, address: str, timeout_s: float = CALL_TIMEOUT_S) -> pb.IdentifyResponse | None:
        return await identify(address, self._shard, self._me, timeout_s, self._certificates)

    async def _ask_about(self, address: str, sender: NodeId) -> pb.IdentifyResponse | None:
        return await identify(address, self._shard, sender, VOUCH_TIMEOUT_S, self._certificates)

    def _acknowledged(self, member: NodeId) -> int:
        leadership = self._driver.node.leadership
        progress = None if leadership is None else leadership.progress.get(member)
        return 0 if progress is None else progress.match_index

    async def _check_loss(self, claimed: int) -> None:
        """Asks the leader itself whether this node had acknowledged more than it has, as a message has claimed."""
        core = self._driver.node
        leader = core.leader
        address = None if leader is None else self._book.find(leader)
        answer = None if address is None else await self._ask(address)
        acknowledged = 0 if answer is None else answer.acknowledged
        if acknowledged > core.last_index:
            self._on_lost(acknowledged, core.last_index)
        else:
            _log.warning("raft.loss_not_confirmed", claimed=claimed, acknowledged=acknowledged)

    def _checked(self, task: asyncio.Task[None]) -> None:
        self._checking = None
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
