"""The routes of watches, ``GET /v1/watch`` and ``POST /v1/watch:progress``.

Must not know gRPC. Invariants: (1) what cannot be watched is told with a status, before the stream begins; (2) a watch
that has begun is no request that is being answered: it counts among the watches alone.

Source: docs/api.md, Watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import perf_counter

import orjson

from doug_wire.auth.grants import Verb
from facade.client.access import check, current, range_of
from facade.client.metrics import Metrics
from facade.client.places import Places
from facade.client.router import Router
from facade.client.watches.feeds import Feeds, request_of
from facade.client.watches.stream import HistoryGoneError
from facade.errors import BadRequestError, NotAppliedError, ProblemError
from facade.routes import body as bodies
from facade.routes import problem
from facade.routes.options import Headers
from facade.routes.raw import CLIENT_WENT_AWAY, JSON_TYPE, RawApp, RawRequest, Scope, Send, check_acceptable
from facade.routes.watch import ids as watch_ids
from facade.routes.watch.audience import Audience, progress_data
from facade.routes.watch.ids import WatchId
from facade.routes.watch.request import EVENT_STREAM, WatchAsked, watch_of
from facade.routes.watch.session import Session
from facade.settings import Settings

WATCH_PATH = b"/v1/watch"
PROGRESS_PATH = b"/v1/watch:progress"
OPEN_S = 5.0
REST_SHARE, REST_S_MAX = 4, 1.0
"""The pause between two rounds of progress on demand is so many times as long as a round takes, and no longer."""
HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"), (b"vary", b"accept"))
EVENTS_TYPE = (b"content-type", EVENT_STREAM + b"; charset=utf-8")
LINES_TYPE = (b"content-type", b"application/x-ndjson")


def _head(asked: WatchAsked) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of a watch."""
    return (LINES_TYPE if asked.form.lines else EVENTS_TYPE, *HEADERS)


