"""A release in a real cluster as its user has it: installed and changed by helm, looked at by kubectl.

Its pods and its Service are in reach of this process, as in `make test-kube`. Must not know what a scenario asserts.

Invariant: it has a namespace of its own, which enforces Pod Security "restricted".
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.http11 import HttpError, Secure, fetch
from integration.kubernetes.cluster import load
from integration.kubernetes.cluster.driver import call_program
from integration.kubernetes.cluster.kubectl import PREFIX, find_kubectl
from tools.helm_chart import CHART, ROOT, run_helm

VALUES = ("--values", str(CHART / "values-kind.yaml"))
SMALL = ("--set", "shards=1,raft.replicas=3,facade.replicas=2,raft.minReadySeconds=2")
HELM_S = 900
"""For whatever comes by itself in the end: a busy machine may need minutes to start a pod. It is no judgement."""
RATE, CLIENTS, SEED = 50, 4, 90_300


def finish(client: subprocess.Popen[str]) -> Any:
    """Ends the load and gives its report."""
    told, _ = client.communicate("stop\n", timeout=120)
    assert client.returncode == 0, told[-2000:]
    return json.loads(told.splitlines()[-1])


def program(verb: str, *names: str) -> None:
    """Stops or starts one of the cluster's programs, or gives an image another name."""
    words = [sys.executable, "-m", "tools.kubernetes", verb, *names]
    run = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


