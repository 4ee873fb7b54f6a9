"""Which calls the node serves and makes as own streams: the few that carry the load.

Must not know what they say. Source: docs/adr/0009-a-stream-of-our-own.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from doug.v1 import doug_pb2, raft_pb2
from doug_stream.client import ClientCall, open_call
from doug_stream.codes import StatusCode
from doug_stream.endpoint import Decode
from doug_stream.errors import CallError
from doug_wire.tls import Certificates
from raft_node.settings import parse_address

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class HotStream(NamedTuple):
    """A method that answers by a stream.

    Attributes:
        path: Of the method, as gRPC writes it.
        decode_request: Makes a request of bytes.
        decode_answer: Makes an answer of bytes.
        asks_once: Whether it takes one request, and no stream of them.
    """

    path: str
    decode_request: Decode
    decode_answer: Decode
    asks_once: bool = False


REPLICATE = HotStream(
    "/doug.v1.Raft/Replicate", raft_pb2.AppendEntriesRequest.FromString, raft_pb2.AppendEntriesResponse.FromString
)
HEARTBEAT = HotStream(
    "/doug.v1.Raft/Heartbeat", raft_pb2.HeartbeatRequest.FromString, raft_pb2.HeartbeatResponse.FromString
)
READ_INDEX = HotStream(
    "/doug.v1.Raft/ReadIndex", raft_pb2.ReadIndexRequest.FromString, raft_pb2.ReadIndexResponse.FromString
)
PIPE = HotStream("/doug.v1.Doug/Pipe", doug_pb2.Batch.FromString, doug_pb2.BatchResult.FromString)
SCAN = HotStream("/doug.v1.Doug/Scan", doug_pb2.ScanRequest.FromString, doug_pb2.ScanPage.FromString, asks_once=True)


def encode(message: Any) -> bytes:
    """The bytes of any message."""
    encoded: bytes = message.SerializeToString()
    return encoded


async def dial(address: str, stream: HotStream, certificates: Certificates | None) -> ClientCall:
    """Opens a stream over a connection of its own, with the newest certificates; plaintext without.

    Raises:
        CallError: The peer cannot be reached.
    """
    try:
        host, port = parse_address(address)
    except ValueError as error:
        raise CallError(StatusCode.UNAVAILABLE, str(error)) from error
    context = None if certificates is None else certificates.dialling_context()
    return await open_call(host, port, stream.path, encode, stream.decode_answer, context)
