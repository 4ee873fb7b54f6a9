"""A node falls behind what the others keep of the log: it gets a snapshot, resumed after cuts, and is equal then.

Segments, memtables and what is kept of the log are tiny, so that a few megabytes do what gigabytes would.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from bench.cluster import Cluster, NodeView, wait_for
from bench.http11 import Client, fetch
from bench.meter import scrape
from grpc_health.v1 import health_pb2, health_pb2_grpc

from doug.v1 import doug_pb2, doug_pb2_grpc

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.slow, pytest.mark.timeout(600)]

SHARD = "0"
SEED = 60_117
KIB = 1 << 10
SEGMENT_BYTES, KEEP_BYTES, LOG_MAX_BYTES, MEMTABLE_BYTES = 64 * KIB, 256 * KIB, 1024 * KIB, 256 * KIB
VALUE_BYTES = 10_000
VALUES = 500
WRITERS = 8
WAIT_S = 60.0
LOG_DISK_MAX = LOG_MAX_BYTES + 8 * MEMTABLE_BYTES
"""What is kept, what is not flushed yet, and the segments that are prepared or about to be removed."""


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(
        shards=1,
        options=["--no-restart"],
        environment={
            "DOUGDB_WAL_SEGMENT_BYTES": str(SEGMENT_BYTES),
            "DOUGDB_MEMTABLE_BYTES": str(MEMTABLE_BYTES),
            "DOUGDB_LOG_KEEP_BYTES": str(KEEP_BYTES),
            "DOUGDB_LOG_BYTES_MAX": str(LOG_MAX_BYTES),
            # Small chunks make a transfer last long enough to be cut.
            "DOUGDB_SNAPSHOT_CHUNK_BYTES": str(2 * KIB),
        },
    ).start()


def value_of(number: int, version: int) -> bytes:
    return Random(SEED + number * 100 + version).randbytes(VALUE_BYTES)


def put_all(cluster: Cluster, version: int) -> None:
    """Puts every value; what is refused while leaders change is tried again."""

    async def put(numbers: Iterator[int]) -> None:
        async with Client("127.0.0.1", cluster.port) as client:
            for number in numbers:
                ends = time.monotonic() + WAIT_S
                body = value_of(number, version)
                while (await client.request("PUT", f"/v1/kv/snapshots/{number}", body)).status != 200:
                    assert time.monotonic() < ends, f"value {number} is refused for too long"
                    await asyncio.sleep(0.1)

    async def run() -> None:
        numbers = iter(range(VALUES))
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(put(numbers))

    asyncio.run(run())


def metric(view: NodeView, name: str, label: str = "") -> float:
    """The sum of a metric's values whose labels contain a text."""
    return sum(value for labels, value in scrape(view.admin_port).get(name, {}).items() if label in labels)


def has_started(view: NodeView) -> bool:
    """Whether a node answers stale reads; it may lack much of the log.

    It does as soon as its peers have told that it is a member, which may be after its start.
    """
    read = doug_pb2.GetRequest(key=b"snapshots/7", consistency=doug_pb2.CONSISTENCY_EVENTUAL)
    with grpc.insecure_channel(view.address) as channel:
        try:
            return doug_pb2_grpc.DougStub(channel).Get(read, timeout=2).found
        except grpc.RpcError:
            return False


def view_of(cluster: Cluster, name: str) -> NodeView:
    return next(view for view in cluster.shard_views(SHARD) if view.id == name)


def received_bytes(cluster: Cluster, name: str) -> int:
    """What lies in the directory of the snapshot that a node receives."""
    return sum(size_of(path) for path in cluster.files(name, "data/incoming/*.sst"))


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def log_bytes(cluster: Cluster, name: str) -> int:
    return sum(size_of(path) for path in cluster.files(name, "wal/*"))


def wait_for_part(cluster: Cluster, name: str) -> int:
    """Waits until a node has a part of a snapshot, and returns how much."""
    return wait_for(lambda: received_bytes(cluster, name), WAIT_S, f"{name} to receive a part of a snapshot")


