"""What an upgrade or a new installation over kept claims refuses: helm asks a small fake API server what is there.

The fake knows just what helm's `lookup` needs: the versions, the kinds, and a list or an object of some of them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tools.rendering import Object, named, of_kind, refusal, render

KINDS = {
    "v1": ("PersistentVolumeClaim", "Secret", "ConfigMap", "Service", "ServiceAccount", "Pod"),
    "apps/v1": ("StatefulSet", "Deployment"),
    "autoscaling/v2": ("HorizontalPodAutoscaler",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "policy/v1": ("PodDisruptionBudget",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
}


def group(version: str) -> dict[str, Any]:
    """How an API server announces one."""
    name, _, short = version.partition("/")
    known = {"groupVersion": version, "version": short}
    return {"name": name, "versions": [known], "preferredVersion": known}


def resource(kind: str) -> dict[str, Any]:
    """How it announces a kind."""
    plural = kind.lower().removesuffix("y") + "ies" if kind.endswith("y") else kind.lower() + "s"
    return {"name": plural, "kind": kind, "namespaced": True, "verbs": ["get", "list"]}


class Cluster:
    """What the API server holds; tests fill it."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.asked: list[str] = []
        self.kubeconfig = Path()

    @property
    def environment(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig)}

    def install(self, objects: list[Object]) -> None:
        """Puts there what Kubernetes makes of these StatefulSets: themselves, and a claim for each pod and template."""
        for one in of_kind(objects, "StatefulSet"):
            name = one["metadata"]["name"]
            self.store(f"/apis/apps/v1/namespaces/dougdb/statefulsets/{name}", one)
            for claim in one["spec"]["volumeClaimTemplates"]:
                for ordinal in range(one["spec"]["replicas"]):
                    full = f"{claim['metadata']['name']}-{name}-{ordinal}"
                    self.objects[f"/api/v1/namespaces/dougdb/persistentvolumeclaims/{full}"] = {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "metadata": {"name": full, "namespace": "dougdb"},
                    }

    def store(self, path: str, one: Object) -> None:
        """Puts an object there as helm's own."""
        owner = {"meta.helm.sh/release-name": "dougdb", "meta.helm.sh/release-namespace": "dougdb"}
        self.objects[path] = {**one, "metadata": {**one["metadata"], "annotations": owner}}

    def uninstall(self) -> None:
        """As `helm uninstall` does: the claims stay."""
        self.objects = {path: one for path, one in self.objects.items() if "persistentvolumeclaims" in path}

    def answer(self, path: str) -> tuple[int, Any]:
        self.asked.append(path)
        if path == "/version":
            return 200, {"major": "1", "minor": "35", "gitVersion": "v1.35.0"}
        if path == "/api":
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return 200, {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [group(name) for name in KINDS if "/" in name],
            }
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version in KINDS:
            kinds = [resource(kind) for kind in KINDS[version]]
            return 200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": kinds}
        if path in self.objects:
            return 200, self.objects[path]
        below = [one for name, one in self.objects.items() if name.rpartition("/")[0] == path]
        if path.endswith(("persistentvolumeclaims", "statefulsets")):
            return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": below}
        return 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


@pytest.fixture
def cluster(tools: None, tmp_path: Path) -> Iterator[Cluster]:
    fake = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = fake.answer(self.path.partition("?")[0])
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.kubeconfig = tmp_path / "kubeconfig"
    fake.kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "fake",
                "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "fake", "user": {}}],
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "dougdb"}}],
            }
        )
    )
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


LIVE = ("--dry-run=server", "--disable-openapi-validation")


@pytest.mark.parametrize("kept", [False, True])
def test_the_same_shape_is_accepted(kept: bool, cluster: Cluster, default: list[Object]) -> None:
    cluster.install(default)
    if kept:
        cluster.uninstall()
    assert render(*LIVE, environment=cluster.environment) == default
    assert "/api/v1/namespaces/dougdb/persistentvolumeclaims" in cluster.asked


