"""The chart's pods as containers of podman: one for each ordinal of a StatefulSet, and one for each facade.

Environment, command, volumes, memory limit, CPU share and security context of a container are those of the rendered
chart. What Kubernetes does besides is done here in its simplest form: the names of pods are network aliases, a claim is
a named volume, a Secret is a folder of the host for each pod, the facades' Service is a hosts file of the client's
container that lists the facades that are ready, and a rolling restart goes as the controllers go. Facades that ask DNS
for SRV records ask a container with `srv.py`, since podman's own server has none. Nothing here restarts a container:
there is no kubelet.

Invariants:
    1. Everything that is made begins with ``PREFIX``; ``clean`` removes that and nothing else.
    2. A field of a pod that is not understood is an error, not left out.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.http11 import HttpError, Secure, fetch
from integration.kubernetes.cluster import srv
from integration.kubernetes.cluster.driver import DOMAIN, Answer, Cluster, call_program, unverified, wait_for
from integration.kubernetes.cluster.mounted import mount
from tools.rendering import Object, environment_of, named, of_kind

PREFIX = "dougdbtest"
PYTHON = "/opt/dougdb/bin/python"
SLEEP = "import time; time.sleep(3600)"
SHARES_FACTOR = 20


def podman(*words: str, check: bool = True, timeout_s: float = 120) -> str:
    """Calls podman."""
    return call_program(["podman", *words], timeout_s=timeout_s, check=check)


def clean() -> None:
    """Removes what these tests have left, now or before."""
    for listed, removal in (
        (("ps", "-aq", "--filter", f"name=^{PREFIX}-"), ("rm", "-f", "-t", "0", "-v")),
        (("volume", "ls", "-q", "--filter", f"name=^{PREFIX}-"), ("volume", "rm", "-f")),
        (("network", "ls", "-q", "--filter", f"name=^{PREFIX}-"), ("network", "rm", "-f")),
    ):
        if names := podman(*listed, check=False).split():
            podman(*removal, *names, check=False)


def security_words(pod: Object, container: Object) -> list[str]:
    """The options that put a pod's security context into force."""
    of_pod, own = copy.deepcopy(pod["securityContext"]), copy.deepcopy(container["securityContext"])
    user, group = of_pod.pop("runAsUser"), of_pod.pop("runAsGroup")
    assert of_pod.pop("runAsNonRoot") is True
    assert user > 0
    words = ["--user", f"{user}:{group}", "--group-add", str(of_pod.pop("fsGroup"))]
    # podman's own profile is the runtime's default one; volumes take the owner of the folder in the image over.
    assert of_pod.pop("seccompProfile") == {"type": "RuntimeDefault"}
    assert of_pod.pop("fsGroupChangePolicy") == "OnRootMismatch"
    capabilities = own.pop("capabilities")
    for capability in capabilities.pop("drop"):
        words += ["--cap-drop", capability]
    if own.pop("readOnlyRootFilesystem"):
        words += ["--read-only", "--read-only-tmpfs=false"]
    if not own.pop("allowPrivilegeEscalation"):
        words += ["--security-opt", "no-new-privileges"]
    assert not capabilities, f"not understood: {capabilities}"
    assert not of_pod, f"not understood: {of_pod}"
    assert not own, f"not understood: {own}"
    return words


