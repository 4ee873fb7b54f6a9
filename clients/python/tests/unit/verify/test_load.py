"""The requests of ``dougctl verify`` against a fake store: an honest one passes, one with a planted defect does not."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable

import httpx
import pytest

from dougdb.verify import check, smallest
from dougdb.verify.load import Driver, Load

DURATION_S = 2.0
TICK_S = 0.001


class FakeStore(httpx.AsyncBaseTransport):
    """One honest key-value store; a test breaks what it wants broken."""

    def __init__(self) -> None:
        self.data: dict[str, tuple[str, int]] = {}
        self.revision = 0
        self.old: dict[str, tuple[str, int]] = {}
        self.stale: Callable[[httpx.Request], bool] = lambda request: False
        self.increments = 1
        self.changes: list[tuple[str, int, str]] = []
        self.watched: Callable[[list[tuple[str, int, str]]], list[tuple[str, int, str]]] = lambda changes: changes

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if request.url.path.startswith("/v1/watch"):
            return self._watch(request)
        path = request.url.path.removeprefix("/v1/kv/")
        body = (await request.aread()).decode()
        if request.method == "GET":
            found = (self.old if self.stale(request) else self.data).get(path)
            if found is None:
                return httpx.Response(404, json={"code": "not_found"})
            return httpx.Response(200, text=found[0], headers={"etag": f'"{found[1]}"', "doug-session": "t"})
        if request.url.path == "/v1/kv":
            self.data.clear()
            return httpx.Response(200, json={"complete": True})
        if request.url.path == "/v1/txn":
            return self._transact(json.loads(body))
        if request.method == "DELETE":
            self.data.pop(path, None)
            return httpx.Response(204)
        if path.endswith(":increment"):
            path = path.removesuffix(":increment")
            number = int(self.data.get(path, ("0", 0))[0]) + self.increments
            return self._put(path, str(number), value=str(number))
        current = self.data.get(path, ("", 0))[1]
        match, absent = request.headers.get("if-match"), "if-none-match" in request.headers
        if (match is not None and match != f'"{current}"') or (absent and current):
            return httpx.Response(412, json={"current_revision": str(current) if current else None})
        return self._put(path, body)

    def _put(self, key: str, text: str, **more: str) -> httpx.Response:
        self.revision += 1
        if key in self.data:
            self.old.setdefault(key, self.data[key])
        self.data[key] = (text, self.revision)
        self.changes.append((key, self.revision, text))
        return httpx.Response(200, json={"revision": str(self.revision), **more}, headers={"doug-session": "t"})

    def _watch(self, request: httpx.Request) -> httpx.Response:
        """What has changed behind an id, which is a revision, and that this was all; the stream ends then."""
        progress = {"revisions": {"0": str(self.revision)}}
        if request.method == "POST":
            return httpx.Response(200, json=progress)
        begin = request.url.params["from"]
        after = self.revision if begin == "now" else int(begin)
        events = [
            {
                "event": "put",
                "id": str(revision),
                "data": {"key": key, "revision": str(revision), "shard": 0, "value": value},
            }
            for key, revision, value in self.watched([each for each in self.changes if each[1] > after])
        ]
        lines = [*events, {"event": "progress", "id": str(self.revision), "data": progress}]
        return httpx.Response(200, text="".join(json.dumps(line) + "\n" for line in lines))

    def _transact(self, document: dict[str, list[dict[str, str]]]) -> httpx.Response:
        holds = all(
            (each["key"] not in self.data)
            if "exists" in each
            else self.data.get(each["key"], ("", 0))[0] == each["value"]
            for each in document["compare"]
        )
        results: list[dict[str, object]] = []
        for each in document["success" if holds else "failure"]:
            if each["op"] == "put":
                self._put(each["key"], each["value"])
                results.append({"status": 200, "revision": str(self.revision)})
            elif each["key"] in self.data:
                value, revision = self.data[each["key"]]
                results.append({"status": 200, "value": value, "revision": str(revision)})
            else:
                results.append({"status": 404})
        return httpx.Response(200, json={"succeeded": holds, "results": results})


async def drive(store: FakeStore) -> Load:
    async with httpx.AsyncClient(transport=store) as client:
        ticks = itertools.count()
        driver = Driver(client, ["http://one", "http://two"], "p/", 1, lambda: TICK_S * next(ticks))
        load = await driver.run(2, DURATION_S, lambda load: None)
        await driver.clean()
    return load


async def test_an_honest_store_passes_and_is_left_clean() -> None:
    store = FakeStore()
    load = await drive(store)
    assert load.answered > 50 and load.failed == 0 and load.violations == []
    assert load.session_reads and load.bounded_reads
    assert load.watched.events and load.watched.returns and not load.watched.undecided
    assert check(load.history).good
    assert store.data == {}


async def test_reads_of_the_past_are_found() -> None:
    store = FakeStore()
    store.stale = lambda request: "doug-consistency" not in request.headers and "consistency" not in request.url.params
    load = await drive(store)
    verdict = check(load.history)
    assert verdict.failing and len(smallest(verdict.failing)) <= len(verdict.failing)
    assert load.violations == []


async def test_a_session_that_does_not_see_its_own_writes_is_found() -> None:
    store = FakeStore()
    store.stale = lambda request: request.headers.get("doug-consistency") == "session"
    load = await drive(store)
    assert load.violations and "session read" in load.violations[0]


async def test_increments_that_happen_twice_are_found() -> None:
    store = FakeStore()
    store.increments = 2
    assert check((await drive(store)).history).failing


Changes = list[tuple[str, int, str]]


@pytest.mark.parametrize(
    ("watched", "what"),
    [
        (lambda changes: [each for each in changes if each[1] != 30], "was acknowledged and never told"),
        (lambda changes: changes + changes[-1:], "came twice"),
        (lambda changes: changes[:-2] + changes[:-3:-1], "of the same shard"),
        (lambda changes: [(key, at, value if at != 30 else "x") for key, at, value in changes], "told as 'x'"),
    ],
    ids=["lost", "twice", "out of order", "another value"],
)
async def test_a_watch_that_does_not_tell_what_was_written_is_found(
    watched: Callable[[Changes], Changes], what: str
) -> None:
    store = FakeStore()
    store.watched = watched
    load = await drive(store)
    assert any(what in each for each in load.violations), load.violations
    assert check(load.history).good


async def test_a_watch_that_is_refused_on_its_way_judges_nothing() -> None:
    store = FakeStore()

    class Revoked(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/v1/watch":
                told = {"event": "refused", "data": {"code": "unauthenticated", "detail": "The token was revoked."}}
                return httpx.Response(200, content=json.dumps(told).encode() + b"\n")
            return await store.handle_async_request(request)

    async with httpx.AsyncClient(transport=Revoked()) as client:
        ticks = itertools.count()
        driver = Driver(client, ["http://one"], "p/", 1, lambda: TICK_S * next(ticks))
        load = await driver.run(2, DURATION_S, lambda load: None)
    assert load.violations == [] and "revoked" in load.watched.undecided


async def test_what_watches_cannot_know_is_no_violation() -> None:
    store = FakeStore()

    class Gone(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.params.get("from", "now") != "now":
                return httpx.Response(410, json={"code": "history_gone"})
            return await store.handle_async_request(request)

    async with httpx.AsyncClient(transport=Gone()) as client:
        ticks = itertools.count()
        driver = Driver(client, ["http://one"], "p/", 1, lambda: TICK_S * next(ticks))
        load = await driver.run(2, DURATION_S, lambda load: None)
    assert load.violations == [] and "do not hold" in load.watched.undecided