class WatchApp(RawApp):
    """Watches."""

    route = "/v1/watch"
    methods = frozenset({"GET", "HEAD"})

    def __init__(self, router: Router, metrics: Metrics, settings: Settings, feeds: Feeds, audience: Audience) -> None:
        """Serves watches over ``feeds``."""
        super().__init__(metrics)
        self._router = router
        self._feeds = feeds
        self._audience = audience
        self._places = Places(
            "watches are open here", settings.watches_max, settings.client_watches_max, settings.address_watches_max
        )
        metrics.places.append(self._places)

    async def __call__(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        """Serves one request; it is counted when its stream begins, or is refused."""
        started_s = perf_counter()
        request = RawRequest(scope, receive, send)
        method = request.method
        try:
            if method not in self.methods:
                allow = (problem.allow(self.methods),)
                method = "other"
                raise BadRequestError("method_not_allowed", "Watches are read.", status=405, headers=allow)
            headers = Headers(request.raw_headers)
            asked = watch_of(request.query, headers.accept, headers.last_event_id)
            with self._places.one():
                await self._watch(request, asked, started_s)
            if method == "HEAD":
                await request.answer(200, _head(asked))
                self._metrics.request(method, request.status, "none", perf_counter() - started_s, self.route)
        except ProblemError as error:
            await request.refuse(error)
            self._metrics.request(method, request.status, "none", perf_counter() - started_s, self.route)
        except bodies.DisconnectedError:
            if not request.status:
                request.status = CLIENT_WENT_AWAY
                self._metrics.request(method, request.status, "none", perf_counter() - started_s, self.route)

    async def _watch(self, request: RawRequest, asked: WatchAsked, started_s: float) -> None:
        caller, selection = current.get(), asked.selection
        if self._router.guarded:
            check(caller, Verb.WATCH, range_of(selection.start, selection.end))
        numbers = self._numbers(asked)
        self._metrics.watches.open = self._places.taken
        self._metrics.inflight -= 1
        try:
            async with self._feeds.using(numbers, OPEN_S) as feeds:
                session = Session(request, asked, feeds, self._feeds, self._router.scans, self._audience)
                if self._router.guarded:
                    session.caller = caller
                if asked.origin is not None:
                    session.positions = await self._positions(asked, asked.origin, numbers)
                else:
                    session.positions = {
                        number: feed.position for number, feed in feeds.items() if feed.position is not None
                    }
                if request.method == "HEAD":
                    return
                await request.start(200, _head(asked))
                self._metrics.request("GET", 200, "none", perf_counter() - started_s, self.route)
                with caller.access.followed(session.look):
                    session.look()
                    await session.run()
        finally:
            self._metrics.inflight += 1
            self._metrics.watches.open -= 1

    def _numbers(self, asked: WatchAsked) -> list[int]:
        """The shards that are to be followed."""
        key = asked.selection.key
        return self._feeds.numbers() if key is None else [self._feeds.shard_of(key)]

    async def _positions(self, asked: WatchAsked, origin: WatchId, numbers: Iterable[int]) -> dict[int, int]:
        """The positions at which a watch goes on that comes with an id.

        Raises:
            BadRequestError: The id is of another cluster, or names what has not happened, or what is gone.
            NotAppliedError: No leader could tell in time.
        """
        cluster, epoch = self._audience.place()[:2]
        if origin.cluster != cluster:
            raise BadRequestError(
                "foreign_watch_id", "The id is of another cluster, or from before a restore.", status=409
            )
        if origin.epoch != epoch:
            raise BadRequestError(
                "history_gone", "Keys have moved between shards since: read them again, with from=start.", status=410
            )
        positions = {}
        for number in numbers:
            if number not in origin.positions:
                raise BadRequestError("bad_watch_id", f"The id says nothing of shard {number}.")
            positions[number] = origin.positions[number]
        for number, position in positions.items():
            await self._check(asked, number, position)
        return positions

    async def _check(self, asked: WatchAsked, number: int, position: int) -> None:
        """Refuses what has not happened yet, and what is gone."""
        feed = self._feeds.feed(number)
        known = feed.position
        if known is not None and feed.floor <= position <= known:
            return
        if known is None or position > known:
            if await self._feeds.is_future(number, position, OPEN_S):
                raise BadRequestError("future_watch_id", f"Shard {number} has not come so far yet.")
            return
        selection = asked.selection
        wanted = request_of(position, selection.start, selection.end, selection.kinds, values=False)
        try:
            async with self._feeds.catch_up(wanted, number, OPEN_S):
                return
        except HistoryGoneError as error:
            detail = f"Shard {number} holds the changes behind revision {error.oldest}: begin anew, with from=start."
            raise BadRequestError("history_gone", detail, status=410, shard=number) from None


class ProgressApp(RawApp):
    """Progress on demand: how far the cluster is, and that this facade's watches are told so.

    All who ask while a round is under way share the next one. Between two rounds there is a pause in proportion to what
    a round takes: one small request has every watch of the facade written to, so that nobody can ask for too many.
    """

    route = "/v1/watch:progress"
    methods = frozenset({"POST"})

    def __init__(self, metrics: Metrics, feeds: Feeds, audience: Audience) -> None:
        """Asks the shards of ``feeds``."""
        super().__init__(metrics)
        self._feeds = feeds
        self._audience = audience
        self._now: asyncio.Task[bytes] | None = None
        self._next: asyncio.Task[bytes] | None = None
        self._next_s = 0.0

    async def serve(self, request: RawRequest) -> None:
        """Answers with an id that every watch is promised to reach, and has the watches of this facade tell theirs."""
        if request.query:
            raise BadRequestError("unknown_parameter", "Progress takes no parameters.")
        check_acceptable(Headers(request.raw_headers).accept, JSON_TYPE)
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._now))
        content = await asyncio.shield(self._next)
        await request.answer_json(200, content, ((b"cache-control", b"no-store"),))

    async def _after(self, before: asyncio.Task[bytes] | None) -> bytes:
        """Begins a round once the one before is over."""
        loop = asyncio.get_running_loop()
        if before is not None:
            await asyncio.wait((before,))
            await asyncio.sleep(max(0.0, self._next_s - loop.time()))
        self._now, self._next = self._next, None
        began_s = loop.time()
        try:
            return await self._round()
        finally:
            ended_s = loop.time()
            self._next_s = ended_s + min(REST_S_MAX, REST_SHARE * (ended_s - began_s))

    async def _round(self) -> bytes:
        """Has all watches told how far they are; returns what whoever asked is told.

        Raises:
            NotAppliedError: A shard has no leader, or its changes do not come, in time.
        """
        heads = await self._feeds.heads(self._feeds.numbers(), OPEN_S)
        try:
            async with asyncio.timeout(OPEN_S):
                for feed in self._feeds.open_feeds:
                    while feed.position is None or feed.position < heads.get(feed.shard.id, 0):
                        await feed.moved()
        except TimeoutError:
            raise NotAppliedError("unavailable", "The streams of changes did not come so far in time.") from None
        await self._audience.tell_progress()
        cluster, epoch = self._audience.place()[:2]
        identity = watch_ids.encode(cluster, epoch, heads)
        return orjson.dumps({"id": identity, **orjson.loads(progress_data(heads))})
