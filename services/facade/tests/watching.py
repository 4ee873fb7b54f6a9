"""A client that watches a facade under test, and what the shards' logs say."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from doug_wire.watch import ChangeKind

LINES = {"accept": "application/x-ndjson"}


class Client:
    """One watch that is read in the background, as lines of JSON.

    Attributes:
        events: What has come.
        status: The status of the answer; 0 before it.
    """

    def __init__(self, facade: Any, query: str = "", **headers: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.status = 0
        self.problem: dict[str, Any] = {}
        self.ended = False
        self._facade = facade
        self._url = f"/v1/watch{'?' if query else ''}{query}"
        self._headers = {**LINES, **headers}
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._facade.http.stream("GET", self._url, headers=self._headers, timeout=60) as answer:
            self.status = answer.status_code
            if answer.status_code != 200:
                self.problem = json.loads(await answer.aread())
                return
            self.headers = answer.headers
            async for line in answer.aiter_lines():
                self.events.append(json.loads(line))
        self.ended = True

    async def begun(self) -> Client:
        await self._facade.until(lambda: self.status and (self.events or self.problem), "the watch has begun")
        return self

    @property
    def changes(self) -> list[tuple[str, str, int, str]]:
        return [
            (each["event"], each["data"].get("key"), each["data"]["shard"], each["data"]["revision"])
            for each in self.events
            if each["event"] in ("put", "delete", "expire")
        ]

    @property
    def ids(self) -> list[str]:
        return [each["id"] for each in self.events if "id" in each]

    async def has(self, count: int) -> None:
        await self._facade.until(lambda: len(self.changes) >= count, f"{count} changes have come")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def put(facade: Any, *keys: str) -> None:
    for key in keys:
        answer = await facade.http.put(f"/v1/kv/{key}", content=b"value of " + key.encode())
        assert answer.status_code == 200


def told(facade: Any) -> list[tuple[str, str, int, str]]:
    """What the shards' logs say, shard by shard."""
    names = {ChangeKind.PUT: "put", ChangeKind.DELETE: "delete", ChangeKind.EXPIRE: "expire"}
    return [
        (names[ChangeKind(change.kind)], change.key.decode(), shard.id, str(change.revision))
        for shard in facade.cluster.shards
        for change in shard.store.changes
    ]


def by_shard(changes: list[tuple[str, str, int, str]]) -> list[tuple[str, str, int, str]]:
    """In the order of the shards; that of each stays."""
    return sorted(changes, key=lambda change: change[2])
