"""Keep-alive pings: what clients of a gRPC port send, its server permits.

A server that gets more pings than it permits ends the connection with GOAWAY, too_many_pings.
"""

from __future__ import annotations

import pytest

from facade.client import channels as facade_channels
from raft_node.rpc import channels as node_channels

SERVER = dict(node_channels.SERVER_OPTIONS)
CLIENTS = {"node": dict(node_channels.CHANNEL_OPTIONS), "facade": dict(facade_channels.CHANNEL_OPTIONS)}


@pytest.mark.parametrize("client", CLIENTS)
def test_every_ping_of_a_node_or_facade_is_permitted(client: str) -> None:
    options = CLIENTS[client]
    assert SERVER["grpc.keepalive_permit_without_calls"] == 1
    assert SERVER["grpc.http2.min_ping_interval_without_data_ms"] <= options["grpc.keepalive_time_ms"] / 2
    assert options["grpc.http2.max_pings_without_data"] == 0, "the client sends as many as it likes"
