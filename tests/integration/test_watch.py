"""Watches of a real cluster, while leaders, other nodes and the facade are killed: what is told is the log.

Every write has an idempotency key and is sent until it is answered, so that what became of it is known. Readers come
again behind an id that they have seen at some time, and forget what they have seen behind it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from bench.cluster import Cluster, ClusterError
from bench.http11 import HttpError, Response

WRITES = int(os.environ.get("WATCH_WRITES", "600"))
"""More of them make a soak test: 20,000 as the issue has it."""

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.timeout(300 + WRITES // 4)]

KEYS = min(200, max(40, WRITES // 100))
KINDS = {"put", "delete", "expire"}
CLIENTS = 8
READERS = 3
PATIENCE_S = 90.0
NODE_ENV = {
    # So small that segments are flushed, kept and dropped, and logs are cut, all the time.
    "DOUGDB_MEMTABLE_BYTES": "65536",
    "DOUGDB_LOG_KEEP_BYTES": "65536",
    "DOUGDB_WAL_SEGMENT_BYTES": "65536",
}


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(
        shards=2, nodes=3, options=[f"--node-env={name}={value}" for name, value in NODE_ENV.items()]
    ).start()


def repeated(cluster: Cluster, method: str, target: str, body: bytes, headers: dict[str, str]) -> Response:
    """Sends a request until it is answered with something else than a failure that may be repeated."""
    ends = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = cluster.request(method, target, body, headers)
        except HttpError:
            answer = None
        if answer is not None and answer.status < 500:
            return answer
        assert time.monotonic() < ends, answer
        time.sleep(0.05)


class Reader:
    """A client that watches everything from the beginning, and comes again wherever it likes."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._done = threading.Event()
        self.seen: list[dict[str, Any]] = []
        self.reached: dict[str, int] = {}
        self.heads: dict[str, int] = {}
        self.reconnects = 0
        self.served = False
        self.failure: str = ""
        self.begun = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def stop(self, heads: dict[str, int] | None = None, patience_s: float = 30) -> None:
        """Ends it, once it has come so far, if that is said."""
        if heads is None:
            self._done.set()
        else:
            self.heads = heads
        self.thread.join(patience_s)

    def _run(self) -> None:
        first = ""
        while not self._done.is_set() and not self.failure:
            identity = first
            if self.seen:
                # Back to any id of the last ones, and often to the very last one; once for each stream: while nobody
                # serves, it would else go back to where the small logs of this test do not reach any more.
                place = len(self.seen) - 1
                if self.served and self._chance.random() < 0.5:
                    place = self._chance.randrange(max(0, place - 300), place + 1)
                del self.seen[place + 1 :]
                self.reached = {}
                identity = self.seen[-1]["id"]
            self.served = False
            try:
                first = self._read(identity) or first
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
            self.reconnects += 1

    def _read(self, identity: str) -> str:
        """Reads one stream until it breaks, or for a random time; gives the id of its first progress."""
        host, _, port = self._cluster.url.removeprefix("http://").partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        first = ""
        ends = time.monotonic() + self._chance.uniform(0.5, 4)
        try:
            query = f"?from={identity}" if identity else ""
            connection.request("GET", f"/v1/watch{query}", headers={"Accept": "application/x-ndjson"})
            answer = connection.getresponse()
            if answer.status != 200:
                if answer.status < 500:
                    self.failure = f"{answer.status} {answer.read()!r} for {identity}"
                return first
            self.served = True
            while time.monotonic() < ends and not self._done.is_set():
                line = answer.readline()
                if not line.endswith(b"\n"):
                    break
                self._take(json.loads(line))
                if not first and not identity:
                    first = json.loads(line)["id"]
                    self.begun.set()
        finally:
            connection.close()
        return first

    def _take(self, event: dict[str, Any]) -> None:
        if event["event"] == "resync":
            self.failure = f"resync: {event}"
        elif event["event"] == "progress":
            # It speaks of what was sent before it, so it must never be ahead of that.
            self.reached = {shard: int(revision) for shard, revision in event["data"]["revisions"].items()}
            # However fast the writes went: it has come again once, and has seen all that may happen to a key.
            if (
                self.heads
                and self.reconnects
                and {each["event"] for each in self.seen} == KINDS
                and all(self.reached[shard] >= head for shard, head in self.heads.items())
            ):
                self._done.set()
        else:
            self.seen.append(event)


def disturb(cluster: Cluster, done: threading.Event, chance: random.Random) -> None:
    """Kills leaders, other nodes and the facade, each once the one before is back; they are started by themselves."""
    turn, victim = 0, ""
    while not done.wait(2):
        with contextlib.suppress(HttpError, ClusterError):
            if cluster.request("GET", "/readyz").status != 200 or (victim and cluster.find(victim) is None):
                continue
            turn += 1
            victim = "facade" if turn % 4 == 0 else a_node(cluster, chance, leads=turn % 2 == 1)
            cluster.kill(victim)


