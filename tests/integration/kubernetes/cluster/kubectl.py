"""A release of the chart in a real cluster, by kubectl and KUBECONFIG: the same scenarios with real controllers.

The rendered objects are applied as they are, in a namespace of their own, which is deleted at the end with its claims.
The cluster has to have the images, or be able to pull them. Requests go through a client's pod, since a test outside
reaches no pod. Where POD_NETWORK is set, as `make test-kube` sets it, the test is inside: it asks pods and the Service
by their addresses, so that times are those of the cluster and not of kubectl, and may drop packets on the node.

Invariants:
    1. Nothing outside of the namespace is touched.
    2. A pod is deleted by force only to play a crash, and only in that namespace.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from bench.http11 import HttpError, Secure, fetch
from integration.kubernetes.cluster.driver import (
    READY_TIMEOUT_S,
    Answer,
    Cluster,
    Probe,
    Unable,
    call_program,
    unverified,
    wait_for,
)
from tools.helm_tools import TOOLS
from tools.rendering import named

PREFIX = "dougdbtest"
PYTHON = "/opt/dougdb/bin/python"
KINDS = {"names": ("Service",), "nodes": ("StatefulSet",), "facades": ("Deployment",)}
LATER = {kind for kinds in KINDS.values() for kind in kinds}
INSTANCE = "app.kubernetes.io/instance=dougdb"
CLIENT = "dougdb-test-client"
POD_NETWORK = "DOUGDB_TEST_POD_NETWORK"
"""Set where this process is in the node's network."""
READY_S = 300.0
"""A cluster schedules, attaches volumes and pulls images before anything starts."""

REQUEST = """
import base64, http.client, json, ssl, sys
scheme, host, port, method, path, body, authority = sys.argv[1:]
if scheme == "HTTPS":
    context = ssl.create_default_context(cadata=authority) if authority else ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(host, int(port), timeout=15, context=context)
else:
    connection = http.client.HTTPConnection(host, int(port), timeout=15)
try:
    connection.request(method, path, base64.b64decode(body) or None)
    answer = connection.getresponse()
    print(json.dumps([answer.status, base64.b64encode(answer.read()).decode()]))
except (OSError, http.client.HTTPException) as error:
    print(json.dumps([0, f"{type(error).__name__}: {error}"]))
"""

DIGEST = """
import hashlib, pathlib, sys
print(hashlib.sha256(b"".join(pathlib.Path(path).read_bytes() for path in sys.argv[1:])).hexdigest())
"""
"""What a pod has in these files."""
FILES_S = 180.0
"""The kubelet looks at Secrets about once a minute, and at a copy of them that may be as old."""


def find_kubectl() -> str:
    """The kubectl to call: the one in PATH, which fits the cluster's version, else the one of the chart's tools."""
    return shutil.which("kubectl") or str(TOOLS / "bin" / "kubectl")


