"""What only a real cluster shows, with helm as a user calls it: waiting, upgrades, rollbacks, evictions, kept claims.

Skipped with podman, whose driver has no controllers. One release is used from its installation to its end: the order of
these tests is that of its life.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bench.http11 import fetch
from integration.kubernetes.cluster.driver import call_program, wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release, namespace, program
from integration.kubernetes.cluster.kubectl import POD_NETWORK
from integration.kubernetes.cluster.scenarios.judged import judge
from tools.version import one_version

Figure = Callable[[str], None]
BACKED_UP = ("--set", "backup.enabled=true")
FIRST_PUT_S = 60.0
EXPIRED = 'dougdb_discovery_relists_total{reason="expired"}'
AWAY_S = 60.0
"""How long the API server is away: longer than a watch of its clients waits."""


@pytest.fixture(scope="module")
def release(kind: str, tools: None, figure: Figure) -> Iterator[Release]:
    """Installed with a claim for backups, on a class that binds at first use: helm must come to an end."""
    if kind != "kubectl" or not os.environ.get(POD_NETWORK):
        pytest.skip("needs a real cluster whose pods are in reach, as make test-kube has it")
    with namespace("life") as one:
        began_s = time.monotonic()
        one.deploy(*BACKED_UP)
        wait_for(lambda: one.put("first", "x") == 200, FIRST_PUT_S, "the first put to be answered")
        figure(f"helm install --wait of 5 pods, to the first answered put: {time.monotonic() - began_s:.1f} s")
        try:
            yield one
        finally:
            print(one.shown())


def waiting(release: Release, pod: str) -> str:
    """Why a pod's container does not run; empty when it does, or when nobody says."""
    statuses = release.pods("raft-node").get(pod, {}).get("status", {}).get("containerStatuses", [{}])
    reason: str = statuses[0].get("state", {}).get("waiting", {}).get("reason", "")
    return reason


def test_the_charts_test_is_told_once(release: Release) -> None:
    run = release.helm("test", "dougdb", "--logs")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("every shard has a leader and serves") == 1, run.stdout


def test_an_upgrade_with_the_same_values_changes_nothing(release: Release) -> None:
    """Neither for helm nor for the API server, on whose side it is applied too."""
    before = {
        name: one["metadata"]["uid"] for kind in ("raft-node", "facade") for name, one in release.pods(kind).items()
    }
    release.deploy(*BACKED_UP)
    manifest = release.helm("get", "manifest", "dougdb").stdout
    assert release.kubectl("diff", "--filename", "-", text=manifest) == ""
    dry = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename", "-")
    assert "serverside-applied" in release.kubectl(*dry, text=manifest)
    after = {
        name: one["metadata"]["uid"] for kind in ("raft-node", "facade") for name, one in release.pods(kind).items()
    }
    assert after == before


def test_a_backup_is_made_by_the_cron_job(release: Release) -> None:
    release.kubectl("create", "job", "--from=cronjob/dougdb-backup", "now")
    release.kubectl("wait", "--for=condition=Complete", "job/now", f"--timeout={HELM_S}s")
    assert "1 shards" in release.kubectl("logs", "job/now")


def test_every_node_tells_an_address_that_can_be_reached(release: Release) -> None:
    """Whoever watches the API server dials pods by their addresses; who does not, by their names."""
    (shard,) = release.call("GET", "/v1/cluster").json()["shards"]
    pods = release.pods("raft-node")
    for node in shard["nodes"]:
        host = f"{node['id']}.dougdb-s0-peers.{release.namespace}.svc.cluster.local"
        assert node["address"] in (f"{host}:21000", f"{pods[node['id']]['status']['podIP']}:21000")
        assert node["admin"] == f"{host}:21002"


def test_every_pod_is_evicted_under_load(release: Release, figure: Figure) -> None:
    """By the API, as a drain does it, again and again while a budget refuses; the budgets keep a quorum."""
    refused = 0
    with release.loaded() as report:
        for pod, run in release.runs().items():
            ends_s = time.monotonic() + HELM_S
            while release.runs().get(pod) == run:
                refused += not release.evict(pod)
                assert time.monotonic() < ends_s, f"{pod} is not evicted"
                time.sleep(0.5)
        release.settled()
    judge(report, figure, f"every pod evicted, {refused} evictions refused meanwhile")


