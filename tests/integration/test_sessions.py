"""Sessions over two facades while leaders are killed: what was written is read, by whichever replica answers."""

from __future__ import annotations

import os
from collections.abc import Callable

import httpx
import pytest
from bench.cluster import Cluster

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.timeout(300)]

PAIRS = int(os.environ.get("SESSION_PAIRS", "300"))
"""Of a write and a read each. More of them make a soak test."""
KILL_EVERY = 75


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(shards=1, options=("--facades", "2")).start()


def test_a_session_reads_what_it_wrote_through_another_facade_while_leaders_die(cluster: Cluster) -> None:
    urls = [f"http://127.0.0.1:{cluster.port + number}" for number in range(2)]
    token, served, refused = "", set[str](), 0
    with httpx.Client(timeout=20.0, trust_env=False) as client:
        for number in range(PAIRS):
            if number % KILL_EVERY == KILL_EVERY // 2:
                cluster.kill(cluster.await_leader("0").id)
            key, value = f"session/{number % 7}", b"%d" % number
            headers = {"Doug-Session": token} if token else {}
            put = client.put(f"{urls[number % 2]}/v1/kv/{key}", content=value, headers=headers)
            if put.status_code != 200:
                refused += 1
                continue
            token = put.headers["doug-session"]
            read = client.get(
                f"{urls[1 - number % 2]}/v1/kv/{key}", headers={"Doug-Session": token, "Doug-Consistency": "session"}
            )
            assert read.status_code == 200, read.text
            assert (read.content, read.headers["etag"]) == (value, put.headers["etag"])
            assert read.headers["doug-consistency-used"] == "session"
            served.add(read.headers["doug-served-by"])
            token = read.headers["doug-session"]
    assert len(served) >= 3, f"only {served} served; any replica may"
    assert refused <= PAIRS // 20, f"{refused} writes were refused"


def test_bounded_reads_go_on_and_stay_within_their_bound_while_a_follower_stands_still(cluster: Cluster) -> None:
    leader = cluster.await_leader("0").id
    stopped = cluster.member(next(name for name in cluster.node_ids if name != leader))
    url = f"http://127.0.0.1:{cluster.port}/v1/kv/bounded"
    bound = {"consistency": "bounded", "max_staleness": "1s"}
    with httpx.Client(timeout=20.0, trust_env=False) as client:
        stopped.suspend()
        try:
            for number in range(60):
                put = client.put(url, content=b"%d" % number)
                read = client.get(url, params=bound)
                assert (put.status_code, read.status_code) == (200, 200), read.text
                assert 0 <= int(read.headers["doug-staleness-ms"]) <= 1000
        finally:
            stopped.resume()
        for _ in range(30):
            # Who stood still has missed writes; it must not answer from before it has caught up.
            read = client.get(url, params=bound)
            assert read.status_code == 200 and int(read.headers["doug-staleness-ms"]) <= 1000
