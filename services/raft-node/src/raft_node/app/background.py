"""The tasks that run beside everything else as long as the node lives.

Invariant: none of them ends unnoticed. A task that fails with what ends a node ends it in order; one that fails with
anything else is a defect of the program, and goes to the event loop's exception handler, which ends the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from raft_node.errors import FatalError


class Background:
    """The running tasks of one node."""

    def __init__(self, fail: Callable[[FatalError], None]) -> None:
        self._fail = fail
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, *work: Coroutine[Any, Any, None]) -> None:
        """Runs coroutines until they end by themselves, or ``close`` ends them."""
        for each in work:
            task = asyncio.create_task(each)
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancels all tasks and waits for them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, FatalError):
                raise error
            self._fail(error)
