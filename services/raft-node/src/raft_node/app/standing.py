"""Whether this node is a member, as its peers know it: why it waits, and what an operator can do about it.

A node that starts with an empty disk after the shard was made is no member, whatever its name: nothing of what an
earlier disk had promised is known to it. It stays, answers who it is, and takes no part until a leader admits it. The
same holds for a node that was removed, and for an old disk whose name was given to another one meanwhile.

Must not know the core beyond its configuration. Nothing here decides anything: it only says what is the case.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from doug.v1 import raft_pb2 as pb
from doug_wire.tls import Certificates
from raft_node.observability.logs import get_logger
from raft_node.raft.membership import members_of
from raft_node.raft.types import NO_MEMBERS, Configuration, NodeId
from raft_node.rpc.raft.identify import identify
from raft_node.runtime.events import Recorder
from raft_node.runtime.members.advice import add_command, replace_command

ASK_EVERY_S = 1.0
_CALL_TIMEOUT_S = 0.5

_log = get_logger()


class Verdict(NamedTuple):
    """What a configuration makes of a node: the name of the event and its text; both empty for a member."""

    event: str
    reason: str


MEMBER = Verdict("", "")


def verdict(configuration: Configuration, me: NodeId, shard: int, address: str = "") -> Verdict:
    """The verdict of a configuration on this node; ``address`` is its Raft address, as far as it is known."""
    known = next((member for member in members_of(configuration) if member.name == me.name), None)
    if known == me:
        return MEMBER
    standing = pb.STANDING_NO_MEMBER if known is None else pb.STANDING_OTHER_INCARNATION
    return told(pb.IdentifyResponse(standing=standing), me, shard, address)


def told(answer: pb.IdentifyResponse, me: NodeId, shard: int, address: str = "") -> Verdict:
    """The verdict in a member's answer about this node. Requires: the answer has one."""
    if answer.standing == pb.STANDING_MEMBER:
        return MEMBER
    if answer.standing == pb.STANDING_NO_MEMBER:
        return Verdict("join_waiting", f"not a member of shard {shard}; run {add_command(me.name, shard, address)}")
    return Verdict(
        "incarnation_refused",
        f"{me.name} is a member of shard {shard} with another incarnation than this disk's, {me.incarnation}: the disk "
        f"was wiped or replaced; run {replace_command(me.name, shard)} to admit it anew",
    )


def newest(
    answers: Iterable[pb.IdentifyResponse], shard: int, cluster_id: bytes, since: int = 0
) -> pb.IdentifyResponse | None:
    """The answer of the member that has applied the most, at least ``since``; None if there is none."""
    found, reached = None, since - 1
    for answer in answers:
        known = answer.standing in (pb.STANDING_MEMBER, pb.STANDING_NO_MEMBER, pb.STANDING_OTHER_INCARNATION)
        if known and answer.shard == shard and answer.cluster_id == cluster_id and answer.applied_index > reached:
            found, reached = answer, answer.applied_index
    return found


class Standing:
    """Asks the peers while this node is no member, or hears no leader.

    Attributes:
        reason: Why this node is not ready; empty while nothing speaks against it.
        is_member: Whether this node is a member: as its peers know it, or by its own log if none of them knows better.
    """

    def __init__(
        self,
        me: NodeId,
        shard: int,
        cluster_id: bytes,
        configuration: Callable[[], tuple[Configuration, int]],
        has_leader: Callable[[], bool],
        addresses: Callable[[], Mapping[str, str]],
        record: Recorder,
        certificates: Certificates | None = None,
    ) -> None:
        """Begins without a question to anybody.

        Args:
            me: This node.
            shard: The number of this node's shard.
            cluster_id: The id of its cluster.
            configuration: Gives the configuration in force here, and the index that a better answer must have applied.
            has_leader: Tells whether this node knows a leader.
            addresses: Gives the Raft addresses that are worth asking, by name.
            record: Notes what happened.
            certificates: The certificates for connections to peers; None for plaintext.
        """
        self._certificates = certificates
        self._me = me
        self._shard = shard
        self._cluster_id = cluster_id
        self._configuration = configuration
        self._has_leader = has_leader
        self._addresses = addresses
        self._record = record
        self._told = MEMBER
        self.reason = ""
        self.is_member = False

    @property
    def is_waiting(self) -> bool:
        """Whether this node is known to be no member, and waits to be admitted."""
        return self._told != MEMBER

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(ASK_EVERY_S)

    async def look(self) -> None:
        """Finds out once how this node stands."""
        own, since = self._configuration()
        is_member = self._me in members_of(own)
        if is_member and self._has_leader():
            self._tell(MEMBER)
            return
        known_addresses = self._addresses()
        addresses = [address for name, address in known_addresses.items() if name != self._me.name]
        answers = await asyncio.gather(
            *(identify(address, self._shard, self._me, _CALL_TIMEOUT_S, self._certificates) for address in addresses)
        )
        known = newest((answer for answer in answers if answer is not None), self._shard, self._cluster_id, since)
        if known is None and own == NO_MEMBERS:
            self._tell(Verdict("join_waiting", f"no member of shard {self._shard} answers"))
        else:
            own_address = known_addresses.get(self._me.name, "")
            self._tell(
                verdict(own, self._me, self._shard, own_address)
                if known is None
                else told(known, self._me, self._shard, own_address)
            )

    def _tell(self, found: Verdict) -> None:
        # An admitted node that has no log yet waits for it no longer than a node without a leader.
        self.reason = found.reason
        self.is_member = found == MEMBER
        if found == self._told:
            return
        self._told = found
        if found == MEMBER:
            _log.info("standing.member")
            self._record("joined", incarnation=self._me.incarnation)
        else:
            _log.warning(f"standing.{found.event}", reason=found.reason)
            self._record(found.event, reason=found.reason)
