"""Whether a sender that this node does not know as a member is one: the members that it knows are asked.

A certificate proves a name, and the authority gives names to facades and to nodes of other shards, too. A node that
was away, or is new, does hear of leaders that it does not know (the thesis, 4.1), so that it cannot refuse them all. It
asks those whom it knows by the settings or the configuration, at their own addresses and by their own certificates.

Invariants:

1. Whoever is in no configuration of this node gets in only by the word of a member other than itself. Its own word, at
   the address that this node knows for it, counts only where there is nobody else to ask.
2. A node without members, and without anybody to ask, believes its first leader: it has nothing to lose.
3. Askings at a time and what is remembered are bounded, whoever sends; one certificate has half of them, and one sender
   one, so that nobody who is refused again and again keeps out a leader that is to be asked about, though they share a
   certificate, as the pods of a shard may with a member that was removed.

Source: docs/raft.md, deviation 37.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

from doug.v1 import raft_pb2 as pb
from raft_node.raft.membership import members_of
from raft_node.raft.types import NO_MEMBERS, Configuration, NodeId

Ask = Callable[[str, NodeId], Awaitable[pb.IdentifyResponse | None]]

ASKING_MAX = 4
ASKING_OF_ONE = ASKING_MAX // 2
"""How many of them may be about senders that show one certificate."""
REMEMBERED_MAX = 64


class Vouching:
    """Tells members from other senders, by what this node or its peers know."""

    def __init__(
        self,
        me: NodeId,
        shard: int,
        cluster_id: bytes,
        configurations: Callable[[], tuple[Configuration, Configuration]],
        addresses: Callable[[], Mapping[str, str]],
        ask: Ask,
    ) -> None:
        """Begins without a question to anybody.

        Args:
            me: This node.
            shard: The number of this node's shard.
            cluster_id: The id of this node's cluster.
            configurations: Gives the configuration in force here, and the applied one.
            addresses: Gives the Raft addresses that are worth asking, by name.
            ask: Asks the node at an address whether a sender is a member.
        """
        self._me = me
        self._shard = shard
        self._cluster_id = cluster_id
        self._configurations = configurations
        self._addresses = addresses
        self._ask = ask
        self._asking: dict[NodeId, frozenset[str]] = {}
        """Those about whom the others are being asked, each with the names in its certificate."""
        self._vouched: set[NodeId] = set()
        self._as_of = NO_MEMBERS

    async def is_member(self, sender: NodeId, names: Collection[str]) -> bool:
        """Whether a sender is a member, by what this node knows or its peers tell it now.

        Args:
            sender: Who it says it is.
            names: The names in its certificate.
        """
        current, applied = self._configurations()
        if sender in members_of(current) or sender in members_of(applied):
            return True
        if current != self._as_of:
            self._as_of = current
            self._vouched.clear()
        if sender in self._vouched:
            return True
        known = self._addresses()
        asked = [address for name, address in known.items() if name not in (self._me.name, sender.name)]
        if not asked and sender.name in known:
            asked = [known[sender.name]]
        if not asked:
            return current == NO_MEMBERS
        certificate = frozenset(names)
        of_one = sum(each == certificate for each in self._asking.values())
        if sender in self._asking or of_one >= ASKING_OF_ONE or len(self._asking) >= ASKING_MAX:
            return False  # The sender asks again.
        self._asking[sender] = certificate
        try:
            answers = await asyncio.gather(*(self._ask(address, sender) for address in asked))
        finally:
            del self._asking[sender]
        if self._configurations()[0] != current:
            return False  # The answers may be older than the change, as one that removed it. The sender asks again.
        if not any(self._vouches(answer) for answer in answers):
            return False
        if len(self._vouched) >= REMEMBERED_MAX:
            self._vouched.clear()
        self._vouched.add(sender)
        return True

    def _vouches(self, answer: pb.IdentifyResponse | None) -> bool:
        return (
            answer is not None
            and answer.shard == self._shard
            and answer.cluster_id == self._cluster_id
            and answer.standing == pb.STANDING_MEMBER
        )
