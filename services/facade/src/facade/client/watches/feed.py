"""The changes of one shard as this facade follows them: one stream for all its clients, and the newest ones in memory.

Must not know HTTP. Whoever is not further behind than the ring is served from it; others ask for a stream of their own
(``facade.client.watches.feeds``). A stream that breaks goes on at another node, from the same position: positions mean
the same on every replica.

Invariants:
1. ``position`` never goes back, and every change before it that came since ``floor`` is in the ring, in order and once.
2. The ring is bounded in bytes; what leaves it moves ``floor``.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from operator import attrgetter

import structlog

from doug_wire.watch import Change
from facade.client.node import Node
from facade.client.shard import Shard
from facade.client.watches.stream import (
    FuturePositionError,
    HistoryGoneError,
    Holders,
    WatchBrokenError,
    WatchStream,
    candidates,
    next_of,
    order_of,
    request_from,
)

RETRY_MIN_S, RETRY_MAX_S = 0.05, 1.0
LAG_S = 2.0
"""How long a replica may stay behind what this facade has told already, before another one is taken."""
_EVENT_BYTES = 400
"""The bytes that a change takes in memory beside its key and its value."""

log = structlog.get_logger()


class Event:
    """A change with the forms in which clients are shown it; each form is made once and kept.

    Attributes:
        shard: The shard that changed.
        change: The change.
        order: The position of the change among those of its shard.
        shown: The bytes in which the change is shown, by form.
    """

    __slots__ = ("change", "order", "shard", "shown")

    def __init__(self, shard: int, change: Change) -> None:
        self.shard = shard
        self.change = change
        self.order = order_of(change)
        self.shown: dict[object, bytes] = {}

    @property
    def size(self) -> int:
        """About how many bytes the event takes: the value is there twice, once as it is shown."""
        return _EVENT_BYTES + 2 * (len(self.change.key) + len(self.change.value))


_order = attrgetter("order")
OnEvents = Callable[["Feed", Sequence[Event]], None]


class Feed:
    """The changes of one shard.

    Attributes:
        shard: The shard.
        position: The position before which all changes were told; None until a node was reached.
        floor: The position from which on all changes up to ``position`` are in the ring.
        connected: Whether a stream is open.
    """

    def __init__(
        self,
        shard: Shard,
        cluster_id: Callable[[], bytes],
        ring_bytes_max: int,
        on_events: OnEvents,
        on_gone: Callable[[HistoryGoneError], None],
    ) -> None:
        """Builds it; ``run`` sets it going.

        Args:
            shard: The shard whose changes these are.
            cluster_id: Gives the id of the cluster; empty while it is not known.
            ring_bytes_max: How many bytes of changes are kept in memory.
            on_events: Takes the events that have come, in the same turn of the event loop.
            on_gone: Called when changes were lost, because no node holds them any more.
        """
        self.shard = shard
        self.position: int | None = None
        self.floor = 0
        self.connected = False
        self._cluster_id = cluster_id
        self._ring: deque[Event] = deque()
        self._ring_bytes = 0
        self._ring_bytes_max = ring_bytes_max
        self._on_events, self._on_gone = on_events, on_gone
        self._turn = 0
        self._entry = 0
        self._moved: asyncio.Future[None] | None = None

    def since(self, position: int, bytes_max: int) -> tuple[list[Event], int] | None:
        """Events from a position on and where they end; None if the ring does not reach back so far.

        Args:
            position: The position at which to begin.
            bytes_max: About how large the events may be together, by ``Event.size``; the first one may have any size.
        """
        if self.position is None or position >= self.position:
            return [], position
        if position < self.floor:
            return None
        found: list[Event] = []
        size = 0
        for event in islice(self._ring, bisect_left(self._ring, position, key=_order), None):
            size += event.size
            if found and size > bytes_max:
                return found, next_of(found[-1].change)
            found.append(event)
        return found, self.position

    @property
    def lag(self) -> int:
        """How many entries a node is known to have applied whose changes were not told here yet.

        Entries, not revisions: these jump when a shard was recovered, and not every entry changes a key.
        """
        if not self._entry:
            return 0
        newest = max((node.applied_index for node in self.shard.nodes.values() if node.up), default=0)
        return max(0, newest - self._entry)

    async def moved(self) -> None:
        """Waits until ``position`` has moved, or the stream has begun or ended."""
        if self._moved is None:
            self._moved = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._moved)

    def _tell_moved(self) -> None:
        if self._moved is not None:
            self._moved.set_result(None)
            self._moved = None

    async def run(self) -> None:
        """Follows the shard until it is cancelled."""
        loop = asyncio.get_running_loop()
        delay_s = RETRY_MIN_S
        holders = Holders()
        failed: set[Node] = set()
        while True:
            if len(failed) >= len(self.shard.expected):
                failed.clear()
            nodes = candidates(self.shard, self._turn, failed)
            self._turn += 1
            if not nodes:
                await asyncio.sleep(RETRY_MAX_S)
                continue
            began = False
            try:
                began = await self._follow(WatchStream(self.shard, nodes[0], request_from(self.position)))
            except HistoryGoneError as error:
                failed.add(nodes[0])
                holders.hold_not(nodes[0], error)
                lost = holders.verdict(nodes, loop.time())
                if lost is not None:
                    self._begin_anew(lost)
                    holders = holders.asked_anew()
                if lost is not None or len(failed) < len(nodes):
                    continue
            except (WatchBrokenError, FuturePositionError) as error:
                log.debug("watch.stream_ended", shard=self.shard.id, node=nodes[0].id, reason=str(error))
                began = self.connected
                holders.away(nodes[0], loop.time())
            finally:
                self.connected = False
                self._tell_moved()
            if began:
                holders.serves(nodes[0])
                delay_s = RETRY_MIN_S
                failed.clear()
            failed.add(nodes[0])
            await asyncio.sleep(delay_s)
            delay_s = min(RETRY_MAX_S, 2 * delay_s)

    async def _follow(self, stream: WatchStream) -> bool:
        """Takes the changes of a stream until its replica lags behind those that were told already."""
        loop = asyncio.get_running_loop()
        try:
            await stream.begin(self._cluster_id())
            self.connected = True
            if self.position is None:
                self.position = self.floor = stream.position
            self._entry = max(self._entry, stream.entry)
            self._tell_moved()
            current_s = loop.time()
            while True:
                self._take(await stream.changes(), stream.position)
                self._entry = max(self._entry, stream.entry)
                if stream.position >= self.position:
                    current_s = loop.time()
                elif loop.time() - current_s > LAG_S:
                    return True
        finally:
            stream.close()

    def _take(self, changes: Sequence[Change], upto: int) -> None:
        """Takes changes, with which everything before ``upto`` was told."""
        position = self.position
        assert position is not None, "a stream has begun"
        events: list[Event] = []
        for change in changes:
            event = Event(self.shard.id, change)
            # A node may tell from the beginning of a batch on.
            if event.order >= position:
                events.append(event)
                position = next_of(change)
        position = max(position, upto)
        if position == self.position:
            return
        self.position = position
        self._ring.extend(events)
        self._ring_bytes += sum(event.size for event in events)
        while self._ring_bytes > self._ring_bytes_max and self._ring:
            oldest = self._ring.popleft()
            self._ring_bytes -= oldest.size
            self.floor = next_of(oldest.change)
        self._on_events(self, events)
        self._tell_moved()

    def _begin_anew(self, error: HistoryGoneError) -> None:
        """Begins anew after changes were lost: tells all that follow, and goes on with the present changes."""
        log.warning("watch.history_gone", shard=self.shard.id, oldest=error.oldest)
        self._on_gone(error)
        self._ring.clear()
        self._ring_bytes = self._entry = 0
        self.position = None
