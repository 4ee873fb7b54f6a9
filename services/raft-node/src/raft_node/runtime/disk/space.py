"""Refuses writes before a disk is full, so that what runs already has room to end (docs/adr/0003-full-disks.md).

It looks at the volumes now and then, on a thread: on a volume that hangs the question may hang too. A reserve file lies
beside the data; when the room gets short it is removed, so that flushes and compactions, which free space in the end,
can still be written. Must not know what is stored, nor Raft.

Invariants:
1. Writes are refused while less than ``reserve_bytes`` is free on any volume, or somebody found no room just now.
2. The reserve file counts as used. Writes are taken again only when it could be there and a quarter more is free, so
   that this does not flicker.
3. It is made only when enough is free besides.
4. Before writes are refused, what nobody needs to be right is given up: the history that is kept for watches.
5. What frees space is taken on, at the cost of the reserve, while a quarter of it is free on every volume.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping

from raft_node.errors import DiskError, NoSpaceError
from raft_node.observability.logs import get_logger
from raft_node.runtime.events import Recorder
from raft_node.storage.files import Volume

RESERVE = "RESERVE"
LOOK_EVERY_S = 0.5
NOTICED_S = 5.0
"""How long writes are refused after one has found no room, whatever the file system says is free."""

_log = get_logger()


def release_for_start(fs: Volume, data_dir: str, reserve_bytes: int) -> None:
    """Frees room for the few small files that a start writes. Blocking."""
    if fs.free_bytes(data_dir) < reserve_bytes // 2:
        fs.remove(f"{data_dir}/{RESERVE}")


async def _nothing_gives_way() -> bool:
    return False


class SpaceWatch:
    """Watches the volumes of one node.

    Attributes:
        low: Whether writes are to be refused now.
        full: Whether deletes are to be refused as well: there is no room to note them.
        free_bytes: By volume, how many bytes the last look found free.
        give_way: Deletes files of the data volume that can be done without; returns whether there were any.
    """

    def __init__(
        self,
        fs: Volume,
        volumes: Mapping[str, str],
        data_dir: str,
        reserve_bytes: int,
        record: Recorder,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Looks at nothing yet.

        Args:
            fs: The file system of the volumes.
            volumes: A directory on each volume, by the volume's name.
            data_dir: The directory of the reserve file.
            reserve_bytes: The reserve's size, and how much must be free besides; 0 to refuse only when a disk was full.
            record: Notes in the timeline when writes are refused, and when they are taken again.
            now_s: A monotonic clock.
        """
        self.low = self.full = False
        self.free_bytes: dict[str, int] = {}
        self.give_way: Callable[[], Awaitable[bool]] = _nothing_gives_way
        self._fs = fs
        self._volumes = dict(volumes)
        self._data_dir = data_dir
        self._path = f"{data_dir}/{RESERVE}"
        self._reserve_bytes = reserve_bytes
        self._record = record
        self._now_s = now_s
        self._noticed_until_s = -math.inf
        self._looks = asyncio.Event()

    def notice(self, error: NoSpaceError) -> None:
        """Notes that a write found no room; called on the event loop."""
        self._noticed_until_s = self._now_s() + NOTICED_S
        self._set_low(True, path=error.path)
        self._looks.set()

    async def run(self) -> None:
        """Looks again and again; ends only by cancellation."""
        while True:
            await self.look()
            self._looks.clear()
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._looks.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Looks once, and acts on what it finds."""
        noticed = self._now_s() < self._noticed_until_s
        free, present = await asyncio.to_thread(self._tend_and_ask, noticed)
        if (noticed or free.get("data", self._needed) < self._needed) and await self.give_way():
            free, present = await asyncio.to_thread(self._tend_and_ask, noticed)
        self.free_bytes = free
        self.full = not self._reserve_bytes or min(present, default=0) < self._reserve_bytes // 4
        # A write may have failed for lack of space meanwhile.
        noticed = self._now_s() < self._noticed_until_s
        short = {volume: room for volume, room in free.items() if room < self._needed}
        self._set_low(noticed or bool(short), **{f"{volume}_free_bytes": room for volume, room in short.items()})

    @property
    def _needed(self) -> int:
        """How many bytes must be free on each volume."""
        return self._reserve_bytes + (self._reserve_bytes // 4 if self.low else 0)

    def room_bytes(self) -> int:
        """How many bytes dispensable work may write to the data volume, as of the last look."""
        return self.free_bytes.get("data", 2 * self._reserve_bytes) - self._reserve_bytes

    def _tend_and_ask(self, noticed: bool) -> tuple[dict[str, int], list[int]]:
        """The result of ``_tend``, and the free bytes of each volume afterwards, the reserve's included. Blocking."""
        free = self._tend(noticed)
        return free, [self._fs.free_bytes(path) for volume, path in self._volumes.items() if volume in free]

    def _tend(self, noticed: bool) -> dict[str, int]:
        """The free bytes of each volume beside the reserve; makes or removes the reserve as needed. Blocking."""
        free: dict[str, int] = {}
        for volume, path in self._volumes.items():
            try:
                free[volume] = self._fs.free_bytes(path)
            except DiskError as error:
                _log.warning("disk.unknown_space", volume=volume, reason=str(error))
        if not self._reserve_bytes or "data" not in free:
            return free
        if self._fs.exists(self._path):
            if noticed or free["data"] < self._reserve_bytes // 2:
                self._release()
                _log.warning("disk.reserve_released", free_bytes=free["data"])
            else:
                return free
        elif not noticed and free["data"] >= 2 * self._reserve_bytes + self._reserve_bytes // 4:
            try:
                self._fs.allocate(self._path, self._reserve_bytes)
            except DiskError as error:
                self._release()
                _log.warning("disk.no_reserve", reason=str(error))
            else:
                # As if it had been there before: with both on one file system, the other's free space has shrunk, too.
                return self._tend(noticed=False)
        free["data"] -= self._reserve_bytes
        return free

    def _release(self) -> None:
        try:
            self._fs.remove(self._path)
        except DiskError as error:
            # Nothing depends on this file: the next check tries again.
            _log.warning("disk.reserve_stays", reason=str(error))

    def _set_low(self, low: bool, **details: object) -> None:
        if low == self.low:
            return
        self.low = low
        if low:
            _log.error("disk.low", **details)
            self._record("disk_low")
        else:
            _log.info("disk.recovered")
            self._record("disk_recovered")
