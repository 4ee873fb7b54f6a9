"""Reads of user values: from memory on the event loop, from disk on a thread.

Reads that wait together share their hops to a thread, and each block that several need. The caller has made sure that
the state is fresh enough; this module only looks keys up, and shows what is visible.

Invariant: a hop is short: it reads ``_HOP_BLOCKS_MAX`` blocks and ``_HOP_BYTES_MAX`` at most, or one block.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from doug_wire import pipe
from doug_wire.slots import slot_of
from raft_node.errors import CorruptionError, FatalError, UnavailableError
from raft_node.kv.keyspace import TOKEN_PREFIX, StoredValue, token_key, user_key
from raft_node.kv.operations.tokens import TokenRecord
from raft_node.kv.visibility import Visibility
from raft_node.runtime.reads.scans import ScanLimits, Scans
from raft_node.storage.engine import BlockNeeded, Engine

_SCAN_LIMITS = ScanLimits()
_HOP_BLOCKS_MAX = 16
_HOP_BYTES_MAX = 1 << 20

Found = StoredValue | BlockNeeded | UnavailableError | None
"""The result of a read: its value or None, the block that it needs next, or the error."""


class Reader:
    """Looks keys up in the engine.

    Attributes:
        scans: Reads many keys in order.
    """

    def __init__(
        self,
        engine: Engine,
        on_failure: Callable[[FatalError], None],
        visibility: Callable[[], Visibility],
        scan_limits: ScanLimits = _SCAN_LIMITS,
    ) -> None:
        """Builds it; disk reads share two threads.

        Args:
            engine: The engine that holds the values.
            on_failure: Called when the node must stop.
            visibility: Gives the rules of which values count in the applied state.
            scan_limits: How many scans there may be, and how long each may last.
        """
        self.scans = Scans(engine, on_failure, scan_limits)
        self._engine = engine
        self._on_failure = on_failure
        self._visibility = visibility
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="block-read")

    def get(self, key: bytes) -> StoredValue | BlockNeeded | None:
        """A user's value, None when there is none, or the block that must be read first: see ``load``.

        Raises:
            UnavailableError: The value is of no known format; the node stops.
        """
        return self._get(user_key(key))

    def get_token(self, key: bytes, token_id: bytes) -> StoredValue | BlockNeeded | None:
        """Like ``get``, for a token in the slot of a user's key: its value is the result record of its command.

        Raises:
            UnavailableError: The value is of no known format; the node stops.
        """
        return self._get(token_key(slot_of(key), token_id))

    def _get(self, place: bytes) -> StoredValue | BlockNeeded | None:
        data = self._engine.get(place)
        if data is None:
            return None
        if isinstance(data, BlockNeeded):
            # The value is that of this moment, and so is its visibility: by the time the block is there, the
            # clock may be past an expiry that was put off meanwhile.
            data.context = self._visibility()
            return data
        return self._decode(place, data, self._visibility())

    async def load(self, needed: BlockNeeded) -> StoredValue | None:
        """Reads blocks until the value is known, as of the moment when ``get`` was called.

        Raises:
            UnavailableError: A block is damaged or cannot be read; the node stops.
        """
        found: Found = needed
        while isinstance(found, BlockNeeded):
            (found,) = await self.load_first([found])
        if isinstance(found, UnavailableError):
            raise found
        return found

    async def load_first(self, needed: Sequence[BlockNeeded]) -> list[Found]:
        """Loads the blocks of the first of many reads, in one hop to a thread.

        Args:
            needed: The reads, at least one; those that need the same block should lie together.

        Returns:
            The results of the first reads, in their order, at least one. After an ``UnavailableError`` a block
            is damaged or cannot be read, and the node stops.
        """
        hop = first_hop(needed)
        loop = asyncio.get_running_loop()
        try:
            loaded = await loop.run_in_executor(self._threads, self._engine.load_blocks, hop)
        except FatalError as error:
            if len(hop) > 1:
                # One bad block shall fail those that need it, and no others.
                return await self.load_first(hop[:1])
            self._on_failure(error)
            return [UnavailableError(str(error))]
        return [self._found(each.needed, self._engine.resume(each)) for each in loaded]

    def _found(self, needed: BlockNeeded, found: bytes | BlockNeeded | None) -> Found:
        if not isinstance(found, bytes):
            return found
        assert isinstance(needed.context, Visibility)
        try:
            return self._decode(needed.key, found, needed.context)
        except UnavailableError as error:
            return error

    def _decode(self, place: bytes, data: bytes, visibility: Visibility) -> StoredValue | None:
        try:
            if place.startswith(TOKEN_PREFIX):
                return _token_value(TokenRecord.decode(data), visibility.clock_us)
            return visibility.find(place[1:], data)
        except CorruptionError as error:
            self._on_failure(error)
            raise UnavailableError(str(error)) from error

    def close(self) -> None:
        """Ends the threads."""
        self.scans.close()
        self._threads.shutdown()


def _token_value(record: TokenRecord, clock_us: int) -> StoredValue | None:
    if record.deadline_us <= clock_us:
        return None
    return StoredValue(record.result.revision, b"", pipe.encode_result(*record.result))


def first_hop(needed: Sequence[BlockNeeded]) -> Sequence[BlockNeeded]:
    """The first of these reads, as many as one hop serves."""
    places: set[tuple[int, int]] = set()
    size = 0
    for count, each in enumerate(needed):
        if each.place not in places:
            size += each.table.block_bytes(each.position)
            if places and (len(places) >= _HOP_BLOCKS_MAX or size > _HOP_BYTES_MAX):
                return needed[:count]
            places.add(each.place)
    return needed
