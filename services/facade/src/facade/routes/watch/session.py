"""One watch: from where it begins to where its client leaves.

It sends what is there first if that was asked for, then what its client has missed, out of the ring of the feed or by a
stream of its own, as fast as the client reads; and once nothing is left, it joins the audience, which writes to it.
Must not know gRPC.

Invariants:
1. For every shard, all wanted changes before its position were sent, each once and in order, and none behind it.
2. An id is sent only if a watch can go on behind it without loss or repeat.
3. A client that does not read costs what waits in its connection, and nothing else: no stream and no scan of a node,
   and no place among those that catch up.
4. Progress is told every ``PROGRESS_S``, also while changes that were missed keep coming.

Source: docs/api.md, Watches.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from doug_wire.auth.grants import Verb
from doug_wire.scan import ScanRecord
from doug_wire.watch import Change, ChangeKind
from facade.client.access import ANYONE, allowed, range_of, refusal
from facade.client.scan import Scan, ScanBrokenError, ScanQuery, Scans
from facade.client.watches.feed import Event, Feed
from facade.client.watches.feeds import Feeds, request_of
from facade.client.watches.stream import HistoryGoneError, WatchBrokenError, behind, next_of
from facade.errors import ForbiddenError, NotAppliedError, UnauthenticatedError
from facade.routes import problem
from facade.routes.body import DisconnectedError
from facade.routes.raw import RawRequest
from facade.routes.watch import ids as watch_ids
from facade.routes.watch.audience import COMMENT_S, PROGRESS_S, Audience, Place, progress_frame
from facade.routes.watch.frames import COMMENT, RETRY, change_frame, data_of, frame, resync_frame
from facade.routes.watch.request import Form, Selection, WatchAsked

SLICE = 256
STEP_BYTES = 256 << 10
UNREAD_BYTES_MAX = 256 << 10
"""A client that has left so much unread is written to only when it has taken most of it."""
LOOK_S = 1.0
"""While nothing comes, a watch that is not with the others looks so often whether its client is there."""
OPEN_S = 5.0
HOLD_S = 1.0
"""A client that leaves what was written unread for so long gives its place among those that catch up to others."""
DELAY_MIN_S, DELAY_MAX_S = 0.01, 1.0
"""The pauses between two tries to begin a scan."""


class _RefusedError(Exception):
    """The client may not see any more of it."""


class _Part(NamedTuple):
    """A part of a snapshot: the keys up to one (None: all that are left) are as of these positions."""

    upto: bytes | None
    positions: dict[int, int]


def _upto(part: _Part) -> bytes:
    """The last key of a part that has an end."""
    return part.upto or b""


async def _slices(scan: Scan) -> AsyncIterator[Sequence[ScanRecord]]:
    """The records of a scan, some at a time."""
    async for batch in scan.batches():
        for first in range(0, len(batch), SLICE):
            yield batch[first : first + SLICE]


class Session:
    """See the module."""

    def __init__(
        self,
        request: RawRequest,
        asked: WatchAsked,
        feeds: dict[int, Feed],
        streams: Feeds,
        scans: Scans,
        audience: Audience,
    ) -> None:
        """Builds it; ``run`` does everything."""
        self._request = request
        self._exchange: Any = request.exchange
        self._asked = asked
        self._feeds = feeds
        self._streams = streams
        self._scans = scans
        self._audience = audience
        self._here = False
        self._refused = False
        self.caller = ANYONE
        self._loop = asyncio.get_running_loop()
        self._told_s = self._progress_s = self._loop.time()
        self._parts: list[_Part] = []
        self.positions: dict[int, int] = {}
        self._cluster = audience.place().cluster

    # The methods that the audience calls.

    @property
    def selection(self) -> Selection:
        """The changes that the client wants."""
        return self._asked.selection

    @property
    def form(self) -> Form:
        """How it is shown."""
        return self._asked.form

    def push(self, data: bytes) -> bool:
        """Takes bytes for the client; False if too many wait for it already, these included."""
        unread: int = self._exchange.push(data)
        return unread <= UNREAD_BYTES_MAX and not (unread and self._exchange.too_much_unread)

    def look(self) -> None:
        """Ends the watch if its client may not watch all of it any more: nothing that comes from now on is sent."""
        selection = self.selection
        if not allowed(self.caller, Verb.WATCH, range_of(selection.start, selection.end)):
            self._refused = True
            if self._here:
                self._audience.leave(self)
                self._here = False
            self._exchange.message_event.set()

    def _over(self) -> bool:
        """Whether it comes to its end."""
        return self._refused or bool(self._exchange.stopping)

    def left_behind(self, positions: dict[int, int]) -> None:
        """Takes the positions up to which it was told: it is not in the audience any more."""
        self._here = False
        self._progress_s = self._loop.time()  # With the others it was told often enough.
        self.positions = {shard: positions.get(shard, self.positions[shard]) for shard in self._feeds}
        self._exchange.message_event.set()

    # Its life.

    async def run(self) -> None:
        """Sends until the client leaves, or changes are lost. Requires: the head was sent, ``positions`` are set.

        Raises:
            DisconnectedError: The client is gone.
        """
        with contextlib.suppress(_RefusedError):
            try:
                await self._tell()
            except HistoryGoneError as error:
                self._audience.counts.resyncs += 1
                await self._write(resync_frame(error.shard, error.oldest, self.form))
        if self._refused:
            selection = self.selection
            why = refusal(self.caller, Verb.WATCH, range_of(selection.start, selection.end))
            await self._request.send(frame(b"refused", b"", problem.document(why), self.form), more=True)
        await self._request.send(b"")

    async def _tell(self) -> None:
        """Sends the changes, for as long as nothing goes wrong."""
        if not self.form.lines:
            await self._write(RETRY)
        if self._asked.snapshot:
            await self._snapshot()
            if self._over():
                return
        await self._tell_progress()
        while not self._over():
            await self._exchange.drained()
            self._check()
            await self._catch_up()
            if self._over():
                break
            await self._live()

    async def _live(self) -> None:
        """Is written to with the others, until the client leaves it or does not read."""
        self._here = True
        self._audience.join(self)
        try:
            while self._here and not self._over():
                message = await self._request.receive()
                if message["type"] == "http.disconnect":
                    raise DisconnectedError
        finally:
            if self._here:
                self._audience.leave(self)
                self._here = False

    async def _catch_up(self) -> None:
        """Sends what was missed; at its end, in the same turn of the loop, nothing is."""
        while not self._over():
            behind_any = False
            for number, feed in self._feeds.items():
                if feed is not self._streams.feed(number):
                    raise HistoryGoneError(number, 0)  # The cluster was replaced, and its positions mean nothing now.
                position = self.positions[number]
                if feed.position == position:
                    continue
                behind_any = True
                found = feed.since(position, STEP_BYTES)
                if found is None:
                    await self._from_node(number, feed)
                    continue
                if feed.position is None or position > feed.position:
                    await self._wait(feed)
                    continue
                events, upto = found
                await self._send(events)
                await self._came_to(number, upto)
            if not behind_any and not self._parts:
                return
            if not behind_any:
                await self._wait(next(iter(self._feeds.values())))

    async def _wait(self, feed: Feed) -> None:
        """Waits until a feed moves, or for a moment."""
        try:
            async with asyncio.timeout(LOOK_S):
                await feed.moved()
        except TimeoutError:
            pass
        if self._loop.time() - self._progress_s >= PROGRESS_S:
            await self._tell_progress()
        self._check()

    async def _came_to(self, number: int, position: int) -> None:
        """Notes that all changes of a shard before a position were sent, and tells so now and then."""
        self.positions[number] = position
        self._drop_parts()
        if self._loop.time() - self._progress_s >= PROGRESS_S:
            await self._tell_progress()

    async def _from_node(self, number: int, feed: Feed) -> None:
        """Sends what the ring does not hold any more, by a stream of its own, until the ring holds the rest.

        Raises:
            HistoryGoneError: No node holds it.
        """
        selection = self.selection
        position = self.positions[number]
        request = request_of(position, selection.start, selection.end, selection.kinds, values=self.form.values)
        try:
            async with self._streams.catch_up(request, number, OPEN_S) as stream:
                while position < feed.floor and not self._over() and await self._reads():
                    changes = await stream.changes()
                    events = [Event(number, change) for change in changes]
                    await self._send([event for event in events if event.order >= position])
                    position = max(position, stream.position)
                    await self._came_to(number, position)
        except (WatchBrokenError, NotAppliedError):
            await self._wait(feed)
        # Without a place it may take as long as it likes.
        await self._exchange.drained()
        self._check()

    async def _reads(self) -> bool:
        """Whether the client takes most of what was written within a moment."""
        try:
            async with asyncio.timeout(HOLD_S):
                await self._exchange.drained()
        except TimeoutError:
            return False
        return True

    # Sending.

    async def _send(self, events: Sequence[Event]) -> None:
        """Sends those of some events that are wanted; the positions are still where they were before them."""
        parts = []
        selection, positions = self.selection, dict(self.positions)
        for event in events:
            change = event.change
            positions[event.shard] = next_of(change)
            if not selection.wants(change.kind, change.key) or self._in_snapshot(event):
                continue
            parts.append(change_frame(event, self._identity(positions), self.form))
        if parts:
            self._audience.counts.events += len(parts)
            await self._write(b"".join(parts))

    def _place(self, positions: dict[int, int]) -> Place:
        return self._audience.place()._replace(cluster=self._cluster, positions=positions)

    def _identity(self, positions: dict[int, int]) -> bytes:
        return b"" if self._parts else watch_ids.encode(*self._place(positions)).encode()

    async def _tell_progress(self) -> None:
        await self._write(progress_frame(self._place(self.positions), self.form, told=not self._parts))
        self._progress_s = self._loop.time()

    async def _write(self, content: bytes) -> None:
        """Sends bytes, once the client has taken most of those before.

        Raises:
            DisconnectedError: The client is gone.
            _RefusedError: The client has lost the right to see them.
        """
        if self._refused:
            raise _RefusedError
        await self._request.send(content, more=True)
        self._told_s = self._loop.time()
        self._check()

    def _check(self) -> None:
        if self._exchange.disconnected:
            raise DisconnectedError

    # The entries at the beginning.

    async def _snapshot(self) -> None:
        """Sends what is there, and begins behind it; what is sent is not all if the watch comes to its end before."""
        selection = self.selection
        rest: ScanQuery | None = ScanQuery(
            selection.start, selection.end, keys_only=not self.form.values, verb=Verb.WATCH
        )
        delay_s = DELAY_MIN_S
        while rest is not None and not self._over():
            try:
                rest = await self._snapshot_from(rest)
                delay_s = DELAY_MIN_S
                # Without a scan it may take as long as it likes.
                await self._exchange.drained()
                self._check()
            except (UnauthenticatedError, ForbiddenError):
                self._refused = True
                raise _RefusedError from None
            except NotAppliedError:
                self._check()
                if not self.form.lines and self._loop.time() - self._told_s >= COMMENT_S:
                    await self._write(COMMENT)
                await asyncio.sleep(delay_s)
                delay_s = min(DELAY_MAX_S, 2 * delay_s)
        if rest is not None:
            return
        for number in self._feeds:
            self.positions[number] = min(part.positions[number] for part in self._parts)
        self._drop_parts()

    async def _snapshot_from(self, rest: ScanQuery) -> ScanQuery | None:
        """Sends what one scan finds, as far as the client reads; returns the rest of the range, None if there is none.

        Raises:
            NotAppliedError: Nothing was sent, because no scan could begin.
        """
        last: ScanRecord | None = None
        positions: dict[int, int] = {}
        try:
            async with self._streams.place(OPEN_S), self._scans.open(rest) as scan:
                positions = {shard: behind(revision) for shard, revision in scan.revisions.items()}
                if int(ChangeKind.PUT) not in self.selection.kinds:
                    self._note_part(None, positions)
                    return None
                async for some in _slices(scan):
                    if self._over() or not await self._reads():
                        return self._rest_behind(last, rest, positions)
                    await self._write(b"".join([self._entry(record) for record in some]))
                    last = some[-1]
                self._note_part(None, positions)
                return None
        except ScanBrokenError as error:
            if last is None:
                raise NotAppliedError(error.reason, str(error), shard=error.shard) from None
            return self._rest_behind(last, rest, positions)

    def _rest_behind(self, last: ScanRecord | None, rest: ScanQuery, positions: dict[int, int]) -> ScanQuery | None:
        """The rest of a range of which the keys up to a record were sent, as of these positions."""
        if last is None:
            return rest
        self._note_part(last.key, positions)
        return rest.behind(last)

    def _note_part(self, upto: bytes | None, positions: dict[int, int]) -> None:
        """Notes that the keys behind the last part were sent as of these positions, up to one."""
        if self._parts and self._parts[-1].positions == positions:
            self._parts.pop()  # Nothing has changed in between: it is one part.
        self._parts.append(_Part(upto, positions))

    def _entry(self, record: ScanRecord) -> bytes:
        """A key that is there, as the change that made it so; nothing can be gone on behind it."""
        _, key, revision, value, content_type, content_encoding, expires_at = record
        shard = self._streams.shard_of(key)
        change = Change(int(ChangeKind.PUT), True, 0, key, revision, value, content_type, content_encoding, expires_at)
        return frame(b"put", b"", data_of(shard, change, values=self.form.values), self.form)

    def _in_snapshot(self, event: Event) -> bool:
        """Whether the snapshot had a change already."""
        parts = self._parts
        # All but the last one have an end, and they are in the order of their keys.
        place = bisect_left(parts, event.change.key, hi=max(0, len(parts) - 1), key=_upto)
        if place == len(parts) or (parts[place].upto is not None and event.change.key > _upto(parts[place])):
            return False
        return event.order < parts[place].positions[event.shard]

    def _drop_parts(self) -> None:
        """Forgets the snapshot once all of it is behind."""
        if self._parts and all(
            self.positions[number] >= max(part.positions[number] for part in self._parts) for number in self._feeds
        ):
            self._parts = []
