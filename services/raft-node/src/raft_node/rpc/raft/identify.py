"""Asks a node who it is, whatever state it is in: the one question that needs no envelope."""

from __future__ import annotations

import grpc
import grpc.aio

from doug.v1 import raft_pb2 as pb
from doug.v1 import raft_pb2_grpc as pb_grpc
from doug_wire.tls import Certificates
from raft_node.raft.types import NodeId
from raft_node.rpc.channels import open_channel


async def identify(
    address: str, shard: int, sender: NodeId, timeout_s: float, certificates: Certificates | None = None
) -> pb.IdentifyResponse | None:
    """What the node at an address answers; None when it does not in time.

    Args:
        address: Its Raft address.
        shard: The asker's shard.
        sender: The asker, by whose standing it is told more or less.
        timeout_s: How long to wait.
        certificates: For the connection; plaintext without.
    """
    channel = open_channel(address, certificates)
    try:
        return await ask(channel, shard, sender, timeout_s)
    finally:
        await channel.close()


async def ask(channel: grpc.aio.Channel, shard: int, sender: NodeId, timeout_s: float) -> pb.IdentifyResponse | None:
    """The same on a channel that is kept."""
    request = pb.IdentifyRequest(shard=shard, sender=sender.name, incarnation=sender.incarnation)
    try:
        return await pb_grpc.RaftStub(channel).Identify(request, timeout=timeout_s)
    except grpc.aio.AioRpcError:
        # It has not started yet, or is not to be reached; whoever wants to know asks again.
        return None
