"""Leadership on its way to another node: who waits for that, and what they are told.

Invariant: whoever waits hears once: who leads, or why leadership stays here. Source: thesis, 3.10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raft_node.errors import TransferFailedError, TransferRefusedError
from raft_node.observability.metrics import Metrics
from raft_node.raft.node import RaftNode
from raft_node.raft.ready import Event
from raft_node.raft.types import NodeId
from raft_node.runtime.leadership.holds import Hold

_ENDS = ("transfer_aborted", "became_leader")
"""The events of the core after which this node goes on leading, or leads again."""


class HandOvers:
    """The transfers that somebody waits for."""

    def __init__(self, node: RaftNode, metrics: Metrics, wake: Callable[[], None]) -> None:
        """Begins without a transfer.

        Args:
            node: The core.
            metrics: The metrics in which transfers are counted.
            wake: Has the driver take a turn soon.
        """
        self._node = node
        self._metrics = metrics
        self._wake = wake
        self._waiting: set[asyncio.Future[NodeId]] = set()

    async def run(self, target: NodeId | None, timeout_s: float, hold: Callable[[], Hold]) -> NodeId:
        """Hands leadership over while requests of clients are held back; see ``Driver.hand_over``."""
        try:
            self._node.transfer_leadership(target)
        except TransferRefusedError:
            self._metrics.transferred("refused")
            raise
        concluded: asyncio.Future[NodeId] = asyncio.get_running_loop().create_future()
        self._waiting.add(concluded)
        self._wake()
        outcome = "failed"
        with hold():
            try:
                async with asyncio.timeout(timeout_s):
                    leader = await concluded
                outcome = "done"
                return leader
            except TimeoutError:
                raise TransferFailedError("no other node was seen to lead in time") from None
            finally:
                self._metrics.transferred(outcome)
                self._waiting.discard(concluded)

    def conclude(self) -> None:
        """Ends the transfers that wait, if another node leads now."""
        leader = self._node.leader
        if self._waiting and leader is not None and leader != self._node.id:
            for concluded in self._waiting:
                if not concluded.done():
                    concluded.set_result(leader)

    def heard(self, event: Event) -> None:
        """Takes an event of the core."""
        if event.name in _ENDS and event.fields.get("reason") != "replaced":
            self.fail(str(event.fields.get("reason", "this node leads again")))

    def fail(self, reason: str) -> None:
        """Fails the transfers that wait: this node keeps the lead."""
        for concluded in self._waiting:
            if not concluded.done():
                concluded.set_exception(TransferFailedError(f"leadership stays here: {reason}"))
