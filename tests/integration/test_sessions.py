"""Sessions over two facades while leaders are killed: what was written is read, by whichever replica answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from bench.cluster import Cluster
from bench.witness import Witness

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.timeout(300)]

PAIRS = int(os.environ.get("SESSION_PAIRS", "300"))
"""Of a write and a read each. More of them make a soak test."""
KILL_EVERY = 75
BOUND_S = 1.0
STALL_S = 0.1


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


def test_bounded_reads_go_on_and_stay_within_their_bound_while_a_follower_stands_still(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Where the machine itself stands still, nobody can prove how fresh it is: a read is refused then, rightly."""
    cluster.await_equal("0")  # All nodes are back that an earlier test has killed.
    leader = cluster.await_leader("0").id
    stopped = cluster.member(next(name for name in cluster.node_ids if name != leader))
    url = f"http://127.0.0.1:{cluster.port}/v1/kv/bounded"
    bound = {"consistency": "bounded", "max_staleness": f"{BOUND_S:.0f}s"}
    refused: list[tuple[float, float, str]] = []

    def read() -> None:
        asked_s = time.monotonic()
        answer = client.get(url, params=bound)
        if answer.status_code == 200:
            assert 0 <= int(answer.headers["doug-staleness-ms"]) <= 1000 * BOUND_S
        else:
            refused.append((asked_s - BOUND_S, time.monotonic(), answer.text))

    with Witness(tmp_path) as witness, httpx.Client(timeout=20.0, trust_env=False) as client:
        stopped.suspend()
        try:
            for number in range(60):
                put = client.put(url, content=b"%d" % number)
                assert put.status_code == 200, put.text
                read()
        finally:
            stopped.resume()
        for _ in range(30):
            # Who stood still has missed writes; it must not answer from before it has caught up.
            read()
    print(witness.told())
    assert not [text for since_s, until_s, text in refused if witness.stalled_s(since_s, until_s) < STALL_S]
