"""The channels to other nodes, and the gRPC options of all channels and servers of a node, each with its reason."""

from __future__ import annotations

import asyncio

import grpc.aio

from doug_wire import tls
from doug_wire.tls import Certificates

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
    # A peer that comes back is reached within a second, as long as its name exists: see ``Dialled.lost``.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A peer that comes back with another address is looked up again soon.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]

CONNECTIONS = "grpc.max_allowed_incoming_connections"
"""The option that bounds a server's connections."""

IDLE = "grpc.max_connection_idle_ms"
"""The option that ends connections on which there was no call for so long."""

SERVER_OPTIONS: list[tuple[str, int]] = [
    *_COMMON,
    # What nobody uses must not take the place of others for ever; a client that comes back connects again by itself.
    (IDLE, 600_000),
    # Two nodes on one port would each get a part of the connections; the second one must fail instead.
    ("grpc.so_reuseport", 0),
    # Pings of a peer that has nothing to say at the moment are welcome: without both of these the server answers them
    # with GOAWAY, too_many_pings.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Without a limit, one connection could have any number of calls wait here. A facade's has a hundred at most.
    ("grpc.max_concurrent_streams", 256),
    # A window that grows by itself takes in megabytes of each call for which nobody waits: see ``requests``.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 16 << 10),
    # The front decides in as much time; gRPC itself would wait for two minutes.
    ("grpc.server_handshake_timeout_ms", 10_000),
]


def open_channel(address: str, certificates: Certificates | None = None) -> grpc.aio.Channel:
    """A channel to ``host:port``; it connects by itself, again and again. Plaintext without certificates."""
    return tls.open_channel(certificates, address, CHANNEL_OPTIONS)


REOPEN_S = 1.0
"""The least time between two channels to a peer that cannot be reached: a connection needs time to come about."""


class Dialled:
    """A channel to one peer that can be opened anew: with newer certificates, or when it does not reach the peer.

    Attributes:
        channel: The present channel.
    """

    def __init__(self, address: str, certificates: Certificates | None) -> None:
        """Opens the first channel."""
        self._address = address
        self._certificates = certificates
        self._version = 0 if certificates is None else certificates.version
        self._closing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._lost = False
        self._opened_s = self._loop.time()
        self.channel = open_channel(address, certificates)

    def lost(self) -> None:
        """Notes that a call did not reach the peer: the next ``renew`` opens another channel, once this one is old.

        A name that did not exist, as that of a pod which is being replaced, is looked up again by gRPC after pauses of
        its own that grow to minutes; a new channel looks it up at once.
        """
        self._lost = True

    def renew(self, grace_s: float) -> None:
        """Opens the channel anew if that helps. Calls under way on the old one are cut off after ``grace_s``."""
        version = 0 if self._certificates is None else self._certificates.version
        outdated = self._lost and self._loop.time() - self._opened_s >= REOPEN_S
        if self._version == version and not outdated:
            return
        old, self._version = self.channel, version
        self._lost, self._opened_s = False, self._loop.time()
        self.channel = open_channel(self._address, self._certificates)
        task = asyncio.create_task(old.close(grace_s))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes the channel."""
        await asyncio.gather(self.channel.close(), *self._closing)
