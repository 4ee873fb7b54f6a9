"""Conditions, expiry, counters and exactly-once writes on real processes, through kills and restarts of everything.

A write is sent twice or more with one idempotency key, and each answer is held against the first one.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from bench.cluster import Cluster
from bench.http11 import HttpError, Response

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

INCREMENTS = int(os.environ.get("INCREMENTS", "160"))
"""More of them make a soak test."""
CLIENTS = 16
PATIENCE_S = 60.0
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster().start()


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

    def disturb() -> None:
        for _ in range(2):
            if done.wait(0.4):
                return
            for shard in cluster.shard_ids():
                cluster.kill(cluster.await_leader(shard).id)
        if not done.wait(0.3):
            cluster.kill("facade")

    disturber = threading.Thread(target=disturb)
    disturber.start()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(increment, range(INCREMENTS)))
    done.set()
    disturber.join()
    assert replays >= INCREMENTS
    cluster.kill_all()
    cluster.start()
    for number in range(0, INCREMENTS, 10):
        increment(number)
    assert repeated(cluster, "GET", "/v1/kv/counter", b"", {}).body == str(INCREMENTS).encode()
    assert len({revision for _, revision in answers.values()}) == INCREMENTS
    other = repeated(
        cluster, "POST", "/v1/kv/counter:increment", b'{"by": 2}', {**JSON, "Idempotency-Key": "increment-0"}
    )
    assert other.status == 422, other


def test_no_update_is_lost_that_was_made_under_a_condition(cluster: Cluster) -> None:
    assert repeated(cluster, "PUT", "/v1/kv/shared", b"0", {}).status == 200
    rounds = 6
    unknown = 0
    lock = threading.Lock()

    def raise_it(_: int) -> None:
        nonlocal unknown
        for _ in range(rounds):
            while True:
                seen = repeated(cluster, "GET", "/v1/kv/shared", b"", {})
                answer = cluster.request(
                    "PUT", "/v1/kv/shared", b"%d" % (int(seen.body) + 1), {"If-Match": seen.headers["etag"]}
                )
                if answer.status == 504:
                    with lock:
                        unknown += 1
                    break
                if answer.status == 200:
                    break
                assert answer.status in (412, 503), answer

    killer = threading.Timer(0.3, lambda: cluster.kill(cluster.await_leader(cluster.shard_ids()[0]).id))
    killer.start()
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(raise_it, range(8)))
    killer.join()
    value = int(repeated(cluster, "GET", "/v1/kv/shared", b"", {}).body)
    assert 8 * rounds - unknown <= value <= 8 * rounds


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
    ends = time.monotonic() + 15
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
