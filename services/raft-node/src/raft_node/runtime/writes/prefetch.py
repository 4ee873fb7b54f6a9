"""Loads the blocks that commands read before they are applied, on a thread, so that applying never waits for a disk.

It knows the engine and nothing of commands: the state machine says which blocks it needs (``StateMachine.needed``).

Invariant: ``done`` is called once with all that was asked for, unless this is closed or the node must stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from raft_node.errors import FatalError
from raft_node.runtime.reads.reader import first_hop
from raft_node.storage.engine import BlockNeeded, Engine

Found = list[tuple[bytes, bytes | None]]


class Prefetcher:
    """Loads blocks for one engine."""

    def __init__(self, engine: Engine, on_failure: Callable[[FatalError], None]) -> None:
        """Begins idle; ``on_failure`` is called when the node must stop."""
        self._engine = engine
        self._on_failure = on_failure
        # A thread of its own: clients' reads must not delay the applying, for which the whole shard waits.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._tasks: set[asyncio.Task[None]] = set()

    def load(self, needed: Sequence[BlockNeeded], done: Callable[[Found], None]) -> None:
        """Loads the blocks that reads need, and calls ``done`` with the keys and values."""
        task = asyncio.create_task(self._load(needed, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Gives up the loads under way, and ends the thread."""
        for task in self._tasks:
            task.cancel()
        self._threads.shutdown()

    async def _load(self, needed: Sequence[BlockNeeded], done: Callable[[Found], None]) -> None:
        loop = asyncio.get_running_loop()
        found: Found = []
        # Those of one block lie together, and share it.
        waiting = sorted(needed, key=lambda each: each.place)
        while waiting:
            hop = first_hop(waiting)
            try:
                loaded = await loop.run_in_executor(self._threads, self._engine.load_blocks, hop)
            except FatalError as error:
                self._on_failure(error)
                return
            del waiting[: len(hop)]
            for each in loaded:
                value = self._engine.resume(each)
                if isinstance(value, BlockNeeded):
                    waiting.append(value)
                else:
                    found.append((each.needed.key, value))
        done(found)
