"""The last hour of all facades and nodes, from the Prometheus that the settings name.

Whoever looks chooses shards and nothing else: the facade itself asks, always the same queries, one for all facades and
one for each ``BLOCK`` of neighbouring shards. Must not know who looks.
Invariants:

1. Prometheus is asked for each block at most once in ``FRESH_S``, and when a step of the graphs has passed, whichever
   sets of shards are looked at and however many look; for ``ASKED_AT_ONCE`` blocks at a time; and not at all for
   ``AWAY_S`` after it did not answer.
2. At most ``ANSWER_BYTES_MAX`` bytes are read, from the named place alone: redirects are not followed.
3. What Prometheus does not know is null.

Source: docs/console.md, Graphs; docs/metrics.md.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import aiohttp
import orjson
import structlog

from facade.console.history import FACADE, SHARD

SPAN_S: Final = 3600
STEP_S: Final = 15
FRESH_S: Final = 5.0
AWAY_S: Final = 15.0
ANSWER_S: Final = 4.0
ANSWER_BYTES_MAX: Final = 8 << 20
BLOCK: Final = 8
"""So many shards, of neighbouring numbers, are asked for together: as many as the console shows at a time."""
ASKED_AT_ONCE: Final = 2

FAILURES: Final = (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError)

log = structlog.get_logger()

_RATE: Final = "[2m]"
_KEYS: Final = 'route="/v1/kv/{key}"'


def _mean_ms(name: str) -> str:
    return f"1000 * max by (shard) (rate({name}_sum{{$}}{_RATE}) / rate({name}_count{{$}}{_RATE}))"


def _percentile_ms(share: float) -> str:
    buckets = f"rate(dougdb_facade_request_duration_seconds_bucket{{{_KEYS}, %}}{_RATE})"
    return f"1000 * histogram_quantile({share}, sum by (le) ({buckets}))"


QUERIES: Final[Mapping[str, str]] = {
    "requests": f"sum(rate(dougdb_facade_requests_total{{{_KEYS}, %}}{_RATE}))",
    "errors": f'sum(rate(dougdb_facade_requests_total{{{_KEYS}, code=~"5..", %}}{_RATE})) or vector(0)',
    "p50_ms": _percentile_ms(0.5),
    "p99_ms": _percentile_ms(0.99),
    "inflight": "sum(dougdb_facade_inflight_requests{%})",
    "loop_lag_ms": "1000 * max(dougdb_event_loop_lag_seconds{%}"
    " and on (namespace, job, instance) dougdb_facade_map_epoch)",
    "term": "max by (shard) (dougdb_raft_term{$})",
    "commits": f"max by (shard) (rate(dougdb_raft_commit_index{{$}}{_RATE}))",
    "lag": "max by (shard) (dougdb_raft_commit_index{$}) - min by (shard) (dougdb_raft_applied_index{$})",
    "sync_ms": _mean_ms("dougdb_wal_fsync_duration_seconds"),
    "commit_ms": _mean_ms("dougdb_raft_commit_duration_seconds"),
    "memory_bytes": "max by (shard) (dougdb_raft_term{$} * 0 + on (namespace, job, instance) group_left () "
    "process_resident_memory_bytes)",
    "compaction_bytes": f"sum by (shard) (rate(dougdb_compaction_bytes_total{{$}}{_RATE}))",
    "free_share": "min by (shard) (dougdb_disk_free_bytes{$} / dougdb_disk_total_bytes{$})",
    "up": "count by (shard) (dougdb_raft_term{$})",
}
"""The expression of each figure of ``facade.console.history``; ``%`` stands for the matchers of the settings, and ``$``
for these and those of the shards."""


def expression(shards: Iterable[int], match: str) -> str:
    """All figures of some shards, or of the facades where none is named, as one expression.

    A label of each series names its figure.
    """
    shards = tuple(shards)
    of_shards = f'shard=~"{"|".join(map(str, shards))}"' + (f", {match}" if match else "")
    parts = []
    for name in SHARD if shards else FACADE:
        query = QUERIES[name]
        told = query.replace("$", of_shards)
        told = told.replace("%", match) if match else told.replace(", %", "").replace("%", "")
        parts.append(f'label_replace({told}, "figure", "{name}", "", "")')
    return " or ".join(parts)


def _times(end_s: int) -> list[int]:
    """The times of the last hour up to one of them, seconds since the epoch."""
    return list(range(end_s - SPAN_S, end_s + 1, STEP_S))


def columns_of(answer: Any, times: Sequence[int]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The columns of the facades, and of each shard, out of Prometheus' answer.

    Raises:
        ValueError, KeyError, TypeError: It is no such answer.
    """
    if answer["status"] != "success":
        raise ValueError("the query failed")
    places = {time_s: place for place, time_s in enumerate(times)}
    facade: dict[str, Any] = {name: [None] * len(times) for name in FACADE}
    shards: dict[str, dict[str, Any]] = {}
    for series in answer["data"]["result"]:
        name, shard = series["metric"]["figure"], series["metric"].get("shard")
        if name in FACADE and shard is None:
            column = facade[name]
        elif name in SHARD and shard is not None:
            table = shards.setdefault(str(shard), {each: [None] * len(times) for each in SHARD})
            column = table[name]
        else:
            raise ValueError("a series of another query")
        for time_s, text in series["values"]:
            value = float(text)
            place = places.get(round(time_s))
            if place is not None and math.isfinite(value):
                column[place] = value
    return facade, shards


