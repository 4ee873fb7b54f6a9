"""The state of this node as a backup takes it: a held snapshot that includes all that was acknowledged before the call.

A linearizable read, which a follower has its leader confirm, tells how far this node has to be; what is applied by then
is flushed, and a snapshot is made of it or shared with others who need one (``raft_node.runtime.snapshots.keeper``).

Invariant: what is given out is never older than the index that the read was confirmed at.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from raft_node.errors import UnavailableError
from raft_node.runtime.reads.rounds import ReadCallback
from raft_node.runtime.snapshots.keeper import HeldSnapshot, Snapshots

CONFIRM_TIMEOUT_S = 5.0
"""How long a leader's confirmation is waited for: an election in between takes well under that."""
CONFIRM_RETRY_S = 0.05
FLUSH_TIMEOUT_S = 60.0


class ConfirmsReads(Protocol):
    """The driver as this module sees it."""

    @property
    def applied_index(self) -> int:
        """The last entry that was applied."""

    @property
    def restoring(self) -> bool:
        """Whether another node's state is about to take the place of this one's."""

    def read(self, callback: ReadCallback, *, forward: bool = False) -> None:
        """Asks for a linearizable read."""


class Backups:
    """Makes the snapshots of one node that backups are read from."""

    def __init__(self, driver: ConfirmsReads, flush: Callable[[float], Awaitable[bool]], snapshots: Snapshots) -> None:
        """Ties the parts together.

        Args:
            driver: Confirms how far this node must have applied the log.
            flush: Flushes what was applied up to now; returns False if that takes longer than it is given.
            snapshots: Makes and holds snapshots.
        """
        self._driver = driver
        self._flush = flush
        self._snapshots = snapshots

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[HeldSnapshot]:
        """A snapshot whose files stay as they are within the block.

        Raises:
            UnavailableError: No leader confirmed the read, or the disk is too slow; nothing was changed.
            FatalError: This node's own tables are damaged, or its disk failed; the node must stop.
        """
        await self._confirm()
        if self._driver.restoring:
            raise UnavailableError("this node is about to take over the state of another one")
        index = self._driver.applied_index
        if not await self._flush(FLUSH_TIMEOUT_S):
            raise UnavailableError("what is in memory could not be flushed in time")
        snapshot = await self._snapshots.acquire(index + 1)
        try:
            if snapshot.header.last_index < index:
                raise UnavailableError("the state changed hands while it was flushed")
            yield snapshot
        finally:
            self._snapshots.release(snapshot)

    async def _confirm(self) -> None:
        """Returns once this node has applied all that was acknowledged before the call."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + CONFIRM_TIMEOUT_S
        try:
            async with asyncio.timeout_at(ends_s):
                while True:
                    if await self._ask(loop):
                        return
                    await asyncio.sleep(CONFIRM_RETRY_S)
        except TimeoutError:
            raise UnavailableError("no leader confirms how far this node has to be") from None

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> bool:
        answer: asyncio.Future[bool] = loop.create_future()

        def hear(confirmed: bool) -> None:
            # The waiting caller may have given up meanwhile.
            if not answer.done():
                answer.set_result(confirmed)

        self._driver.read(hear, forward=True)
        return await answer
