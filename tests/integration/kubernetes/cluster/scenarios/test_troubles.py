"""Troubles that a user of the chart may meet in a real cluster, and the way out of each that docs/kubernetes.md names.

Skipped with podman, whose driver has neither storage classes nor helm's own way of changing objects.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.http11 import HttpError, fetch
from integration.kubernetes.cluster.driver import wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release
from integration.kubernetes.cluster.kubectl import PYTHON
from integration.kubernetes.cluster.scenarios.conftest import NewRelease
from tools.helm_tools import TOOLS

Figure = Callable[[str], None]
WAIT_S = HELM_S
AWAY_S = 45.0
"""Long enough for gRPC's own pauses to grow to 20 s and more."""
FOUND_S = 10.0
FULL = (
    "persistence.wal.size=384Mi,persistence.data.size=384Mi,raft.settings.DOUGDB_LOG_BYTES_MAX=134217728,"
    # A volume in memory counts as memory of the pod that fills it.
    "raft.resources.limits.memory=1536Mi,"
)
FILLER = "/var/lib/dougdb/data/filler"
FILL = """
import sys
with open(sys.argv[1], "wb", buffering=0) as file:
    try:
        while file.write(bytes(1 << 20)) == 1 << 20:
            pass
    except OSError:
        pass
"""
"""Writes until there is no room."""
EMPTY = "import os, sys; os.remove(sys.argv[1])"
ONE = ("--set", "raft.replicas=1,facade.replicas=1")


def restarts(release: Release) -> dict[str, int]:
    return {
        name: sum(one["restartCount"] for one in pod["status"]["containerStatuses"])
        for name, pod in release.pods("raft-node").items()
    }


@pytest.mark.parametrize("volume", ["memory", "disks"])
def test_full_volumes_refuse_writes_and_nothing_else(volume: str, own_release: NewRelease) -> None:
    """The data's volume of every node, to the last byte. With room again writes go on, without a restart.

    A tmpfs counts every page at once, an ext4 file system on a loop device takes blocks when data are written back.
    """
    if volume == "disks" and not (shutil.which("mkfs.ext4") and Path("/dev/loop-control").exists()):
        pytest.skip("there are no loop devices, or no mkfs.ext4 (Debian: e2fsprogs)")
    classes = f"persistence.wal.storageClass={volume},persistence.data.storageClass={volume}"
    with own_release(f"full-{volume}") as release:
        release.deploy("--set", FULL + classes)
        assert wait_for(lambda: release.put("before", "x") == 200, WAIT_S, "a put")
        nodes = list(release.pods("raft-node"))
        for node in nodes:
            release.kubectl("exec", node, "--", PYTHON, "-c", FILL, FILLER)
        wait_for(lambda: release.put("refused", "x") == 507, WAIT_S, "writes to be refused")
        assert "disk_full" in release.call("PUT", "/v1/kv/refused", b"x").body.decode()
        assert release.get("before") == "x"
        for node in nodes:
            release.kubectl("exec", node, "--", PYTHON, "-c", EMPTY, FILLER)
        wait_for(lambda: release.put("after", "y") == 200, WAIT_S, "writes to go on")
        assert (release.get("before"), release.get("after")) == ("x", "y")
        assert restarts(release) == dict.fromkeys(nodes, 0)


def is_ready(release: Release, node: str) -> bool:
    """Whether a node says that its shard has a leader; False while there is no such pod."""
    address = release.pods("raft-node").get(node, {}).get("status", {}).get("podIP")
    try:
        return bool(address) and fetch(21002, "GET", "/readyz", host=address, timeout_s=5).status == 200
    except HttpError:
        return False


