"""Moves leadership away from a node whose disk is full, if another one can lead (docs/adr/0003-full-disks.md).

A leader that refuses writes asks the other voters how they stand, and hands over only to one whose disk is not full:
when all are, leadership stays, and reads go on without an election. Nothing here decides what is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from doug_wire.tls import Certificates
from raft_node.errors import NotLeaderError, TransferFailedError, TransferRefusedError
from raft_node.observability.logs import get_logger
from raft_node.raft.types import NodeId, Role
from raft_node.rpc.identify import identify
from raft_node.runtime.driver import Driver
from raft_node.runtime.space import SpaceWatch
from raft_node.settings import NodeSettings

LOOK_EVERY_S = 0.5
TRY_EVERY_S = 3.0
"""Between two attempts; each disturbs the shard a little."""
CALL_TIMEOUT_S = 0.5

_log = get_logger()


async def give_way(
    space: SpaceWatch,
    driver: Driver,
    settings: NodeSettings,
    address_of: Callable[[NodeId], str | None],
    certificates: Certificates | None,
) -> None:
    """Runs until cancelled."""
    while True:
        if space.low and driver.node.role is Role.LEADER and not driver.holding:
            target = await _find_room(driver, settings, address_of, certificates)
            if target is not None:
                await _hand_over(driver, target, settings.drain_timeout_ms / 1000)
            await asyncio.sleep(TRY_EVERY_S)
        else:
            await asyncio.sleep(LOOK_EVERY_S)


async def _find_room(
    driver: Driver,
    settings: NodeSettings,
    address_of: Callable[[NodeId], str | None],
    certificates: Certificates | None,
) -> NodeId | None:
    """The voter with the longest log among those that have room; None when there is none."""
    leadership = driver.node.leadership
    voters = [voter for voter in driver.node.configuration.voters if voter != driver.node.id]
    addresses = [(voter, address) for voter in voters if (address := address_of(voter)) is not None]
    if leadership is None or not addresses:
        return None
    matches = {voter: progress.match_index for voter, progress in leadership.progress.items()}
    answers = await asyncio.gather(
        *(
            identify(address, settings.shard_id, settings.node_id, CALL_TIMEOUT_S, certificates)
            for _, address in addresses
        )
    )
    roomy = [
        voter
        for (voter, _), answer in zip(addresses, answers, strict=True)
        if answer is not None and answer.member.incarnation == voter.incarnation and not answer.disk_low
    ]
    return max(roomy, key=lambda voter: matches.get(voter, 0), default=None)


async def _hand_over(driver: Driver, target: NodeId, timeout_s: float) -> None:
    try:
        leader = await driver.hand_over(target, timeout_s)
    except (NotLeaderError, TransferRefusedError, TransferFailedError) as error:
        _log.warning("disk.lead_stays", reason=str(error))
    else:
        _log.info("disk.lead_moved", leader=leader.name)
