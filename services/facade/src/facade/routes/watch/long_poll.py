"""Waiting for one key to change, for clients without streams: ``GET /v1/kv/{key}?wait=30s&after=<revision>``.

It reads the key, and if nothing has changed, waits for the next event of the key before it reads again; so it is as
linearizable as any read, and costs nothing while it waits. Must not know what is answered.

Invariants: a change behind ``after`` ends the wait, also one that comes between the first read and the first event; the
facade's stop ends it, too, with what is known then; so does the end of the right to read, with a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from doug_wire.pipe import Status
from facade.client.access import current
from facade.client.metrics import Metrics
from facade.client.modes import LINEARIZABLE
from facade.client.places import Places
from facade.client.router import Router
from facade.client.watches.feeds import Feeds
from facade.routes.body import DisconnectedError, Receive
from facade.routes.results import answer_of
from facade.routes.watch.audience import Audience
from facade.settings import Settings

OPEN_S = 5.0


class LongPolls:
    """All that wait.

    Attributes:
        places: How many wait, and may.
    """

    def __init__(self, router: Router, feeds: Feeds, audience: Audience, metrics: Metrics, settings: Settings) -> None:
        """Waits for events that ``audience`` hears of."""
        self._router = router
        self._feeds = feeds
        self._audience = audience
        self._metrics = metrics
        self.places = Places(
            "requests wait for changes", settings.watches_max, settings.client_watches_max, settings.address_watches_max
        )
        metrics.places.append(self.places)

    async def until_changed(
        self, key: bytes, after: int | None, wait_s: float, receive: Receive, stopping: Callable[[], bool]
    ) -> int | None:
        """Returns when a key has another revision than one, or after a time.

        Args:
            key: The key.
            after: The revision that the client knows; 0 for a key that does not exist, None for the present one.
            wait_s: How long at most.
            receive: Says when the client is gone; and something else when ``stopping`` changes.
            stopping: Whether the facade stops.

        Returns:
            The revision that it still has, 0 for none; None if it has changed.

        Raises:
            NotAppliedError: Too many wait, in all or of this client, or the key's shard tells no changes.
            ForbiddenError: The sender may not read the key, or not any more.
            UnauthenticatedError: The sender is not known any more.
            DisconnectedError: The client is gone.
        """
        with self.places.one():
            self._metrics.inflight -= 1
            leaving = asyncio.ensure_future(_gone(receive, stopping))
            try:
                async with self._feeds.using([self._feeds.shard_of(key)], OPEN_S):
                    return await self._wait(key, after, asyncio.get_running_loop().time() + wait_s, leaving, stopping)
            finally:
                leaving.cancel()
                self._metrics.inflight += 1

    async def _wait(
        self, key: bytes, after: int | None, ends_s: float, leaving: Awaitable[None], stopping: Callable[[], bool]
    ) -> int | None:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        end = self._audience.wait_for(key, changed)
        try:
            # A client that loses the right to the key reads it once more, and is refused.
            with current.get().access.followed(changed.set):
                while True:
                    changed.clear()
                    result = await answer_of(self._router.read(key, LINEARIZABLE))
                    revision = 0 if result.status == Status.NOT_FOUND else result.revision
                    after = revision if after is None else after
                    if revision != after:
                        return None
                    if loop.time() >= ends_s or stopping():
                        return revision
                    if await _first(changed.wait, leaving, ends_s - loop.time()) and not stopping():
                        raise DisconnectedError
        finally:
            end()


async def _first(wait: Callable[[], Awaitable[object]], leaving: Awaitable[None], timeout_s: float) -> bool:
    """Waits for the first of an event, the end of the wait and the time; whether it was the end."""
    waiting = asyncio.ensure_future(wait())
    gone = asyncio.ensure_future(leaving)
    try:
        await asyncio.wait((waiting, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return gone.done()
    finally:
        waiting.cancel()


async def _gone(receive: Receive, stopping: Callable[[], bool]) -> None:
    """Returns once the client is gone, or the facade stops; a body says nothing here."""
    while (await receive())["type"] != "http.disconnect" and not stopping():
        pass
