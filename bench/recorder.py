"""Clients that put and get unique values through the facade and record the answers.

It knows the key routes and problem documents of the facade, and nothing of how it works inside; whether a history is
linearizable is judged by ``raft_testing.linearizability``.

Invariants:
    1. A written value is unique in the whole run: the client's number, then a counter.
    2. A write counts as refused only if its answer says so (``outcome: not_applied``); any other answer but a success
       makes its outcome unknown, as do a lost connection and a late answer.
    3. After an unknown outcome the client goes on under a new number, as a new client would.
    4. A key is used by one group of clients for a bounded number of operations, then the group moves on to a fresh key,
       which keeps each judgement, and each report of a violation, small.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from bench.http11 import Client, HttpError, Response
from raft_testing.history import History, Kind, Operation

OPERATIONS_PER_KEY = 200
PAUSE_AFTER_ERROR_S = 0.005

REFUSALS = {503: "not_applied", 504: "unknown"}
"""The outcome of a failed write by the status of its answer. A valid write is never refused otherwise."""


@dataclass(slots=True)
class Recorder:
    """The history so far, and answers that looked wrong.

    Attributes:
        statuses: Answers by kind and status.
        oddities: Answers that no rule of the HTTP interface allows; a test should see none.
        slowest_s: The longest time that any answer took.
    """

    history: History = field(default_factory=History)
    statuses: Counter[str] = field(default_factory=Counter)
    oddities: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    _clients: Iterator[int] = field(default_factory=itertools.count)
    _values: Iterator[int] = field(default_factory=itertools.count)

    def new_client(self) -> int:
        """A number that no client had before."""
        return next(self._clients)

    def new_value(self, client: int) -> str:
        """A value that was never written before."""
        return f"{client}:{next(self._values)}"

    def unknown_share(self) -> float:
        """The fraction of puts with an unknown outcome."""
        puts = [operation for operation in self.history.operations if operation.kind == "put"]
        return sum(operation.returned is None for operation in puts) / max(1, len(puts))

    def save(self, path: Path) -> None:
        """Writes the history to a file, one JSON object per line."""
        with path.open("w", encoding="utf-8") as file:
            for operation in self.history.operations:
                file.write(json.dumps(asdict(operation)) + "\n")


class KeyRing:
    """The key that a group of clients is to use now."""

    def __init__(self, names: Iterator[str], operations_per_key: int = OPERATIONS_PER_KEY) -> None:
        self._names = names
        self._operations_per_key = operations_per_key
        self._left = 0
        self._key = ""
        self.used: list[str] = []

    def next(self) -> str:
        """The key for the next operation."""
        if not self._left:
            self._key, self._left = next(self._names), self._operations_per_key
            self.used.append(self._key)
        self._left -= 1
        return self._key


class RegisterClient:
    """Puts and gets on one connection, recorded."""

    def __init__(self, recorder: Recorder, host: str, port: int, timeout_s: float = 15.0) -> None:
        self._recorder = recorder
        self._http = Client(host, port, timeout_s)
        self.number = recorder.new_client()

    async def put(self, key: str) -> Operation:
        """Puts a new unique value."""
        value = self._recorder.new_value(self.number)
        operation = self._begin("put", key, value)
        response = await self._exchange(operation, "PUT", f"/v1/kv/{key}", value.encode())
        if response is not None and response.status == 200:
            self._recorder.history.succeed(operation, time.monotonic())
            return operation
        if response is not None:
            outcome = problem(response).get("outcome", "missing")
            if REFUSALS.get(response.status) != outcome:
                self._recorder.oddities.append(f"{response.status} to {operation}: {response.body[:200]!r}")
            if outcome == "not_applied":
                self._recorder.history.refuse(operation, time.monotonic())
                return operation
        self.number = self._recorder.new_client()
        return operation

    async def get(self, key: str) -> Operation:
        """Reads a key linearizably. A read that failed proves nothing and stays without an answer."""
        operation = self._begin("get", key, None)
        response = await self._exchange(operation, "GET", f"/v1/kv/{key}", b"")
        if response is None:
            return operation
        if response.status in (200, 404):
            value = response.body.decode() if response.status == 200 else None
            self._recorder.history.succeed(operation, time.monotonic(), value)
        elif response.status not in REFUSALS:
            self._recorder.oddities.append(f"{response.status} to {operation}: {response.body[:200]!r}")
        return operation

    def _begin(self, kind: Kind, key: str, value: str | None) -> Operation:
        return self._recorder.history.begin(self.number, kind, key, value, time.monotonic())

    async def _exchange(self, operation: Operation, method: str, target: str, body: bytes) -> Response | None:
        try:
            response = await self._http.request(method, target, body)
        except HttpError as error:
            self._recorder.statuses[f"{operation.kind} {type(error).__name__}"] += 1
            return None
        self._recorder.statuses[f"{operation.kind} {response.status}"] += 1
        self._recorder.slowest_s = max(self._recorder.slowest_s, time.monotonic() - operation.call)
        return response

    async def close(self) -> None:
        """Closes the connection."""
        await self._http.close()


def succeeded(operation: Operation) -> bool:
    """Whether an operation was answered and not refused."""
    return operation.returned is not None and operation.ok


def problem(response: Response) -> dict[str, Any]:
    """The problem document of an answer; empty if it has none."""
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return {}
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


async def run_client(
    recorder: Recorder, host: str, port: int, keys: KeyRing, seed: int, running: Callable[[], bool]
) -> None:
    """Puts and gets, half of each, one at a time, while ``running()`` is true."""
    client, random = RegisterClient(recorder, host, port), Random(seed)
    try:
        while running():
            key = keys.next()
            operation = await (client.put(key) if random.random() < 0.5 else client.get(key))
            if not succeeded(operation):
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)
    finally:
        await client.close()
