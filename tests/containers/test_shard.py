"""A shard and a facade in containers, started as the rendered chart says. Skipped, with the reason, without podman.

The environment, the security context, the memory limit and the volumes are the chart's own; podman's network gives each
container the name that Kubernetes would give its pod. Everything is removed after the module.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tools.helm_chart import CHART, ROOT
from tools.rendering import Object, environment_of, missing_tool, named, render

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BASES = ("localhost/python:3.11-slim-bookworm", "docker.io/library/python:3.13-slim-bookworm")
PREFIX = "dougdbtest"
VALUES = ("--values", str(CHART / "values-kind.yaml"), "--set", "shards=1,raft.replicas=3,facade.replicas=1")
SLEEP = (
    *("--stop-signal", "KILL", "--entrypoint", "/opt/dougdb/bin/python", "docker.io/dougdb/facade:0.1.0"),
    *("-c", "import time; time.sleep(300)"),
)
DOMAIN = "dougdb.svc.cluster.local"


def podman(*words: str, check: bool = True, timeout_s: float = 60) -> str:
    """Calls podman and gives what it printed."""
    run = subprocess.run(["podman", *words], capture_output=True, text=True, timeout=timeout_s, check=False)
    if check and run.returncode:
        raise AssertionError(f"podman {' '.join(words)}: {run.stderr}")
    return run.stdout.strip()


def why_not() -> str:
    """Why no containers can be run here; empty when they can."""
    if reason := missing_tool():
        return reason
    if shutil.which("podman") is None:
        return "podman is not installed"
    if subprocess.run(["podman", "info"], capture_output=True, check=False).returncode:
        return "podman does not work here"
    wanted = [*BASES, "docker.io/dougdb/raft-node:0.1.0"]
    if all(subprocess.run(["podman", "image", "exists", name], check=False).returncode for name in wanted):
        return f"podman has none of {', '.join(BASES)} (make base-image)"
    return ""


def free_port() -> int:
    """A port of the host, below those that the kernel gives away."""
    for port in range(28110, 28190):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


class Shard:
    """The containers. A pod's name is its container's name behind a prefix."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects
        self.port = free_port()
        self.nodes = [f"dougdb-s0-{ordinal}" for ordinal in range(3)]
        self.pods = [*self.nodes, "dougdb-facade"]

    def start(self, pod: str) -> None:
        """Starts the container of a pod, upon its volumes if it had some."""
        kind, owner = ("Deployment", pod) if pod.endswith("facade") else ("StatefulSet", pod.rpartition("-")[0])
        one = named(self.objects, kind, owner)
        template = one["spec"]["template"]
        container = template["spec"]["containers"][0]
        security = template["spec"]["securityContext"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        words = ["--user", f"{security['runAsUser']}:{security['runAsGroup']}", "--cap-drop", "ALL"]
        words += ["--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp", "--security-opt", "no-new-privileges"]
        words += ["--memory", container["resources"]["limits"]["memory"].replace("Mi", "m")]
        for name, value in environment_of(self.objects, template, pod).items():
            words += ["-e", f"{name}={value}"]
        for mount in container["volumeMounts"]:
            if mount["name"] != "tmp":
                words += ["-v", f"{PREFIX}-{mount['name']}-{pod}:{mount['mountPath']}"]
        if kind == "StatefulSet":
            alias = f"{pod}.{one['spec']['serviceName']}.{DOMAIN}"
        else:
            alias = f"dougdb-facade.{DOMAIN}"
            words += ["-p", f"127.0.0.1:{self.port}:8080"]
        words += ["--network", PREFIX, "--network-alias", alias, container["image"]]
        podman("run", "-d", "--name", f"{PREFIX}-{pod}", *words)

    def remove(self, pod: str) -> None:
        """Ends a container by SIGTERM, in order, and removes it; its volumes stay."""
        podman("stop", "-t", "20", f"{PREFIX}-{pod}")
        assert podman("inspect", "--format", "{{.State.ExitCode}}", f"{PREFIX}-{pod}") == "0"
        podman("rm", f"{PREFIX}-{pod}")

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request to the facade."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def address(self, pod: str) -> str:
        """The address of a container on their network."""
        (found,) = json.loads(podman("inspect", f"{PREFIX}-{pod}"))
        address: str = found["NetworkSettings"]["Networks"][PREFIX]["IPAddress"]
        return address

    def members(self) -> dict[str, dict[str, Any]]:
        """The nodes by name, as the facade sees them."""
        (shard,) = json.loads(self.call("GET", "/v1/cluster")[1])["shards"]
        return {node["id"]: node for node in shard["nodes"]}

    def leader(self) -> str:
        """Who leads; empty when nobody does."""
        return next((name for name, node in self.members().items() if node["role"] == "leader"), "")

    def wait(self, what: Callable[[], object], timeout_s: float = 30) -> float:
        """Waits until it is so, and tells how long that took."""
        began = time.monotonic()
        while True:
            try:
                if what():
                    return time.monotonic() - began
            except OSError:
                pass
            assert time.monotonic() - began < timeout_s, self.logs()
            time.sleep(0.1)

    def logs(self) -> str:
        """The last lines of every container."""
        return "\n".join(podman("logs", "--tail", "15", f"{PREFIX}-{pod}", check=False) for pod in self.pods)


def clean() -> None:
    """Removes what these tests have left, now or before: only what has their prefix."""
    for listed, removal in (
        (("ps", "-aq", "--filter", f"name=^{PREFIX}-"), ("rm", "-f", "-t", "1")),
        (("volume", "ls", "-q", "--filter", f"name={PREFIX}-"), ("volume", "rm", "-f")),
        (("network", "ls", "-q", "--filter", f"name={PREFIX}"), ("network", "rm", "-f")),
    ):
        if names := podman(*listed, check=False).split():
            podman(*removal, *names, check=False)


@pytest.fixture(scope="module")
def images() -> None:
    """Builds the images of both services."""
    if reason := why_not():
        pytest.skip(reason)
    script = str(ROOT / "tools" / "images.sh")
    built = subprocess.run(["sh", script], capture_output=True, text=True, timeout=500, check=False)
    assert built.returncode == 0, built.stderr[-3000:]


@pytest.fixture(scope="module")
def shard(images: None) -> Iterator[Shard]:
    """Three nodes and a facade, which was there first."""
    clean()
    podman("network", "create", PREFIX)
    one = Shard(render(*VALUES))
    try:
        for pod in reversed(one.pods):
            one.start(pod)
        one.wait(lambda: one.call("GET", "/readyz")[0] == 200, 60)
        yield one
    finally:
        clean()


def test_images_are_small_and_say_what_they_are(images: None) -> None:
    for name, limit_mb in (("raft-node", 220), ("facade", 260)):
        (image,) = json.loads(podman("image", "inspect", f"docker.io/dougdb/{name}:0.1.0"))
        assert image["Size"] < limit_mb * 1_000_000
        assert image["Config"]["User"] == "10001:10001"
        labels = image["Config"]["Labels"]
        assert labels["org.opencontainers.image.version"] == "0.1.0"
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_charts_own_test_passes(shard: Shard) -> None:
    """As its pod would run it: in the facade's image, through the Service's name."""
    told = podman(
        *("run", "--rm", "--network", PREFIX, "-v", f"{CHART / 'files' / 'smoke.py'}:/test/smoke.py:ro"),
        *("--user", "10001:10001", "--read-only", "--cap-drop", "ALL", "--entrypoint", "/opt/dougdb/bin/python"),
        *("docker.io/dougdb/facade:0.1.0", "/test/smoke.py", f"http://dougdb-facade.{DOMAIN}:8080", "1"),
    )
    assert "shard 0: put, linearizable and eventual get, delete: ok" in told


def test_a_new_container_upon_the_old_volumes_is_the_same_node(shard: Shard) -> None:
    """Under its name and at another address, as a pod that was moved."""
    assert shard.call("PUT", "/v1/kv/kept", b"value")[0] == 200
    node = shard.leader()
    before = shard.address(node)
    shard.remove(node)
    # Taken at once, so that the node cannot have it again.
    podman("run", "-d", "--name", f"{PREFIX}-other", "--network", PREFIX, "--ip", before, *SLEEP)
    assert shard.call("GET", "/v1/kv/kept") == (200, b"value")
    assert shard.call("PUT", "/v1/kv/without", b"it")[0] == 200
    shard.start(node)
    assert shard.address(node) != before
    shard.wait(lambda: caught_up(shard, node))
    podman("rm", "-f", "-t", "0", f"{PREFIX}-other")


def caught_up(shard: Shard, node: str) -> bool:
    members = shard.members()
    figures = {members[name]["applied_index"] for name in shard.nodes}
    return members[node]["role"] in ("follower", "leader") and len(figures) == 1


def test_a_killed_leader_is_followed_by_another(shard: Shard) -> None:
    shard.wait(shard.leader)
    node = shard.leader()
    podman("kill", "-s", "KILL", f"{PREFIX}-{node}")
    shard.wait(lambda: shard.call("PUT", "/v1/kv/after", b"kill")[0] == 200)
    assert shard.leader() != node
    podman("start", f"{PREFIX}-{node}")
    shard.wait(lambda: caught_up(shard, node))


def test_everything_at_once_finds_its_data_again(shard: Shard) -> None:
    """An uninstallation and an installation over kept claims."""
    for number in range(20):
        assert shard.call("PUT", f"/v1/kv/all/{number}", str(number).encode())[0] == 200
    cluster = shard.call("GET", "/v1/kv/kept")
    for pod in reversed(shard.pods):
        shard.remove(pod)
    for pod in shard.pods:
        shard.start(pod)
    shard.wait(lambda: shard.call("GET", "/readyz")[0] == 200, 60)
    for number in range(20):
        assert shard.call("GET", f"/v1/kv/all/{number}") == (200, str(number).encode())
    assert shard.call("GET", "/v1/kv/kept") == cluster == (200, b"value")


def test_nodes_without_a_quorum_stay_alive_and_are_not_ready(shard: Shard) -> None:
    """Two of three are gone: the probes of the third say alive, and not ready; and it is ready again by itself."""
    last, *others = shard.nodes
    for node in others:
        podman("kill", "-s", "KILL", f"{PREFIX}-{node}")
    shard.wait(lambda: probe(shard, last, "/readyz") == 503)
    assert probe(shard, last, "/livez") == 200
    for node in others:
        podman("start", f"{PREFIX}-{node}")
    shard.wait(lambda: all(probe(shard, node, "/readyz") == 200 for node in shard.nodes))


def probe(shard: Shard, node: str, path: str) -> int:
    """What the kubelet would see."""
    try:
        with urllib.request.urlopen(f"http://{shard.address(node)}:21002{path}", timeout=5) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
