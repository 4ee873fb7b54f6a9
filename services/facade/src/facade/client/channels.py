"""How the facade reaches nodes: gRPC channels, their options each with its reason, and connections of own streams."""

from __future__ import annotations

from collections.abc import Sequence

import grpc.aio

from doug.v1 import doug_pb2
from doug_stream.client import ClientCall, ClientEndpoint, connect
from doug_stream.limits import Limits
from doug_wire import pipe, tls
from doug_wire.tls import Certificates
from facade.discovery.targets import Target
from facade.settings import parse_address

CONNECT_S = 5.0
"""How long a node has for accepting a connection."""

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    # A proxy of the environment must not come between.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", pipe.GRPC_MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", pipe.GRPC_MESSAGE_BYTES_MAX),
    # A node that vanished without closing its connection is noticed, within 3 s when something was sent to it.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A node that returns is found within a second, as long as its name exists: once a name was not found, gRPC looks it
    # up again after pauses of its own, which none of these options limits. ``facade.client.node`` then opens another
    # channel.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]


PIPE = "/doug.v1.Doug/Pipe"
_PIPE_LIMITS = Limits(message_bytes_max=pipe.GRPC_MESSAGE_BYTES_MAX)
# Of a scan a page waits here beside the one that is read, and no more.
_SCAN_LIMITS = Limits(message_bytes_max=pipe.GRPC_MESSAGE_BYTES_MAX, window_bytes=128 << 10)

SCAN_OPTIONS = [
    *CHANNEL_OPTIONS,
    # Windows that grow with the line's speed would hold megabytes of pages that nobody reads.
    ("grpc.http2.bdp_probe", 0),
]


class Channels:
    """Opens the channels to nodes: with TLS if there are certificates."""

    def __init__(self, certificates: Certificates | None = None) -> None:
        self._certificates = certificates

    @property
    def version(self) -> int:
        """A number that grows with every new certificate, since channels of before still use the old one."""
        return 0 if self._certificates is None else self._certificates.version

    def open(self, target: Target, options: Sequence[tuple[str, int]] = CHANNEL_OPTIONS) -> grpc.aio.Channel:
        """A channel to a node; it connects by itself, again and again. Its certificate must carry the target's name."""
        return tls.open_channel(self._certificates, target.address, options, target.name)

    async def open_pipe(self, target: Target) -> ClientCall:
        """A Pipe stream to a node, over a connection of its own; its certificate must carry the target's name.

        Raises:
            CallError: The node is not to be reached.
        """
        endpoint = await self._connect(target, _PIPE_LIMITS)
        call = endpoint.call(PIPE, doug_pb2.Batch.SerializeToString, doug_pb2.BatchResult.FromString)
        call.own_connection()
        return call

    async def open_scans(self, target: Target) -> ClientEndpoint:
        """A connection for all scans of a node; its certificate must carry the target's name.

        Raises:
            CallError: The node is not to be reached.
        """
        return await self._connect(target, _SCAN_LIMITS)

    async def _connect(self, target: Target, limits: Limits) -> ClientEndpoint:
        host, port = parse_address(target.address)
        context = None if self._certificates is None else self._certificates.dialling_context()
        return await connect(host, port, context, name=target.name, limits=limits, timeout_s=CONNECT_S)
