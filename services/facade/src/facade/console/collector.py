"""Asks the nodes once for all browsers: the cluster as it is now, its members, and its last hour.

While somebody looks, every ``LIVE_S``; otherwise every ``history.STEP_S``, for the graphs. Must not know HTTP.
Invariants: (1) what the nodes are asked does not depend on how many look; (2) a state is encoded once, however many get
it, and whoever is slow gets the newest and not all; (3) however many nodes there are, requests wait for a look no
longer than for a piece of it (``facade.console.view``).
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from itertools import islice
from typing import Any

import orjson

from doug_wire.slots import SLOTS
from facade import __version__
from facade.client.metrics import LATENCY_BUCKETS_S, Metrics
from facade.client.operators.cluster_status import Statuses
from facade.client.operators.membership import list_members
from facade.client.router import Router
from facade.client.shard import Shard
from facade.console.history import SHARDS_MAX, STEP_S, History, percentile_ms, shard_sample
from facade.console.view import Views
from facade.routes.operators.members import members_view
from facade.settings import Settings

LIVE_S = 0.51
"""Seconds from look to look: a little more than what nodes told is used for again, so that each look asks them."""
LIVE_BYTES = 256 << 10
"""The bytes of a state beyond which it is made less often, so that a large cluster costs no more to look at."""
LIVE_MAX_S = 4.0
"""The longest from look to look while somebody looks: a browser takes a stream for broken after 8 s without a word."""
FRESH_S = 1.0
"""So long an answer about one shard is told again."""
ASKED_MAX = 32
"""So many answers about shards are kept."""
MINUTE_S = 60.0
MINUTES = 60

Ask = Callable[[Shard], Coroutine[Any, Any, dict[str, Any]]]


def _now_us() -> int:
    return time.time_ns() // 1000


class Collector:
    """Collects the state that all consoles see.

    Attributes:
        history: The last hour.
        state: The newest state, encoded; empty before the first.
        watchers: How many browsers watch.
    """

    def __init__(
        self,
        router: Router,
        metrics: Metrics,
        settings: Settings,
        now_us: Callable[[], int] = _now_us,
    ) -> None:
        """Begins without a look. Requires: a running loop."""
        self.history = History()
        self.state = b""
        self.watchers = 0
        self.closed = False
        self._router = router
        self._metrics = metrics
        self._settings = settings
        self._now_us = now_us
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self._views = Views()
        self._sample_views = Views()
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._wanted = asyncio.Event()
        self._totals = metrics.totals()
        self._sampled_s = self._loop.time()
        self._asked: dict[tuple[Ask, int], tuple[float, asyncio.Task[dict[str, Any]]]] = {}
        self._minutes: deque[tuple[float, Sequence[int]]] = deque(maxlen=MINUTES)
        self._slots_before: Sequence[int] = array("Q", bytes(8 * SLOTS))
        self._slots_s = self._loop.time()
        self._slot_rates: Sequence[float] = [0.0] * SLOTS
        self._slots_at_minute = self._slots_before
        self._minute_s = self._loop.time()

    async def run(self) -> None:
        """Looks again and again; ends only by cancellation."""
        while True:
            pause_s = await self.look()
            self._wanted.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def look(self) -> float:
        """Looks once; returns the seconds until the next look, unless a browser comes before.

        A look lasts as long as a node is waited for that does not answer: that does not put off the next one.
        """
        began_s = self._loop.time()
        statuses = await self._router.cluster.read()
        now_s = self._loop.time()
        encoded = [b",".join(map(orjson.dumps, piece)) async for piece in _apart(self._views.pieces(statuses, now_s))]
        self.state = orjson.dumps(self._document(orjson.Fragment(b"[%b]" % b",".join(encoded)), now_s))
        self._count_slots(now_s)
        if now_s - self._sampled_s >= STEP_S or not self.history.times:
            await self._sample(statuses, now_s)
        self._tell()
        if not self.watchers:
            return max(0.0, self._sampled_s + STEP_S - now_s) or STEP_S
        wait_s = min(LIVE_MAX_S, LIVE_S * max(1.0, len(self.state) / LIVE_BYTES))
        return max(0.0, began_s + wait_s - self._loop.time())

    def close(self) -> None:
        """Ends all streams: this facade stops."""
        self.closed = True
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, self._loop.create_future()
        news.set_result(None)

    def enter(self) -> None:
        """Counts one more browser that watches the cluster."""
        self.watchers += 1
        if self.watchers == 1:
            self._wanted.set()

    def leave(self) -> None:
        """Counts one less browser that watches the cluster."""
        self.watchers -= 1

    async def changed(self) -> None:
        """Waits until there is a newer state."""
        await asyncio.shield(self._news)

    def _document(self, shards: orjson.Fragment, now_s: float) -> dict[str, Any]:
        router = self._router
        partitions = router.map
        return {
            "time_us": self._now_us(),
            "facade": {
                "id": self._settings.facade_id,
                "version": __version__,
                "uptime_ms": round((now_s - self._started_s) * 1000),
                "ready": router.ready,
                "missing": [] if router.ready else router.directory.missing(),
                "consoles": self.watchers,
                "faults": bool(self._settings.dev_socket),
            },
            "cluster_id": router.directory.cluster_id.decode("ascii", "backslashreplace"),
            "map": None
            if partitions is None
            else {"epoch": partitions.epoch, "slots": [[r.first, r.last, r.shard] for r in partitions.ranges]},
            "shards": shards,
        }

    # The last hour.

    async def _sample(self, statuses: Statuses, now_s: float) -> None:
        """Adds what was since the sample before to the last hour, also where there were looks in between."""
        totals, before = self._metrics.totals(), self._totals
        passed_s = max(now_s - self._sampled_s, 0.001)
        self._totals, self._sampled_s = totals, now_s
        counts = [one - other for one, other in zip(totals.buckets, before.buckets, strict=True)]
        facade = {
            "requests": (totals.requests - before.requests) / passed_s,
            "errors": (totals.errors - before.errors) / passed_s,
            "p50_ms": percentile_ms(counts, LATENCY_BUCKETS_S, 0.50),
            "p99_ms": percentile_ms(counts, LATENCY_BUCKETS_S, 0.99),
            "inflight": self._metrics.inflight,
            "loop_lag_ms": 1000 * self._metrics.loop_lag_s,
        }
        pieces = self._sample_views.pieces(dict(islice(statuses.items(), SHARDS_MAX)), now_s)
        samples = {shard["id"]: shard_sample(shard["nodes"]) async for piece in _apart(pieces) for shard in piece}
        self.history.add(self._now_us() // 1_000_000, facade, samples)

    # Slots.

    def _count_slots(self, now_s: float) -> None:
        """Notes which slots were asked for; a rate is over at least ``STEP_S``."""
        passed_s = now_s - self._slots_s
        if passed_s < STEP_S - LIVE_S:
            return
        counts = array("Q", self._router.directory.slot_counts)
        self._slot_rates = [(one - other) / passed_s for one, other in zip(counts, self._slots_before, strict=True)]
        self._slots_before, self._slots_s = counts, now_s
        if now_s - self._minute_s >= MINUTE_S:
            before = self._slots_at_minute
            counted = array("I", [one - other for one, other in zip(counts, before, strict=True)])
            self._minutes.append((now_s - self._minute_s, counted))
            self._slots_at_minute, self._minute_s = counts, now_s

    def slots(self, minutes_ago: int) -> dict[str, Any]:
        """How many operations a second each slot got from this facade, now or some minutes ago."""
        rates: Sequence[float] | None = None
        if not minutes_ago:
            rates = [round(rate, 2) for rate in self._slot_rates]
        elif minutes_ago <= len(self._minutes):
            passed_s, counts = self._minutes[-minutes_ago]
            rates = [round(count / passed_s, 2) for count in counts]
        return {"minutes_ago": minutes_ago, "minutes_kept": len(self._minutes), "rates": rates}

    # What nodes are asked for about one shard, once for all who look at it.

    async def members(self, shard: int) -> dict[str, Any]:
        """The members of a shard, as its leader told them at most ``FRESH_S`` ago.

        Raises:
            ProblemError: 503; there is no leader to ask.
        """
        return await self._ask(_ask_members, shard)

    async def _ask(self, ask: Ask, shard: int) -> dict[str, Any]:
        known = self._asked.get((ask, shard))
        now_s = self._loop.time()
        if known is None or (known[1].done() and now_s - known[0] >= FRESH_S):
            known = (now_s, self._loop.create_task(ask(self._router.shards[shard])))
            # Whoever asked may be gone by the time it fails.
            known[1].add_done_callback(lambda done: done.cancelled() or done.exception())
            self._asked.pop((ask, shard), None)
            self._asked = dict(list(self._asked.items())[1 - ASKED_MAX :])
            self._asked[ask, shard] = known
        return await asyncio.shield(known[1])


async def _apart(pieces: Iterator[list[dict[str, Any]]]) -> AsyncIterator[list[dict[str, Any]]]:
    """The pieces of some work, between which whatever else waits has its turn."""
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


async def _ask_members(shard: Shard) -> dict[str, Any]:
    answer = await list_members(shard)
    shard.learn_members(answer)
    return members_view(shard.id, answer).model_dump()