def resource_words(resources: Object) -> list[str]:
    """The limit of memory, and the share of the CPU. No container has a limit of CPU.

    The kubelet gives 1.024 shares for a thousandth of a core, below a cgroup for all pods that has the whole machine's.
    There is no such cgroup here, so all shares are multiplied: pods keep their weights among themselves, and the rest
    of the machine does not starve them.
    """
    assert set(resources["limits"]) == {"memory"}, resources
    limit, cpu = resources["limits"]["memory"], resources["requests"]["cpu"]
    assert limit.endswith("Mi"), limit
    thousandths = int(cpu[:-1]) if cpu.endswith("m") else int(cpu) * 1000
    return ["--memory", f"{limit[:-2]}m", "--cpu-shares", str(thousandths * 1024 * SHARES_FACTOR // 1000)]


def secret_volumes(spec: Object) -> dict[str, Object]:
    """The volumes that are Secrets, by their names: which Secret, and the mode of its files."""
    found = {volume["name"]: volume["secret"] for volume in spec.get("volumes", []) if "secret" in volume}
    assert all(set(secret) == {"secretName", "defaultMode"} for secret in found.values()), f"not understood: {found}"
    return found


def volume_words(
    spec: Object, container: Object, claims: Iterable[str], pod: str, prefix: str, secrets: Path
) -> list[str]:
    """The volumes: a claim is a named volume that outlives the container, an emptyDir is a tmpfs of its size.

    A Secret is the folder ``secrets/POD/VOLUME``, where somebody else puts its files.
    """
    kinds: dict[str, Any] = {volume["name"]: volume for volume in spec.get("volumes", [])}
    words = []
    for place in container["volumeMounts"]:
        name, path = place["name"], place["mountPath"]
        if name in claims:
            words += ["-v", f"{prefix}-{name}-{pod}:{path}"]
        elif "persistentVolumeClaim" in kinds[name]:
            # Of the release, not of a pod. "U" does what fsGroup does: the volume is given to the user.
            words += ["-v", f"{prefix}-{kinds[name]['persistentVolumeClaim']['claimName']}:{path}:U"]
        elif name in secret_volumes(spec):
            assert place["readOnly"] is True, f"not understood: {place}"
            words += ["-v", f"{secrets / pod / name}:{path}:ro"]
        else:
            assert set(kinds[name]) == {"name", "emptyDir"}, f"not understood: {kinds[name]}"
            size = kinds[name]["emptyDir"]["sizeLimit"]
            words += ["--tmpfs", f"{path}:rw,mode=1777,size={size.removesuffix('i').lower()}"]
    return words


def srv_records(objects: list[Object], namespace_domain: str) -> dict[str, list[list[str]]]:
    """The SRV records of the headless Services with names for every pod: port and pod's name, by the record's name."""
    records: dict[str, list[list[str]]] = {}
    for one in of_kind(objects, "StatefulSet"):
        service = named(objects, "Service", one["spec"]["serviceName"])
        domain = f"{service['metadata']['name']}.{namespace_domain}"
        pods = [f"{one['metadata']['name']}-{ordinal}.{domain}" for ordinal in range(one["spec"]["replicas"])]
        for port in service["spec"]["ports"]:
            records[f"_{port['name']}._tcp.{domain}"] = [[str(port["port"]), pod] for pod in pods]
    return records


def container_words(objects: list[Object], owner: Object, pod: str, prefix: str, secrets: Path) -> list[str]:
    """The options and the image that make a container of a pod of this StatefulSet or Deployment."""
    template = owner["spec"]["template"]
    spec = template["spec"]
    (container,) = spec["containers"]
    assert "initContainers" not in spec
    claims = [claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])]
    words = ["--hostname", pod, *security_words(spec, container), *resource_words(container["resources"])]
    words += volume_words(spec, container, claims, pod, prefix, secrets)
    for name, value in environment_of(objects, template, pod).items():
        words += ["--env", f"{name}={value}"]
    if "command" in container:
        words += ["--entrypoint", json.dumps(container["command"])]
    return [*words, container["image"], *container.get("args", [])]


