"""The replica as the client-facing services see it: one object with what they ask for, and the refusals they share."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from typing import NamedTuple

from doug.v1 import doug_pb2 as pb
from doug_wire.pipe import Status
from raft_node.kv.keyspace import StoredValue
from raft_node.raft.types import Role
from raft_node.rpc.raft.peers import Peers
from raft_node.runtime.driver import Driver
from raft_node.runtime.reads.freshness import Freshness
from raft_node.runtime.reads.reader import Reader
from raft_node.runtime.reads.watches import Watches


class LeaderHint(NamedTuple):
    """The leader that this node follows; empty strings while it knows none."""

    id: str
    address: str


class Replica:
    """The running replica of this node, as the services use it."""

    def __init__(
        self,
        node_id: str,
        number: int,
        driver: Driver,
        reader: Reader,
        peers: Peers,
        watches: Watches,
        freshness: Freshness,
        zone: str = "",
    ) -> None:
        """Ties the parts together.

        Args:
            node_id: This node's name.
            number: The shard's number.
            driver: Proposes writes and confirms reads.
            reader: Looks values up.
            peers: Knows the leader's Doug address.
            watches: The watches that are open.
            freshness: Knows how old the applied state can be.
            zone: The zone in which this node runs; empty when the settings name none.
        """
        self.node_id = node_id
        self.number = number
        self.driver = driver
        self.reader = reader
        self.peers = peers
        self.watches = watches
        self.freshness = freshness
        self.zone = zone
        self.is_known_member: Callable[[], bool] = lambda: True

    @property
    def is_leader(self) -> bool:
        """Whether this node leads."""
        return self.driver.node.role is Role.LEADER

    @property
    def takes_requests(self) -> bool:
        """Whether the replica takes requests for the leader: it leads, or will soon be able to say who does."""
        return self.is_leader or self.driver.holding

    @property
    def serves_local_reads(self) -> bool:
        """Whether local reads may be served: a node that left the shard would answer with the past.

        An old disk that comes back under its old name still holds itself for a member; its peers know better.
        """
        return self.driver.machine.created and self.driver.node.is_member and self.is_known_member()

    def leader(self) -> LeaderHint:
        """The leader that this node follows, which may be itself."""
        leader = self.driver.node.leader
        if leader is None:
            return LeaderHint("", "")
        return LeaderHint(leader.name, self.peers.client_addresses.get(leader.name, ""))

    def receipt(self, proven_s: float = -inf) -> pb.Receipt:
        """The receipt that goes with answers: which node answers, and how far it has applied its log.

        Args:
            proven_s: The stamp of the proof of how old the answer can be; minus infinity without a proof.
        """
        node = self.driver.node
        receipt = pb.Receipt(
            node_id=self.node_id,
            shard=self.number,
            term=node.term,
            applied_index=self.driver.applied_index,
            role=node.role.value,
            zone=self.zone,
            generation=self.driver.machine.generation,
        )
        if proven_s > -inf:
            receipt.staleness_ms = ceil(1000 * max(0.0, self.freshness.age_s(proven_s)))
        return receipt


def has_run_out(replica: Replica, found: StoredValue | Status | None) -> bool:
    """Whether a value has expired by this leader's clock, though not yet by the log's.

    A linearizable read must not answer it before the log clock was moved on. A node that follows judges by the log
    alone: its leader moved the log clock on before it confirmed the read, and its own clock is nobody's.
    """
    if not isinstance(found, StoredValue) or not found.expires_us or not replica.is_leader:
        return False
    return found.expires_us <= replica.driver.now_us()


def clock_stands(replica: Replica) -> Status:
    """The refusal of a read for which the log clock could not be moved.

    A leader that is only overloaded, or holds entries back, still leads: facades must not look for another one.
    """
    return Status.UNAVAILABLE if replica.is_leader else Status.NOT_LEADER
