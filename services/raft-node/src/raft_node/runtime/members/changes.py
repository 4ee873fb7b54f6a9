"""Changes of a shard's members, as its leader makes them: one at a time, learners first, promoted once caught up.

The rules of a change are the core's (``raft_node.raft.membership``); this adds what the core cannot know: who really
answers at an address, and whether the members that stay could go on without the one that goes. It keeps nothing: a
new leader finds all it needs in the configuration, and goes on promoting.

Invariants:
1. A member is admitted under the incarnation that the process at its address has just told, and as a learner.
2. A voter is removed only if a majority of those that stay was heard lately, unless the operator insists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, Protocol

from doug_wire.pipe import Status
from raft_node.errors import (
    AlreadyMemberError,
    ChangeUnderWayError,
    DougError,
    LastVoterError,
    NoSuchMemberError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    QuorumAtRiskError,
    RefusedError,
    SupersededError,
    UnreachableError,
    WrongNodeError,
)
from raft_node.kv.operations.work import Details
from raft_node.raft.membership import members_of, with_learner, with_voter, without
from raft_node.raft.node import RaftNode
from raft_node.raft.quorum import majority
from raft_node.raft.types import NO_MEMBERS, Configuration, NodeId
from raft_node.runtime.events import Recorder
from raft_node.runtime.members.advice import replace_command
from raft_node.runtime.writes.proposals import Sink


class Identified(NamedTuple):
    """The node that answers at an address; its ``cluster_id`` is empty before it belongs to a cluster."""

    member: NodeId
    shard: int
    cluster_id: str


Identify = Callable[[str], Awaitable[Identified | None]]
"""Asks the node at a Raft address who it is; None if there is no answer."""


class Proposer(Protocol):
    """The driver as this module sees it."""

    @property
    def node(self) -> RaftNode:
        """The core."""

    @property
    def holding(self) -> bool:
        """Whether leadership is about to move."""

    def change_members(self, configuration: Configuration, sink: Sink) -> tuple[int, int]:
        """See ``Driver``."""


class MemberView(NamedTuple):
    """A member as the leader sees it.

    Attributes:
        member: The member's name and incarnation.
        voter: Whether the member counts for a quorum.
        leader: Whether the member is the leader itself.
        match_index: The last entry up to which its log is known to be the leader's.
        lag: How many entries of the leader's log lie behind ``match_index``.
        state: How entries are sent to the member; empty for the leader.
        healthy: Whether the leader heard the member within the longest election timeout.
    """

    member: NodeId
    voter: bool
    leader: bool
    match_index: int
    lag: int
    state: str
    healthy: bool


class MemberChange(NamedTuple):
    """A change that has come to stay; ``removed`` is the incarnation that made place for a new one, or 0."""

    member: NodeId
    removed: int
    entry_index: int
    term: int


class _Result:
    """Takes the outcome of a proposal into a future."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        """See ``Sink``."""
        if not self.status.done():
            self.status.set_result(status)


def _named(configuration: Configuration, name: str) -> NodeId | None:
    return next((member for member in members_of(configuration) if member.name == name), None)


class Membership:
    """Lists and changes the members for operators, and promotes learners."""

    def __init__(
        self,
        driver: Proposer,
        shard: int,
        cluster_id: str,
        identify: Identify,
        configured: Mapping[str, str],
        check_address: Callable[[str], None] = lambda address: None,
    ) -> None:
        """Ties the parts together.

        Args:
            driver: The running loop.
            shard: The shard's number.
            cluster_id: The cluster that new members must belong to, if they belong to any.
            identify: Asks who is at an address.
            configured: The addresses of the settings by name, which win over any other.
            check_address: Raises ``ConfigurationRefusedError`` for an address that this node must not speak to.
        """
        self._driver = driver
        self._shard = shard
        self._cluster_id = cluster_id
        self._identify = identify
        self._configured = configured
        self._check_address = check_address

    def views(self) -> list[MemberView]:
        """All members, voters first.

        Raises:
            NotLeaderError: Another node leads, or none.
        """
        core = self._leading()
        configuration = core.configuration
        return [
            _view(core, member, voter=voter)
            for members, voter in ((configuration.voters, True), (configuration.learners, False))
            for member in sorted(members)
        ]

    @property
    def changing(self) -> bool:
        """Whether the newest change is not committed yet."""
        core = self._driver.node
        return core.configuration_index > core.commit_index

    async def add(self, name: str, address: str, incarnation: int = 0) -> MemberChange:
        """Admits the node at an address as a learner; returns once that is committed.

        Args:
            name: The node's name.
            address: The node's Raft address.
            incarnation: The node's incarnation, or 0; needed for a node that belongs to no cluster yet.

        Raises:
            NotLeaderError: Another node leads, or none.
            ConfigurationRefusedError: The node cannot be admitted, or not now; the class says why. Nothing was changed.
            SupersededError: A new leader has cut the change off.
            OutcomeUnknownError: Nobody can tell whether the change will come to stay.
        """
        core = self._leading()
        known = _named(core.configuration, name)
        found = await self._find(name, address, incarnation)
        core = self._leading()
        if known is not None and known == found:
            raise AlreadyMemberError(f"{name} is a member already, with incarnation {known.incarnation}")
        if known is not None:
            raise AlreadyMemberError(
                f"{name} is a member with incarnation {known.incarnation}, and the node at {address} has "
                f"{found.incarnation}: run {replace_command(name, self._shard)} to admit that one in its place"
            )
        index, term = await self._change(with_learner(core.configuration, found, address))
        return MemberChange(found, 0, index, term)

    async def remove(self, name: str, *, force: bool) -> MemberChange:
        """Removes a member; returns once that is committed. Raises what ``add`` does.

        Args:
            name: The member to remove.
            force: Whether to do it even if the others cannot form a healthy quorum now.
        """
        core = self._leading()
        member = _named(core.configuration, name)
        if member is None:
            raise NoSuchMemberError(f"shard {self._shard} has no member {name}")
        self._check_removal(core, member, force=force)
        index, term = await self._change(without(core.configuration, member))
        return MemberChange(member, 0, index, term)

    async def replace(self, name: str, address: str, *, force: bool, incarnation: int = 0) -> MemberChange:
        """Admits a node's new incarnation in place of the one that is a member. Raises what ``add`` does.

        Args:
            name: The member whose disk was wiped or replaced.
            address: The node's Raft address; empty for that of the old incarnation.
            force: Whether to do it even if the others cannot form a healthy quorum now.
            incarnation: As for ``add``.
        """
        core = self._leading()
        address = address or self._configured.get(name) or dict(core.configuration.addresses).get(name, "")
        if not address:
            raise NoSuchMemberError(f"no address of {name} is known: say where it is")
        found = await self._find(name, address, incarnation)
        core = self._leading()
        old = _named(core.configuration, name)
        if old == found:
            raise AlreadyMemberError(
                f"{name} is a member with just this incarnation, {found.incarnation}: its disk is the old one, and "
                f"there is nothing to replace"
            )
        if old is not None:
            self._check_removal(core, old, force=force)
            await self._change(without(core.configuration, old))
        try:
            index, term = await self._change(with_learner(self._leading().configuration, found, address))
        except DougError as error:
            if old is None:
                raise
            raise OutcomeUnknownError(
                f"incarnation {old.incarnation} of {name} was removed, and it is not certain that {found.incarnation} "
                f"was admitted ({error}): run {replace_command(name, self._shard)} again"
            ) from error
        return MemberChange(found, old.incarnation if old is not None else 0, index, term)

    def promote(self) -> None:
        """Makes a learner that has caught up a voter; called now and then on every node."""
        core, driver = self._driver.node, self._driver
        leadership = core.leadership
        if leadership is None or not leadership.established or self.changing or driver.holding:
            return
        for learner in core.configuration.learners:
            if leadership.caught_up(learner) and core.hears(learner):
                try:
                    driver.change_members(with_voter(core.configuration, learner), _Result())
                except RefusedError:
                    # Leadership is on its way to another node, which will do it.
                    return
                return

    def _leading(self) -> RaftNode:
        core = self._driver.node
        if core.leadership is None:
            raise NotLeaderError(core.leader.name if core.leader is not None else "")
        return core

    async def _find(self, name: str, address: str, incarnation: int) -> NodeId:
        configured = self._configured.get(name)
        if configured is not None and configured != address:
            raise WrongNodeError(
                f"the settings of {self._driver.node.id.name} (DOUGDB_PEERS) say that {name} is at {configured}, which "
                f"wins over {address}"
            )
        self._check_address(address)
        found = await self._identify(address)
        if found is None:
            raise UnreachableError(f"nobody answers at {address}: the node has to run before it can be admitted")
        if (found.member.name, found.shard) != (name, self._shard):
            raise WrongNodeError(
                f"at {address} is {found.member.name} of shard {found.shard}, not {name} of shard {self._shard}"
            )
        if found.cluster_id not in ("", self._cluster_id):
            raise WrongNodeError(f"the node at {address} belongs to another cluster, {found.cluster_id}")
        if incarnation not in (0, found.member.incarnation):
            raise WrongNodeError(f"the node at {address} has another incarnation, {found.member.incarnation}")
        if not found.cluster_id and not incarnation:
            # Any node can claim a name. A node with the members' addresses in its settings knows their cluster by now.
            raise WrongNodeError(
                f"the node at {address} belongs to no cluster yet, so that its name alone proves nothing: ask for it "
                f"by its incarnation too, which its log says (bootstrap.waiting)"
            )
        return found.member

    @staticmethod
    def _check_removal(core: RaftNode, member: NodeId, *, force: bool) -> None:
        voters = core.configuration.voters
        if member not in voters:
            return
        rest = [voter for voter in voters if voter != member]
        if not rest:
            raise LastVoterError(f"{member.name} is the last voter")
        healthy = [voter.name for voter in rest if core.hears(voter)]
        if len(healthy) < majority(len(rest)) and not force:
            silent = ", ".join(voter.name for voter in rest if not core.hears(voter))
            raise QuorumAtRiskError(
                f"without {member.name}, {majority(len(rest))} of {len(rest)} voters would be needed, and {silent} "
                f"cannot be heard now"
            )

    async def _change(self, wanted: Configuration) -> tuple[int, int]:
        if self.changing:
            raise ChangeUnderWayError("the change before is not committed yet")
        if self._driver.holding:
            raise ChangeUnderWayError("leadership is being handed over")
        core = self._leading()
        if core.leadership is not None and not core.leadership.established:
            raise ChangeUnderWayError("the leader is new, and has committed nothing of its term yet")
        result = _Result()
        try:
            index, term = self._driver.change_members(wanted, result)
        except OverloadedError as error:
            raise ChangeUnderWayError(str(error)) from error
        status = await result.status
        if status == Status.OK:
            return index, term
        if status == Status.NOT_APPLIED:
            raise SupersededError("a new leader has cut the change off; nothing was changed")
        raise OutcomeUnknownError("the change was proposed, and it is not known yet whether it has come to stay")


def _view(core: RaftNode, member: NodeId, *, voter: bool) -> MemberView:
    last = core.last_index
    if member == core.id:
        return MemberView(member, voter, True, last, 0, "", True)
    assert core.leadership is not None
    progress = core.leadership.progress[member]
    return MemberView(
        member,
        voter,
        False,
        progress.match_index,
        last - progress.match_index,
        progress.state.value,
        core.hears(member),
    )


class MemberEvents:
    """Tells the timeline what each committed configuration changed."""

    def __init__(self, configuration: Configuration, record: Recorder) -> None:
        """Begins with the applied configuration."""
        self._configuration = configuration
        self._record = record

    def committed(self, configuration: Configuration) -> None:
        """Notes the members that were added, promoted or removed, but no changes that a new node only replays."""
        before, self._configuration = self._configuration, configuration
        if before == NO_MEMBERS:
            return
        for member in sorted(members_of(configuration) - members_of(before)):
            self._record("member_added", member=member.name, incarnation=member.incarnation)
        for member in sorted(set(configuration.voters) & set(before.learners)):
            self._record("member_promoted", member=member.name, incarnation=member.incarnation)
        for member in sorted(members_of(before) - members_of(configuration)):
            self._record("member_removed", member=member.name, incarnation=member.incarnation)


__all__ = ["Identified", "MemberChange", "MemberEvents", "MemberView", "Membership"]
