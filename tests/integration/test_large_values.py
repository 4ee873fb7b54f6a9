"""Six hundred values of 1 MB with the default settings: memory stays bounded, SSTables appear, everything is kept."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random

import psutil
import pytest
from bench.cluster import Cluster, wait_for
from bench.http11 import Client
from bench.meter import MemorySampler

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.slow, pytest.mark.timeout(900)]

VALUES = 600
VALUE_BYTES = 1_000_000
PSS_MAX_MB = 250
DISK_NEEDED = VALUES * VALUE_BYTES * 5 * 4
"""Log, change segments, SSTables, and a compaction that is under way, at every one of five replicas."""
WRITERS = 8
READERS = 4
SEED = 20_263
UNAVAILABLE_S = 60.0


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    free = shutil.disk_usage(tmp_path_factory.getbasetemp()).free
    if free < DISK_NEEDED:
        pytest.skip(f"needs {DISK_NEEDED / 1e9:.0f} GB of free disk for five replicas, there are {free / 1e9:.1f} GB")
    return new_cluster().start()


def value_of(number: int) -> bytes:
    """Bytes that do not compress, the same for the same number."""
    return Random(SEED * 1000 + number).randbytes(VALUE_BYTES)


async def put_all(cluster: Cluster) -> list[str]:
    """Puts every value and returns their digests. A refused put is tried again, as any client would."""
    digests, numbers = [""] * VALUES, iter(range(VALUES))

    async def put() -> None:
        async with Client("127.0.0.1", cluster.port) as client:
            for number in numbers:
                value = value_of(number)
                digests[number] = hashlib.blake2b(value).hexdigest()
                ends = time.monotonic() + UNAVAILABLE_S
                while True:
                    answer = await client.request("PUT", f"/v1/kv/large/{number}", value)
                    if answer.status == 200:
                        break
                    retried[answer.status] = retried.get(answer.status, 0) + 1
                    assert answer.status in (503, 504), answer
                    assert time.monotonic() < ends, f"value {number} is refused for too long: {answer.body!r}"
                    await asyncio.sleep(0.2)

    retried: dict[int, int] = {}
    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(put())
    print(f"tried again after: {retried or 'nothing'}")
    return digests


async def assert_all_there(cluster: Cluster, digests: list[str]) -> None:
    numbers = count()

    async def read() -> None:
        async with Client("127.0.0.1", cluster.port) as client:
            while (number := next(numbers)) < VALUES:
                got = await client.request("GET", f"/v1/kv/large/{number}")
                assert got.status == 200, f"value {number}: {got.status} {got.body[:200]!r}"
                assert hashlib.blake2b(got.body).hexdigest() == digests[number], f"value {number} differs"

    async with asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(read())


async def test_six_hundred_megabytes_in_bounded_memory(cluster: Cluster) -> None:
    print(f"seed {SEED}")

    def nodes() -> dict[str, psutil.Process]:
        found = {name: cluster.find(name) for name in cluster.node_ids}
        return {name: process for name, process in found.items() if process is not None}

    with MemorySampler(nodes) as sampler:
        begun = time.monotonic()
        digests = await put_all(cluster)
        print(f"put in {time.monotonic() - begun:.1f} s")
        for shard in cluster.shard_ids():
            await asyncio.to_thread(cluster.await_equal, shard)
        for node_id in cluster.node_ids:
            await asyncio.to_thread(
                wait_for, partial(cluster.files, node_id, "data/*.sst"), 60, f"{node_id}'s SSTables"
            )
        begun = time.monotonic()
        await assert_all_there(cluster, digests)
        print(f"read back in {time.monotonic() - begun:.1f} s")
        assert await asyncio.to_thread(cluster.stop) == 0
        begun = time.monotonic()
        await asyncio.to_thread(cluster.start)
        print(f"started again in {time.monotonic() - begun:.1f} s")
        await assert_all_there(cluster, digests)
    peaks = {name: round(peak / 1e6) for name, peak in sorted(sampler.peak_bytes.items())}
    print(f"highest PSS with children in MB, {sampler.samples} samples: {peaks}")
    assert sampler.samples > 20
    assert peaks.keys() == set(cluster.node_ids)
    assert max(peaks.values()) < PSS_MAX_MB
