"""Makes a node ready to be stopped: nobody's request shall fail because of it.

It holds new writes back, hands leadership over, and waits until what it had proposed is answered. Every step is
bounded: when all nodes of a shard stop at once there is nobody to take over, and the stop must not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from raft_node.errors import NotLeaderError, TransferFailedError, TransferRefusedError
from raft_node.raft.types import NodeId, Role
from raft_node.runtime.driver import Driver
from raft_node.runtime.leadership.holds import Hold

ATTEMPTS = 3
"""A target may be on its way down itself; each attempt asks the most caught-up voter of that moment."""
ELECTIONS_WAITED = 3
"""The number of longest election timeouts for which a new leader is waited for."""
POLL_S = 0.005


async def drain(
    driver: Driver,
    hold: Hold,
    timeout_s: float,
    election_timeout_s: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> NodeId | None:
    """Hands leadership over if this node leads; returns the leader of now, None if none is known.

    The hold is released as soon as this node does not lead. If it still leads at the end, writes stay held back, until
    the caller ends the hold or stops the driver.

    Args:
        driver: The running loop.
        hold: Holds the driver's requests back; the caller ends it.
        timeout_s: How long everything may take.
        election_timeout_s: The longest election timeout.
        sleep: Waits for some seconds.
    """
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + timeout_s
    for _ in range(ATTEMPTS):
        left_s = ends_s - loop.time()
        if driver.node.role is not Role.LEADER or left_s <= 0:
            break
        try:
            await driver.hand_over(None, min(left_s, ELECTIONS_WAITED * election_timeout_s))
        except TransferRefusedError:
            break
        except (NotLeaderError, TransferFailedError):
            continue
    if driver.node.role is not Role.LEADER:
        hold.release()
    # Proposals that a deposed leader left are committed, or replaced, by the next one.
    waits_until_s = min(ends_s, loop.time() + ELECTIONS_WAITED * election_timeout_s)
    while driver.pending:
        now_s = loop.time()
        if now_s >= ends_s or (driver.node.leader is None and now_s >= waits_until_s):
            break
        await sleep(POLL_S)
    leader = driver.node.leader
    return None if leader == driver.node.id else leader
