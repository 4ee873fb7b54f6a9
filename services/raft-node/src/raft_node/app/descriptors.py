"""How many file descriptors each listener of a node may take, and a warning when few are left.

Files come first: a node without a descriptor for a table or a segment can do nothing, while a connection can be made
again. So half of the limit is kept for files, and silent strangers at a port cannot end a node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from doug_wire import descriptors
from raft_node.observability.logs import get_logger

LOOK_EVERY_S = 5.0
NEAR = 0.8
CONNECTIONS_MAX = 4096

_log = get_logger()


class Shares(NamedTuple):
    """The descriptors of connections, by port."""

    peers: int
    clients: int
    admin: int


def shares(limit: int) -> Shares:
    """The descriptors that each port may take, out of a limit."""
    return Shares(peers=max(8, limit // 8), clients=max(8, limit // 4), admin=max(8, min(128, limit // 16)))


def connections_max(share: int) -> int:
    """How many connections a gRPC port may have, out of its share of the descriptors.

    A connection that is carried on to gRPC's own server takes three: that of the client, and both ends in between.
    """
    return min(CONNECTIONS_MAX, max(8, share // 3))


async def watch(
    limit: int,
    open_now: Callable[[], int | None] = descriptors.open_now,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Warns once whenever most of the descriptors are in use; runs until cancelled."""
    near = False
    while True:
        opened = await asyncio.to_thread(open_now)
        was_near, near = near, opened is not None and opened >= NEAR * limit
        if near and not was_near:
            _log.warning("descriptors.near_limit", open=opened, limit=limit)
        await sleep(LOOK_EVERY_S)