def test_an_upgrade_to_other_images_under_load_fails_no_request(release: Release, figure: Figure) -> None:
    """Of both services, and back again by helm's rollback. They are the same images under another tag."""
    before = release.runs()
    tags = f"raft.image.tag={one_version()}-next,facade.image.tag={one_version()}-next"
    with release.loaded() as report:
        release.deploy(*BACKED_UP, "--set", tags)
        release.settled()
        upgraded = release.runs()
        images = {pod["spec"]["containers"][0]["image"] for pod in release.pods("raft-node").values()}
        run = release.helm("rollback", "dougdb", "--wait", "--timeout", f"{HELM_S}s")
        assert run.returncode == 0, run.stderr
        release.settled()
    judge(report, figure, "an upgrade to other images, and back")
    assert images == {f"docker.io/dougdb/raft-node:{one_version()}-next"}
    assert not set(before.values()) & set(upgraded.values())
    assert not set(upgraded.values()) & set(release.runs().values())


def images_of_nodes(release: Release) -> list[str]:
    """The images' tags of all nodes, by ordinal."""
    pods = release.pods("raft-node")
    return [pods[name]["spec"]["containers"][0]["image"].rpartition(":")[2] for name in sorted(pods)]


def test_a_canary_is_one_node_and_is_taken_back_under_load(release: Release, figure: Figure) -> None:
    """`raft.updatePartition`, as docs/kubernetes.md tells: ordinals below it stay as they are."""
    version, before = one_version(), release.runs()
    with release.loaded() as report:
        release.deploy(*BACKED_UP, "--set", f"raft.updatePartition=2,raft.image.tag={version}-next")
        release.settled()
        assert images_of_nodes(release) == [version, version, f"{version}-next"]
        others = {name: run for name, run in release.runs().items() if name != "dougdb-s0-2"}
        assert others.items() <= before.items()
        release.deploy(*BACKED_UP)
        release.settled()
    judge(report, figure, "a canary, and back")
    assert images_of_nodes(release) == [version] * 3
    assert others.items() <= release.runs().items()


def test_an_image_that_cannot_be_pulled_stops_the_upgrade_and_is_taken_back(release: Release, figure: Figure) -> None:
    """One pod is stuck, nothing else is taken down. After a rollback it has to be deleted, as is documented."""
    with release.loaded() as report:
        assert release.upgrade(*BACKED_UP, "--set", "raft.image.tag=missing", wait=False).returncode == 0
        stuck = "dougdb-s0-2"
        wait_for(
            lambda: waiting(release, stuck) in ("ErrImagePull", "ImagePullBackOff"), HELM_S, f"{stuck} to be stuck"
        )
        others = [pod for pod in release.pods("raft-node") if pod != stuck]
        assert not [pod for pod in others if waiting(release, pod)]
        run = release.helm("rollback", "dougdb")
        assert run.returncode == 0, run.stderr
        release.kubectl("delete", "pod", stuck)
        release.settled()
    judge(report, figure, "an image that cannot be pulled, and back")


def test_a_node_whose_claims_are_deleted_is_replaced(release: Release, figure: Figure) -> None:
    """As docs/kubernetes.md says: both claims and the pod, then `dougctl members replace`."""
    node = "dougdb-s0-1"
    with release.loaded() as report:
        release.kubectl("delete", "pvc", f"wal-{node}", f"data-{node}", "--wait=false")
        release.kubectl("delete", "pod", node)
        wait_for(lambda: "replace" in release.kubectl("logs", node, check=False), HELM_S, f"{node} to say what to do")
        release.replace(node)
        release.settled()
    judge(report, figure, "a wiped node replaced")


def etcd(verb: str, document: dict[str, Any]) -> Any:
    """Asks the cluster's etcd, which answers in the node's network."""
    answer = fetch(2379, "POST", f"/v3/kv/{verb}", json.dumps(document).encode(), timeout_s=15)
    assert answer.status == 200, answer
    return answer.json()


def forget_history() -> None:
    """Compacts etcd: a watch from a version that was seen before cannot be taken up again."""
    now = etcd("range", {"key": base64.b64encode(b"/").decode()})["header"]["revision"]
    etcd("compaction", {"revision": now, "physical": True})


def test_facades_without_their_rights_go_by_dns(release: Release, figure: Figure) -> None:
    """With `auto`, the default: whoever may not make Roles, or loses one, still has a cluster that finds its nodes."""
    with release.loaded() as report:
        release.kubectl("delete", "rolebinding", "dougdb-facade")
        release.kubectl("rollout", "restart", "deployment/dougdb-facade")
        release.settled()
        release.kubectl("delete", "pod", "dougdb-s0-1")
        release.settled()
    judge(report, figure, "facades without their Role, and a pod that moves")
    refused = 'dougdb_discovery_failures_total{reason="forbidden"'
    asked = 'dougdb_discovery_last_success_timestamp_seconds{source="dns"}'
    for pod in release.pods("facade"):
        assert release.metric(pod, refused) > 0, pod
        assert release.metric(pod, asked) > 0, pod
    release.deploy(*BACKED_UP)
    release.kubectl("get", "rolebinding", "dougdb-facade")
    for pod in release.pods("facade"):
        wait_for(functools.partial(release.metric, pod, asked.replace("dns", "kubernetes")), HELM_S, f"{pod} to watch")