@pytest.mark.parametrize("there", [[], ["data-dougdb-s0-0"], ["data-dougdb-s0-0", "wal-dougdb-s0-0"]])
def test_an_upgrade_is_accepted_before_all_claims_are_there(
    there: list[str], cluster: Cluster, default: list[Object]
) -> None:
    """Claims come with the pods. Where a quota keeps these away, an upgrade is to mend it. Other shapes are refused."""
    cluster.install(default)
    cluster.objects = {
        path: one
        for path, one in cluster.objects.items()
        if "persistentvolumeclaims" not in path or path.rpartition("/")[2] in there
    }
    assert render(*LIVE, environment=cluster.environment) == default
    for change in ("more shards", "more members"):
        assert refusal(*LIVE, "--set", CHANGES[change][0], environment=cluster.environment)


def test_an_empty_namespace_takes_any_shape(cluster: Cluster) -> None:
    assert not refusal(*LIVE, "--set", "shards=3,raft.replicas=3", environment=cluster.environment)


CHANGES = {
    "fewer shards": ("shards=1", "shards: 1, but the claim data-dougdb-s1-0 holds data of shard 1"),
    "more shards": ("shards=3", "shards: 3, but there are claims of 2 shards only"),
    "fewer members": ("raft.replicas=3", "raft.replicas: 3, but the claim data-dougdb-s0-3 belongs to member 3"),
    "more members": ("raft.replicas=7", "raft.replicas: 7, but the shards have fewer members"),
}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_another_shape_is_refused(change: str, kept: bool, cluster: Cluster, default: list[Object]) -> None:
    cluster.install(default)
    if kept:
        cluster.uninstall()
    value, text = CHANGES[change]
    assert text in refusal(*LIVE, "--set", value, environment=cluster.environment)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("persistence.data.size=20Gi", "persistence.data.size: 20Gi, but the StatefulSet dougdb-s0 was made with 10Gi"),
        ("persistence.wal.size=1Gi", "persistence.wal.size: 1Gi"),
        ("persistence.wal.enabled=false", "persistence.wal.enabled cannot change"),
        ("persistence.wal.storageClass=fast", 'persistence.wal.storageClass: "fast", but the StatefulSet dougdb-s0'),
    ],
)
def test_claims_that_cannot_change_are_refused(value: str, text: str, cluster: Cluster, default: list[Object]) -> None:
    cluster.install(default)
    assert text in refusal(*LIVE, "--set", value, environment=cluster.environment)


@pytest.mark.parametrize("was", [True, False])
def test_logs_are_looked_for_where_they_were_written_also_over_kept_claims(was: bool, cluster: Cluster) -> None:
    """A node without its log would not start, and must not be made to: refused before anything runs."""
    before, after = ((f"persistence.wal.enabled={str(one).lower()}") for one in (was, not was))
    cluster.install(render("--set", before))
    cluster.uninstall()
    assert not refusal(*LIVE, "--set", before, environment=cluster.environment)
    told = refusal(*LIVE, "--set", after, environment=cluster.environment)
    assert "persistence.wal.enabled cannot change" in told
    assert f"Nothing is lost: set it back to {str(was).lower()}" in told
    assert "wipe" not in told.lower()


