"""Conditions, expiry, counters and exactly-once writes on real processes, through kills and restarts of everything.

A write is sent twice or more with one idempotency key, and each answer is held against the first one.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from bench.cluster import Cluster, wait_for
from bench.http11 import HttpError, Response

from doug_wire.slots import slot_of
from dougdb.verify import Cas, Get, Outcome, Put, Recorded, check
from raft_testing.versions import Access, check_versions

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.timeout(600)]

INCREMENTS = int(os.environ.get("INCREMENTS", "1000"))
"""More of them make a soak test."""
CLIENTS = 16
CONDITIONS_S = float(os.environ.get("CONDITIONS_S", "20"))
"""The longer, the more of a soak test."""
BRIEFLY_S = 5.0
CHECKED = 1_000
PATIENCE_S = 120.0
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(shards=2, nodes=3).start()


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


def answers_at_all(cluster: Cluster) -> bool:
    try:
        return cluster.request("GET", "/livez", timeout_s=2).status == 200
    except HttpError:
        return False


def test_increments_that_are_sent_twice_count_once_through_kills_and_a_restart(cluster: Cluster) -> None:
    """Issue: exactly-once. A replay shows value and revision of the first answer, whoever is asked and when."""
    answers: dict[int, tuple[object, object]] = {}
    replays = 0
    lock = threading.Lock()
    done = threading.Event()

    def increment(number: int) -> None:
        nonlocal replays
        headers = {**JSON, "Idempotency-Key": f"increment-{number}"}
        for _ in range(2):
            answer = repeated(cluster, "POST", "/v1/kv/counter:increment", b'{"by": 1}', headers)
            assert answer.status == 200, answer
            told = answer.json()
            with lock:
                first = answers.setdefault(number, (told["value"], told["revision"]))
                replays += answer.headers.get("idempotency-replayed") == "true"
            assert (told["value"], told["revision"]) == first

    kills: list[list[str]] = []

    def disturb() -> None:
        # At first soon, so that some are killed however fast the machine is.
        while not done.wait(0.3 + 0.5 * len(kills)):
            if len(kills) % 3 == 1:
                victims = ["facade"]
            else:
                victims = [cluster.await_leader(shard).id for shard in cluster.shard_ids()]
            for victim in victims:
                cluster.kill(victim)
            kills.append(victims)
            wait_for(lambda: answers_at_all(cluster), PATIENCE_S, "the facade to be back")

    disturber = threading.Thread(target=disturb)
    disturber.start()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(increment, range(INCREMENTS)))
    # However fast the machine is, what is asked again after the restart was decided by leaders that were killed.
    wait_for(lambda: len(kills) >= 2, PATIENCE_S, "a leader and the facade to be killed")
    done.set()
    disturber.join()
    assert ["facade"] in kills, kills
    assert replays >= INCREMENTS
    cluster.kill_all()
    cluster.start()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(increment, range(INCREMENTS)))
    assert replays >= 3 * INCREMENTS, "whatever was sent after the restart was a replay"
    assert repeated(cluster, "GET", "/v1/kv/counter", b"", {}).body == str(INCREMENTS).encode()
    assert len({revision for _, revision in answers.values()}) == INCREMENTS
    other = repeated(
        cluster, "POST", "/v1/kv/counter:increment", b'{"by": 2}', {**JSON, "Idempotency-Key": "increment-0"}
    )
    assert other.status == 422, other


def recorded(process: int, access: Access) -> Recorded:
    """An access as the checker for everybody takes it."""
    if access.kind == "get":
        return Recorded(
            process,
            Get("k"),
            access.call,
            access.returned,
            Outcome(value=str(access.value), revision=access.revision),
        )
    if access.expected is None:
        return Recorded(
            process, Put("k", str(access.value)), access.call, access.returned, Outcome(revision=access.revision)
        )
    outcome = None if access.outcome == "unknown" else Outcome(ok=access.outcome == "ok", revision=access.revision)
    return Recorded(process, Cas("k", access.expected, str(access.value)), access.call, access.returned, outcome)


def beginning(history: list[Recorded]) -> list[Recorded]:
    """A history up to a moment: the checker for everybody needs a minute for thousands of requests of one key."""
    ended = sorted(each.ended for each in history)
    until = ended[min(len(ended), CHECKED) - 1]
    return [
        each if each.ended <= until else replace(each, ended=math.inf, outcome=None)
        for each in history
        if each.began <= until
    ]


@pytest.mark.parametrize("seconds", [BRIEFLY_S, pytest.param(CONDITIONS_S, marks=pytest.mark.slow)])
def test_no_update_is_lost_that_was_made_under_a_condition(cluster: Cluster, seconds: float) -> None:
    """Sixteen clients read, add one and write under If-Match while leaders die; the history must be linearizable."""
    history: list[Access] = []
    raised = threading.Event()
    ends = time.monotonic() + seconds
    key = f"shared/{seconds}"
    assert repeated(cluster, "PUT", f"/v1/kv/{key}", b"0", {}).status == 200

    def read() -> Access | None:
        called = time.monotonic()
        try:
            seen = cluster.request("GET", f"/v1/kv/{key}")
        except HttpError:
            return None
        if seen.status != 200:
            return None
        revision = int(seen.headers["etag"].strip('"'))
        return Access(key, "get", called, time.monotonic(), "ok", revision, int(seen.body))

    def write(value: int, expected: int) -> Access | None:
        called = time.monotonic()
        try:
            answer = cluster.request("PUT", f"/v1/kv/{key}", b"%d" % value, {"If-Match": f'"{expected}"'})
        except HttpError:
            return Access(key, "put", called, math.inf, "unknown", 0, value, expected)
        returned = time.monotonic()
        if answer.status == 200:
            raised.set()
            return Access(key, "put", called, returned, "ok", int(answer.json()["revision"]), value, expected)
        if answer.status == 412:
            met = int(answer.json()["current_revision"])
            return Access(key, "put", called, returned, "failed", met, value, expected)
        if answer.json()["outcome"] == "unknown":
            return Access(key, "put", called, math.inf, "unknown", 0, value, expected)
        return None

    def raise_it(_: int) -> list[Access]:
        done: list[Access] = []
        # However slow the machine is, somebody succeeds.
        while time.monotonic() < (ends if raised.is_set() else ends + PATIENCE_S):
            seen = read()
            if seen is None:
                continue
            assert isinstance(seen.value, int)
            done.append(seen)
            written = write(seen.value + 1, seen.revision)
            done += [] if written is None else [written]
        return done

    owner = cluster.slot_owners()(slot_of(key.encode()))

    def disturb() -> None:
        for _ in range(3):
            time.sleep(seconds / 4)
            cluster.kill(cluster.await_leader(owner).id)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    with ThreadPoolExecutor(CLIENTS) as clients:
        for done in clients.map(raise_it, range(CLIENTS)):
            history += done
    disturber.join()
    first = min(access.revision for access in history if access.kind == "get")
    history.append(Access(key, "put", 0.0, 0.0, "ok", first, 0))
    assert check_versions(history) == []
    assert check(beginning([recorded(process, access) for process, access in enumerate(history)])).good
    succeeded = sum(access.kind == "put" and access.outcome == "ok" for access in history) - 1
    unknown = sum(access.outcome == "unknown" for access in history)
    last = int(repeated(cluster, "GET", f"/v1/kv/{key}", b"", {}).body)
    assert 0 < succeeded <= last <= succeeded + unknown


@pytest.mark.slow
def test_what_must_be_read_from_disk_for_a_condition_is_read(cluster: Cluster) -> None:
    """After a stop in good order all of it lies in SSTables, and no block is cached."""
    keys = [f"cold/{number}" for number in range(40)]
    for key in keys:
        assert repeated(cluster, "PUT", f"/v1/kv/{key}", b"x" * 2000, {}).status == 200
    assert repeated(cluster, "PUT", "/v1/kv/short?ttl=3s", b"soon gone", {}).status == 200
    assert repeated(cluster, "PUT", "/v1/kv/long?ttl=1h", b"stays", {}).status == 200
    assert cluster.stop() == 0
    cluster.start()
    with ThreadPoolExecutor(8) as clients:
        created = list(
            clients.map(lambda key: repeated(cluster, "PUT", f"/v1/kv/{key}", b"y", {"If-None-Match": "*"}), keys)
        )
        replaced = list(
            clients.map(lambda key: repeated(cluster, "PUT", f"/v1/kv/{key}", b"z", {"If-Match": "*"}), keys)
        )
    assert {answer.status for answer in created} == {412}
    assert {answer.status for answer in replaced} == {200}
    ends = time.monotonic() + PATIENCE_S
    while repeated(cluster, "GET", "/v1/kv/short", b"", {}).status != 404:
        assert time.monotonic() < ends
        time.sleep(0.1)
    kept = json.loads(repeated(cluster, "GET", "/v1/kv/long", b"", {"Accept": "application/json"}).body)
    assert kept["value"] == "stays" and kept["expires_at"] is not None
    for shard in cluster.shard_ids():
        cluster.await_equal(shard)


def test_a_transaction_is_done_whole_or_not_at_all(cluster: Cluster) -> None:
    def move(by: int) -> Response:
        seen = repeated(cluster, "GET", "/v1/kv/%7Bbank%7D/a", b"", {"Accept": "application/json"}).json()
        other = repeated(cluster, "GET", "/v1/kv/%7Bbank%7D/b", b"", {}).body
        document = {
            "compare": [{"key": "{bank}/a", "revision": seen["revision"]}],
            "success": [
                {"op": "put", "key": "{bank}/a", "value": str(int(seen["value"]) - by)},
                {"op": "put", "key": "{bank}/b", "value": str(int(other) + by)},
            ],
            "failure": [],
        }
        return repeated(cluster, "POST", "/v1/txn", json.dumps(document).encode(), JSON)

    for name in "ab":
        assert repeated(cluster, "PUT", f"/v1/kv/%7Bbank%7D/{name}", b"100", {}).status == 200
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(move, range(24)))
    moved = sum(by for by, answer in enumerate(answers) if answer.json()["succeeded"])
    a, b = (int(repeated(cluster, "GET", f"/v1/kv/%7Bbank%7D/{name}", b"", {}).body) for name in "ab")
    assert (a, a + b) == (100 - moved, 200)
