"""The routes of the console: ``/ui/`` with its files, and ``/v1/console/`` with what only the console needs.

All else that a console shows or does goes through the routes that everybody uses. Must not know gRPC.

``GET /v1/console/stream`` server-sent events ``state``; ``/state`` the newest one; ``/history``, ``/slots``,
``/events``, ``/members``, ``/locate``; ``POST /faults`` (``facade.console.faults``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING

import orjson

from doug_wire.partition_map import PartitionMap
from doug_wire.slots import slot_of
from facade.client.access import LOOKING, allowed, current
from facade.client.metrics import Metrics
from facade.client.places import Places
from facade.client.router import Router
from facade.console.assets import PREFIX, AssetsApp
from facade.console.collector import MINUTES, Collector
from facade.console.faults import FaultsApp
from facade.console.timelines import Timelines
from facade.errors import BadRequestError, NotAppliedError, ProblemError
from facade.routes import body as bodies
from facade.routes.options import decode_key64, parse_query
from facade.routes.raw import RawApp, RawRequest, Scope, Send, request_id_of
from facade.settings import Settings

if TYPE_CHECKING:
    from facade.console.prometheus import PrometheusHistory

DATA_PREFIX = b"/v1/console/"
SHARD_MAX = 1 << 31
SHARDS_MAX = 64
STREAMS_MAX = 256
"""How many browsers may look at a time: each gets up to a quarter of a mebibyte twice a second."""
TIMELINES_MAX = 8
"""Of so many shards the events are told at once."""
_NO_STORE = (b"cache-control", b"no-store")
_STREAM = ((b"content-type", b"text/event-stream; charset=utf-8"), _NO_STORE, (b"x-accel-buffering", b"no"))
_RETRY = b"retry: 1000\n\n"


def _number(given: Mapping[bytes, bytes], name: bytes, largest: int, default: int | None = None) -> int:
    text = given.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdigit() or len(text) > 19 or int(text) > largest:
        raise BadRequestError("bad_parameter", f"{name.decode()} is a number from 0 to {largest}.")
    return int(text)


def _numbers(given: Mapping[bytes, bytes], name: bytes, most: int) -> list[int]:
    """The shards that a parameter names, separated by commas; ``most`` of them at most."""
    parts = [part for part in given.get(name, b"").split(b",") if part]
    if len(parts) > most:
        raise BadRequestError("bad_parameter", f"{name.decode()} names at most {most}.")
    return [_number({name: part}, name, SHARD_MAX) for part in parts]


class Console:
    """The parts of the console.

    Attributes:
        collector: Asks the nodes.
    """

    def __init__(self, router: Router, metrics: Metrics, settings: Settings) -> None:
        """Reads the files. Requires: a running loop."""
        self.collector = Collector(router, metrics, settings)
        self._assets = AssetsApp(metrics)
        self._data = DataApp(router, metrics, self.collector, _prometheus(settings))
        self._faults = FaultsApp(metrics, settings.dev_socket)
        self._stream = StreamApp(metrics, self.collector, guarded=settings.guarded)

    def app_of(self, raw_path: bytes, scope: Scope) -> RawApp | None:
        """The handler of a path; None if it is not one of the console's."""
        if raw_path.startswith(DATA_PREFIX):
            if raw_path == DATA_PREFIX + b"faults":
                return self._faults
            return self._stream if raw_path == DATA_PREFIX + b"stream" else self._data
        if raw_path.startswith(PREFIX) or raw_path == PREFIX[:-1]:
            return self._assets
        if raw_path == b"/" and (
            scope["method"] not in AssetsApp.methods or b"text/html" in dict(scope["headers"]).get(b"accept", b"")
        ):
            return self._assets
        return None


def _prometheus(settings: Settings) -> PrometheusHistory | None:
    """The Prometheus that the settings name, if they do."""
    if not settings.console_prometheus:
        return None
    from facade.console.prometheus import PrometheusHistory  # noqa: PLC0415  # Its client costs memory.

    return PrometheusHistory(settings.console_prometheus, settings.console_prometheus_match)