def a_node(cluster: Cluster, chance: random.Random, *, leads: bool) -> str:
    """A node of some shard, its leader or another one."""
    shard = chance.choice(cluster.shard_ids())
    leader = cluster.leader(shard)
    if leads and leader is not None:
        return leader.id
    return chance.choice([view.id for view in cluster.shard_views(shard) if leader is None or view.id != leader.id])


def write_all(cluster: Cluster, done: threading.Event) -> dict[tuple[str, str], str]:
    """Writes of all kinds; gives what was acknowledged: by key and revision, what kind of change."""
    acknowledged: dict[tuple[str, str], str] = {}
    lock = threading.Lock()

    def one(number: int) -> None:
        chance = random.Random(number)
        key = f"k{chance.randrange(KEYS)}"
        headers = {"Idempotency-Key": f"w{number}"}
        kind = chance.randrange(6)
        if kind == 0:
            answer = repeated(cluster, "DELETE", f"/v1/kv/{key}", b"", headers)
            return
        if kind == 1:
            headers["If-Match"] = "*"
        query = "?ttl=1s" if kind == 2 else ""
        answer = repeated(cluster, "PUT", f"/v1/kv/{key}{query}", b"%d" % number * 40, headers)
        if answer.status == 200:
            with lock:
                acknowledged[key, str(answer.json()["revision"])] = str(number)
        else:
            assert answer.status == 412, answer

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(one, range(WRITES)))
    done.set()
    return acknowledged


def check(seen: list[dict[str, Any]], heads: dict[str, int], acknowledged: dict[tuple[str, str], str]) -> None:
    """That a merged stream is the log: every revision of every shard once and in order, and what was acknowledged."""
    for shard, head in heads.items():
        revisions = [int(each["data"]["revision"]) for each in seen if str(each["data"]["shard"]) == shard]
        assert revisions == list(range(1, len(revisions) + 1)), f"shard {shard}: {revisions}"
        assert len(revisions) >= head
    told = {(each["data"]["key"], each["data"]["revision"]): each for each in seen}
    for (key, revision), number in acknowledged.items():
        event = told[key, revision]
        assert event["event"] == "put" and event["data"]["value"] == number * 40, event


@pytest.mark.slow
def test_the_merged_stream_is_the_log_through_kills_of_everything(cluster: Cluster) -> None:
    """None lost, none twice, none out of order; every resume id ever sent works."""
    readers = [Reader(cluster, seed) for seed in range(READERS)]
    done = threading.Event()
    try:
        for reader in readers:
            assert reader.begun.wait(PATIENCE_S), reader.failure
        disturber = threading.Thread(target=disturb, args=(cluster, done, random.Random(7)))
        disturber.start()
        acknowledged = write_all(cluster, done)
        disturber.join()
        for shard in cluster.shard_ids():
            cluster.await_leader(shard)
        answer = repeated(cluster, "POST", "/v1/watch:progress", b"", {"Doug-Client": "test"})
        assert answer.status == 200, answer
        heads = {shard: int(revision) for shard, revision in answer.json()["revisions"].items()}
        for reader in readers:
            reader.stop(heads, PATIENCE_S)
            assert not reader.thread.is_alive(), f"{reader.reached} of {heads}"
    finally:
        done.set()
        for reader in readers:
            reader.stop()
    for reader in readers:
        assert not reader.failure, reader.failure
        check(reader.seen, heads, acknowledged)
    for reader in readers:
        assert {each["event"] for each in reader.seen} == KINDS, "some kind of change was never tried"


def test_what_is_there_comes_first_and_ends_in_what_is_there_now(cluster: Cluster) -> None:
    """``from=start``: the keys that the events leave are those that a scan finds."""
    host, _, port = cluster.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.request("GET", "/v1/watch?from=start", headers={"Accept": "application/x-ndjson"})
    answer = connection.getresponse()
    assert answer.status == 200
    repeated(cluster, "PUT", "/v1/kv/marker", b"x", {"Idempotency-Key": "marker"})
    state: dict[str, str] = {}
    while "marker" not in state:
        event = json.loads(answer.readline())
        if event["event"] == "put":
            state[event["data"]["key"]] = event["data"]["revision"]
        elif event["event"] in ("delete", "expire"):
            state.pop(event["data"]["key"], None)
    connection.close()
    items = cluster.request("GET", "/v1/kv?limit=1000").json()["items"]
    found = {item["key"]: item["revision"] for item in items}
    assert {key: revision for key, revision in state.items() if key in found} == found
