"""Moves leadership away from a node that cannot serve, if another one can (docs/adr/0003-full-disks.md, docs/raft.md).

A node whose disk is full refuses writes, and one whose engine stands still (its helper process hangs, or its data
volume) applies nothing: as a leader it would be obeyed all the same, because its heartbeats go on. It asks the other
voters how they stand, and hands over only to one that is fit itself. When none is, leadership stays where it
is, and reads go on without an election. Nothing here decides what is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from doug.v1 import raft_pb2 as pb
from raft_node.errors import NotLeaderError, TransferFailedError, TransferRefusedError
from raft_node.observability.logs import get_logger
from raft_node.raft.node import RaftNode
from raft_node.raft.types import NodeId, Role

LOOK_EVERY_S = 0.2
TRY_EVERY_S = 3.0
"""The pause between two attempts to hand over, each of which disturbs the shard a little."""
CALL_TIMEOUT_S = 0.5
STALLED_S = 0.8
"""How long applying may wait for flushes, as it does now and then when much is written, before the engine counts as
standing still. With the look, the question and the transfer, leadership has moved within 2 s."""

Ask = Callable[[str], Awaitable[pb.IdentifyResponse | None]]
"""Asks the node at a Raft address how it stands; None when it does not answer in time."""

_log = get_logger()


class Led(Protocol):
    """The driver as this module sees it."""

    @property
    def node(self) -> RaftNode:
        """The core."""

    @property
    def holding(self) -> bool:
        """Whether leadership is about to move."""

    @property
    def present_stall_s(self) -> float:
        """For how long applying has waited by now; 0 if it does not wait."""

    async def hand_over(self, target: NodeId | None, timeout_s: float) -> NodeId:
        """See ``Driver``."""


class UnfitLeader:
    """Hands leadership over when this node leads and cannot serve: its disk is full, or its engine stands still."""

    def __init__(
        self,
        driver: Led,
        disk_low: Callable[[], bool],
        address_of: Callable[[NodeId], str | None],
        ask: Ask,
        timeout_s: float,
    ) -> None:
        """Takes the node's parts.

        Args:
            driver: The running loop.
            disk_low: Tells whether writes are refused for want of space.
            address_of: Gives a member's Raft address; None while it is not known.
            ask: Asks another node how it stands.
            timeout_s: How long a transfer may take.
        """
        self._driver = driver
        self._disk_low = disk_low
        self._address_of = address_of
        self._ask = ask
        self._timeout_s = timeout_s

    @property
    def stalled(self) -> bool:
        """Whether this node's engine stands still, as other nodes are told."""
        return self._driver.present_stall_s > STALLED_S

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Runs until cancelled."""
        while True:
            await sleep(TRY_EVERY_S if await self.look() else LOOK_EVERY_S)

    async def look(self) -> bool:
        """Looks once; returns whether this node leads and should not."""
        fault = "disk_low" if self._disk_low() else "stalled" if self.stalled else ""
        if not fault or self._driver.node.role is not Role.LEADER or self._driver.holding:
            return False
        target = await self._find_fit()
        if target is not None:
            await self._hand_over(target, fault)
        return True

    async def _find_fit(self) -> NodeId | None:
        """The voter with the longest log among those that can serve; None if there is none."""
        core = self._driver.node
        voters = [voter for voter in core.configuration.voters if voter != core.id]
        addresses = [(voter, address) for voter in voters if (address := self._address_of(voter)) is not None]
        answers = await asyncio.gather(*(self._ask(address) for _, address in addresses))
        leadership = core.leadership
        if leadership is None:
            return None
        matches = {voter: progress.match_index for voter, progress in leadership.progress.items()}
        fit = [
            voter
            for (voter, _), answer in zip(addresses, answers, strict=True)
            if answer is not None
            and answer.member.incarnation == voter.incarnation
            and not (answer.disk_low or answer.stalled)
        ]
        return max(fit, key=lambda voter: matches.get(voter, 0), default=None)

    async def _hand_over(self, target: NodeId, fault: str) -> None:
        try:
            leader = await self._driver.hand_over(target, self._timeout_s)
        except (NotLeaderError, TransferRefusedError, TransferFailedError) as error:
            _log.warning("lead.stays", fault=fault, reason=str(error))
        else:
            _log.info("lead.moved", fault=fault, leader=leader.name)