@pytest.mark.parametrize(("asked", "told"), [("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("1000G", "1T")])
def test_a_size_is_the_same_in_another_unit(asked: str, told: str, cluster: Cluster) -> None:
    """The API server gives sizes back in the largest unit that fits."""
    sizes = ("--set", f"persistence.wal.size={asked},persistence.data.size={asked}")
    objects = render(*sizes)
    for one in of_kind(objects, "StatefulSet"):
        for claim in one["spec"]["volumeClaimTemplates"]:
            claim["spec"]["resources"]["requests"]["storage"] = told
    cluster.install(objects)
    assert not refusal(*LIVE, *sizes, environment=cluster.environment)
    assert "was made with" in refusal(
        *LIVE, "--set", f"persistence.data.size={asked}", "--set", "persistence.wal.size=3Gi",
        environment=cluster.environment,
    )  # fmt: skip


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("gone", [("s0-0",), ("s0-4",), ("s0-0", "s0-1", "s0-2", "s0-4")])
def test_nodes_whose_claims_went_with_their_disks_change_no_shape(
    gone: tuple[str, ...], kept: bool, cluster: Cluster, default: list[Object]
) -> None:
    """Least of all may the advice be to look for the logs elsewhere: nodes would take themselves for wiped."""
    cluster.install(default)
    if kept:
        cluster.uninstall()
    for node in gone:
        for claim in ("wal", "data"):
            del cluster.objects[f"/api/v1/namespaces/dougdb/persistentvolumeclaims/{claim}-dougdb-{node}"]
    assert not refusal(*LIVE, environment=cluster.environment)


@pytest.mark.parametrize(("was", "becomes"), [("disabled", "selfSigned"), ("selfSigned", "disabled")])
def test_tls_begins_and_ends_with_all_nodes_stopped(was: str, becomes: str, cluster: Cluster) -> None:
    """Restarted one after the other, a shard would have nodes that cannot speak with each other, and stay so."""
    objects = render("--set", f"tls.mode={was}")
    cluster.install(objects)
    cluster.store("/api/v1/namespaces/dougdb/configmaps/dougdb-raft", named(objects, "ConfigMap", "dougdb-raft"))
    assert not refusal(*LIVE, "--set", f"tls.mode={was}", environment=cluster.environment)
    told = refusal(*LIVE, "--set", f"tls.mode={becomes}", environment=cluster.environment)
    assert f"tls.mode: {becomes}, but the nodes that run speak" in told
    assert "scale statefulset,deployment -l app.kubernetes.io/instance=dougdb --replicas=0" in told
    shards = [path for path in cluster.objects if "/statefulsets/" in path]
    assert len(shards) == 2
    for path in shards:
        assert "the nodes that run" in refusal(*LIVE, "--set", f"tls.mode={becomes}", environment=cluster.environment)
        one = cluster.objects[path]
        cluster.objects[path] = {**one, "spec": {**one["spec"], "replicas": 0}, "status": {"replicas": 1}}
    for path in shards:
        # Nobody wants them any more, and they still end.
        assert "the nodes that run" in refusal(*LIVE, "--set", f"tls.mode={becomes}", environment=cluster.environment)
        cluster.objects[path]["status"]["replicas"] = 0
    assert not refusal(*LIVE, "--set", f"tls.mode={becomes}", environment=cluster.environment)


@pytest.mark.parametrize(("there", "given"), [(8, 8), (1, 1), (0, 2)])
def test_facades_stay_as_many_as_they_are_when_the_autoscaler_takes_over(
    there: int, given: int, cluster: Cluster, default: list[Object]
) -> None:
    """A number that helm no longer gives becomes one: seven of eight facades would end under load."""
    facade = named(default, "Deployment", "dougdb-facade")
    facade = {**facade, "spec": {**facade["spec"], "replicas": there}}
    cluster.store("/apis/apps/v1/namespaces/dougdb/deployments/dougdb-facade", facade)
    scaled = ("--set", "facade.autoscaling.enabled=true")
    objects = render(*LIVE, *scaled, environment=cluster.environment)
    assert named(objects, "Deployment", "dougdb-facade")["spec"]["replicas"] == given


def test_claims_of_others_have_no_say(cluster: Cluster) -> None:
    for name in ("data-other-s7-0", "data-dougdb-spare", "data-dougdb-s9-0-old", "wal-x"):
        cluster.objects[f"/api/v1/namespaces/dougdb/persistentvolumeclaims/{name}"] = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "dougdb"},
        }
    assert not refusal(*LIVE, environment=cluster.environment)


def test_a_self_signed_certificate_is_made_once(cluster: Cluster) -> None:
    def secret() -> Object:
        (made,) = of_kind(render(*LIVE, "--set", "tls.mode=selfSigned", environment=cluster.environment), "Secret")
        return made

    first = secret()
    assert secret()["data"] != first["data"], "without one there, each is new"
    cluster.store("/api/v1/namespaces/dougdb/secrets/dougdb-tls", first)
    assert secret() == first