def events_of(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    document = cluster.request("GET", f"/v1/shards/{SHARD}/events").json()
    return [event for event in document["events"] if event["node"] == name]


class Sampler(threading.Thread):
    """Asks a node again and again whether it lives, what its health service says, and for a stale read."""

    def __init__(self, view: NodeView) -> None:
        super().__init__(name="sampler", daemon=True)
        self._view = view
        self._over = threading.Event()
        self.livez: list[int] = []
        self.liveness: list[int] = []
        self.applied: list[int] = []
        self.slowest_s = 0.0

    def run(self) -> None:
        key = b"snapshots/7"
        read = doug_pb2.GetRequest(key=key, consistency=doug_pb2.CONSISTENCY_EVENTUAL)
        check = health_pb2.HealthCheckRequest(service="liveness")
        with grpc.insecure_channel(self._view.address) as channel:
            doug, health = doug_pb2_grpc.DougStub(channel), health_pb2_grpc.HealthStub(channel)
            while not self._over.is_set():
                begun = time.monotonic()
                self.livez.append(fetch(self._view.admin_port, "GET", "/livez", timeout_s=WAIT_S).status)
                self.liveness.append(health.Check(check, timeout=WAIT_S, wait_for_ready=True).status)
                answer = doug.Get(read, timeout=WAIT_S, wait_for_ready=True)
                assert answer.found
                self.applied.append(answer.receipt.applied_index)
                self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
                self._over.wait(0.02)

    def stop(self) -> None:
        self._over.set()
        self.join()


def assert_equal_states(cluster: Cluster) -> None:
    """Every node answers by itself, from what it has applied, with the same values."""
    for view in cluster.shard_views(SHARD):
        with grpc.insecure_channel(view.address) as channel:
            doug = doug_pb2_grpc.DougStub(channel)
            for number in range(VALUES):
                key = f"snapshots/{number}".encode()
                request = doug_pb2.GetRequest(key=key, consistency=doug_pb2.CONSISTENCY_EVENTUAL)
                answer = doug.Get(request, timeout=WAIT_S, wait_for_ready=True)
                assert answer.value == value_of(number, 3), f"{view.id} differs in value {number}"


def assert_logs_are_short(cluster: Cluster) -> None:
    """Each node drops the beginning of its log when it has flushed what is in there."""

    def sizes() -> dict[str, int]:
        return {name: log_bytes(cluster, name) for name in cluster.node_ids}

    wait_for(lambda: max(sizes().values()) <= LOG_DISK_MAX, WAIT_S, f"every log to be short, of {sizes()}")
    print(f"log bytes on disk: {sizes()}")


def test_a_snapshot_is_resumed_after_either_side_was_killed(cluster: Cluster) -> None:
    print(f"seed {SEED}")
    leader = cluster.await_leader(SHARD).id
    slow = next(name for name in cluster.node_ids if name != leader)
    launches = {name: cluster.launch_of(name) for name in cluster.node_ids}
    put_all(cluster, 1)
    cluster.await_equal(SHARD)
    known = view_of(cluster, slow)
    behind = known.applied_index
    cluster.kill(slow)
    put_all(cluster, 2)
    leading = cluster.await_leader(SHARD)
    wait_for(lambda: metric(leading, "dougdb_raft_first_log_index") > behind + 1, WAIT_S, "the log to be dropped")
    assert_logs_are_short(cluster)

    # The receiver dies in the middle, and goes on where it was.
    cluster.start_again(slow, launches[slow])
    part = wait_for_part(cluster, slow)
    cluster.kill(slow)
    left = received_bytes(cluster, slow)
    print(f"killed the receiver, which had {part} to {left} bytes")
    assert left >= part
    cluster.start_again(slow, launches[slow])
    wait_for(lambda: has_started(known), WAIT_S, f"{slow} to serve what it has")
    sampler = Sampler(known)
    sampler.start()

    # The sender dies in the middle; the next leader sends its own.
    wait_for(lambda: received_bytes(cluster, slow) > left, WAIT_S, f"{slow} to go on receiving")
    leader = cluster.await_leader(SHARD).id
    cluster.kill(leader)
    cut = received_bytes(cluster, slow)
    print(f"killed the sender {leader} when {cut} bytes were there")
    put_all(cluster, 3)
    cluster.start_again(leader, launches[leader])
    views = cluster.await_equal(SHARD)
    sampler.stop()
    print(f"{len(sampler.applied)} rounds of questions meanwhile, the slowest took {sampler.slowest_s:.2f} s")
    # Each question was answered within its own time, or the thread would have failed, and this test with it.
    assert len(sampler.applied) > 20
    assert set(sampler.livez) == {200} and set(sampler.liveness) == {health_pb2.HealthCheckResponse.SERVING}
    assert sampler.applied == sorted(sampler.applied), "a stale read went backwards"
    assert sampler.applied[0] <= behind < sampler.applied[-1]
    after = view_of(cluster, slow)
    assert metric(after, "dougdb_snapshot_transfers_total", 'outcome="installed"') >= 1
    events = events_of(cluster, slow)
    names = [event["name"] for event in events]
    assert "snapshot_installed" in names, names
    resumed = next(event["details"]["had_bytes"] for event in events if event["name"] == "snapshot_receiving")
    assert resumed >= left, "the restarted receiver began anew"
    print({view.id: view.applied_index for view in views})
    assert_equal_states(cluster)
    assert_logs_are_short(cluster)