class Kubectl(Cluster):
    """A namespace of the cluster that KUBECONFIG names."""

    kind = "kubectl"

    def __init__(self, *values: str, tag: str) -> None:
        """Renders the chart and makes the namespace and the client's pod; ``tag`` keeps several apart."""
        super().__init__(*values, namespace=f"{PREFIX}-{tag}")
        self.reachable = bool(os.environ.get(POD_NETWORK))
        self._scaled: set[str] = set()
        self._applied: set[str] = set()
        self._service_address = ""
        self._cut: dict[str, list[tuple[str, str]]] = {}
        # What an earlier run left, when it was ended without mercy.
        self._kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait", timeout_s=READY_S)
        self._kubectl("create", "namespace", self.namespace)
        self._apply([one for one in self.objects if one["kind"] not in LATER])
        self._apply([self._client_pod()])
        self._in("wait", "--for=condition=Ready", f"pod/{CLIENT}", f"--timeout={READY_S:.0f}s", timeout_s=READY_S + 10)

    def _client_pod(self) -> dict[str, Any]:
        """A pod with the facade's image and its security context, that sleeps."""
        template = named(self.objects, "Deployment", self.deployment)["spec"]["template"]["spec"]
        container = template["containers"][0]
        kept = {name: container[name] for name in ("image", "imagePullPolicy", "securityContext")}
        sleeping = {"name": "client", "command": [PYTHON, "-c", "import time; time.sleep(86400)"], **kept}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": CLIENT, "namespace": self.namespace},
            "spec": {
                "containers": [sleeping],
                "securityContext": template["securityContext"],
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
            },
        }

    # -- kubectl ----------------------------------------------------------------------------------------------------

    def _kubectl(self, *words: str, text: str | None = None, timeout_s: float = 120, check: bool = True) -> str:
        return call_program([find_kubectl(), *words], text, timeout_s, check)

    def _in(self, *words: str, text: str | None = None, timeout_s: float = 120, check: bool = True) -> str:
        return self._kubectl("--namespace", self.namespace, *words, text=text, timeout_s=timeout_s, check=check)

    def _apply(self, objects: list[dict[str, Any]]) -> None:
        """Applies objects; the API server takes JSON as it takes YAML."""
        document = {"apiVersion": "v1", "kind": "List", "items": objects}
        self._in("apply", "--filename", "-", text=json.dumps(document))

    def _pod(self, pod: str) -> dict[str, Any]:
        """What the API server says of a pod; empty when there is none."""
        found = self._in("get", "pod", pod, "--ignore-not-found", "--output", "json")
        document: dict[str, Any] = json.loads(found) if found else {}
        return document

    # -- installation -----------------------------------------------------------------------------------------------

    def apply(self, step: str) -> None:
        """Applies the objects of a step."""
        self._applied.add(step)
        self._apply([one for one in self.objects if one["kind"] in KINDS[step]])
        if step == "facades":
            replicas = named(self.objects, "Deployment", self.deployment)["spec"]["replicas"]
            wait_for(lambda: len(self.facades()) == replicas, READY_S, "the facades' pods to be made")

    def await_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits for the controllers, then for what a client sees."""
        limit_s = max(timeout_s, READY_S)
        sets = [f"statefulset/{name}" for name in self.sets] if "nodes" in self._applied else []
        deployments = [f"deployment/{self.deployment}"] if "facades" in self._applied else []
        for owner in [*sets, *deployments]:
            self._in("rollout", "status", owner, f"--timeout={limit_s:.0f}s", timeout_s=limit_s + 10)
        super().await_ready(limit_s)

    def uninstall(self) -> None:
        """Deletes what was applied by the steps and waits for its pods to be gone; the claims stay."""
        self._in(
            *("delete", "statefulset,deployment,service", "--selector", INSTANCE, "--wait", "--cascade=foreground"),
            timeout_s=READY_S,
        )
        wait_for(lambda: not self._pods_left(), READY_S, "every pod to be gone")
        self._applied.clear()
        self._service_address = ""

    def _pods_left(self) -> str:
        return self._in("get", "pods", "--selector", INSTANCE, "--output", "name")

    def destroy(self) -> None:
        """Deletes the namespace, the claims with it."""
        self._kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait", timeout_s=READY_S)

    # -- requests ---------------------------------------------------------------------------------------------------

    def facades(self) -> list[str]:
        """The facades that are not on their way out."""
        selector = f"{INSTANCE},app.kubernetes.io/component=facade"
        listed = self._in("get", "pods", "--selector", selector, "--output", "json")
        return sorted(
            pod["metadata"]["name"] for pod in json.loads(listed)["items"] if "deletionTimestamp" not in pod["metadata"]
        )

    def owner(self, pod: str) -> dict[str, Any]:
        """The StatefulSet or Deployment of a pod; a Deployment's pods have two random parts in their names."""
        if pod.startswith(f"{self.deployment}-"):
            return named(self.objects, "Deployment", self.deployment)
        return super().owner(pod)

    def _request(
        self, scheme: str, host: str, port: int, method: str, path: str, body: bytes, authority: str = ""
    ) -> Answer:
        """Asks; over HTTPS without an authority it believes any certificate."""
        if self.reachable:
            return self._ask(scheme, host, port, method, path, body, authority)
        words = (scheme, host, str(port), method, path, base64.b64encode(body).decode(), authority)
        status, text = json.loads(self._in("exec", CLIENT, "--", PYTHON, "-c", REQUEST, *words))
        if not status:
            raise HttpError(text)
        return Answer(status, base64.b64decode(text))

    def _ask(self, scheme: str, host: str, port: int, method: str, path: str, body: bytes, authority: str) -> Answer:
        """The same from here: the Service by its address, with a check of its name."""
        secure = None
        if scheme == "HTTPS":
            secure = (
                Secure(ssl.create_default_context(cadata=authority), host) if authority else Secure(unverified(), "")
            )
        address = self._address_of_service() if host == self.service else host
        found = fetch(port, method, path, body, host=address, timeout_s=15, secure=secure)
        return Answer(found.status, found.body)

    def _address_of_service(self) -> str:
        if not self._service_address:
            words = ("get", "service", self.deployment, "--ignore-not-found", "--output", "jsonpath={.spec.clusterIP}")
            self._service_address = self._in(*words)
        if not self._service_address:
            raise HttpError(f"there is no Service {self.deployment}")
        return self._service_address

    def call(self, method: str, path: str, body: bytes = b"") -> Answer:
        """One request through the Service."""
        (port,) = named(self.objects, "Service", self.deployment)["spec"]["ports"]
        scheme = "HTTPS" if self.files else "HTTP"
        return self._request(scheme, self.service, port["port"], method, path, body, self.authority)

    def probe(self, pod: str, which: str) -> int:
        """Asks what the kubelet asks."""
        probe, address = self.probe_for(pod, which), self.address(pod)
        if not address:
            return 0
        try:
            return self._request(probe.scheme, address, probe.port, "GET", probe.path, b"").status
        except HttpError:
            return 0

    def run(self, script: str, *words: str) -> subprocess.Popen[str]:
        """Starts a script in the client's pod."""
        return subprocess.Popen(
            [
                *(find_kubectl(), "--namespace", self.namespace, "exec", "--stdin", CLIENT, "--"),
                *(PYTHON, "-c", script, *words),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def address(self, pod: str) -> str:
        """The address that the pod has now; empty when it has none."""
        address: str = self._pod(pod).get("status", {}).get("podIP", "")
        return address

    def identity(self, pod: str) -> str:
        """The pod's uid and how often its container was restarted."""
        found = self._pod(pod)
        statuses = found.get("status", {}).get("containerStatuses", [])
        return f"{found.get('metadata', {}).get('uid')} {[one['restartCount'] for one in statuses]}"

    def log(self, pod: str) -> str:
        """What the pod has written."""
        return self._in("logs", pod)

    def logs(self) -> str:
        """The pods, and the last lines of each."""
        shown = self._in("get", "pods", "--output", "wide", check=False)
        lines = self._in("logs", "--selector", INSTANCE, "--tail", "12", "--prefix", check=False)
        return f"{shown}\n{lines}"

    # -- faults -----------------------------------------------------------------------------------------------------

    def kill(self, pod: str) -> None:
        """Deletes the pod without any grace: a crash. Its StatefulSet makes it again."""
        self._in("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")

    def take_down(self, shard: int, count: int) -> list[str]:
        """Makes the set smaller, so that nobody makes them again, and deletes them without any grace.

        The API forgets such a pod at once, while the kubelet has yet to end it: until it is gone, it votes.
        """
        name, nodes = self.sets[shard], self.nodes(shard)
        self._scaled.add(name)
        there = [(self.probe_for(pod, "liveness"), self.address(pod)) for pod in nodes[-count:]]
        self._in("scale", "statefulset", name, f"--replicas={len(nodes) - count}")
        for pod in nodes[-count:]:
            self._in("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false", "--ignore-not-found")
        wait_for(lambda: not any(map(self._answers, there)), READY_S, f"{nodes[-count:]} to be gone")
        return nodes[-count:]

    def _answers(self, place: tuple[Probe, str]) -> bool:
        probe, address = place
        try:
            return bool(address and self._request(probe.scheme, address, probe.port, "GET", probe.path, b"").status)
        except HttpError:
            return False

    def heal(self) -> None:
        """Gives the sets their size back; the rest is their controller's."""
        for name in sorted(self._scaled):
            replicas = named(self.objects, "StatefulSet", name)["spec"]["replicas"]
            self._in("scale", "statefulset", name, f"--replicas={replicas}")
        self._scaled.clear()

    def replace(self, pod: str) -> tuple[str, str]:
        """Deletes a pod in order; its successor mostly gets another address."""
        before, run = self.address(pod), self.identity(pod)
        self._in("delete", "pod", pod, "--wait")

        def after() -> str:
            return self.address(pod) if self.identity(pod) != run else ""

        found = wait_for(after, READY_S, f"{pod} to have an address again")
        if found == before:
            raise Unable(f"{pod} was given its old address, {before}, again")
        return before, found

    def restart_every_pod(self) -> None:
        """By the controllers, all of them at one time."""
        owners = [*(f"statefulset/{name}" for name in self.sets), f"deployment/{self.deployment}"]
        self._in("rollout", "restart", *owners)
        for owner in owners:
            self._in("rollout", "status", owner, f"--timeout={READY_S:.0f}s", timeout_s=READY_S + 10)

    def replace_files(self, files: Mapping[str, bytes]) -> None:
        """Applies the Secret, and looks into every pod until the kubelet has brought the files there."""
        secret = named(self.objects, "Secret", self.secret)
        secret["data"] = {name: base64.b64encode(content).decode() for name, content in files.items()}
        self.files = dict(files)
        self._apply([secret])
        wanted = hashlib.sha256(b"".join(files.values())).hexdigest()
        for pod in [*self.nodes(), *self.facades()]:
            container = self.owner(pod)["spec"]["template"]["spec"]["containers"][0]
            (folder,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "tls"]
            words = ("exec", pod, "--", PYTHON, "-c", DIGEST, *(f"{folder}/{name}" for name in files))
            wait_for(partial(self._has, wanted, words), FILES_S, f"{pod} to have the new files")

    def _has(self, wanted: str, words: tuple[str, ...]) -> bool:
        return self._in(*words, check=False) == wanted

    def cut_off(self, pod: str, others: Iterable[str]) -> None:
        """Drops packets where the node routes them from pod to pod, which a user of a cluster cannot do."""
        if not self.reachable:
            raise Unable("no packets can be dropped from outside of a cluster: its pods have no NET_ADMIN")
        here = self.address(pod)
        self._cut[pod] = [(here, self.address(other)) for other in others]
        self._filter(pod, "--insert")

    def join(self, pod: str) -> None:
        """Takes the rules away."""
        self._filter(pod, "--delete")
        del self._cut[pod]

    def _filter(self, pod: str, verb: str) -> None:
        for one, other in self._cut[pod]:
            for source, target in ((one, other), (other, one)):
                words = ("--source", source, "--destination", target, "--jump", "DROP")
                call_program(["iptables", "--wait", verb, "FORWARD", *words])


@contextlib.contextmanager
def kubectl_cluster(*values: str, tag: str) -> Iterator[Kubectl]:
    """A release that is not installed yet; its namespace is deleted at the end."""
    cluster = Kubectl(*values, tag=tag)
    try:
        yield cluster
    finally:
        cluster.destroy()
