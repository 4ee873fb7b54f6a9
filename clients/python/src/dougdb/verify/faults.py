"""Kills and pauses nodes of a cluster of ``dougctl dev`` while ``dougctl verify`` drives it.

One node at a time: the next fault comes only when every node answers again, so that each shard keeps its majority.
Half of the faults hit a leader. Must not know which requests are sent meanwhile. Invariant: no node stays paused.

Source: docs/console.md, ``POST /v1/console/faults``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

NONE = "none"
KINDS = ("kill", "pause")
QUIET_S = (1.0, 3.0)
"""The shortest and the longest time between a fault and the next one, in seconds."""
PAUSED_S = (0.2, 3.0)
"""How long a node is paused: shorter than an election, or long enough to be deposed."""


class FaultsRefusedError(Exception):
    """The cluster causes no faults; the message says why."""


def kinds_of(text: str) -> tuple[str, ...]:
    """The kinds of faults that an option names.

    Args:
        text: ``none``, or some of ``KINDS`` with commas between them.

    Raises:
        ValueError: The text is something else.
    """
    if text == NONE:
        return ()
    kinds = tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    if not set(kinds) <= set(KINDS):
        raise ValueError(f"--faults is {NONE}, or one or more of {', '.join(KINDS)} with commas between them")
    return kinds


class Faults:
    """Causes faults through one facade."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        kinds: Sequence[str],
        seed: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Creates it; no fault is caused yet.

        Args:
            client: Sends the requests.
            url: A facade of ``dougctl dev``.
            kinds: Some of ``KINDS``.
            seed: The seed of all random choices.
            sleep: Waits for so many seconds.
        """
        self._client = client
        self._url = url.rstrip("/")
        self._kinds = tuple(kinds)
        self._random = random.Random(seed)  # noqa: S311 - it only draws faults
        self._sleep = sleep
        self._paused = ""
        self.caused: dict[str, int] = dict.fromkeys(self._kinds, 0)

    async def check(self) -> None:
        """Asks whether this cluster takes faults at all, by one that changes nothing.

        Raises:
            FaultsRefusedError: It does not, or not from here, or not from this principal.
        """
        try:
            nodes = await self._nodes()
            # A node that is not paused goes on as before.
            response = await self._send("resume", nodes[0]["id"] if nodes else "none")
        except httpx.HTTPError as error:
            raise FaultsRefusedError(str(error) or type(error).__name__) from error
        if response.status_code not in (httpx.codes.OK, httpx.codes.CONFLICT):
            raise FaultsRefusedError(_detail_of(response))

    async def run(self) -> None:
        """Causes one fault after the other, until it is cancelled."""
        while True:
            await self._sleep(self._random.uniform(*QUIET_S))
            with contextlib.suppress(httpx.HTTPError):
                await self._resume()
                nodes = await self._nodes()
                if nodes and all(each["role"] != "unreachable" for each in nodes):
                    await self._cause(self._victim(nodes), self._random.choice(self._kinds))

    def _victim(self, nodes: Sequence[dict[str, Any]]) -> str:
        leads = self._random.random() < 0.5
        chosen = [each for each in nodes if (each["role"] == "leader") is leads] or nodes
        return str(self._random.choice(chosen)["id"])

    async def _cause(self, node: str, kind: str) -> None:
        if kind == "pause":
            self._paused = node  # Even if the answer is lost.
        try:
            response = await self._send(kind, node)
            if response.status_code != httpx.codes.OK:
                return  # The node does not run just now.
            self.caused[kind] += 1
            if kind == "pause":
                await self._sleep(self._random.uniform(*PAUSED_S))
        finally:
            with contextlib.suppress(httpx.HTTPError):
                await self._resume()

    async def _resume(self) -> None:
        """Lets a paused node go on; if that is lost, the next turn does it, and at last the supervisor."""
        if self._paused:
            await self._send("resume", self._paused)
            self._paused = ""

    async def _send(self, act: str, node: str) -> httpx.Response:
        return await self._client.post(f"{self._url}/v1/console/faults", json={"node": node, "do": act})

    async def _nodes(self) -> list[dict[str, Any]]:
        """All nodes as a facade sees them; nothing if it does not answer properly."""
        response = await self._client.get(f"{self._url}/v1/cluster")
        if response.status_code != httpx.codes.OK:
            return []
        return [node for shard in response.json()["shards"] for node in shard["nodes"]]


def _detail_of(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
    return str(detail)
