"""Reads all SSTables now and then, slowly, and checks every checksum: damage is to be known before the data is needed.

One table after the other, on a thread, at so many bytes a second. A damaged table is told and left: whoever reads a
damaged block is never served from it, with or without this, and the other replicas have the data. What the operating
system holds in memory is read from there, not from the disk. Must not know what is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from raft_node.errors import CorruptionError, DiskError
from raft_node.observability.logs import get_logger
from raft_node.observability.metrics import Metrics
from raft_node.runtime.events import Recorder

FIRST_AFTER_S = 60.0
"""The pause before the first check: a start has better things to do."""
STEP_BYTES = 256 << 10

_log = get_logger()


class CheckedTable(Protocol):
    """A table as this module sees it."""

    path: str

    def check(self) -> Iterator[int]:
        """Reads and checks the table, a part at a time; yields the bytes of each part. Blocking."""


class Scrubber:
    """Checks the tables of one engine."""

    def __init__(
        self,
        tables: Callable[[], Sequence[CheckedTable]],
        bytes_per_s: int,
        every_s: float,
        metrics: Metrics,
        record: Recorder,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Builds it; ``run`` sets it going.

        Args:
            tables: Gives the tables that are in use; called on the event loop.
            bytes_per_s: How many bytes are checked in a second; 0 to check nothing.
            every_s: How long to rest after all tables were checked.
            metrics: The metrics in which bytes, rounds and damages are counted.
            record: Notes damages in the timeline.
            sleep: Waits for some seconds.
        """
        self._tables = tables
        self._bytes_per_s = bytes_per_s
        self._every_s = every_s
        self._metrics = metrics
        self._record = record
        self._sleep = sleep

    async def run(self) -> None:
        """Runs until cancelled."""
        if not self._bytes_per_s:
            return
        await self._sleep(FIRST_AFTER_S)
        while True:
            await self.look()
            await self._sleep(self._every_s)

    async def look(self) -> None:
        """Checks once every table of now that is still in use when its turn comes."""
        damaged = 0
        for table in self._tables():
            # A compaction may have replaced the table meanwhile; the new ones are checked in the next round.
            if all(table is not other for other in self._tables()):
                continue
            try:
                await self._check(table)
            except (CorruptionError, DiskError) as error:
                damaged += 1
                self._metrics.scrub_damages.inc()
                _log.error("scrub.damaged", path=table.path, reason=str(error))
                self._record("scrub_damaged", path=table.path, reason=str(error))
        self._metrics.scrub_damaged_tables.set(damaged)
        self._metrics.scrub_rounds.inc()

    async def _check(self, table: CheckedTable) -> None:
        parts = table.check()
        while (size := await asyncio.to_thread(_step, parts)) > 0:
            self._metrics.scrub_bytes.inc(size)
            await self._sleep(size / self._bytes_per_s)


def _step(parts: Iterator[int]) -> int:
    """Checks as many parts as are worth a switch to another thread; returns their bytes, 0 at the end."""
    size = 0
    for part in parts:
        size += part
        if size >= STEP_BYTES:
            break
    return size