class DataApp(RawApp):
    """Serves the data that the console asks for now and then."""

    route = "/v1/console/{what}"
    methods = frozenset({"GET", "HEAD"})

    def __init__(
        self, router: Router, metrics: Metrics, collector: Collector, prometheus: PrometheusHistory | None
    ) -> None:
        super().__init__(metrics)
        self._router = router
        self._collector = collector
        self._timelines = Timelines(router.shards)
        self._prometheus = prometheus
        self._whats = {
            b"state": self._state,
            b"history": self._history,
            b"slots": self._slots,
            b"events": self._events,
            b"members": self._members,
            b"locate": self._locate,
        }

    async def serve(self, request: RawRequest) -> None:
        """See ``RawApp``."""
        what = self._whats.get(request.raw_path.removeprefix(DATA_PREFIX))
        if what is None:
            raise BadRequestError("unknown_route", "The console has no such data.", status=404)
        content = await what(request.query)
        await request.answer_json(200, b"" if request.method == "HEAD" else content, (_NO_STORE,))

    async def _state(self, query: bytes) -> bytes:
        parse_query(query, frozenset())
        if not self._collector.state:
            raise NotAppliedError("starting", "The nodes were not asked yet.")
        return self._collector.state

    async def _history(self, query: bytes) -> bytes:
        shards = _numbers(parse_query(query, frozenset({b"shards"})), b"shards", SHARDS_MAX)
        told = None
        if self._prometheus is not None:
            known = [shard for shard in shards if shard in self._router.shards]
            told = await self._prometheus.document(known) if known else None
        own = self._collector.history.document(shards) if told is None else told
        return orjson.dumps(own | {"prometheus": self._prometheus is not None})

    async def _slots(self, query: bytes) -> bytes:
        given = parse_query(query, frozenset({b"minutes_ago"}))
        return orjson.dumps(self._collector.slots(_number(given, b"minutes_ago", MINUTES, 0)))

    async def _events(self, query: bytes) -> bytes:
        """What the nodes of some shards did, and somebody does not know yet: behind the cursors of answers before."""
        given = parse_query(query, frozenset({b"shards", b"after"}))
        shards = [self._known(shard) for shard in _numbers(given, b"shards", TIMELINES_MAX)]
        cursors = given.get(b"after", b"").split(b",")
        if not shards or len(cursors) > len(shards):
            raise BadRequestError("bad_parameter", "shards names some shards, and after a cursor for each of them.")
        cursors += [b""] * (len(shards) - len(cursors))
        asked = zip(shards, cursors, strict=True)
        told = await asyncio.gather(*(self._timelines.read(shard, cursor) for shard, cursor in asked))
        return b'{"shards":[%b]}' % b",".join(told)

    async def _members(self, query: bytes) -> bytes:
        return orjson.dumps(await self._collector.members(self._shard(parse_query(query, frozenset({b"shard"})))))

    def _shard(self, given: Mapping[bytes, bytes]) -> int:
        return self._known(_number(given, b"shard", SHARD_MAX))

    def _known(self, shard: int) -> int:
        if shard not in self._router.shards:
            raise BadRequestError("unknown_shard", f"There is no shard {shard}.", status=404)
        return shard

    async def _locate(self, query: bytes) -> bytes:
        """The slot and the shard to which a key belongs."""
        given = parse_query(query, frozenset({b"key64"}))
        key = decode_key64(given.get(b"key64", b""))
        partitions: PartitionMap | None = self._router.map
        slot = slot_of(key)
        return orjson.dumps({"slot": slot, "shard": None if partitions is None else partitions.owner_of_slot(slot)[0]})


class StreamApp(RawApp):
    """Serves the stream of states.

    It is counted when it begins, by how long that took: what a stream lasts says nothing about anything. One client has
    a part of all streams at most, as of all that lasts.
    """

    route = "/v1/console/stream"
    methods = frozenset({"GET", "HEAD"})

    def __init__(self, metrics: Metrics, collector: Collector, *, guarded: bool = False) -> None:
        super().__init__(metrics)
        self._collector = collector
        self._guarded = guarded
        self._places = Places("consoles are open", STREAMS_MAX)
        metrics.places.append(self._places)

    async def __call__(self, scope: Scope, receive: bodies.Receive, send: Send) -> None:
        """Serves one request, for as long as its client stays."""
        if scope["method"] not in self.methods:
            await super().__call__(scope, receive, send)
            return
        started_s = perf_counter()
        request = RawRequest(scope, receive, send)
        with ExitStack() as place:
            try:
                place.enter_context(self._places.one())
            except ProblemError as error:
                await request.refuse(error)
                self._metrics.request(request.method, error.status, "none", perf_counter() - started_s, self.route)
                return
            await request.start(200, _STREAM)
            self._metrics.request(request.method, 200, "none", perf_counter() - started_s, self.route)
            if request.method == "HEAD":
                await request.send(b"")
            else:
                await self._serve_stream(request, request_id_of(scope))

    async def _serve_stream(self, request: RawRequest, request_id: bytes) -> None:
        gone = asyncio.ensure_future(_until_gone(request.receive))
        self._collector.enter()
        try:
            await request.send(_RETRY + b": " + request_id + b"\n\n", more=True)
            await self._send_states(request, gone)
            if not gone.done():
                await request.send(b"")
        finally:
            self._collector.leave()
            gone.cancel()

    async def _send_states(self, request: RawRequest, gone: asyncio.Future[None]) -> None:
        collector = self._collector
        caller = current.get()
        rights = asyncio.Event()
        # States may be far apart; a browser that loses its right is not kept until the next one.
        with caller.access.followed(rights.set):
            while not (collector.closed or gone.done()):
                if self._guarded and not any(allowed(caller, verb) for verb in LOOKING):
                    return
                rights.clear()
                if collector.state:
                    await request.send(b"event: state\ndata: " + collector.state + b"\n\n", more=True)
                news, lost = asyncio.ensure_future(collector.changed()), asyncio.ensure_future(rights.wait())
                await asyncio.wait((news, lost, gone), return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                lost.cancel()


async def _until_gone(receive: bodies.Receive) -> None:
    """Waits until the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
