"""A shard that lost three of five nodes with their disks: one survivor goes on alone, and gets its members again.

Only what an operator has is used: ``dougctl recover-quorum`` on the volumes of stopped nodes, and ``dougctl members``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.cluster import Cluster, dougctl, wait_for
from bench.http11 import HttpError, fetch
from bench.launch import Launch

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.slow, pytest.mark.timeout(600)]

SHARD = "0"
KEYS = 40
WAIT_S = 120.0


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(shards=1, options=["--no-restart"]).start()


def command(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [dougctl(), "--url", cluster.url, *arguments],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    print(f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def recover(cluster: Cluster, launch: Launch, *confirm: str) -> subprocess.CompletedProcess[str]:
    folders = launch.environment["DOUGDB_WAL_DIR"], launch.environment["DOUGDB_DATA_DIR"]
    return command(cluster, "recover-quorum", "--wal-dir", folders[0], "--data-dir", folders[1], *confirm)


def ending(plan: str) -> tuple[int, int]:
    """The term and index of the log's last entry, by which survivors are compared."""
    found = re.search(r"ends at entry (\d+) of term (\d+)", plan)
    assert found is not None
    return int(found[2]), int(found[1])


def wipe(launch: Launch) -> None:
    for name in ("DOUGDB_WAL_DIR", "DOUGDB_DATA_DIR"):
        shutil.rmtree(Path(launch.environment[name]))


def await_answer(launch: Launch) -> None:
    """The node with its empty disk runs, and waits for being admitted."""
    port = int(launch.environment["DOUGDB_ADMIN_LISTEN"].rpartition(":")[2])

    def waits() -> bool:
        try:
            return b"dougctl members add" in fetch(port, "GET", "/readyz", timeout_s=2).body
        except HttpError:
            return False

    wait_for(waits, WAIT_S, "a node to say how it is admitted")


def serves(cluster: Cluster) -> bool:
    try:
        return cluster.request("PUT", "/v1/kv/afterwards", b"v").status == 200
    except HttpError:
        return False


def test_one_survivor_goes_on_and_gets_its_members_again(cluster: Cluster) -> None:
    for number in range(KEYS):
        assert cluster.request("PUT", f"/v1/kv/key-{number}", b"value %d" % number).status == 200
    session = {"Doug-Session": cluster.request("GET", "/v1/kv/key-0").headers["doug-session"]}
    revision = int(cluster.request("GET", "/v1/kv/key-0").headers["etag"].strip('"'))
    cluster.await_equal(SHARD)
    names = cluster.node_ids
    launches = {name: cluster.launch_of(name) for name in names}
    refused = recover(cluster, launches[names[0]])
    assert refused.returncode == 3
    assert "in use by another process" in refused.stderr
    for name in names:
        cluster.kill(name)
    for name in names[:3]:
        wipe(launches[name])

    plans = {name: recover(cluster, launches[name]).stdout for name in names[3:]}
    assert all("Nothing was changed" in plan for plan in plans.values())
    survivor = max(plans, key=lambda name: ending(plans[name]))
    others = [name for name in names if name != survivor]
    token = plans[survivor].rpartition("--confirm ")[2].strip()
    assert recover(cluster, launches[survivor], "--confirm", token).returncode == 0
    again = recover(cluster, launches[survivor], "--confirm", token)
    assert again.returncode == 3, "the same plan is confirmed once"

    cluster.start_again(survivor, launches[survivor])
    wait_for(lambda: serves(cluster), WAIT_S, "the survivor to serve alone")
    for number in range(KEYS):
        answer = cluster.request("GET", f"/v1/kv/key-{number}")
        assert (answer.status, answer.body) == (200, b"value %d" % number), "every survivor had it"

    # Some of what was seen before may be lost, and nobody takes it for present.
    read = cluster.request("GET", "/v1/kv/key-0?consistency=session", headers=session)
    assert (read.status, read.json()["code"]) == (409, "foreign_session")
    written = cluster.request("PUT", "/v1/kv/key-0", b"value 0")
    assert int(written.headers["etag"].strip('"')) > revision + (1 << 39), "no lost revision is given out again"

    wipe(launches[(set(names[3:]) - {survivor}).pop()])
    for name in others:
        cluster.start_again(name, launches[name])
        await_answer(launches[name])
        address = launches[name].environment["DOUGDB_PEER_LISTEN"]
        assert command(cluster, "members", "add", name, "--address", address, "--shard", SHARD).returncode == 0
    views = cluster.await_equal(SHARD)
    assert {view.id for view in views} == set(names)
    cluster.kill(survivor)
    wait_for(lambda: serves(cluster), WAIT_S, "the others to serve without the survivor")
    answer = cluster.request("GET", f"/v1/kv/key-{KEYS - 1}")
    assert answer.body == b"value %d" % (KEYS - 1)
