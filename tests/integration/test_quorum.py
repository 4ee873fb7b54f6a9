"""Without a quorum: two of five nodes down is nothing, three down is said in time, and it passes by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from bench.cluster import Cluster, paused, wait_for
from bench.http11 import Client, HttpError, Response
from bench.recorder import problem
from bench.witness import Witness

from doug_wire.slots import slot_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

DEADLINE_S = 5.0
"""DOUGDB_REQUEST_TIMEOUT_MS as it is by default."""
GRACE_S = 1.5
RECOVERY_S = 30.0
NUMBERS = count()


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(options=["--no-restart"]).start()


def key_of_shard(cluster: Cluster, shard: str) -> str:
    owner = cluster.slot_owners()
    return next(key for key in (f"quorum/{n}" for n in NUMBERS) if owner(slot_of(key.encode())) == shard)


def put_and_get(cluster: Cluster, shard: str) -> None:
    """A shard serves: a write, a linearizable read, an eventual read."""
    key = key_of_shard(cluster, shard)
    assert cluster.request("PUT", f"/v1/kv/{key}", b"v").status == 200
    assert cluster.request("GET", f"/v1/kv/{key}").body == b"v"
    assert cluster.request("GET", f"/v1/kv/{key}?consistency=eventual").status in (200, 404)


def writes_again(cluster: Cluster, shard: str) -> bool:
    try:
        return cluster.request("PUT", f"/v1/kv/{key_of_shard(cluster, shard)}", b"v").status == 200
    except HttpError:
        return False


async def timed(cluster: Cluster, method: str, target: str, body: bytes = b"") -> tuple[Response, float, float]:
    """An answer, with when it was asked for and when it came."""
    begun = time.monotonic()
    async with Client("127.0.0.1", cluster.port, timeout_s=DEADLINE_S + GRACE_S + 30) as client:
        response = await client.request(method, target, body)
    return response, begun, time.monotonic()


async def assert_refuses_in_time(cluster: Cluster, shard: str, known: str, folder: Path) -> list[str]:
    """Without a quorum: writes and linearizable reads fail in time and say how, eventual reads still answer.

    What the machine stood still is no time of the cluster's.

    Returns:
        The keys of the writes that were refused; their values must never appear.
    """
    keys = [key_of_shard(cluster, shard) for _ in range(5)]
    calls = [timed(cluster, "PUT", f"/v1/kv/{key}", b"without a quorum") for key in keys]
    calls += [timed(cluster, "GET", f"/v1/kv/{known}") for _ in range(5)]
    calls += [timed(cluster, "GET", f"/v1/kv/{known}?consistency=eventual") for _ in range(20)]
    with Witness(folder) as witness:
        asked = await asyncio.gather(*calls)
    print(witness.told())
    answers = [(response, ended - begun - witness.stalled_s(begun, ended)) for response, begun, ended in asked]
    print([(response.status, round(elapsed_s, 2)) for response, elapsed_s in answers])
    unknown = []
    for number, (response, elapsed_s) in enumerate(answers[:10]):
        assert response.status in (503, 504)
        assert elapsed_s < DEADLINE_S + GRACE_S
        document = problem(response)
        assert document["code"]
        if number < 5:
            assert document["outcome"] == {503: "not_applied", 504: "unknown"}[response.status]
            if response.status == 504:
                unknown.append(keys[number])
    for response, elapsed_s in answers[10:]:
        assert (response.status, response.body) == (200, b"known"), response
        assert elapsed_s < DEADLINE_S + GRACE_S
    refused = [key for key in keys if key not in unknown]
    print(f"{len(refused)} writes refused, {len(unknown)} unknown")
    return refused


async def test_paused_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """Nodes that are stopped, not dead: their connections stay, and say nothing."""
    shard, other = cluster.shard_ids()
    known = key_of_shard(cluster, shard)
    assert cluster.request("PUT", f"/v1/kv/{known}", b"known").status == 200
    leader = cluster.await_leader(shard).id
    cluster.await_equal(shard)
    followers = [view.id for view in cluster.shard_views(shard) if view.id != leader]
    with paused([cluster.member(name) for name in followers[:2]]):
        for _ in range(10):
            put_and_get(cluster, shard)
        with paused([cluster.member(leader)]):
            refused = await assert_refuses_in_time(cluster, shard, known, tmp_path)
            put_and_get(cluster, other)
            assert cluster.request("GET", "/readyz").status == 200, "one shard without a leader is no reason to go away"
    begun = time.monotonic()
    wait_for(lambda: writes_again(cluster, shard), RECOVERY_S, "the shard to accept writes")
    print(f"writes are accepted {time.monotonic() - begun:.2f} s after the nodes went on")
    cluster.await_equal(shard)
    for key in refused:
        assert cluster.request("GET", f"/v1/kv/{key}").status == 404, "what was refused must not appear"
    assert cluster.request("GET", f"/v1/kv/{known}").body == b"known"


@pytest.mark.slow
async def test_killed_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """Nodes that are dead, and are started again one by one as they were."""
    shard, other = cluster.shard_ids()
    known = key_of_shard(cluster, shard)
    assert cluster.request("PUT", f"/v1/kv/{known}", b"known").status == 200
    leader = cluster.await_leader(shard).id
    cluster.await_equal(shard)
    followers = [view.id for view in cluster.shard_views(shard) if view.id != leader]
    down = [*followers[:2], leader]
    launches = {name: cluster.launch_of(name) for name in down}
    for name in followers[:2]:
        cluster.kill(name)
    for _ in range(10):
        put_and_get(cluster, shard)
    cluster.kill(leader)
    refused = await assert_refuses_in_time(cluster, shard, known, tmp_path)
    put_and_get(cluster, other)
    cluster.start_again(down[0], launches[down[0]])
    begun = time.monotonic()
    wait_for(lambda: writes_again(cluster, shard), RECOVERY_S, "the shard to accept writes")
    print(f"writes are accepted {time.monotonic() - begun:.2f} s after the third node was started")
    for name in down[1:]:
        cluster.start_again(name, launches[name])
    cluster.await_equal(shard)
    for key in refused:
        assert cluster.request("GET", f"/v1/kv/{key}").status == 404, "what was refused must not appear"
    assert cluster.request("GET", f"/v1/kv/{known}").body == b"known"
