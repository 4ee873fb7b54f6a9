"""A cluster of DougDB as the scenarios see it: one interface, behind it containers of podman or a real Kubernetes.

Everything that runs comes from the rendered chart. An implementation must not know what a scenario asserts; a scenario
must not know which implementation it has, save where only one of them can do something (``Unable``).

Invariants:
    1. A pod has the name that the chart's objects give it, and is found under it by its peers.
    2. Volumes outlive pods and ``uninstall``; ``destroy`` alone removes them.
    3. Whatever an implementation made carries a prefix or lies in a namespace of its own, and ``destroy`` removes it.
"""

from __future__ import annotations

import abc
import base64
import json
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bench.http11 import HttpError, Secure
from bench.witness import TooLate
from tools.rendering import Object, named, of_kind, render

STEPS = ("names", "nodes", "facades")
"""What an installation is made of, in any order: Services, StatefulSets, Deployments."""
DOMAIN = "svc.cluster.local"
POLL_S = 0.1
READY_TIMEOUT_S = 90.0

T = TypeVar("T")


class Unable(Exception):  # noqa: N818 - it is no failure: the scenario is skipped with this as the reason
    """This kind of cluster cannot do what a scenario asks for; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Probe:
    """What the kubelet would ask a pod: the scheme, the port and the path."""

    scheme: str
    port: int
    path: str


def probe_of(template: Object, which: str) -> Probe:
    """The probe of a pod template's first container; ``which`` is ``startup``, ``liveness`` or ``readiness``."""
    container = template["spec"]["containers"][0]
    get = container[f"{which}Probe"]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    return Probe(get.get("scheme", "HTTP"), ports.get(get["port"], get["port"]), get["path"])


