"""This node as its peers know it: the envelope of every message to them, and the check of theirs.

Must not know connections. Invariant: nothing of a message is kept before somebody has said that its sender is who it
says (``heard``), and what is kept is bounded.
"""

from __future__ import annotations

from doug.v1 import raft_pb2 as pb
from raft_node.raft.types import NodeId
from raft_node.rpc.raft import codec
from raft_node.rpc.raft.codec import MessageError

ADDRESS_CHARACTERS_MAX = 300
"""The longest address that is kept: the longest name of a host, with a port."""
_ADDRESSES_MAX = 64
"""The number of members whose Doug addresses are kept: more than a shard has while members come and go."""


class LocalMember:
    """This node as its peers know it: makes the envelopes of its messages, and checks those of others.

    Attributes:
        client_addresses: The Doug addresses by name: this node's own, and those that peers told of themselves.
    """

    def __init__(self, node_id: NodeId, cluster_id: bytes, shard: int, client_address: str) -> None:
        """Takes the fields that are the same in all envelopes."""
        self.node_id = node_id
        self.cluster_id = cluster_id
        self.shard = shard
        self.client_address = client_address
        self.client_addresses = {node_id.name: client_address}

    def envelope(self, peer: NodeId) -> pb.Envelope:
        """The envelope of every message to a peer."""
        return pb.Envelope(
            cluster_id=self.cluster_id,
            shard=self.shard,
            sender=pb.Member(name=self.node_id.name, incarnation=self.node_id.incarnation),
            receiver=pb.Member(name=peer.name, incarnation=peer.incarnation),
            format_version=codec.FORMAT_VERSION,
            client_address=self.client_address,
        )

    def check(self, envelope: pb.Envelope) -> NodeId:
        """Checks that a message is for this node; returns its sender.

        Raises:
            MessageError: The message is from another cluster or shard, for another incarnation, or of an unknown
                format.
        """
        source = codec.sender(envelope)
        if envelope.cluster_id != self.cluster_id or envelope.shard != self.shard:
            raise MessageError(f"{source.name} belongs to another cluster or shard")
        if codec.receiver(envelope) != self.node_id:
            raise MessageError(
                f"{source.name} speaks to {envelope.receiver.name} of incarnation {envelope.receiver.incarnation}, "
                f"which is not this node, {self.node_id.name} of {self.node_id.incarnation}"
            )
        if envelope.format_version > codec.FORMAT_VERSION:
            raise MessageError(f"{source.name} speaks format {envelope.format_version}, which is newer than this node")
        return source

    def heard(self, envelope: pb.Envelope) -> None:
        """Keeps the Doug address of a message's sender. Requires: the message was checked, and the sender is proven."""
        address, known = envelope.client_address, self.client_addresses
        if not address or known.get(envelope.sender.name) == address or envelope.sender.name == self.node_id.name:
            return
        if len(address) > ADDRESS_CHARACTERS_MAX:
            return
        known.pop(envelope.sender.name, None)  # The node that was heard last is dropped last.
        known[envelope.sender.name] = address
        if len(known) > _ADDRESSES_MAX:
            del known[next(name for name in known if name != self.node_id.name)]
