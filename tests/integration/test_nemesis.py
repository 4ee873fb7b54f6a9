"""A storm of faults and operators' work under load: what was acknowledged stays, and all replicas end up equal.

``NEMESIS_TURNS=200 NEMESIS_SEED=7`` make a soak test of it; ``NEMESIS_LEASE=1`` has leaders read by their lease.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

import pytest
from bench.cluster import Cluster
from bench.judging import judge
from bench.meter import scrape, total
from bench.nemesis import Nemesis
from bench.recorder import KeyRing, Recorder, RegisterClient, succeeded

SEED = int(os.environ.get("NEMESIS_SEED", "20261127"))
TURNS = int(os.environ.get("NEMESIS_TURNS", "10"))
TURN_S_MAX = 30
SHARD = "0"
CLIENTS = 6
GROUPS = 2
PAUSE_S = 0.01
"""Between two operations of a client, so that nodes which start do not starve."""
KIB = 1024

pytestmark = [
    pytest.mark.integration,
    pytest.mark.safety,
    pytest.mark.slow,
    pytest.mark.timeout(120 + TURNS * TURN_S_MAX),
]


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Logs and memtables so small that whoever was away for a moment needs a snapshot."""
    environment = {
        "DOUGDB_WAL_SEGMENT_BYTES": str(64 * KIB),
        "DOUGDB_MEMTABLE_BYTES": str(64 * KIB),
        "DOUGDB_LOG_KEEP_BYTES": str(128 * KIB),
        "DOUGDB_LOG_BYTES_MAX": str(512 * KIB),
        "DOUGDB_SNAPSHOT_CHUNK_BYTES": str(4 * KIB),
        "DOUGDB_STATE_HASH_EVERY": "200",
        "DOUGDB_LEADER_LEASE_ENABLED": os.environ.get("NEMESIS_LEASE", "0"),
    }
    return new_cluster(shards=1, environment=environment).start()


async def client(recorder: Recorder, port: int, keys: KeyRing, seed: int, running: Callable[[], bool]) -> None:
    """Puts and gets unique values at a moderate pace while ``running()`` is true."""
    connection, random = RegisterClient(recorder, "127.0.0.1", port), Random(seed)
    try:
        while running():
            key = keys.next()
            operation = await (connection.put(key) if random.random() < 0.5 else connection.get(key))
            await asyncio.sleep(PAUSE_S if succeeded(operation) else 2 * PAUSE_S)
    finally:
        await connection.close()


async def test_a_storm_of_faults_loses_nothing(cluster: Cluster, tmp_path: Path) -> None:
    print(f"seed {SEED}, {TURNS} turns")
    recorder, running = Recorder(), True
    rings = [KeyRing(f"storm-{group}/{number}" for number in count()) for group in range(GROUPS)]
    nemesis = Nemesis(cluster, SHARD, SEED)
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            ring = rings[number % GROUPS]
            group.create_task(client(recorder, cluster.port, ring, SEED + number, lambda: running))
        try:
            for _ in range(TURNS):
                await asyncio.sleep(nemesis.pause_s())
                print(await asyncio.to_thread(nemesis.act))
        finally:
            running = False
    await judge(cluster, recorder, {SHARD: [key for ring in rings for key in ring.used]}, tmp_path)
    assert len(recorder.history.operations) > 20 * TURNS, "there was hardly any load"
    assert len(nemesis.kinds) > TURNS or set(nemesis.turns) == set(nemesis.kinds)
    metrics = [scrape(view.admin_port) for view in cluster.views()]
    assert len(metrics) == 5
    assert [total(found, "dougdb_state_divergence_total") for found in metrics] == [0.0] * len(metrics)
