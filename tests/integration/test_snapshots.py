"""A node falls behind what the others keep of the log, and gets a snapshot: cut in the middle, resumed, and equal after.

Segments, memtables and what is kept of the log are tiny, so that a few megabytes do what gigabytes would.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from bench.cluster import Cluster, NodeView, wait_for
from bench.http11 import Client
from bench.meter import scrape, total

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

SHARD = "0"
SEED = 60_117
KIB = 1 << 10
SEGMENT_BYTES, KEEP_BYTES, LOG_MAX_BYTES, MEMTABLE_BYTES = 64 * KIB, 256 * KIB, 1024 * KIB, 256 * KIB
VALUE_BYTES = 10_000
VALUES = 700
WRITERS = 8
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
            "DOUGDB_SNAPSHOT_CHUNK_BYTES": str(KIB),
        },
    ).start()


def value_of(number: int, version: int) -> bytes:
    return Random(SEED + number * 100 + version).randbytes(VALUE_BYTES)


def put_all(cluster: Cluster, version: int) -> None:
    """Puts every value; what is refused while leaders change is tried again."""

    async def put(numbers: Iterator[int]) -> None:
        async with Client("127.0.0.1", cluster.port) as client:
            for number in numbers:
                ends = time.monotonic() + 20
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


def metric(view: NodeView, name: str, **labels: str) -> float:
    return total(scrape(view.admin_port), name, **labels)


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
    return wait_for(lambda: received_bytes(cluster, name), 30, f"{name} to receive a part of a snapshot")


def events_of(cluster: Cluster, name: str) -> list[dict[str, object]]:
    document = cluster.request("GET", f"/v1/shards/{SHARD}/events").json()
    return [event for event in document["events"] if event["node"] == name]


def assert_logs_are_short(cluster: Cluster) -> None:
    sizes = {name: log_bytes(cluster, name) for name in cluster.node_ids}
    print(f"log bytes on disk: {sizes}")
    assert max(sizes.values()) <= LOG_DISK_MAX, sizes


def test_a_snapshot_is_resumed_after_either_side_was_killed(cluster: Cluster) -> None:
    print(f"seed {SEED}")
    leader = cluster.await_leader(SHARD).id
    slow, *others = [name for name in cluster.node_ids if name != leader]
    launches = {name: cluster.launch_of(name) for name in cluster.node_ids}
    put_all(cluster, 1)
    cluster.await_equal(SHARD)
    behind = view_of(cluster, slow).applied_index
    cluster.kill(slow)
    put_all(cluster, 2)
    leading = cluster.await_leader(SHARD)
    wait_for(lambda: metric(leading, "dougdb_raft_first_log_index") > behind + 1, 20, "the log to be dropped")
    assert_logs_are_short(cluster)

    # The receiver dies in the middle, and goes on where it was.
    cluster.start_again(slow, launches[slow])
    part = wait_for_part(cluster, slow)
    cluster.kill(slow)
    left = received_bytes(cluster, slow)
    print(f"killed the receiver, which had {part} to {left} bytes")
    assert left >= part
    assert view_is_behind(cluster, slow, leading)
    cluster.start_again(slow, launches[slow])

    # The sender dies in the middle; the next leader sends its own.
    wait_for(lambda: received_bytes(cluster, slow) > left, 30, f"{slow} to go on receiving")
    assert readiness(cluster, slow) in (200, 503)
    before = view_of(cluster, slow)
    leader = cluster.await_leader(SHARD).id
    cluster.kill(leader)
    cut = received_bytes(cluster, slow)
    print(f"killed the sender {leader} when {cut} bytes were there")
    put_all(cluster, 3)
    cluster.start_again(leader, launches[leader])
    views = cluster.await_equal(SHARD, 60.0)
    assert view_of(cluster, slow).applied_index >= before.applied_index
    after = view_of(cluster, slow)
    assert metric(after, "dougdb_snapshot_transfers", outcome="installed") >= 1
    names = [event["name"] for event in events_of(cluster, slow)]
    assert "snapshot_installed" in names and "snapshot_receiving" in names, names
    print({view.id: view.applied_index for view in views})
    for number in range(0, VALUES, 50):
        got = cluster.request("GET", f"/v1/kv/snapshots/{number}")
        assert got.body == value_of(number, 3)
    assert_logs_are_short(cluster)