def test_a_shard_that_comes_back_is_found_by_its_names_at_once(own_release: NewRelease, figure: Figure) -> None:
    """With static discovery. While a pod is away its name does not exist, and gRPC looks it up more and more seldom."""
    with own_release("static") as release:
        release.deploy("--set", "discovery.mode=static,facade.replicas=1")
        assert wait_for(lambda: release.put("before", "x") == 200, WAIT_S, "a put")
        release.kubectl("scale", "statefulset/dougdb-s0", "--replicas=1")
        wait_for(lambda: list(release.pods("raft-node")) == ["dougdb-s0-0"], WAIT_S, "two nodes to be gone")
        time.sleep(AWAY_S)
        release.kubectl("scale", "statefulset/dougdb-s0", "--replicas=3")
        wait_for(lambda: any(is_ready(release, f"dougdb-s0-{one}") for one in range(3)), WAIT_S, "a node to be ready")
        began_s = time.monotonic()
        wait_for(lambda: release.put("after", "y") == 200, FOUND_S, "the facade to find the leader")
        figure(f"with static discovery a put was answered {time.monotonic() - began_s:.1f} s after a leader was there")
        assert release.get("before") == "x"
        release.settled()


def test_claims_that_never_bind_are_told_and_mended(own_release: NewRelease) -> None:
    """Of a storage class that does not exist. Kubernetes cannot change a StatefulSet's class; the chart says so."""
    with own_release("unbound") as release:
        run = release.upgrade("--set", "persistence.data.storageClass=missing", wait=False)
        assert run.returncode == 0, run.stderr
        pending = "jsonpath={.items[*].status.phase}"
        wait_for(lambda: "Pending" in release.kubectl("get", "pvc", "--output", pending), WAIT_S, "claims to wait")
        wait_for(
            lambda: 'storageclass.storage.k8s.io "missing" not found' in release.kubectl("get", "events"),
            WAIT_S,
            "an event to say why",
        )
        refused = release.upgrade(wait=False)
        assert refused.returncode != 0
        assert "uninstall, delete the claims, and install again" in refused.stderr
        assert release.helm("uninstall", "dougdb", "--wait").returncode == 0
        wait_for(lambda: not release.runs(), WAIT_S, "every pod to be gone")
        release.kubectl("delete", "pvc", "--selector", "app.kubernetes.io/instance=dougdb")
        release.deploy()
        assert wait_for(lambda: release.put("bound", "x") == 200, WAIT_S, "a put")


def test_what_helm_3_installed_goes_on_with_helm_4(own_release: NewRelease) -> None:
    """Helm 4 applies on the server's side, where fields have owners: it takes them over without a conflict."""
    helm3 = TOOLS / "bin" / "helm3"
    if not helm3.exists():
        pytest.skip("there is no Helm 3 among the chart's tools on this platform")
    with own_release("helm3") as release:
        assert release.helm("version", "--short", program=str(helm3)).stdout.startswith("v3.")
        run = release.upgrade(*ONE, program=str(helm3))
        assert run.returncode == 0, run.stderr
        assert "warning" not in run.stderr.lower(), run.stderr
        assert wait_for(lambda: release.put("three", "x") == 200, WAIT_S, "a put")
        before = release.runs()
        release.deploy(*ONE)
        manifest = release.helm("get", "manifest", "dougdb").stdout
        assert release.kubectl("diff", "--filename", "-", text=manifest) == ""
        assert release.runs() == before
        assert release.get("three") == "x"
        release.deploy(*ONE, "--set", "facade.logLevel=warning")
        assert release.get("three") == "x"


def test_pods_know_their_zone(own_release: NewRelease) -> None:
    """Kubernetes copies it from the machine to the pod, where it may; then reads can stay close."""
    with own_release("zone") as release:
        release.deploy(*ONE)
        zone = release.json("get", "nodes")["items"][0]["metadata"]["labels"]["topology.kubernetes.io/zone"]
        for component, pods in (("raft-node", release.pods("raft-node")), ("facade", release.pods("facade"))):
            for name, pod in pods.items():
                if "topology.kubernetes.io/zone" not in pod["metadata"]["labels"]:
                    pytest.skip("this Kubernetes gives pods no label of their zone")
                told = release.kubectl("exec", name, "--", PYTHON, "-c", "import os; print(os.environ['DOUGDB_ZONE'])")
                assert told == zone, component