class Release:
    """A release called dougdb in a namespace of its own.

    Attributes:
        secure: How its Service is spoken to over TLS; None in the clear.
        token: What requests show; none when empty.
    """

    def __init__(self, tag: str) -> None:
        self.namespace = f"{PREFIX}-helm-{tag}"
        self.secure: Secure | None = None
        self.token = ""
        self._address = ""
        self._seeds = itertools.count(SEED)

    def kubectl(self, *words: str, text: str | None = None, check: bool = True) -> str:
        """Calls kubectl within the namespace."""
        return call_program([find_kubectl(), "--namespace", self.namespace, *words], text, HELM_S + 30, check)

    def json(self, *words: str) -> Any:
        """What kubectl gives as JSON."""
        return json.loads(self.kubectl(*words, "--output", "json"))

    def helm(self, *words: str, program: str | None = None) -> subprocess.CompletedProcess[str]:
        """Calls helm, or another one, within the namespace."""
        environment = {"KUBECONFIG": os.environ["KUBECONFIG"]}
        return run_helm(*words, "--namespace", self.namespace, environment=environment, program=program)

    def upgrade(self, *values: str, wait: bool = True, program: str | None = None) -> subprocess.CompletedProcess[str]:
        """Installs or upgrades, and waits as a user does."""
        waiting = ("--wait", "--timeout", f"{HELM_S}s") if wait else ()
        # A Service that is made again has another address.
        self._address = ""
        return self.helm(
            "upgrade", "--install", "dougdb", str(CHART), *VALUES, *SMALL, *values, *waiting, program=program
        )

    def deploy(self, *values: str) -> str:
        """The same, and it must succeed without a warning of the API server; what was told."""
        run = self.upgrade(*values)
        assert run.returncode == 0, f"{run.stderr}\n{self.shown()}"
        assert "warning" not in run.stderr.lower(), run.stderr
        return run.stdout

    def shown(self) -> str:
        """For the report of a failure."""
        selected = ("--selector", "app.kubernetes.io/instance=dougdb", "--prefix")
        parts = [
            self.kubectl("get", "pods,pvc,jobs", "--output", "wide", check=False),
            self.kubectl("get", "events", check=False)[-4000:],
            self.kubectl("logs", *selected, "--tail", "25", check=False)[-12000:],
            self.kubectl(
                *("exec", "deploy/dougdb-facade", "--", "/opt/dougdb/bin/dougctl", "timeline", "--since", "15m"),
                check=False,
            )[-8000:],
        ]
        return "\n".join(parts)

    @property
    def address(self) -> str:
        """The Service's."""
        if not self._address:
            self._address = self.json("get", "service", "dougdb-facade")["spec"]["clusterIP"]
        return self._address

    def call(self, method: str, path: str, body: bytes = b"") -> Any:
        """One request through the Service."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return fetch(8080, method, path, body, headers, host=self.address, timeout_s=15, secure=self.secure)

    def put(self, key: str, value: str) -> int:
        """The status of a put; 0 when nobody answers."""
        try:
            status: int = self.call("PUT", f"/v1/kv/{key}", value.encode()).status
        except HttpError:
            return 0
        return status

    def get(self, key: str) -> str:
        """What is stored."""
        answer = self.call("GET", f"/v1/kv/{key}")
        assert answer.status == 200, answer
        text: str = answer.body.decode()
        return text

    def ctl(self, *words: str) -> str:
        """Calls dougctl in a facade's pod, as docs/kubernetes.md does."""
        return self.kubectl("exec", "deploy/dougdb-facade", "--", "/opt/dougdb/bin/dougctl", *words)

    def replace(self, node: str) -> None:
        """Admits a node with empty volumes, as docs/kubernetes.md says: the command waits until its name is known."""
        told = self.ctl("members", "replace", node, "--shard", "0")
        assert f"{node} is a voter" in told, told

    def pods(self, component: str) -> dict[str, Any]:
        """The pods of a component, by name."""
        selector = f"app.kubernetes.io/component={component}"
        return {one["metadata"]["name"]: one for one in self.json("get", "pods", "--selector", selector)["items"]}

    def runs(self) -> dict[str, str]:
        """Which run of each pod there is, nodes first."""
        return {
            name: one["metadata"]["uid"]
            for component in ("raft-node", "facade")
            for name, one in self.pods(component).items()
        }

    def evict(self, pod: str) -> bool:
        """Asks the API for an eviction, as a drain does; whether it was granted."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        document = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        told = self.kubectl("create", "--raw", path, "--filename", "-", text=json.dumps(document), check=False)
        return "Success" in told

    def leader(self) -> str:
        """The pod that leads the one shard; empty while nobody does."""
        try:
            (shard,) = self.call("GET", "/v1/cluster").json()["shards"]
        except HttpError:
            return ""
        leaders = [(node["term"], node["id"]) for node in shard["nodes"] if node["role"] == "leader"]
        return max(leaders)[1] if leaders else ""

    def metric(self, pod: str, name: str) -> float:
        """The sum of a facade's metric over all that match ``name``, which may have labels."""
        address = self.pods("facade")[pod]["status"]["podIP"]
        lines = fetch(8080, "GET", "/metrics", host=address, timeout_s=15).body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def settled(self) -> None:
        """Waits until every pod is ready."""
        for owner in ("statefulset/dougdb-s0", "deployment/dougdb-facade"):
            self.kubectl("rollout", "status", owner, f"--timeout={HELM_S}s")

    @contextlib.contextmanager
    def loaded(self, rate: int = RATE, clients: int = CLIENTS) -> Iterator[list[Any]]:
        """Requests while the block runs, from this machine; the report is put into the list.

        Each load has a seed of its own, and with it keys that no other has written.

        Args:
            rate: Requests per second, of all clients together.
            clients: How many there are, each with one connection.
        """
        words = (self.address, "8080", str(rate), str(clients), str(next(self._seeds)))
        client = subprocess.Popen(
            [sys.executable, "-c", Path(load.__file__).read_text(), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        report: list[Any] = []
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "started\n"
            yield report
            report.append(finish(client))
        finally:
            client.kill()
            client.communicate()


@contextlib.contextmanager
def namespace(tag: str) -> Iterator[Release]:
    """A namespace for a release that is not installed yet; it is deleted at the end."""
    one = Release(tag)
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one.namespace, "labels": labels}}
    call_program([find_kubectl(), "apply", "--filename", "-"], json.dumps(document))
    try:
        yield one
    finally:
        call_program([find_kubectl(), "delete", "namespace", one.namespace, "--wait"], timeout_s=HELM_S + 30)
