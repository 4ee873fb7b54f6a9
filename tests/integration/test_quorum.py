"""Without a quorum: two of five nodes down is nothing, three down is said in time, and it passes by itself.

And a follower that is cut off from all others, but not from facades and clients, keeps the bounds of its reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import cast

import grpc
import pytest
from bench.cluster import Cluster, paused, wait_for
from bench.http11 import Client, HttpError, Response
from bench.recorder import problem
from bench.relays import Relays
from bench.witness import TooLate, Witness

from doug.v1 import doug_pb2, doug_pb2_grpc
from doug_wire.slots import slot_of

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.safety]

DEADLINE_S = 5.0
"""DOUGDB_REQUEST_TIMEOUT_MS as it is by default."""
GRACE_S = 5.0
"""A client that waits for so much longer was forgotten; a slow machine needs some of it."""
RECOVERY_S = 120.0
BOUND_S = 2.0
STALL_S = 0.1
"""Where the machine stood still for longer, no leader could prove in time how fresh it is."""
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
    for number, (response, _) in enumerate(answers[:10]):
        assert response.status in (503, 504)
        document = problem(response)
        assert document["code"]
        if number < 5:
            assert document["outcome"] == {503: "not_applied", 504: "unknown"}[response.status]
            if response.status == 504:
                unknown.append(keys[number])
    for response, _ in answers[10:]:
        assert (response.status, response.body) == (200, b"known"), response
    slowest_s = max(elapsed_s for _, elapsed_s in answers)
    if slowest_s >= DEADLINE_S + GRACE_S:
        raise TooLate(f"an answer took {slowest_s:.2f} s")
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


class Writer:
    """Writes numbers that only grow, and remembers when each was acknowledged."""

    def __init__(self, cluster: Cluster, key: str) -> None:
        self._cluster = cluster
        self._key = key
        self.acknowledged: list[float] = []

    def put(self) -> None:
        """Writes the next number. One of which nobody knows is sent again with its token: it never comes late."""
        number = len(self.acknowledged)
        headers = {"Idempotency-Key": f"cut-{number}"}
        if self._cluster.request("PUT", f"/v1/kv/{self._key}", b"%d" % number, headers).status == 200:
            self.acknowledged.append(time.monotonic())

    def check(self, value: bytes | None, asked_s: float) -> None:
        """A read that was asked for then must have everything that was acknowledged longer ago than the bound."""
        must = sum(at < asked_s - BOUND_S for at in self.acknowledged) - 1
        assert must < 0 or (value is not None and int(value) >= must), f"{value!r}, and {must} was there already"


class Follower:
    """A node, asked by itself for what is at most ``BOUND_S`` old."""

    def __init__(self, channel: grpc.Channel, writer: Writer, key: str) -> None:
        self._stub = doug_pb2_grpc.DougStub(channel)
        self._writer = writer
        self._key = key.encode()

    def eventual(self) -> int:
        """What it has, however old."""
        request = doug_pb2.GetRequest(key=self._key, consistency=doug_pb2.CONSISTENCY_EVENTUAL)
        return int(self._stub.Get(request, timeout=20).value)

    def serves(self) -> bool:
        """Whether it serves a bounded read; what it tells then is judged."""
        request = doug_pb2.GetRequest(
            key=self._key, consistency=doug_pb2.CONSISTENCY_EVENTUAL, max_staleness_ms=int(1000 * BOUND_S)
        )
        asked_s = time.monotonic()
        try:
            answer = self._stub.Get(request, timeout=20, wait_for_ready=True)
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)
            # It may just have been started, or know no leader; a look that takes too long is no answer either.
            assert call.code() is grpc.StatusCode.UNAVAILABLE, error
            return False
        assert answer.receipt.staleness_ms <= 1000 * BOUND_S
        self._writer.check(answer.value if answer.found else None, asked_s)
        return True


@pytest.fixture
def relays() -> Iterator[Relays]:
    made = Relays()
    yield made
    made.close()


def test_who_is_cut_off_is_never_served_past_its_bound_and_nobody_is_refused_for_it(
    cluster: Cluster, relays: Relays, tmp_path: Path
) -> None:
    shard = cluster.shard_ids()[0]
    leader = cluster.await_leader(shard).id
    view = next(view for view in cluster.shard_views(shard) if view.id != leader)
    relays.put_around(cluster, view.id)
    key = key_of_shard(cluster, shard)
    target = f"/v1/kv/{key}?consistency=bounded&max_staleness={BOUND_S:.0f}s"
    with grpc.insecure_channel(view.address) as channel:
        writer = Writer(cluster, key)
        follower = Follower(channel, writer, key)
        writer.put()
        wait_for(follower.serves, 60, f"{view.id} to serve before it is cut off")
        answered, refused = 0, list[tuple[float, float]]()
        with Witness(tmp_path) as witness, relays.cut():
            cut_s = time.monotonic()
            while time.monotonic() - cut_s < 2 * BOUND_S or answered + len(refused) < 20:
                writer.put()
                follower.serves()
                asked_s = time.monotonic()
                read = cluster.request("GET", target)
                if read.status != 200:
                    refused.append((asked_s - BOUND_S, time.monotonic()))
                    continue
                answered += 1
                assert int(read.headers["doug-staleness-ms"]) <= 1000 * BOUND_S
                writer.check(read.body, asked_s)
            assert not follower.serves(), f"{view.id} serves, although it has heard nothing for {2 * BOUND_S} s"
            assert follower.eventual() < len(writer.acknowledged) - 1, "it was not cut off"
        print(witness.told())
        owed = [span for span in refused if witness.stalled_s(*span) < STALL_S]
        assert len(owed) <= answered // 10, f"{len(refused)} reads were refused, and {answered} answered"
        wait_for(follower.serves, 60, f"{view.id} to serve again")