def wait_for(condition: Callable[[], T | None], timeout_s: float, what: str) -> T:
    """Waits until ``condition`` gives something true; while nobody answers, it is not.

    Raises:
        TooLate: It did not in time.
    """
    ends_s = time.monotonic() + timeout_s
    while True:
        try:
            found = condition()
        except HttpError:
            found = None
        if found:
            return found
        if time.monotonic() > ends_s:
            raise TooLate(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(POLL_S)


class Cluster(abc.ABC):
    """A release of the chart."""

    kind: str
    reachable: bool
    """Whether this process reaches pods by their addresses."""

    def __init__(self, *values: str, namespace: str) -> None:
        """Renders the chart; nothing runs yet.

        Args:
            values: Options of `helm template`.
            namespace: Of the release; a part of the pods' names.
        """
        self.namespace = namespace
        self.objects = [one for one in render(*values, "--namespace", namespace) if one["kind"] != "Pod"]
        self.sets = [one["metadata"]["name"] for one in of_kind(self.objects, "StatefulSet")]
        (self.deployment,) = [one["metadata"]["name"] for one in of_kind(self.objects, "Deployment")]
        self.service = f"{self.deployment}.{namespace}.{DOMAIN}"
        secrets = of_kind(self.objects, "Secret")
        self.secret = secrets[0]["metadata"]["name"] if secrets else ""
        self.files: dict[str, bytes] = (
            {name: base64.b64decode(text) for name, text in secrets[0]["data"].items()} if secrets else {}
        )
        assert len(secrets) <= 1

    # -- what it is made of -----------------------------------------------------------------------------------------

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self.sets)

    def nodes(self, shard: int | None = None) -> list[str]:
        """The pods of one shard, or of all."""
        return [
            f"{name}-{ordinal}"
            for number, name in enumerate(self.sets)
            if shard in (None, number)
            for ordinal in range(named(self.objects, "StatefulSet", name)["spec"]["replicas"])
        ]

    def owner(self, pod: str) -> Object:
        """The StatefulSet or Deployment of a pod."""
        name = pod.rpartition("-")[0]
        return named(self.objects, "StatefulSet" if name in self.sets else "Deployment", name)

    def host(self, node: str) -> str:
        """The name by which a node is dialled."""
        return f"{node}.{self.owner(node)['spec']['serviceName']}.{self.namespace}.{DOMAIN}"

    @property
    def authority(self) -> str:
        """The authorities that a client of the facades trusts, as PEM: those of the Secret now. Empty in plaintext."""
        return self.files["ca.crt"].decode() if self.files else ""

    @property
    def secure(self) -> Secure | None:
        """How a client reaches the facades by TLS, with a check of the Service's name; None in plaintext."""
        return Secure(ssl.create_default_context(cadata=self.authority), self.service) if self.files else None

    def probe_for(self, pod: str, which: str) -> Probe:
        """What the kubelet would ask this pod."""
        return probe_of(self.owner(pod)["spec"]["template"], which)

    # -- what an implementation does --------------------------------------------------------------------------------

    @abc.abstractmethod
    def apply(self, step: str) -> None:
        """Makes one of ``STEPS``; returns before anything is ready."""

    @abc.abstractmethod
    def uninstall(self) -> None:
        """Stops every pod in order and removes it; the volumes stay."""

    @abc.abstractmethod
    def destroy(self) -> None:
        """Removes all of it, the volumes too, whatever state it is in."""

    @abc.abstractmethod
    def facades(self) -> list[str]:
        """The names of the facades' pods."""

    @abc.abstractmethod
    def call(self, method: str, path: str, body: bytes = b"") -> Answer:
        """One request through the facades' Service.

        Raises:
            HttpError: Nobody answered.
        """

    @abc.abstractmethod
    def probe(self, pod: str, which: str) -> int:
        """The status that the kubelet would get from a probe; 0 when nobody answers."""

    @abc.abstractmethod
    def address(self, pod: str) -> str:
        """The IP address of a pod."""

    @abc.abstractmethod
    def kill(self, pod: str) -> None:
        """Ends a pod's process at once; it is started again upon its volumes, now or by ``heal``."""

    @abc.abstractmethod
    def take_down(self, shard: int, count: int) -> list[str]:
        """Kills the last ``count`` pods of a shard for good, until ``heal``; gives their names."""

    @abc.abstractmethod
    def heal(self) -> None:
        """Brings back what ``kill`` and ``take_down`` ended."""

    @abc.abstractmethod
    def replace(self, pod: str) -> tuple[str, str]:
        """Stops a pod and makes it anew on its volumes, elsewhere: its address before and after.

        Raises:
            Unable: It was given its old address again.
        """

    @abc.abstractmethod
    def replace_files(self, files: Mapping[str, bytes]) -> None:
        """Gives the release's Secret another content, and waits until every pod has it in its files."""

    @abc.abstractmethod
    def restart_every_pod(self) -> None:
        """Does what `kubectl rollout restart` does to every StatefulSet and Deployment, and waits for the end."""

    @abc.abstractmethod
    def identity(self, pod: str) -> str:
        """Which run of which container a pod is now: it changes when somebody restarts it."""

    @abc.abstractmethod
    def run(self, script: str, *words: str) -> subprocess.Popen[str]:
        """Starts a Python script within the cluster, as a client's pod; stdin and stdout are pipes."""

    @abc.abstractmethod
    def cut_off(self, pod: str, others: Iterable[str]) -> None:
        """Drops every packet between a pod and others, until ``join``.

        Raises:
            Unable: Not here.
        """

    @abc.abstractmethod
    def join(self, pod: str) -> None:
        """Ends ``cut_off``."""

    @abc.abstractmethod
    def log(self, pod: str) -> str:
        """All that a pod has written to its log."""

    @abc.abstractmethod
    def logs(self) -> str:
        """The last lines of every pod."""

    # -- what all can do --------------------------------------------------------------------------------------------

    def install(self, *steps: str) -> None:
        """Makes everything, in this order, and waits until it is ready."""
        assert sorted(steps or STEPS) == sorted(STEPS)
        for step in steps or STEPS:
            self.apply(step)
        self.await_ready()

    def await_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits until every pod's readiness probe is answered with 200."""
        waiting = [*self.nodes(), *self.facades()]

        def ready() -> bool:
            waiting[:] = [pod for pod in waiting if self.probe(pod, "readiness") != 200]
            return not waiting

        try:
            wait_for(ready, timeout_s, "every pod to be ready")
        except TooLate as error:
            raise TooLate(f"{error}; not ready: {waiting}") from error

    def members(self, shard: int) -> dict[str, dict[str, Any]]:
        """The nodes of a shard by name, as a facade sees them."""
        document = self.call("GET", "/v1/cluster").json()
        (found,) = [one for one in document["shards"] if int(one["id"]) == shard]
        return {node["id"]: node for node in found["nodes"]}

    def leader(self, shard: int) -> str:
        """Who leads a shard, by the highest term; empty when nobody does."""
        leaders = [(node["term"], name) for name, node in self.members(shard).items() if node["role"] == "leader"]
        return max(leaders)[1] if leaders else ""

    def await_leader(self, shard: int, but: str = "", timeout_s: float = 30.0) -> str:
        """Waits until somebody leads a shard, other than ``but``."""

        def other() -> str:
            found = self.leader(shard)
            return found if found != but else ""

        return wait_for(other, timeout_s, f"a leader of shard {shard} other than {but or 'nobody'}")

    def await_equal(self, shard: int, timeout_s: float = 60.0) -> None:
        """Waits until every node of a shard is there and has applied the same."""

        def equal() -> bool:
            members = self.members(shard)
            roles = sorted(members[name]["role"] for name in self.nodes(shard))
            applied = {members[name]["applied_index"] for name in self.nodes(shard)}
            return roles == ["follower"] * (len(roles) - 1) + ["leader"] and len(applied) == 1

        wait_for(equal, timeout_s, f"all nodes of shard {shard} to apply the same")

    def put(self, key: str, value: str) -> int:
        """The status of a put."""
        return self.call("PUT", f"/v1/kv/{key}", value.encode()).status

    def get(self, key: str) -> str | None:
        """What a linearizable read gives, or None.

        Raises:
            AssertionError: It was neither found nor missing.
        """
        answer = self.call("GET", f"/v1/kv/{key}")
        assert answer.status in (200, 404), answer
        return answer.body.decode() if answer.status == 200 else None


def unverified() -> ssl.SSLContext:
    """Believes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def call_program(words: Sequence[str], text: str | None = None, timeout_s: float = 120, check: bool = True) -> str:
    """Calls a program and gives what it printed.

    Raises:
        AssertionError: It failed, and ``check`` is set; the message has what it wrote to stderr.
    """
    run = subprocess.run(words, input=text, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert run.returncode == 0 or not check, f"{' '.join(words)[:300]}: {run.stderr[-2000:]}"
    return run.stdout.strip()
