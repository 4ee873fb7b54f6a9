"""The feeds of all shards that clients of this facade watch, and the streams of those that have to catch up.

Must not know HTTP. A feed begins with its first client, and ends some time after its last one.

Invariants:
1. There is one shared stream for each shard, however many clients watch it.
2. Streams of clients that catch up are bounded in number, and so are the scans with which watches begin; one client
   has no more than a part of them while others wait.
3. A feed follows one cluster. Positions in a restored cluster mean other changes, so it gets new feeds at the moment
   when it is known, and whoever had the old ones is told that changes were lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import structlog

from doug.v1 import doug_pb2
from facade.client.directory import Directory
from facade.client.places import Queue
from facade.client.shard import Shard
from facade.client.watches.feed import Event, Feed
from facade.client.watches.stream import (
    FuturePositionError,
    HistoryGoneError,
    Holders,
    WatchBrokenError,
    WatchStream,
    candidates,
    split,
)
from facade.errors import NotAppliedError

LINGER_S = 30.0
TRY_S = 0.1
OnEvents = Callable[[Feed, Sequence[Event]], None]

log = structlog.get_logger()


def _nothing(*_: object) -> None:
    """Does nothing: stands for a callback that was not set."""


def _raise_defect(task: asyncio.Task[None]) -> None:
    """Raises what ended a feed in a callback of the loop, which ends the process: its watches would wait for ever."""
    if not task.cancelled():
        task.result()


class Feeds:
    """The feeds of all shards that clients watch: see the module.

    Attributes:
        on_events: Takes the events of a shard; set before the first shard is followed.
        on_gone: Called when changes were lost; set likewise.
    """

    def __init__(self, directory: Directory, ring_bytes_max: int, catch_ups_max: int) -> None:
        """Follows the shards of ``directory``."""
        self._directory = directory
        self._ring_bytes_max = ring_bytes_max
        self._catch_ups = Queue(catch_ups_max)
        self._feeds: dict[int, Feed] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._users: dict[int, int] = {}
        self._ends: dict[int, asyncio.TimerHandle] = {}
        self._holders: dict[int, Holders] = {}
        self._cluster_id = b""
        self.on_events: OnEvents = _nothing
        self.on_gone: Callable[[HistoryGoneError], None] = _nothing

    @property
    def catching_up(self) -> int:
        """How many clients have a stream or a scan of their own."""
        return self._catch_ups.taken

    @property
    def open_feeds(self) -> list[Feed]:
        """The feeds that are followed."""
        return list(self._feeds.values())

    def numbers(self) -> list[int]:
        """The shards of the whole keyspace.

        Raises:
            NotAppliedError: The map is not loaded.
        """
        known = self._directory.map
        if known is None:
            raise NotAppliedError("starting", "The partition map is not loaded yet.")
        return sorted({part.shard for part in known.ranges})

    def feed(self, number: int) -> Feed:
        """The feed of a shard. Requires: the shard is being followed."""
        return self._feeds[number]

    def shard_of(self, key: bytes) -> int:
        """The shard of a key.

        Raises:
            NotAppliedError: The map is not loaded.
        """
        known = self._directory.map
        if known is None:
            raise NotAppliedError("starting", "The partition map is not loaded yet.")
        return known.owner(key)[0]

    @contextlib.asynccontextmanager
    async def using(self, numbers: Iterable[int], timeout_s: float) -> AsyncIterator[dict[int, Feed]]:
        """Follows some shards for as long as the block lasts, and waits until their feeds have begun.

        Raises:
            NotAppliedError: A shard cannot be reached in time.
        """
        used: list[int] = []
        try:
            for number in numbers:
                self._begin(number)
                used.append(number)
            feeds = {number: self._feeds[number] for number in used}
            try:
                async with asyncio.timeout(timeout_s):
                    for feed in feeds.values():
                        while feed.position is None:
                            await feed.moved()
            except TimeoutError:
                late = next(number for number, feed in feeds.items() if feed.position is None)
                raise NotAppliedError("unavailable", "No node tells the shard's changes.", shard=late) from None
            yield feeds
        finally:
            for number in used:
                self._end(number)

    def _begin(self, number: int) -> None:
        shard = self._directory.shards.get(number)
        if shard is None:
            raise NotAppliedError("unknown_shard", "It is not known where this shard's nodes are.", shard=number)
        self._users[number] = self._users.get(number, 0) + 1
        ending = self._ends.pop(number, None)
        if ending is not None:
            ending.cancel()
        if number not in self._feeds:
            self._follow(number, shard)

    def _follow(self, number: int, shard: Shard) -> None:
        cluster_id = self._directory.cluster_id
        feed = self._feeds[number] = Feed(
            shard,
            # Before the map is loaded, the cluster that answers is accepted.
            lambda: cluster_id or self._directory.cluster_id,
            self._ring_bytes_max,
            self.on_events,
            self.on_gone,
        )
        task = self._tasks[number] = asyncio.create_task(feed.run())
        task.add_done_callback(_raise_defect)

    def look_at_cluster(self) -> None:
        """Looks at the map that was just loaded: if it is of another cluster than before, all feeds begin anew."""
        before, self._cluster_id = self._cluster_id, self._directory.cluster_id
        if before in (b"", self._cluster_id):
            return
        log.warning("watch.cluster_replaced", shards=sorted(self._feeds))
        for number in list(self._feeds):
            self._tasks[number].cancel()
            self._follow(number, self._directory.shards[number])
            self.on_gone(HistoryGoneError(number, 0))

    def _end(self, number: int) -> None:
        self._users[number] -= 1
        if not self._users[number]:
            loop = asyncio.get_running_loop()
            self._ends[number] = loop.call_later(LINGER_S, self._drop, number)

    def _drop(self, number: int) -> None:
        self._ends.pop(number, None)
        self._tasks.pop(number).cancel()
        del self._feeds[number]

    async def close(self) -> None:
        """Ends all feeds."""
        for ending in self._ends.values():
            ending.cancel()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Streams of their own.

    @contextlib.asynccontextmanager
    async def catch_up(
        self, request: doug_pb2.WatchRequest, number: int, timeout_s: float
    ) -> AsyncIterator[WatchStream]:
        """A stream from a client's position on, from any node that holds the changes; it ends with the block.

        Raises:
            HistoryGoneError: No node holds the changes.
            NotAppliedError: No node answers, or too many clients catch up already.
        """
        async with self.place(timeout_s, number):
            stream = await self._open(self._directory.shards[number], request, timeout_s)
            try:
                yield stream
            finally:
                stream.close()

    @contextlib.asynccontextmanager
    async def place(self, timeout_s: float, number: int | None = None) -> AsyncIterator[None]:
        """A place among those that catch up, which is given back with the end of the block.

        Raises:
            NotAppliedError: None becomes free in time.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(timeout_s):
                    await stack.enter_async_context(self._catch_ups.one())
            except TimeoutError:
                raise NotAppliedError("overloaded", "Too many watches are catching up.", shard=number) from None
            yield

    async def _open(self, shard: Shard, request: doug_pb2.WatchRequest, timeout_s: float) -> WatchStream:
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        turn = 0
        holders = self._holders.setdefault(shard.id, Holders())
        while True:
            said = holders.asked_anew()
            nodes = candidates(shard, turn)
            turn += 1
            for node in nodes:
                stream = WatchStream(shard, node, request)
                try:
                    await stream.begin(self._directory.cluster_id)
                except HistoryGoneError as error:
                    said.hold_not(node, error)
                except (WatchBrokenError, FuturePositionError):
                    stream.close()
                    said.away(node, loop.time())
                else:
                    said.serves(node)
                    return stream
            gone = said.verdict(nodes, loop.time())
            if gone is not None:
                raise gone
            if loop.time() >= ends_s:
                raise NotAppliedError("unavailable", "No node tells the shard's changes.", shard=shard.id)
            await asyncio.sleep(TRY_S)

    async def heads(self, numbers: Iterable[int], timeout_s: float) -> dict[int, int]:
        """By shard, the position behind everything that was acknowledged before this call.

        Raises:
            NotAppliedError: A shard has no leader in time.
        """
        wanted = list(numbers)
        found = await asyncio.gather(*(self._head(number, timeout_s) for number in wanted))
        return dict(zip(wanted, found, strict=True))

    async def is_future(self, number: int, position: int, timeout_s: float) -> bool:
        """Whether a position lies behind all changes so far, by what the leader says."""
        return position > await self._head(number, timeout_s)

    async def _head(self, number: int, timeout_s: float) -> int:
        shard = self._directory.shards[number]
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        request = doug_pb2.WatchRequest(now=True, consistency=doug_pb2.CONSISTENCY_LINEARIZABLE)
        while True:
            leader = shard.leader
            if leader is not None:
                stream = WatchStream(shard, leader, request)
                try:
                    await stream.begin(self._directory.cluster_id)
                    return stream.position
                except (WatchBrokenError, HistoryGoneError, FuturePositionError):
                    pass
                finally:
                    stream.close()
            if loop.time() >= ends_s:
                raise NotAppliedError("no_leader", "No leader of the shard answered in time.", shard=number)
            await asyncio.sleep(TRY_S)


def request_of(
    position: int, start: bytes, end: bytes | None, kinds: Iterable[int], *, values: bool
) -> doug_pb2.WatchRequest:
    """A request for some changes from a position on."""
    revision, place = split(position)
    return doug_pb2.WatchRequest(
        after=revision,
        after_place=place,
        start=start,
        end=end or b"",
        kinds=[doug_pb2.ChangeKind.ValueType(kind) for kind in sorted(kinds)],
        keys_only=not values,
    )