class Podman(Cluster):
    """Containers on one network of this machine."""

    kind = "podman"
    reachable = True

    def __init__(self, *values: str, tag: str, folder: Path) -> None:
        """Renders the chart.

        Args:
            values: Options of `helm template`.
            tag: Keeps the names of several clusters apart.
            folder: For the client's hosts file, and the files of Secrets.
        """
        super().__init__(*values, namespace="dougdb")
        self.prefix = f"{PREFIX}-{tag}"
        self._hosts = folder / f"hosts-{tag}"
        self._hosts.write_text("127.0.0.1 localhost\n")
        self.secrets = folder / f"secrets-{tag}"
        self._resolver = folder / f"resolv-{tag}"
        self._made: set[str] = set()
        self._applied: set[str] = set()
        self._facades: list[str] = []
        self._serving: list[str] = []
        self._addresses: dict[str, str] = {}
        self._next_facade = 0
        self._cut: dict[str, list[str]] = {}
        podman("network", "create", self.prefix)
        template = named(self.objects, "Deployment", self.deployment)["spec"]["template"]
        image = template["spec"]["containers"][0]["image"]
        podman(
            *("run", "-d", "--name", f"{self.prefix}-client", "--network", self.prefix, "--stop-signal", "KILL"),
            *("-v", f"{self._hosts}:/etc/hosts:ro", "--user", "10001:10001", "--read-only", "--cap-drop", "ALL"),
            *("--entrypoint", PYTHON, image, "-c", SLEEP),
        )
        if environment_of(self.objects, template, self.deployment).get("DOUGDB_DISCOVERY") in ("auto", "dns"):
            self._start_dns(image)

    def _start_dns(self, image: str) -> None:
        """A server that knows the SRV records of the Services; the facades ask it."""
        name, script = f"{self.prefix}-dns", Path(srv.__file__).read_text()
        records = json.dumps(srv_records(self.objects, f"{self.namespace}.{DOMAIN}"))
        podman(
            *("run", "-d", "--name", name, "--network", self.prefix, "--stop-signal", "KILL", "--read-only"),
            *("--user", "0", "--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE", "--entrypoint", PYTHON),
            *(image, "-c", script, "53", records),
        )
        (found,) = json.loads(podman("inspect", name))
        self._resolver.write_text(f"nameserver {found['NetworkSettings']['Networks'][self.prefix]['IPAddress']}\n")

    # -- pods -------------------------------------------------------------------------------------------------------

    def facades(self) -> list[str]:
        """The facades that run."""
        return list(self._facades)

    def aliases(self, pod: str) -> list[str]:
        """The names by which others reach a pod."""
        return [self.host(pod)] if "serviceName" in self.owner(pod)["spec"] else []

    def start(self, pod: str) -> None:
        """Makes the container of a pod, upon its volumes if it had some."""
        words = ["--name", f"{self.prefix}-{pod}", "--network", self.prefix]
        if "names" in self._applied:
            words += [word for alias in self.aliases(pod) for word in ("--network-alias", alias)]
        if self._resolver.exists() and pod.startswith(f"{self.deployment}-"):
            words += ["-v", f"{self._resolver}:/etc/resolv.conf:ro"]
        owner = self.owner(pod)
        self._mount_secrets(pod, owner)
        podman("run", "-d", *words, *container_words(self.objects, owner, pod, self.prefix, self.secrets))
        self._addresses.pop(pod, None)
        self._made.add(pod)

    def _mount_secrets(self, pod: str, owner: Object) -> None:
        """Puts the files of a pod's Secrets where its container has them, or replaces them there."""
        spec = owner["spec"]["template"]["spec"]
        for volume, secret in secret_volumes(spec).items():
            assert secret["secretName"] == self.secret
            group = spec["securityContext"]["fsGroup"]
            mount(self.secrets / pod / volume, self.files, secret["defaultMode"], group)

    def replace_files(self, files: Mapping[str, bytes]) -> None:
        """One pod after the other, as kubelets do it, each at a time of its own."""
        self.files = dict(files)
        for pod in [*self.nodes(), *self._facades]:
            self._mount_secrets(pod, self.owner(pod))

    def stop(self, pod: str) -> None:
        """Ends a container as the kubelet would: preStop, SIGTERM, and its grace; it must end by itself. Removes it."""
        spec = self.owner(pod)["spec"]["template"]["spec"]
        hook = spec["containers"][0].get("lifecycle", {}).get("preStop")
        if hook:
            podman("exec", f"{self.prefix}-{pod}", *hook["exec"]["command"])
        podman("stop", "-t", str(spec["terminationGracePeriodSeconds"]), f"{self.prefix}-{pod}")
        code = podman("inspect", "--format", "{{.State.ExitCode}}", f"{self.prefix}-{pod}")
        assert code == "0", f"{pod} ended with {code}\n{podman('logs', '--tail', '20', f'{self.prefix}-{pod}')}"
        podman("rm", f"{self.prefix}-{pod}")
        self._made.discard(pod)

    def address(self, pod: str) -> str:
        """The address of a container; kept until it is made anew."""
        if pod not in self._addresses:
            (found,) = json.loads(podman("inspect", f"{self.prefix}-{pod}"))
            address: str = found["NetworkSettings"]["Networks"][self.prefix]["IPAddress"]
            if not address:
                return ""
            self._addresses[pod] = address
        return self._addresses[pod]

    def identity(self, pod: str) -> str:
        """The container and when it was started."""
        return podman("inspect", "--format", "{{.Id}} {{.State.StartedAt}} {{.RestartCount}}", f"{self.prefix}-{pod}")

    def probe(self, pod: str, which: str) -> int:
        """What the kubelet would see; over HTTPS it believes any certificate."""
        probe = self.probe_for(pod, which)
        secure = Secure(unverified(), "") if probe.scheme == "HTTPS" else None
        address = self.address(pod)
        if not address:
            return 0
        try:
            return fetch(probe.port, "GET", probe.path, host=address, timeout_s=3, secure=secure).status
        except HttpError:
            return 0

    def logs(self) -> str:
        """The last lines of every container."""
        return "\n".join(f"---- {pod}\n{self.log(pod, '--tail', '12')}" for pod in [*self.nodes(), *self._facades])

    def log(self, pod: str, *words: str) -> str:
        """What the container has written to stdout and stderr; ``words`` are options."""
        command = ["podman", "logs", *words, f"{self.prefix}-{pod}"]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return run.stdout

    # -- installation -----------------------------------------------------------------------------------------------

    def apply(self, step: str) -> None:
        """Makes names, nodes or facades."""
        self._applied.add(step)
        if step == "names":
            for pod in sorted(self._made & set(self.nodes())):
                # A name for a container that runs: podman gives it by leaving the network and coming back.
                podman("network", "disconnect", self.prefix, f"{self.prefix}-{pod}")
                words = [word for alias in self.aliases(pod) for word in ("--alias", alias)]
                podman("network", "connect", *words, self.prefix, f"{self.prefix}-{pod}")
                self._addresses.pop(pod, None)
        elif step == "nodes":
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(self.start, self.nodes()))
        else:
            for _ in range(named(self.objects, "Deployment", self.deployment)["spec"]["replicas"]):
                self._start_facade()

    def _start_facade(self) -> str:
        pod = f"{self.deployment}-{self._next_facade}"
        self._next_facade += 1
        self.start(pod)
        self._facades.append(pod)
        return pod

    def await_ready(self, timeout_s: float = 90.0) -> None:
        """Waits for every pod, then lets the Service lead to the facades."""
        super().await_ready(timeout_s)
        self._serve(self._facades)

    def _serve(self, facades: Iterable[str]) -> None:
        """Lets the Service lead to these facades, in one write: a reader sees the old list or the new one."""
        self._serving = list(facades)
        lines = ["127.0.0.1 localhost", *(f"{self.address(pod)} {self.service}" for pod in self._serving)]
        text = "\n".join(lines) + "\n"
        with self._hosts.open("r+") as file:
            file.write(text.ljust(200) + "\n")
            file.truncate()

    def uninstall(self) -> None:
        """Stops and removes every container, all at once."""
        self._serve([])
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self.stop, sorted(self._made)))
        self._facades, self._applied = [], set()

    def destroy(self) -> None:
        """Removes all of it."""
        for listed, removal in (
            (("ps", "-aq", "--filter", f"name=^{self.prefix}-"), ("rm", "-f", "-t", "0", "-v")),
            (("volume", "ls", "-q", "--filter", f"name=^{self.prefix}-"), ("volume", "rm", "-f")),
        ):
            if names := podman(*listed, check=False).split():
                podman(*removal, *names, check=False)
        podman("network", "rm", "-f", self.prefix, check=False)
        shutil.rmtree(self.secrets, ignore_errors=True)

    # -- requests ---------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: bytes = b"") -> Answer:
        """One request, to the first facade that is ready."""
        if not self._serving:
            raise HttpError("no facade is ready")
        port = self.probe_for(self._serving[0], "readiness").port
        address = self.address(self._serving[0])
        answer = fetch(port, method, path, body, host=address, timeout_s=15, secure=self.secure)
        return Answer(answer.status, answer.body)

    def run(self, script: str, *words: str) -> subprocess.Popen[str]:
        """Starts a script in the client's container."""
        return subprocess.Popen(
            ["podman", "exec", "-i", f"{self.prefix}-client", PYTHON, "-c", script, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run_job(self, cron_job: str) -> str:
        """Runs what a CronJob of the chart would run, to its end; what it printed."""
        owner = {"spec": named(self.objects, "CronJob", cron_job)["spec"]["jobTemplate"]["spec"]}
        self._mount_secrets(cron_job, owner)
        words = container_words(self.objects, owner, cron_job, self.prefix, self.secrets)
        return podman("run", "--rm", "--network", self.prefix, "-v", f"{self._hosts}:/etc/hosts:ro", *words)

    def restore(self, node: str, backups: str, *words: str) -> str:
        """Runs `raft-node restore` on the volumes of a node that never started; ``backups`` is a volume."""
        owner = self.owner(node)
        image_name = owner["spec"]["template"]["spec"]["containers"][0]["image"]
        mounts = [f"{self.prefix}-{claim}-{node}:/var/lib/dougdb/{claim}" for claim in ("wal", "data")]
        volumes = [word for mount in (*mounts, f"{backups}:/backups:ro") for word in ("-v", mount)]
        return podman("run", "--rm", "--network", "none", *volumes, image_name, "restore", "--node-id", node, *words)

    # -- faults -----------------------------------------------------------------------------------------------------

    def kill(self, pod: str) -> None:
        """SIGKILL; there is no kubelet, so ``heal`` starts it again."""
        podman("kill", "-s", "KILL", f"{self.prefix}-{pod}")

    def take_down(self, shard: int, count: int) -> list[str]:
        """SIGKILL, all at one time."""
        victims = self.nodes(shard)[-count:]
        podman("kill", "-s", "KILL", *(f"{self.prefix}-{pod}" for pod in victims))
        return victims

    def heal(self) -> None:
        """Starts the containers that do not run."""
        exited = podman("ps", "-a", "--filter", "status=exited", "--format", "{{.Names}}").split()
        for name in exited:
            pod = name.removeprefix(f"{self.prefix}-")
            if name.startswith(f"{self.prefix}-") and pod in self._made:
                self._addresses.pop(pod, None)
                podman("start", name)

    def replace(self, pod: str) -> tuple[str, str]:
        """A new container on the old volumes; somebody else has its old address by then."""
        before = self.address(pod)
        self.stop(pod)
        other = f"{self.prefix}-other-{pod}"
        podman(
            *("run", "-d", "--name", other, "--network", self.prefix, "--ip", before, "--stop-signal", "KILL"),
            *("--entrypoint", PYTHON, self.client_image(), "-c", SLEEP),
        )
        self.start(pod)
        return before, self.address(pod)

    def client_image(self) -> str:
        """The image of the client's container, which has a Python and little else."""
        return podman("inspect", "--format", "{{.ImageName}}", f"{self.prefix}-client")

    def cut_off(self, pod: str, others: Iterable[str]) -> None:
        """Drops packets in the pod's own network namespace."""
        addresses = [self.address(other) for other in others]
        self._cut[pod] = addresses
        for address in addresses:
            self._iptables(pod, "-A", "INPUT", "-s", address)
            self._iptables(pod, "-A", "OUTPUT", "-d", address)

    def join(self, pod: str) -> None:
        """Takes the rules away."""
        for address in self._cut.pop(pod):
            self._iptables(pod, "-D", "INPUT", "-s", address)
            self._iptables(pod, "-D", "OUTPUT", "-d", address)

    def _iptables(self, pod: str, *words: str) -> None:
        number = podman("inspect", "--format", "{{.State.Pid}}", f"{self.prefix}-{pod}")
        call_program(["nsenter", "-t", number, "-n", "iptables", "-w", *words, "-j", "DROP"])

    # -- rolling restart --------------------------------------------------------------------------------------------

    def restart_every_pod(self) -> None:
        """As the controllers: sets and facades side by side, a set's pods one after the other, the last first."""
        with ThreadPoolExecutor(len(self.sets) + 1) as pool:
            rolls = [pool.submit(self._roll_set, name) for name in self.sets]
            rolls.append(pool.submit(self._roll_facades))
            for roll in rolls:
                roll.result()

    def _roll_set(self, name: str) -> None:
        spec = named(self.objects, "StatefulSet", name)["spec"]
        assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
        for ordinal in reversed(range(spec["replicas"])):
            pod = f"{name}-{ordinal}"
            self.stop(pod)
            self.start(pod)
            self._await_available(pod, spec["minReadySeconds"])

    def _roll_facades(self) -> None:
        """A new one is ready before an old one goes, which is the default of a Deployment of two."""
        for old in list(self._facades):
            new = self._start_facade()
            self._await_available(new, 0)
            self._serve([*self._serving, new])
            self._serve([pod for pod in self._serving if pod != old])
            self._facades.remove(old)
            self.stop(old)

    def _await_available(self, pod: str, ready_s: float) -> None:
        """Waits until a pod was ready for so long, looking as often as its probe does."""
        period_s = self.owner(pod)["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["periodSeconds"]
        since_s = 0.0

        def available() -> bool:
            nonlocal since_s
            if self.probe(pod, "readiness") != 200:
                since_s = 0.0
                return False
            since_s = since_s or time.monotonic()
            return time.monotonic() - since_s >= ready_s

        pause = threading.Event()
        ends_s = time.monotonic() + 90
        while not available():
            assert time.monotonic() < ends_s, f"{pod} did not become available"
            pause.wait(min(period_s, 1))


@contextlib.contextmanager
def podman_cluster(*values: str, tag: str, folder: Path) -> Iterator[Podman]:
    """A cluster that is not installed yet, and is removed at the end."""
    cluster = Podman(*values, tag=tag, folder=folder)
    try:
        yield cluster
    finally:
        cluster.destroy()


def image(name: str) -> Any:
    """What podman says of an image."""
    (found,) = json.loads(podman("image", "inspect", name))
    return found


def seconds_to_health(cluster: Podman, pod: str, timeout_s: float = 20) -> float:
    """Starts a pod; how many seconds it took until its liveness probe was answered with 200."""
    began_s = time.monotonic()
    cluster.start(pod)
    wait_for(lambda: cluster.probe(pod, "liveness") == 200, timeout_s, f"{pod} serves health")
    return time.monotonic() - began_s