class _Part(NamedTuple):
    """What Prometheus says of the facades, or of a block of shards: when it was asked, and up to which time."""

    asked_s: float
    end_s: int
    answer: asyncio.Task[dict[str, orjson.Fragment]]


_FACADES: Final = -1
"""Stands for the facades among the numbers of blocks."""


class PrometheusHistory:
    """Asks one Prometheus."""

    def __init__(self, url: str, match: str = "", now_s: Callable[[], float] = time.time) -> None:
        """Takes the address of Prometheus, and the matchers that choose this cluster's series. Requires: a loop."""
        self._url = url.rstrip("/") + "/api/v1/query_range"
        self._match = match
        self._now_s = now_s
        self._loop = asyncio.get_running_loop()
        self._kept: dict[int, _Part] = {}
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE)
        self._away_until_s = 0.0

    async def document(self, shards: Iterable[int]) -> dict[str, Any] | None:
        """The figures as ``History.document`` gives them, partly encoded; None if Prometheus does not answer."""
        if self._loop.time() < self._away_until_s:
            return None
        end_s = int(self._now_s()) // STEP_S * STEP_S
        wanted = sorted(set(shards))
        parts = [self._part(block, end_s) for block in (_FACADES, *sorted({shard // BLOCK for shard in wanted}))]
        try:
            facades, *blocks = await asyncio.gather(*(asyncio.shield(part.answer) for part in parts))
        except FAILURES as error:
            if self._loop.time() >= self._away_until_s:
                # The text may name the address with its password.
                log.warning("console.no_prometheus", reason=type(error).__name__)
            self._away_until_s = self._loop.time() + AWAY_S
            self._kept.clear()
            return None
        found = {shard: column for block in blocks for shard, column in block.items()}
        return {
            "source": "prometheus",
            "step_s": STEP_S,
            "times": _times(end_s),
            "kept_shards": [shard for shard in wanted if str(shard) in found],
            "facade": facades[""],
            "shards": {str(shard): found[str(shard)] for shard in wanted if str(shard) in found},
        }

    def _part(self, block: int, end_s: int) -> _Part:
        """What is known of a block, asked for anew if it is old. What is neither fresh nor under way is forgotten."""
        now_s = self._loop.time()
        self._kept = {
            each: part for each, part in self._kept.items() if not part.answer.done() or now_s - part.asked_s < FRESH_S
        }
        known = self._kept.get(block)
        if known is None or known.end_s != end_s:
            known = self._kept[block] = _Part(now_s, end_s, self._loop.create_task(self._ask(block, end_s)))
            # Whoever asked may be gone by the time it fails.
            known.answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        return known

    async def _ask(self, block: int, end_s: int) -> dict[str, orjson.Fragment]:
        """The figures of the facades, under no name, or of each shard of a block, encoded."""
        shards = () if block == _FACADES else range(block * BLOCK, (block + 1) * BLOCK)
        times = _times(end_s)
        asked = {
            "query": expression(shards, self._match),
            "start": str(times[0]),
            "end": str(times[-1]),
            "step": str(STEP_S),
        }
        async with self._asking:
            raw = await self._post(asked)
        facade, found = columns_of(orjson.loads(raw), times)
        told = {"": facade} if block == _FACADES else found
        return {name: orjson.Fragment(orjson.dumps(columns)) for name, columns in told.items()}

    async def _post(self, form: Mapping[str, str]) -> bytes:
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(self._url, data=form, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"it answers {answer.status}")
            raw = bytearray()
            async for chunk in answer.content.iter_chunked(1 << 16):
                raw += chunk
                if len(raw) > ANSWER_BYTES_MAX:
                    raise ValueError("its answer is too long")
            return bytes(raw)
