"""Real input: every file of Python's standard library goes in and comes back equal, also after everything was killed.

Left out are ``site-packages``, which is not the standard library, ``__pycache__``, which is made from it, and the few
files over the limit of a value (1 MiB), which ``dougctl`` has to name.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from bench.cluster import Cluster
from bench.http11 import Client

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.safety, pytest.mark.timeout(600)]

VALUE_BYTES_MAX = 1 << 20
READERS = 16
CONVERGED_S = 120.0


PART = "encodings"


@pytest.fixture(scope="module", params=[PART, pytest.param("", id="all")])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the standard library of the Python that runs this, or of a part of it."""
    source = Path(os.__file__).parent / request.param
    target = tmp_path_factory.mktemp("stdlib") / "lib"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__"))
    yield target
    shutil.rmtree(target)


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(shards=2, nodes=3).start()


async def read_back(cluster: Cluster, files: dict[str, bytes], consistency: str) -> Counter[str]:
    """Reads every key once and counts what came: ``equal``, or what was wrong."""
    found: Counter[str] = Counter()
    names = iter(files)

    async def read() -> None:
        async with Client("127.0.0.1", cluster.port) as client:
            for name in names:
                got = await client.request("GET", f"/v1/kv/{quote(name)}?consistency={consistency}")
                if got.status != 200:
                    found[f"status {got.status}"] += 1
                else:
                    found["equal" if got.body == files[name] else "other bytes"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(READERS):
            group.create_task(read())
    return found


async def assert_equal(cluster: Cluster, files: dict[str, bytes]) -> None:
    """Reads every key in both consistency modes; eventual reads may take a while to converge."""
    begun = time.monotonic()
    found = await read_back(cluster, files, "linearizable")
    print(f"linearizable: {dict(found)} in {time.monotonic() - begun:.1f} s")
    assert found == {"equal": len(files)}
    ends, rounds = time.monotonic() + CONVERGED_S, 0
    while True:
        rounds += 1
        found = await read_back(cluster, files, "eventual")
        print(f"eventual, round {rounds}: {dict(found)}")
        if found == {"equal": len(files)}:
            return
        assert time.monotonic() < ends, "the replicas do not converge"


async def test_the_standard_library_goes_in_and_comes_back(cluster: Cluster, tree: Path) -> None:
    everything = {path.relative_to(tree).as_posix(): path for path in tree.rglob("*") if path.is_file()}
    large = sorted(str(path) for path in everything.values() if path.stat().st_size > VALUE_BYTES_MAX)
    files = {name: path.read_bytes() for name, path in everything.items() if path.stat().st_size <= VALUE_BYTES_MAX}
    size = sum(map(len, files.values()))
    print(f"{len(files)} files with {size / 1e6:.0f} MB; over the limit, left out: {large or 'none'}")
    assert len(files) > (500 if (tree / PART).exists() else 100), "Debian's has no tests of its own in it: 736 files"

    command = [cluster.command[0], "import-tree", str(tree), "--url", cluster.url, "--skip-too-large", "--json"]
    begun = time.monotonic()
    loaded = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=240, check=False)
    print(f"imported in {time.monotonic() - begun:.1f} s")
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    report = json.loads(loaded.stdout)
    assert report["stored"] == len(files)
    assert report["stored_bytes"] == size
    assert sorted(problem["path"] for problem in report["problems"]) == large, "what is left out is named"

    await assert_equal(cluster, files)
    await asyncio.to_thread(cluster.kill_all)
    await asyncio.to_thread(cluster.start)
    await assert_equal(cluster, files)