def grown(release: Release, pod: str, name: str, before: float) -> bool:
    """Whether a facade's metric is greater than before."""
    return release.metric(pod, name) > before


def test_the_api_server_is_away_for_a_minute_under_load(release: Release, figure: Figure) -> None:
    """Facades that watch it keep what they knew; its history is gone when it is back, and they follow a pod again."""
    before = {pod: release.metric(pod, EXPIRED) for pod in release.pods("facade")}
    with release.loaded() as report:
        program("stop", "kube-apiserver")
        try:
            ends_s = time.monotonic() + AWAY_S
            while time.monotonic() < ends_s:
                assert release.put("away", "x") == 200
                time.sleep(1)
            forget_history()
        finally:
            program("start", "kube-apiserver")
        wait_for(lambda: "ok" in release.kubectl("get", "--raw", "/readyz", check=False), HELM_S, "the API server")
        address = release.pods("raft-node")["dougdb-s0-0"]["status"]["podIP"]
        run = release.runs()["dougdb-s0-0"]
        release.kubectl("delete", "pod", "dougdb-s0-0")
        # Its controller may still be on its way back.
        wait_for(lambda: release.runs().get("dougdb-s0-0", run) != run, HELM_S, "dougdb-s0-0 to be made anew")
        release.settled()
        for pod, seen in before.items():
            wait_for(functools.partial(grown, release, pod, EXPIRED, seen), HELM_S, f"{pod} to list again")
    judge(report, figure, f"the API server away for {AWAY_S:.0f} s")
    after = release.pods("raft-node")["dougdb-s0-0"]["status"]["podIP"]
    roles = {node["id"]: node["role"] for node in release.call("GET", "/v1/cluster").json()["shards"][0]["nodes"]}
    figure(f"dougdb-s0-0 went from {address} to {after}; it is {roles['dougdb-s0-0']}")
    assert roles["dougdb-s0-0"] in ("leader", "follower")


@contextlib.contextmanager
def watches_cut(release: Release) -> Iterator[None]:
    """Answers every packet of a facade to the API server with a reset: watches end, and no connection is made."""
    addresses = [one["status"]["podIP"] for one in release.pods("facade").values()]
    rules = [
        ("--source", one, "--protocol", "tcp", "--dport", "6443", "--jump", "REJECT", "--reject-with", "tcp-reset")
        for one in addresses
    ]
    for rule in rules:
        call_program(["iptables", "--wait", "--insert", "INPUT", *rule])
    try:
        yield
    finally:
        for rule in rules:
            call_program(["iptables", "--wait", "--delete", "INPUT", *rule])


def test_watches_that_are_cut_are_taken_up_again(release: Release, figure: Figure) -> None:
    """The API server is there, and facades do not reach it: they follow a pod by DNS, and watch again afterwards."""
    failures = "dougdb_discovery_failures_total"
    listed = 'dougdb_discovery_last_success_timestamp_seconds{source="kubernetes"}'
    before = {pod: release.metric(pod, failures) for pod in release.pods("facade")}
    with release.loaded() as report:
        with watches_cut(release):
            # What the API server tells is answered with a reset.
            release.kubectl("delete", "pod", "dougdb-s0-2")
            release.settled()
            for pod, seen in before.items():
                wait_for(functools.partial(grown, release, pod, failures, seen), HELM_S, f"{pod} to lose its watch")
            last = {pod: release.metric(pod, listed) for pod in before}
        for pod, seen in last.items():
            wait_for(functools.partial(grown, release, pod, listed, seen), HELM_S, f"{pod} to watch again")
        release.kubectl("delete", "pod", "dougdb-s0-1")
        release.settled()
    judge(report, figure, "watches cut while a pod moves, and another one afterwards")


def test_kept_claims_are_found_again_and_another_place_for_logs_is_refused(release: Release) -> None:
    assert release.put("kept", "y") == 200
    assert release.helm("uninstall", "dougdb", "--wait").returncode == 0
    refused = release.upgrade("--set", "persistence.wal.enabled=false", wait=False)
    assert refused.returncode != 0
    assert "Nothing is lost" in refused.stderr
    # Helm waits for the StatefulSets to be gone, whose pods end by themselves.
    wait_for(lambda: not release.runs(), HELM_S, "every pod to be gone")
    release.deploy(*BACKED_UP)
    assert release.get("kept") == "y"
    assert release.get("first") == "x"
