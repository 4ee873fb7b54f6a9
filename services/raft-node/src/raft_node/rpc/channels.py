"""The gRPC options that every channel and server of a node shares, each with its reason."""

from __future__ import annotations

import grpc.aio

MESSAGE_BYTES_MAX = 8 << 20

_COMMON: list[tuple[str, int]] = [
    # Above the largest batch (1 MiB of records or one entry), far below what could exhaust a node.
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A peer that vanished without closing its connection is noticed within 13 s at the latest.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
]

CHANNEL_OPTIONS: list[tuple[str, int]] = [
    *_COMMON,
    # Proxy variables of the environment are meant for the web, not for the peers of a cluster.
    ("grpc.enable_http_proxy", 0),
    # A peer that comes back is reached within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A peer that comes back with another address is looked up again at once.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]

SERVER_OPTIONS: list[tuple[str, int]] = [
    *_COMMON,
    # Two nodes on one port would each get a part of the connections; the second one must fail instead.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
]


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to ``host:port``; it connects by itself, again and again."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
