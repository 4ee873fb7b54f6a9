"""Watches of a running node: each is a position in the shard's changes, and goes on from it as changes are applied.

What is in memory is given at once; what is only on disk is read and taken apart on a thread, a bounded piece at a time.
This module knows neither gRPC nor Raft: whoever asks judges whether this node is worth watching.

Invariants:
1. A watch tells every change behind its position that it wants, in the order of the log, each once; or it ends with
   ``HistoryGoneError`` before the first one that it cannot tell.
2. It tells only what is applied here.
3. Changes in memory are encoded once for all watches that want everything.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from doug_wire.watch import encode_change
from raft_node.errors import CorruptionError, DougError, OverloadedError
from raft_node.kv.changes import EVERYTHING, Filter, changes_in
from raft_node.kv.state_machine import StateMachine
from raft_node.storage.changes.history import Kept, Written
from raft_node.storage.engine import Engine

STEP_BATCHES = 64
STEP_BYTES = 128 << 10
"""About how many bytes one step tells: a millisecond or two of work."""
STEP_EFFECTS = 4096
"""A step ends with the batch with which it has looked at so many effects, whether they are wanted or not."""
_ENCODED_BYTES = 1 << 20


class HistoryGoneError(DougError):
    """The changes that follow a position are not held any more.

    Attributes:
        oldest: The revision behind which all changes are held.
    """

    def __init__(self, oldest: int) -> None:
        super().__init__(f"changes are held behind revision {oldest}")
        self.oldest = oldest


class Position(NamedTuple):
    """How far a watch has told: all changes up to a revision; with a place, only the first ones of that revision."""

    revision: int
    place: int = 0

    @property
    def mark(self) -> int:
        """The last revision of which all changes were told."""
        return self.revision - 1 if self.place else self.revision


class Told(NamedTuple):
    """The changes of one step.

    Attributes:
        records: The encoded changes that the watch wants.
        upto: The revision up to which all changes are told with them.
    """

    records: bytes
    upto: int


class Watch:
    """One watch. ``Watches.open`` makes it."""

    def __init__(self, position: Position, wanted: Filter) -> None:
        self.position = position
        self.wanted = wanted
        self.wake: asyncio.Future[None] | None = None
        self._kept: Kept | None = None
        self._offset = 0

    def place_in(self, kept: Kept) -> int:
        """The offset in a kept segment at which the watch goes on."""
        return self._offset if kept.name == (self._kept and self._kept.name) else 0

    def stands_in(self, kept: Kept, offset: int) -> None:
        """Has the watch go on at an offset in a kept segment."""
        self._kept, self._offset = (kept, offset) if offset else (None, 0)


class Watches:
    """The watches of one node.

    Attributes:
        bytes_told: How many bytes of changes the watches were told.
    """

    def __init__(
        self,
        engine: Engine,
        machine: Callable[[], StateMachine],
        watches_max: int,
        on_damaged: Callable[[str], None],
        on_watched: Callable[[bool], None] = lambda watched: None,
    ) -> None:
        """Nothing is watched yet.

        Args:
            engine: Has the history of changes.
            machine: Gives the state machine.
            watches_max: The most watches at a time.
            on_damaged: Told the reason if a part of the history was given up.
            on_watched: Told whether there are watches, when the first one begins and when the last one ends.
        """
        self._engine = engine
        self._machine = machine
        self._max = watches_max
        self._on_damaged = on_damaged
        self._on_watched = on_watched
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._watches: set[Watch] = set()
        self._encoded: OrderedDict[int, bytes] = OrderedDict()
        self._encoded_bytes = 0
        self.bytes_told = 0

    @property
    def open_count(self) -> int:
        """How many watches there are."""
        return len(self._watches)

    @property
    def revision(self) -> int:
        """The revision of the last change that is applied."""
        return self._machine().revision

    @property
    def oldest(self) -> int:
        """The revision behind which all changes are held."""
        return max(self._engine.history.floor, self._machine().floor)

    def open(self, position: Position | None, wanted: Filter) -> Watch:
        """Begins a watch behind a position, or without one behind the present revision; ``close`` ends it.

        Raises:
            OverloadedError: There are too many watches.
        """
        if len(self._watches) >= self._max:
            raise OverloadedError(f"{len(self._watches)} watches are open")
        watch = Watch(Position(self.revision) if position is None else position, wanted)
        self._watches.add(watch)
        if len(self._watches) == 1:
            self._on_watched(True)
        return watch

    def close(self, watch: Watch) -> None:
        """Ends a watch."""
        if watch in self._watches:
            self._watches.remove(watch)
            if not self._watches:
                self._on_watched(False)

    def poke(self) -> None:
        """Notes that entries were applied; cheap enough to be called for every batch."""
        for watch in self._watches:
            if watch.wake is not None and not watch.wake.done():
                watch.wake.set_result(None)

    async def wait(self, watch: Watch, timeout_s: float) -> None:
        """Waits until changes were applied, but no longer than ``timeout_s``."""
        watch.wake = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await watch.wake
        except TimeoutError:
            return
        finally:
            watch.wake = None

    async def step(self, watch: Watch) -> Told | None:
        """Reads the next changes of a watch, a bounded number; None when there are no new ones.

        Raises:
            HistoryGoneError: The changes that follow are not held any more.
        """
        history = self._engine.history
        if watch.position.mark < self._machine().floor:
            # A recovery was applied since the watch began: changes that it told may be lost.
            raise HistoryGoneError(self.oldest)
        found = history.behind(watch.position.mark, STEP_BATCHES)
        if found is None:
            raise HistoryGoneError(history.floor)
        if isinstance(found, Kept):
            return await self._read(watch, found)
        if not found:
            return None
        parts: list[bytes] = []
        size, looked, upto = 0, 0, watch.position.revision
        for written in found:
            records = self._records(written, watch)
            parts.append(records)
            upto = written.upto
            size += len(records)
            looked += len(written.batch)
            if size >= STEP_BYTES or looked >= STEP_EFFECTS:
                break
        return self._told(watch, b"".join(parts), upto)

    def _told(self, watch: Watch, records: bytes, upto: int) -> Told:
        watch.position = Position(upto)
        self.bytes_told += len(records)
        return Told(records, upto)

    def _records(self, written: Written, watch: Watch) -> bytes:
        """The encoded changes of a batch that a watch wants."""
        position = watch.position
        # A watch that begins within the batch gets its changes, too.
        if watch.wanted != EVERYTHING or position.place or position.revision > written.after:
            return _encode(written, position, watch.wanted)
        known = self._encoded.get(written.upto)
        if known is not None:
            return known
        records = self._encoded[written.upto] = _encode(written, position, EVERYTHING)
        self._encoded_bytes += len(records)
        while self._encoded_bytes > _ENCODED_BYTES:
            self._encoded_bytes -= len(self._encoded.popitem(last=False)[1])
        return records

    async def _read(self, watch: Watch, kept: Kept) -> Told:
        """Reads the next changes of a watch from a kept segment."""
        history, position = self._engine.history, watch.position

        def read() -> tuple[bytes, int, int]:
            piece = history.read(kept, position.mark, watch.place_in(kept), STEP_BYTES)
            records = [_encode(written, position, watch.wanted) for written in piece.written]
            upto = piece.written[-1].upto if piece.written else kept.upto
            return b"".join(records), upto if piece.offset else kept.upto, piece.offset

        try:
            records, upto, offset = await asyncio.get_running_loop().run_in_executor(self._threads, read)
        except FileNotFoundError:
            raise HistoryGoneError(history.floor) from None
        except CorruptionError as error:
            # The state is not affected, so the node goes on; these changes cannot be told any more.
            self._engine.give_up_history()
            self._on_damaged(str(error))
            raise HistoryGoneError(history.floor) from error
        watch.stands_in(kept, offset)
        return self._told(watch, records, upto)

    def close_all(self) -> None:
        """Ends the thread that reads kept segments."""
        self._threads.shutdown(cancel_futures=True)


def _encode(written: Written, position: Position, wanted: Filter) -> bytes:
    changes = changes_in(written.batch, written.notes, (position.revision, position.place), wanted)
    return b"".join(map(encode_change, changes))
