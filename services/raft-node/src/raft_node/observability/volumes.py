"""How full the volumes are.

Asked for on a thread, now and then: on a volume that hangs the question may hang too, and the event loop must not.
Must not know what lies on a volume.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import NamedTuple

EVERY_S = 15.0


class Space(NamedTuple):
    """The size of one volume, and what is free for this process."""

    total_bytes: int
    free_bytes: int


def measure(paths: Mapping[str, str]) -> dict[str, Space]:
    """Looks at every volume; one that cannot be looked at is left out. Blocking."""
    found = {}
    for name, path in paths.items():
        with contextlib.suppress(OSError):
            status = os.statvfs(path)
            found[name] = Space(status.f_frsize * status.f_blocks, status.f_frsize * status.f_bavail)
    return found


class Volumes:
    """The volumes of one node by name.

    Attributes:
        space: What the last look showed; empty before the first.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        """``paths`` are directories, one on each volume."""
        self._paths = dict(paths)
        self.space: dict[str, Space] = {}

    async def run(self) -> None:
        """Looks again and again; ends only by cancellation."""
        while True:
            self.space = await asyncio.to_thread(measure, self._paths)
            await asyncio.sleep(EVERY_S)
