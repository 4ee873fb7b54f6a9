"""Watches the writes of ``dougctl verify``, and checks the promise of watches: each key's changes once and in order.

One watch covers the prefix of a run, at one facade after the other: its stream is closed again and again, and begun
again after an id that was sent before, so that changes are sent again and must be the same. The change that a watch
tells of a revision is noted once; at the end, every acknowledged write must be among them. Must not know how requests
are made or histories judged. Invariant: only answers of a facade are called violations.
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
"""The shortest and the longest time for which a stream is read before it is closed, in seconds."""
CATCH_UP_S = 30.0
_PAUSE_S = 0.2
_LINES = {"Accept": "application/x-ndjson"}


@dataclass(slots=True)
class Watched:
    """The findings of a watch.

    Attributes:
        events: How many changes it sent, repeated ones included.
        returns: How often it was begun again after an id.
        violations: The changes that it sent wrongly or did not send, as sentences.
        undecided: The reason why it is not known whether all changes were sent; empty if it is known.
    """

    events: int = 0
    returns: int = 0
    violations: list[str] = field(default_factory=list)
    undecided: str = ""


class Watcher:
    """One watch of a run. ``run`` reads changes until it is cancelled, and ``finish`` reads the rest."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        urls: Sequence[str],
        prefix: str,
        seed: int,
        clock: Callable[[], float],
    ) -> None:
        """Creates the watcher; nothing is watched yet.

        Args:
            client: Sends the requests.
            urls: The URLs of the facades, which are asked in turn.
            prefix: The prefix of the watched keys.
            seed: The seed of all random choices.
            clock: Gives the time in seconds.
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
        """Reads one stream after the other, until it is cancelled or changes are not kept any more."""
        while not self.told.undecided:
            await self._follow(self._clock() + self._random.uniform(*STAY_S))

    async def finish(self, acknowledged: Mapping[tuple[str, int], str]) -> None:
        """Reads all changes up to now, and checks that every acknowledged write is among them.

        Args:
            acknowledged: The value of each write after ``begun``, by key and revision.
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
        """The id from which to go on: often the last one, otherwise any id before it."""
        if not self._ids:
            return "now"
        self.told.returns += 1
        return self._ids[-1] if self._random.random() < 0.5 else self._random.choice(self._ids[-300:])

    async def _follow(self, until_s: float) -> None:
        """Reads one stream until a time, or until all changes were sent."""
        params = {"prefix": self._prefix, "from": self._begin()}
        # After an older id, all changes from that position on are sent again.
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
        # A transaction has one revision and several keys.
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
