"""Sends requests to a running cluster through its facades, below a prefix of their own, and records the history.

Several processes read and write the same few keys at the same time; each sends one request at a time, to one facade
after the other. Meanwhile the promises of sessions and bounded reads are checked: on keys that one process alone
writes, a session read by another facade is never older than the session's last write or read, and a bounded read is
never older than its bound. A watch (``dougdb.verify.watching``) must tell all changes. Must not know how histories are
judged.
Invariant: the outcome of a failed request is unknown unless the answer says that it was not applied.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import httpx

from dougdb.verify.history import (
    ABSENT,
    Cas,
    Compare,
    Delete,
    Get,
    Increment,
    Outcome,
    Put,
    Recorded,
    Request,
    Txn,
    reads_only,
)
from dougdb.verify.watching import Watched, Watcher

BOUND_S = 2.0
TIMEOUT_S = 10.0
BEGIN_S = 5.0
"""How long the watch may take to begin; after that the rest is checked without it."""
CLEAN_TRIES = 3
_KEYS = 4
_PAIR = ("{pair}a", "{pair}b")
_PAUSE_S = 0.1
_JSON = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Load:
    """The results of a run.

    Attributes:
        history: The requests.
        violations: The answers to session reads and bounded reads that broke a promise, as sentences.
        answered: How many requests were answered.
        failed: How many requests were refused or got no answer.
        trouble: The reason for the last such failure; empty if there was none.
        session_reads: How many session reads were checked.
        bounded_reads: How many bounded reads were checked.
        watched: The findings of the watch.
    """

    history: list[Recorded] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    answered: int = 0
    failed: int = 0
    trouble: str = ""
    session_reads: int = 0
    bounded_reads: int = 0
    watched: Watched = field(default_factory=Watched)


class Driver:
    """Makes the requests of one run."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        urls: Sequence[str],
        prefix: str,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Creates a driver that asks the facades in turn.

        Args:
            client: Sends the requests.
            urls: The facades.
            prefix: The beginning of every key.
            seed: The seed of all random choices.
            clock: Gives the time in seconds.
        """
        self._clock = clock
        self._client = client
        self._urls = [url.rstrip("/") for url in urls]
        self._prefix = prefix
        self._random = random.Random(seed)  # noqa: S311 - it only draws requests
        self._turns = itertools.count()
        self._values = itertools.count(1)
        self._acknowledged: dict[str, list[tuple[float, int]]] = {}
        self._own: dict[tuple[str, int], str] = {}
        self.load = Load()

    async def run(
        self,
        processes: int,
        duration_s: float,
        progress: Callable[[Load], None],
        disturb: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> Load:
        """Has some processes send requests for some seconds; returns the results.

        Args:
            processes: How many send requests, and how many more do so in sessions.
            duration_s: For how long.
            progress: Is told the results so far, again and again.
            disturb: Runs meanwhile, and is cancelled when no more requests are sent.
        """
        watcher = Watcher(self._client, self._urls, self._prefix, self._random.randrange(1 << 32), self._clock)
        beside = [asyncio.create_task(watcher.run())]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEGIN_S):
                    await watcher.begun.wait()
            if disturb is not None:
                beside.append(asyncio.create_task(disturb()))
            ends_s = self._clock() + duration_s
            async with asyncio.TaskGroup() as group:
                for process in range(processes):
                    group.create_task(self._register_process(process, ends_s))
                for process in range(processes, 2 * processes):
                    group.create_task(self._session_process(process, processes, ends_s, progress))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
        await self._look_at(watcher)
        return self.load

    async def _look_at(self, watcher: Watcher) -> None:
        """Compares the changes of the watch with the acknowledged writes."""
        self.load.watched = told = watcher.told
        if watcher.begun.is_set():
            await watcher.finish(self._written())
        elif not told.undecided:
            told.undecided = "no watch could be opened"
        self.load.violations += told.violations

    def _written(self) -> dict[tuple[str, int], str]:
        """The value of every write that was acknowledged with a revision, by key and revision."""
        written = dict(self._own)
        for each in self.load.history:
            outcome, request = each.outcome, each.request
            if outcome is None or not outcome.ok or outcome.revision is None:
                continue
            if isinstance(request, Put | Cas):
                written[request.key, outcome.revision] = request.value
            elif isinstance(request, Increment):
                written[request.key, outcome.revision] = str(outcome.value)
        return written

    async def clean(self) -> None:
        """Deletes all keys of the run; after ``CLEAN_TRIES`` requests in a row that failed it gives up."""
        with_prefix = {"prefix": self._prefix}
        failed = 0
        while failed < CLEAN_TRIES:
            url = self._urls[next(self._turns) % len(self._urls)]
            try:
                response = await self._client.request("DELETE", f"{url}/v1/kv", params=with_prefix)
            except httpx.HTTPError:
                failed += 1
                continue
            if response.status_code == httpx.codes.OK:
                if response.json()["complete"]:
                    return
                failed = 0
            elif response.status_code < 500:
                return
            else:
                failed += 1
                await asyncio.sleep(_PAUSE_S)

    # Linearizability.

    async def _register_process(self, process: int, ends_s: float) -> None:
        revisions: dict[str, int] = {}
        while self._clock() < ends_s:
            request = self._draw(revisions)
            began = self._clock()
            outcome, applied = await self._ask(request)
            ended = self._clock()
            if outcome is not None:
                self.load.history.append(Recorded(process, request, began, ended, outcome))
                if not isinstance(request, Txn) and outcome.revision is not None:
                    revisions[request.key] = outcome.revision
            else:
                if applied and not reads_only(request):
                    self.load.history.append(Recorded(process, request, began, inf, None))
                await asyncio.sleep(_PAUSE_S)

    def _draw(self, revisions: dict[str, int]) -> Request:
        random_ = self._random
        key = f"{self._prefix}r{random_.randrange(_KEYS)}"
        value = f"v{next(self._values)}"
        drawn = random_.random()
        if drawn < 0.45:
            return Get(random_.choice([key, key, self._prefix + "n", *(self._prefix + each for each in _PAIR)]))
        if drawn < 0.65:
            return Put(key, value)
        if drawn < 0.70:
            return Delete(key)
        if drawn < 0.80:
            return Cas(key, revisions.get(key, ABSENT), value)
        if drawn < 0.90:
            return Increment(self._prefix + "n", 1)
        first, second = (self._prefix + each for each in _PAIR)
        return Txn((Compare(first, None),), (Put(first, value), Put(second, value)), (Get(first), Put(second, value)))

    async def _ask(self, request: Request) -> tuple[Outcome | None, bool]:
        """Sends a request; returns its outcome, or None and whether it may have been applied."""
        try:
            response = await self._send(request)
        except httpx.HTTPError as error:
            self._failed(str(error))
            return None, not isinstance(error, httpx.ConnectError)
        if response.status_code in (200, 204, 404, 412):
            self.load.answered += 1
            return _outcome_of(request, response), True
        self._failed(_refusal(response))
        return None, _problem(response).get("outcome") != "not_applied"

    async def _send(self, request: Request) -> httpx.Response:
        url = self._urls[next(self._turns) % len(self._urls)]
        if isinstance(request, Txn):
            return await self._client.post(f"{url}/v1/txn", content=json.dumps(_txn_document(request)), headers=_JSON)
        path = f"{url}/v1/kv/{request.key}"
        if isinstance(request, Get):
            return await self._client.get(path)
        if isinstance(request, Delete):
            return await self._client.delete(path)
        if isinstance(request, Increment):
            return await self._client.post(f"{path}:increment", content=json.dumps({"by": request.by}), headers=_JSON)
        headers = {}
        if isinstance(request, Cas):
            absent = request.revision == ABSENT
            headers = {"If-None-Match": "*"} if absent else {"If-Match": f'"{request.revision}"'}
        return await self._client.put(path, content=request.value.encode(), headers=headers)

    # Sessions and bounds.

    async def _session_process(
        self, process: int, processes: int, ends_s: float, progress: Callable[[Load], None]
    ) -> None:
        key = f"{self._prefix}s{process}"
        token, known = "", 0
        while self._clock() < ends_s:
            progress(self.load)
            try:
                known, token = await self._write_own(key, known, token)
                known, token = await self._read_own(key, known, token)
                other = f"{self._prefix}s{self._random.randrange(processes, 2 * processes)}"
                await self._read_bounded(other)
            except httpx.HTTPError as error:
                self._failed(str(error))
                await asyncio.sleep(_PAUSE_S)

    async def _write_own(self, key: str, known: int, token: str) -> tuple[int, str]:
        url = self._urls[next(self._turns) % len(self._urls)]
        headers = {"Doug-Session": token} if token else {}
        value = f"v{next(self._values)}"
        response = await self._client.put(f"{url}/v1/kv/{key}", content=value.encode(), headers=headers)
        if response.status_code != 200:
            return await self._pause(response, known, token)
        self.load.answered += 1
        revision = int(response.json()["revision"])
        self._acknowledged.setdefault(key, []).append((self._clock(), revision))
        self._own[key, revision] = value
        return max(known, revision), response.headers.get("doug-session", token)

    async def _read_own(self, key: str, known: int, token: str) -> tuple[int, str]:
        url = self._urls[next(self._turns) % len(self._urls)]
        headers = {"Doug-Consistency": "session", **({"Doug-Session": token} if token else {})}
        response = await self._client.get(f"{url}/v1/kv/{key}", headers=headers)
        if response.status_code not in (200, 404):
            return await self._pause(response, known, token)
        self.load.answered += 1
        self.load.session_reads += 1
        revision = _revision(response)
        if revision < known:
            self._violated("session", key, response, f"the session knows revision {known}, and was shown {revision}")
        return max(known, revision), response.headers.get("doug-session", token)

    async def _read_bounded(self, key: str) -> None:
        url = self._urls[next(self._turns) % len(self._urls)]
        began = self._clock()
        params = {"consistency": "bounded", "max_staleness": f"{BOUND_S:g}s"}
        response = await self._client.get(f"{url}/v1/kv/{key}", params=params)
        if response.status_code not in (200, 404):
            await self._pause(response, 0, "")
            return
        self.load.answered += 1
        self.load.bounded_reads += 1
        # The facade judges the age when the node's answer reaches it, which is after this read began.
        due = [revision for moment, revision in self._acknowledged.get(key, ()) if moment < began - BOUND_S]
        needed = max(due, default=0)
        revision = _revision(response)
        if revision < needed:
            self._violated(
                "bounded", key, response, f"revision {needed} was acknowledged long ago; it was shown {revision}"
            )

    def _failed(self, why: str) -> None:
        self.load.failed += 1
        self.load.trouble = why

    async def _pause(self, response: httpx.Response, known: int, token: str) -> tuple[int, str]:
        self._failed(_refusal(response))
        await asyncio.sleep(_PAUSE_S)
        return known, token

    def _violated(self, mode: str, key: str, response: httpx.Response, what: str) -> None:
        node = response.headers.get("doug-served-by", "")
        self.load.violations.append(f"{mode} read of {key} at {node}: {what}")


def _revision(response: httpx.Response) -> int:
    tag = response.headers.get("etag", "")
    return int(tag.strip('"')) if tag else 0


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(response: httpx.Response) -> str:
    document = _problem(response)
    return f"{response.status_code} {document.get('detail') or document.get('code', '')}".strip()


def _outcome_of(request: Request, response: httpx.Response) -> Outcome:
    status = response.status_code
    if isinstance(request, Get):
        return Outcome(value=response.text, revision=_revision(response)) if status == 200 else Outcome()
    if isinstance(request, Txn):
        document = response.json()
        parts = request.success if document["succeeded"] else request.failure
        results = [_result_of(part, each) for part, each in zip(parts, document["results"], strict=True)]
        return Outcome(ok=document["succeeded"], results=tuple(results))
    if status == 412:
        current = response.json().get("current_revision")
        return Outcome(ok=False, revision=ABSENT if current is None else int(current))
    if isinstance(request, Delete):
        return Outcome()
    document = response.json()
    value = document["value"] if isinstance(request, Increment) else None
    return Outcome(value=value, revision=int(document["revision"]))


def _result_of(request: object, document: dict[str, Any]) -> Outcome:
    revision = document.get("revision")
    found = Outcome(revision=None if revision is None else int(revision))
    if isinstance(request, Get):
        return replace(found, value=document.get("value"))
    return found


def _txn_document(request: Txn) -> dict[str, Any]:
    def part(each: object) -> dict[str, Any]:
        if isinstance(each, Put):
            return {"op": "put", "key": each.key, "value": each.value}
        assert isinstance(each, Get)
        return {"op": "get", "key": each.key}

    compares: list[dict[str, Any]] = [
        {"key": each.key, "exists": False} if each.value is None else {"key": each.key, "value": each.value}
        for each in request.compares
    ]
    return {
        "compare": compares,
        "success": [part(each) for each in request.success],
        "failure": [part(each) for each in request.failure],
    }
