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
    """The answer of the node at an address; None if it does not answer in time.

    Args:
        address: The Raft address of the node.
        shard: The number of the asker's shard.
        sender: The asker, which is told more if it is a member.
        timeout_s: How long to wait.
        certificates: The certificates for the connection; None for plaintext.
    """
    channel = open_channel(address, certificates)
    try:
        return await ask(channel, shard, sender, timeout_s)
    finally:
        await channel.close()


async def ask(channel: grpc.aio.Channel, shard: int, sender: NodeId, timeout_s: float) -> pb.IdentifyResponse | None:
    """Asks as ``identify`` does, over a channel that the caller keeps."""
    request = pb.IdentifyRequest(shard=shard, sender=sender.name, incarnation=sender.incarnation)
    try:
        return await pb_grpc.RaftStub(channel).Identify(request, timeout=timeout_s)
    except grpc.aio.AioRpcError:
        # The node has not started yet, or cannot be reached; the caller asks again.
        return None
