"""Members come, go and are replaced under load: a sixth node is admitted, one is removed, others lose their disks.

Everything is done with what operators have: the command ``dougctl members``, probes, and the environment of a node.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from bench.cluster import Cluster, dougctl, is_alive, wait_for
from bench.http11 import HttpError, fetch
from bench.launch import Launch
from bench.recorder import KeyRing, Recorder, run_client
from bench.witness import Witness

from doug.v1 import doug_pb2, doug_pb2_grpc
from raft_testing.linearizability import check_history

pytestmark = [pytest.mark.integration, pytest.mark.safety, pytest.mark.slow, pytest.mark.timeout(600)]

CLIENTS = 3
SHARD = "0"
SEED = 51_300
NEW = "shard-0-5"
NEW_PORTS = 40
"""Behind the ports of the cluster's own nodes, in the block that was found free for it."""
WAIT_S = 120.0
ELECTION_S = 0.1
"""A machine that stands still for longer may have a follower campaign, rightly: it hears nobody for 150 ms."""
EXIT_REFUSED = 3


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(shards=1, options=["--no-restart"]).start()


def members_command(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs ``dougctl members`` as an operator does."""
    command = [dougctl(), "--url", cluster.url, "members", *arguments, "--shard", SHARD]
    done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=WAIT_S, check=False)
    print(f"{' '.join(command[3:])}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def voters(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """The voters by name, as the command lists them; there is nobody else."""
    listed = json.loads(members_command(cluster, "list", "--json").stdout)
    assert {member["role"] for member in listed["members"]} == {"voter"} and not listed["changing"]
    return {member["name"]: member for member in listed["members"]}


def launch_of_new_node(cluster: Cluster) -> Launch:
    """How a sixth node is started: like the others, with a name, ports and volumes of its own."""
    launch = cluster.launch_of("shard-0-0")
    client, peer, admin = (f"127.0.0.1:{cluster.base_port + NEW_PORTS + number}" for number in range(3))
    folder = cluster.data / NEW
    return Launch(
        launch.argv,
        {
            **launch.environment,
            "DOUGDB_NODE_ID": NEW,
            "DOUGDB_PEERS": f"{launch.environment['DOUGDB_PEERS']},{NEW}={peer}",
            "DOUGDB_WAL_DIR": str(folder / "wal"),
            "DOUGDB_DATA_DIR": str(folder / "data"),
            "DOUGDB_CLIENT_LISTEN": client,
            "DOUGDB_PEER_LISTEN": peer,
            "DOUGDB_ADMIN_LISTEN": admin,
        },
        launch.folder,
    )


def readiness(launch: Launch) -> tuple[int, str]:
    """What /readyz of a node says; status 0 while nobody answers."""
    port = int(launch.environment["DOUGDB_ADMIN_LISTEN"].rpartition(":")[2])
    try:
        answer = fetch(port, "GET", "/readyz", timeout_s=2)
    except HttpError:
        return 0, ""
    return answer.status, answer.body.decode()


def role_of(cluster: Cluster, name: str) -> str:
    nodes = cluster.request("GET", "/v1/cluster").json()["shards"][0]["nodes"]
    return {node["id"]: str(node["role"]) for node in nodes}.get(name, "")


def await_readiness(launch: Launch, status: int, words: str) -> str:
    def said() -> str | None:
        found, text = readiness(launch)
        return text if found == status and words in text else None

    return wait_for(said, WAIT_S, f"{launch.environment['DOUGDB_NODE_ID']} to say {words!r}: {readiness(launch)}")


def names_of_events(cluster: Cluster, node: str) -> list[str]:
    events = cluster.request("GET", f"/v1/shards/{SHARD}/events?limit=10000").json()["events"]
    return [event["name"] for event in events if event["node"] == node]


def await_event(cluster: Cluster, node: str, name: str) -> None:
    """Waits until the facade, which may have to connect again first, shows an event of a node."""
    wait_for(lambda: name in names_of_events(cluster, node), WAIT_S, f"{node} to tell of {name}")


def admit_a_sixth(cluster: Cluster) -> Launch:
    launch = launch_of_new_node(cluster)
    cluster.start_again(NEW, launch)
    text = await_readiness(launch, 503, "not a member")
    assert f"run `dougctl members add {NEW} --shard 0 --address " in text
    added = members_command(cluster, "add", NEW, "--address", launch.environment["DOUGDB_PEER_LISTEN"])
    assert added.returncode == 0
    assert added.stdout == f"shard 0: {NEW} was admitted as a learner\nshard 0: {NEW} is a voter\n"
    assert len(voters(cluster)) == 6
    await_readiness(launch, 200, "ok")
    await_event(cluster, NEW, "join_waiting")
    await_event(cluster, NEW, "joined")
    return launch


def remove_one(cluster: Cluster, name: str) -> None:
    launch = cluster.launch_of(name)
    assert members_command(cluster, "remove", name).returncode == 0
    assert name not in voters(cluster) and len(voters(cluster)) == 5
    await_readiness(launch, 503, f"run `dougctl members add {name}")
    # The entry comes first, and with a later message that it is committed.
    await_event(cluster, name, "removed")
    before = names_of_events(cluster, name)
    time.sleep(2.0)
    campaigns = {"became_pre_candidate", "became_candidate"} & set(names_of_events(cluster, name)[len(before) :])
    assert not campaigns
    again = members_command(cluster, "remove", name)
    assert again.returncode == 1 and "no member" in again.stderr


def let_another_lead(cluster: Cluster, name: str) -> None:
    """Whoever is killed must not lead then: what was under way would rightly be unknown."""

    def leads_not() -> bool:
        if cluster.await_leader(SHARD).id != name:
            return True
        command = [dougctl(), "--url", cluster.url, "leader", "transfer", "--shard", SHARD]
        subprocess.run(command, env=cluster.environment, capture_output=True, timeout=WAIT_S, check=False)
        return False

    wait_for(leads_not, WAIT_S, f"another one than {name} to lead")


def wipe_and_replace(cluster: Cluster, name: str, launch: Launch) -> None:
    let_another_lead(cluster, name)
    process = cluster.kill(name) if cluster.find(name) else psutil.Process(0)
    assert not is_alive(process)
    shutil.rmtree(cluster.data / name)
    old = voters(cluster)[name]["incarnation"]
    cluster.start_again(name, launch)
    text = await_readiness(launch, 503, "the disk was wiped or replaced")
    # What the facade tells may be half a second old.
    wait_for(lambda: role_of(cluster, name) == "waiting", WAIT_S, f"{name} to be shown as waiting")
    assert "with another incarnation than this disk's" in text and f"dougctl members replace {name}" in text
    await_event(cluster, name, "incarnation_refused")
    refused = members_command(cluster, "add", name, "--address", launch.environment["DOUGDB_PEER_LISTEN"])
    assert refused.returncode == 1 and f"dougctl members replace {name}" in refused.stderr
    replaced = members_command(cluster, "replace", name)
    assert replaced.returncode == 0
    assert replaced.stdout == f"shard 0: {name} was admitted anew, as a learner\nshard 0: {name} is a voter\n"
    assert voters(cluster)[name]["incarnation"] != old
    await_readiness(launch, 200, "ok")


def change_everything(cluster: Cluster) -> None:
    new = admit_a_sixth(cluster)
    leader = cluster.await_leader(SHARD)
    first, second = [name for name in cluster.node_ids if name != leader.id][:2]
    remove_one(cluster, first)
    wipe_and_replace(cluster, second, cluster.launch_of(second))
    wipe_and_replace(cluster, NEW, new)
    names = {member["name"] for member in voters(cluster).values()}
    assert names == {*cluster.node_ids, NEW} - {first}
    told = names_of_events(cluster, cluster.await_leader(SHARD).id)
    assert {"member_added", "member_promoted", "member_removed"} <= set(told)


async def test_members_come_go_and_are_replaced_without_a_failed_request(cluster: Cluster) -> None:
    print(f"seed {SEED}")
    recorder = Recorder()
    running, ring = True, KeyRing(f"members/{number}" for number in count())
    term = cluster.await_leader(SHARD).term
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(run_client(recorder, "127.0.0.1", cluster.port, ring, SEED + number, lambda: running))
        try:
            await asyncio.to_thread(change_everything, cluster)
        finally:
            running = False
    operations = recorder.history.operations
    print(f"{len(operations)} operations, {dict(recorder.statuses)}, slowest answer {recorder.slowest_s * 1000:.0f} ms")
    failed = {name: times for name, times in recorder.statuses.items() if name.split()[1] not in ("200", "404")}
    assert not failed, f"requests failed: {failed}"
    assert not recorder.oddities, recorder.oddities[:5]
    views = cluster.await_equal(SHARD)
    assert len(views) == 5
    print(f"term {term} became {max(view.term for view in views)}")
    violations = check_history(operations)
    assert not violations, "\n".join(str(violation) for violation in violations[:3])


def test_a_disk_that_went_back_in_time_is_refused_for_good(cluster: Cluster, tmp_path: Path) -> None:
    leader = cluster.await_leader(SHARD)
    name = next(view.id for view in cluster.shard_views(SHARD) if view.id not in (leader.id, NEW))
    launch, folder, copy = cluster.launch_of(name), cluster.data / name, cluster.folder / "older"
    with Witness(tmp_path) as witness:
        come_back_with_an_older_disk(cluster, name, launch, folder, copy)
        term = cluster.await_leader(SHARD).term
    assert term == leader.term or witness.longest_s() > ELECTION_S, "nobody was elected for it"
    assert cluster.request("PUT", "/v1/kv/older/0", b"after").status == 200
    cluster.await_equal(SHARD)
    # The disk of before comes back under the name of the member that took its place.
    cluster.kill(name)
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    cluster.start_again(name, launch)
    await_readiness(launch, 503, "the disk was wiped or replaced")
    with grpc.insecure_channel(launch.environment["DOUGDB_CLIENT_LISTEN"]) as channel:
        request = doug_pb2.GetRequest(key=b"older/0", consistency=doug_pb2.CONSISTENCY_EVENTUAL)
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            doug_pb2_grpc.DougStub(channel).Get(request, timeout=WAIT_S)
    for _ in range(30):
        answer = cluster.request("GET", "/v1/kv/older/0?consistency=eventual")
        assert (answer.status, answer.body) == (200, b"after")


def come_back_with_an_older_disk(cluster: Cluster, name: str, launch: Launch, folder: Path, copy: Path) -> None:
    """A node is refused with a copy of its disk of before, and takes part again with an empty one."""
    cluster.kill(name)
    shutil.copytree(folder, copy)
    cluster.start_again(name, launch)
    cluster.await_equal(SHARD)
    for number in range(20):
        assert cluster.request("PUT", f"/v1/kv/older/{number}", b"value").status == 200
    cluster.await_equal(SHARD)
    cluster.kill(name)
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    for _ in range(2):
        process = cluster.start_again(name, launch)
        assert process.wait(WAIT_S) == EXIT_REFUSED
    log = (cluster.data / "run" / f"{name}.log").read_text()
    assert "its disk is an older copy" in log and f"`dougctl members replace {name} --shard 0`" in log
    shutil.rmtree(folder)
    cluster.start_again(name, launch)
    await_readiness(launch, 503, "the disk was wiped or replaced")
    assert members_command(cluster, "replace", name).returncode == 0
    cluster.await_equal(SHARD)
