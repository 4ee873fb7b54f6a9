"""The watchers that have seen everything so far: each change is put into bytes once, and written to all who want it.

They are kept in groups of those who want the same in the same form, and groups are found by what they want: a key or a
prefix by one look-up for each length of a prefix, other ranges in a tree (``facade.routes.watch.stabbing``). A watcher
whose client does not read leaves, and catches up by itself later. Must not know gRPC, nor how a watcher catches up.

Invariants:
1. A watcher is here only while its positions are those of the feeds.
2. What is written to a watcher is whole: all that it wants of what came, or nothing and it leaves before.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import orjson

from facade.client.watches.feed import Event, Feed
from facade.client.watches.metrics import WatchMetrics
from facade.client.watches.stream import next_of, whole
from facade.routes.watch import ids as watch_ids
from facade.routes.watch.frames import COMMENT, change_frame, chunk, frame
from facade.routes.watch.request import Form, Selection
from facade.routes.watch.stabbing import Stabbing

PROGRESS_S = 5.0
COMMENT_S = 15.0
_SLICE = 500
"""The number of watchers that are told of progress before the event loop gets to do something else."""


class Watcher(Protocol):
    """A client that watches, and has seen all changes so far."""

    @property
    def selection(self) -> Selection:
        """The changes that the watcher wants."""

    @property
    def form(self) -> Form:
        """The form in which it is shown them."""

    def push(self, data: bytes) -> bool:
        """Takes bytes for the client; False if too many wait for it already, these included."""

    def left_behind(self, positions: dict[int, int]) -> None:
        """Tells the watcher that it is not in the audience any more, and the positions up to which it was told."""


class _Group:
    """The watchers that want the same changes in the same form."""

    __slots__ = ("form", "selection", "watchers")

    def __init__(self, selection: Selection, form: Form) -> None:
        self.selection = selection
        self.form = form
        self.watchers: set[Watcher] = set()


class Place(NamedTuple):
    """The place in the changes of all shards at which the audience is.

    Attributes:
        cluster: The cluster, as ids name it.
        epoch: The epoch of the partition map.
        positions: By shard, the position at which its feed goes on.
    """

    cluster: str
    epoch: int
    positions: dict[int, int]


def progress_frame(place: Place, form: Form, *, told: bool = True) -> bytes:
    """The event that all changes up to a place were sent; without its id while no watch could go on behind it."""
    identity = watch_ids.encode(*place).encode() if told else b""
    return frame(b"progress", identity, progress_data(place.positions), form)


def progress_data(positions: dict[int, int]) -> bytes:
    """The last revision by shard of which all changes were sent."""
    revisions = {str(shard): str(whole(position)) for shard, position in sorted(positions.items())}
    return orjson.dumps({"revisions": revisions})


class Audience:
    """The watchers that have seen all changes so far: see the module."""

    def __init__(
        self, feeds: Callable[[], Iterable[Feed]], place: Callable[[], tuple[str, int]], counts: WatchMetrics
    ) -> None:
        """Begins without watchers.

        Args:
            feeds: Gives the open feeds.
            place: Gives the cluster, and the epoch of its map.
            counts: The metrics of watches.
        """
        self._feeds = feeds
        self._place = place
        self._groups: dict[tuple[Selection, Form], _Group] = {}
        self._by_key: dict[bytes, list[_Group]] = {}
        self._by_prefix: dict[bytes, list[_Group]] = {}
        self._prefix_sizes: Counter[int] = Counter()
        self._others: Stabbing[_Group] = Stabbing()
        self._waits: dict[bytes, set[asyncio.Event]] = {}
        self.counts = counts

    @property
    def size(self) -> int:
        """How many watchers are in the audience."""
        return sum(len(group.watchers) for group in self._groups.values())

    def place(self) -> Place:
        """The place at which the audience is."""
        positions = {feed.shard.id: feed.position for feed in self._feeds() if feed.position is not None}
        return Place(*self._place(), positions)

    # The watchers.

    def join(self, watcher: Watcher) -> None:
        """Adds a watcher. Requires: it has seen all changes up to the present place."""
        selection, form = watcher.selection, watcher.form
        group = self._groups.get((selection, form))
        if group is None:
            group = self._groups[selection, form] = _Group(selection, form)
            if selection.key is not None:
                self._by_key.setdefault(selection.key, []).append(group)
            elif selection.prefix is not None:
                self._by_prefix.setdefault(selection.prefix, []).append(group)
                self._prefix_sizes[len(selection.prefix)] += 1
            else:
                self._others.add(selection.start, selection.end, group)
        group.watchers.add(watcher)

    def leave(self, watcher: Watcher) -> None:
        """Removes a watcher; does nothing if it is not in the audience."""
        selection, form = watcher.selection, watcher.form
        group = self._groups.get((selection, form))
        if group is None:
            return
        group.watchers.discard(watcher)
        if group.watchers:
            return
        del self._groups[selection, form]
        if selection.key is not None:
            self._forget(self._by_key, selection.key, group)
        elif selection.prefix is not None:
            self._forget(self._by_prefix, selection.prefix, group)
            self._prefix_sizes[len(selection.prefix)] -= 1
            self._prefix_sizes += Counter()  # Without those that are 0.
        else:
            self._others.remove(group)

    @staticmethod
    def _forget(groups: dict[bytes, list[_Group]], name: bytes, group: _Group) -> None:
        groups[name].remove(group)
        if not groups[name]:
            del groups[name]

    def wait_for(self, key: bytes, changed: asyncio.Event) -> Callable[[], None]:
        """Has an event set when a key changes, until the returned function is called."""
        self._waits.setdefault(key, set()).add(changed)

        def end() -> None:
            waiting = self._waits[key]
            waiting.discard(changed)
            if not waiting:
                del self._waits[key]

        return end

    # Events.

    def publish(self, feed: Feed, events: Sequence[Event]) -> None:
        """Writes new events to all watchers that want them."""
        if self._waits:
            for event in events:
                for changed in self._waits.get(event.change.key, ()):
                    changed.set()
        if not self._groups or not events:
            return
        wanted: dict[_Group, list[int]] = {}
        for number, event in enumerate(events):
            change = event.change
            for group in self._interested(change.key):
                if group.selection.wants(change.kind, change.key):
                    wanted.setdefault(group, []).append(number)
        if not wanted:
            return
        identities = self._identities(feed, events)
        frames: dict[tuple[int, Form], bytes] = {}
        for group, numbers in wanted.items():
            parts = []
            for number in numbers:
                made = frames.get((number, group.form))
                if made is None:
                    made = change_frame(events[number], identities[number], group.form)
                    frames[number, group.form] = made
                parts.append(made)
            self.counts.events += len(parts) * len(group.watchers)
            self._write(group.watchers, chunk(b"".join(parts)))

    def _interested(self, key: bytes) -> list[_Group]:
        """The groups that may want a key."""
        found = [*self._by_key.get(key, ()), *self._others.find(key)]
        for size in self._prefix_sizes:
            found += self._by_prefix.get(key[:size], ())
        return found

    def _identities(self, feed: Feed, events: Sequence[Event]) -> list[bytes]:
        """The id behind each of the events, with the other shards at their present positions."""
        cluster, epoch, positions = self.place()
        parts = {shard: watch_ids.part_of(shard, position) for shard, position in sorted(positions.items())}
        head, mine = watch_ids.head_of(cluster, epoch), feed.shard.id
        before = head + "".join(f"{part}," for shard, part in parts.items() if shard < mine)
        after = "".join(f",{part}" for shard, part in parts.items() if shard > mine)
        return [f"{before}{watch_ids.part_of(mine, next_of(event.change))}{after}".encode() for event in events]

    def _write(self, watchers: Iterable[Watcher], data: bytes) -> None:
        slow = [watcher for watcher in watchers if not watcher.push(data)]
        if slow:
            self.counts.left_behind += len(slow)
            positions = self.place().positions
            for watcher in slow:
                self.leave(watcher)
                watcher.left_behind(positions)

    def lost(self, shard: int) -> None:
        """Lets all watchers go, because changes of a shard were lost: each has to find out what is left."""
        positions = self.place().positions
        for group in list(self._groups.values()):
            for watcher in list(group.watchers):
                self.leave(watcher)
                watcher.left_behind(dict(positions))
        # Requests that wait for a change of a key read it again: the change may be among the lost ones.
        for waiting in self._waits.values():
            for changed in waiting:
                changed.set()

    # Time passes.

    async def tell_progress(self, *, comment: bool = False) -> None:
        """Tells all watchers that all changes up to the present place were sent."""
        watchers = [watcher for group in self._groups.values() for watcher in group.watchers]
        for first in range(0, len(watchers), _SLICE):
            # Made again for each slice: it must be true at the moment when it is written.
            place = self.place()
            made: dict[Form, bytes] = {}
            for watcher in watchers[first : first + _SLICE]:
                form = watcher.form
                group = self._groups.get((watcher.selection, form))
                if group is None or watcher not in group.watchers:
                    continue
                if form not in made:
                    content = (COMMENT if comment and not form.lines else b"") + progress_frame(place, form)
                    made[form] = chunk(content)
                self._write((watcher,), made[form])
            await asyncio.sleep(0)

    async def run(self) -> None:
        """Tells progress now and then, until it is cancelled."""
        loop = asyncio.get_running_loop()
        commented_s = loop.time()
        while True:
            await asyncio.sleep(PROGRESS_S)
            comment = loop.time() - commented_s >= COMMENT_S - 1
            if comment:
                commented_s = loop.time()
            await self.tell_progress(comment=comment)
