"""Reads of user values: from memory on the event loop, from disk on a thread.

The caller has made sure that the state is fresh enough; this module only looks a key up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from raft_node.errors import CorruptionError, FatalError, UnavailableError
from raft_node.kv.keyspace import StoredValue, decode_value, user_key
from raft_node.storage.engine import BlockNeeded, Engine


class Reader:
    """Looks keys up in the engine."""

    def __init__(self, engine: Engine, on_failure: Callable[[FatalError], None]) -> None:
        """Reads from ``engine``; disk reads share two threads. ``on_failure`` is told when the node must stop."""
        self._engine = engine
        self._on_failure = on_failure
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="block-read")

    def get(self, key: bytes) -> StoredValue | BlockNeeded | None:
        """A user's value, None when there is none, or the block that must be read first: see ``load``.

        Raises:
            UnavailableError: It is of no known format; the node stops.
        """
        data = self._engine.get(user_key(key))
        if data is None or isinstance(data, BlockNeeded):
            return data
        return self._decode(data)

    async def load(self, needed: BlockNeeded) -> StoredValue | None:
        """Reads blocks until the value is known, as of the moment when ``get`` was called.

        Raises:
            UnavailableError: A block is damaged or cannot be read; the node stops.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                loaded = await loop.run_in_executor(self._threads, self._engine.load_block, needed)
            except FatalError as error:
                self._on_failure(error)
                raise UnavailableError(str(error)) from error
            found = self._engine.resume(loaded)
            if found is None:
                return None
            if isinstance(found, bytes):
                return self._decode(found)
            needed = found

    def _decode(self, data: bytes) -> StoredValue:
        try:
            return decode_value(data)
        except CorruptionError as error:
            self._on_failure(error)
            raise UnavailableError(str(error)) from error

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()
