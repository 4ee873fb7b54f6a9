"""Watches what ``dougctl verify`` writes, and checks what watches promise: per key every change once and in order.

One stream over the prefix of a run, at one facade after the other: it is left again and again, and gone on with behind
an id that was sent at some time, so that changes come anew and have to be the same. What a watch tells of a revision
is noted once; when all is written, everything that was acknowledged has to be among it. Must not know how requests are
made or histories judged. Invariant: nothing is called a violation that a facade did not say.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

STAY_S = (0.5, 3.0)
"""For so long a stream is read before it is left."""
CATCH_UP_S = 30.0
_PAUSE_S = 0.2
_LINES = {"Accept": "application/x-ndjson"}


@dataclass(slots=True)
class Watched:
    """What a watch told.

    Attributes:
        events: How many changes it told, repeated ones included.
        returns: How often it went on behind an id.
        violations: What it must not have told, or did not tell.
        undecided: Why it cannot be said that all was told; empty if it can.
    """

    events: int = 0
    returns: int = 0
    violations: list[str] = field(default_factory=list)
    undecided: str = ""


class Watcher:
    """One watch of a run. ``run`` follows until it is cancelled, and ``finish`` reads the rest."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        urls: Sequence[str],
        prefix: str,
        seed: int,
        clock: Callable[[], float],
    ) -> None:
        """Watches nothing yet.

        Args:
            client: Who sends.
            urls: The facades, which are asked in turn.
            prefix: The keys that are watched begin so.
            seed: What it draws from.
            clock: What tells the time.
        """
        self._client = client
        self._urls = urls
        self._prefix = prefix
        self._random = random.Random(seed)  # noqa: S311 - it only draws when to leave
        self._clock = clock
        self._turn = 0
        self._ids: list[str] = []
        self._seen: dict[tuple[str, int, str], str] = {}
        self._place: dict[str, int] = {}
        self._heads: dict[str, int] | None = None
        self._reached: dict[str, int] = {}
        self.begun = asyncio.Event()
        self.told = Watched()

    async def run(self) -> None:
        """Follows, and leaves and comes again, until it is cancelled or changes are gone."""
        while not self.told.undecided:
            await self._follow(self._clock() + self._random.uniform(*STAY_S))

    async def finish(self, acknowledged: Mapping[tuple[str, int], str]) -> None:
        """Reads on up to what is written by now, and looks for everything that was acknowledged.

        Args:
            acknowledged: By key and revision, the value that was put; only what was written after ``begun``.
        """
        ends_s = self._clock() + CATCH_UP_S
        while not self.told.undecided and not self._complete():
            if self._clock() >= ends_s:
                self.told.undecided = f"the watch did not come up to what is there within {CATCH_UP_S:.0f} s"
                break
            if self._heads is None:
                await self._ask_heads()
            else:
                await self._follow(ends_s)
        if self.told.undecided:
            return
        known = {(key, revision): value for (key, revision, _), value in self._seen.items()}
        for (key, revision), value in acknowledged.items():
            if (key, revision) not in known:
                self._violated(f"revision {revision} of {key} was acknowledged and never told")
            elif known[key, revision] != value:
                self._violated(f"revision {revision} of {key} was {value!r}, and told as {known[key, revision]!r}")

    def _complete(self) -> bool:
        return self._heads is not None and all(
            self._reached.get(shard, 0) >= revision for shard, revision in self._heads.items()
        )

    async def _ask_heads(self) -> None:
        try:
            response = await self._client.post(f"{self._url()}/v1/watch:progress")
        except httpx.HTTPError:
            await asyncio.sleep(_PAUSE_S)
            return
        if response.status_code == httpx.codes.OK:
            self._heads = {shard: int(revision) for shard, revision in response.json()["revisions"].items()}
        else:
            await asyncio.sleep(_PAUSE_S)

    def _url(self) -> str:
        self._turn += 1
        return self._urls[self._turn % len(self._urls)]

    def _begin(self) -> str:
        """Where to go on: often where it was, and else behind any id before that."""
        if not self._ids:
            return "now"
        self.told.returns += 1
        return self._ids[-1] if self._random.random() < 0.5 else self._random.choice(self._ids[-300:])

    async def _follow(self, until_s: float) -> None:
        """Reads one stream until a time, or until all is told."""
        params = {"prefix": self._prefix, "from": self._begin()}
        # What is told behind an older id is told anew, from that place on.
        self._place, self._reached = {}, {}
        try:
            async with self._client.stream("GET", f"{self._url()}/v1/watch", params=params, headers=_LINES) as response:
                if response.status_code == httpx.codes.GONE:
                    self.told.undecided = "the nodes do not hold the changes any more that the watch went on behind"
                    return
                if response.status_code != httpx.codes.OK:
                    await asyncio.sleep(_PAUSE_S)
                    return
                async for line in response.aiter_lines():
                    self._take(json.loads(line))
                    if self._complete() or self.told.undecided or self._clock() >= until_s:
                        return
        except (httpx.HTTPError, ValueError):
            await asyncio.sleep(_PAUSE_S)

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, data = event["event"], event["data"]
        if kind == "refused":
            self.told.undecided = f"the watch was refused: {data.get('detail') or data.get('title')}"
            return
        if kind == "resync":
            self.told.undecided = f"shard {data['shard']} holds only the changes behind {data['oldest']}"
            return
        if event.get("id"):
            self._ids.append(event["id"])
            self.begun.set()
        if kind == "progress":
            self._reached = {shard: int(revision) for shard, revision in data["revisions"].items()}
            return
        self.told.events += 1
        key, revision, shard = str(data["key"]), int(data["revision"]), str(data["shard"])
        if revision <= self._reached.get(shard, 0):
            self._violated(f"revision {revision} of {key} came after the progress said that all up to it was told")
        # A transaction is one revision with several keys.
        before = self._place.get(shard, 0)
        if revision < before:
            self._violated(f"revision {revision} of {key} came after {before} of the same shard")
        if revision <= self._place.get(f"key {key}", 0):
            self._violated(f"revision {revision} of {key} came twice, or after a later one")
        self._place[shard] = self._place[f"key {key}"] = revision
        value = str(data.get("value")) if kind == "put" else kind
        if self._seen.setdefault((key, revision, shard), value) != value:
            self._violated(f"revision {revision} of {key} was told as {value!r}, and otherwise before")

    def _violated(self, what: str) -> None:
        self.told.violations.append(f"watch of {self._prefix}: {what}")
