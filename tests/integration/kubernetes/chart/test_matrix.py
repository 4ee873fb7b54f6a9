"""The chart over many sets of values: helm takes it, Kubernetes' schemas take what it gives, bad values are refused."""

from __future__ import annotations

import base64
import functools
import resource
from collections.abc import Callable
from typing import TypeVar

import pytest
from tools.helm_chart import CHART, run_helm
from tools.helm_matrix import MATRIX, OPERATOR
from tools.rendering import Object, refusal, render, validate

T = TypeVar("T")
FEW = {"defaults", "kind", "monitoring", "TLS"}
"""The sets of values that `make test` takes; all of them are slow: five programs are started for each."""
SETS = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in MATRIX]
# What Kubernetes itself does not know, and this chart may still give.
CUSTOM = {"monitoring.coreos.com/v1", "cert-manager.io/v1", "gateway.networking.k8s.io/v1"}
VERSIONS = ["1.29", "1.31", "1.35"]

REFUSED: dict[str, tuple[str, str]] = {
    "an unknown key": ("bogus=1", "additional properties 'bogus' not allowed"),
    "an unknown key below": ("raft.replica=3", "additional properties 'replica' not allowed"),
    "a misspelt request": ("raft.resources.request.cpu=1", "additional properties 'request' not allowed"),
    "an even number of nodes": ("raft.replicas=4", "at '/raft/replicas': value must be one of 1, 3, 5, 7, 9"),
    "no shard": ("shards=0", "at '/shards'"),
    "a TLS mode that does not exist": ("tls.mode=on", "at '/tls/mode'"),
    "TLS without its secret": ("tls.mode=existingSecret", "needs tls.existingSecret"),
    "TLS without its issuer": ("tls.mode=certManager", "needs tls.certManager.issuerRef.name"),
    "a secret without its mode": ("tls.existingSecret=x", "tls.existingSecret is set, but tls.mode is disabled"),
    "an access mode that does not exist": ("auth.mode=basic", "at '/auth/mode'"),
    "none beside another access mode": ("auth.mode=none\\,token", "at '/auth/mode'"),
    "tokens in the clear": ("auth.mode=token", "needs tls.mode"),
    "certificates without their authority": (
        "tls.mode=selfSigned,auth.mode=token\\,mtls",
        "needs auth.clientCASecret",
    ),
    "the nodes' authority for clients": (
        "tls.mode=selfSigned,auth.mode=mtls,auth.clientCASecret=dougdb-tls",
        "may speak to nodes as a node",
    ),
    "JWTs of nobody": ("tls.mode=selfSigned,auth.mode=oidc", "needs auth.oidc.issuer"),
    "keys in the clear": ("auth.oidc.jwks=http://issuer/keys", "at '/auth/oidc/jwks'"),
    "discovery that does not exist": ("discovery.mode=consul", "at '/discovery/mode'"),
    "a zone by what is no label": ("zoneLabel=a b", "at '/zoneLabel'"),
    "the tag latest": ("raft.image.tag=latest", "at '/raft/image/tag'"),
    "heartbeats as long as elections": ("raft.heartbeatMs=76", "at least twice raft.heartbeatMs"),
    "an empty range of timeouts": ("raft.electionTimeoutMaxMs=150", "must be greater than raft.electionTimeoutMs"),
    "a grace shorter than the drain": ("raft.drainTimeoutMs=51000", "at least 10 s longer than raft.drainTimeoutMs"),
    "a facade's grace too short": ("facade.preStopSeconds=21", "at least 10 s longer than facade.preStopSeconds"),
    "bounds of the autoscaler": (
        "facade.autoscaling.enabled=true,facade.autoscaling.maxReplicas=1",
        "must not be less than minReplicas",
    ),
    "a node port without its type": ("facade.service.nodePort=30000", "needs facade.service.type"),
    "a setting that the chart makes": ("raft.settings.DOUGDB_SEEDS=x", "raft.settings.DOUGDB_SEEDS: the chart sets it"),
    "a facade's setting that it makes": ("facade.settings.DOUGDB_NODES=x", "facade.settings.DOUGDB_NODES: the chart"),
    "a setting that is none": ("raft.settings.PATH=x", "'PATH' does not match pattern"),
    "monitoring without its operator": ("monitoring.enabled=true", "does not have the Prometheus operator"),
    "a name that no label holds": (f"fullnameOverride={'a' * 45}", "at '/fullnameOverride'"),
    "backups that all go": ("backup.keep=0", "at '/backup/keep'"),
    "backups at no time": ("backup.schedule=", "at '/backup/schedule'"),
    "traces to nowhere": ("tracing.enabled=true", "tracing.enabled needs tracing.endpoint"),
    "traces to what is no URL": ("tracing.endpoint=otel:4317", "at '/tracing/endpoint'"),
    "more traces than requests": ("tracing.sampleRatio=2", "at '/tracing/sampleRatio'"),
    "more traces than requests, as helm reads a fraction": ("tracing.sampleRatio=1.5", "at '/tracing/sampleRatio'"),
    "an ingress for nobody": ("facade.ingress.enabled=true", "needs facade.ingress.hosts"),
    "a route for nobody": ("facade.httpRoute.enabled=true", "needs facade.httpRoute.hostnames"),
    "a route from nowhere": (
        "facade.httpRoute.enabled=true,facade.httpRoute.hostnames[0]=a.example",
        "needs facade.httpRoute.parentRefs",
    ),
    "a label that is the chart's": (r"commonLabels.app\.kubernetes\.io/name=x", "the chart sets it itself"),
    "a variable without a name": ("raft.extraEnv[0].value=x", "at '/raft/extraEnv/0'"),
    "a size without a unit": ("persistence.data.size=10", "at '/persistence/data/size'"),
}


MATRIX_S_MAX = 30.0


def children_s() -> float:
    """The CPU that programs took which this process has called, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Spent:
    """What helm took for the whole matrix: lint, template and dry run. CPU, since a busy machine says nothing of it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def on(self, call: Callable[[], T]) -> T:
        """Counts the time of a call."""
        began_s = children_s()
        try:
            return call()
        finally:
            self.seconds += children_s() - began_s
            self.calls += 1


@pytest.fixture(scope="session")
def spent() -> Spent:
    return Spent()


@pytest.fixture(scope="session")
def rendered(request: pytest.FixtureRequest, tools: None, spent: Spent) -> dict[str, list[Object]]:
    """The objects of all sets of values that this run asks for."""
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    wanted = {call.params.get("name") for call in calls}
    return {name: spent.on(functools.partial(render, *options)) for name, options in MATRIX.items() if name in wanted}


@pytest.fixture(scope="session")
def problems(rendered: dict[str, list[Object]]) -> dict[str, list[str]]:
    """What is wrong in each set of values, found in one go: reading the schemas takes longer than using them."""
    found = {name: list[str]() for name in rendered}
    every = [(name, one) for name, objects in rendered.items() for one in objects]
    for number, version, message in validate([one for _, one in every], VERSIONS):
        if version not in CUSTOM:
            found[every[number][0]].append(message)
    return found


@pytest.mark.parametrize("name", SETS)
def test_helm_and_kubernetes_take_it(
    name: str, rendered: dict[str, list[Object]], problems: dict[str, list[str]], spent: Spent
) -> None:
    assert not problems[name]
    objects, options = rendered[name], MATRIX[name]
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    if name != "further objects":
        assert {one["metadata"]["namespace"] for one in objects} == {"dougdb"}
    if OPERATOR[0] not in options:
        for command in (
            ("lint", "--strict", str(CHART), *options),
            ("install", "dougdb", str(CHART), "--dry-run=client", *options),
        ):
            run = spent.on(functools.partial(run_helm, *command))
            assert run.returncode == 0, run.stderr + run.stdout


@pytest.mark.slow
def test_the_whole_matrix_takes_less_than_30_s(spent: Spent) -> None:
    """After the tests above, which it adds up."""
    print(f"{spent.calls} calls of helm took {spent.seconds:.1f} s of CPU")
    assert spent.seconds < MATRIX_S_MAX


def test_the_schemas_would_find_a_mistake(default: list[Object]) -> None:
    """Each of these has to be seen, or a green matrix says nothing."""
    for wrong in (
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "x"}, "spec": {"replica": 1}},
        {"apiVersion": "v1", "kind": "Nonsense", "metadata": {"name": "x"}},
        {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "x"}, "spec": {}},
    ):
        assert len(validate([wrong], VERSIONS)) == len(VERSIONS), wrong


@pytest.mark.parametrize("name", SETS)
def test_an_upgrade_with_the_same_values_changes_nothing(name: str, rendered: dict[str, list[Object]]) -> None:
    assert render(*MATRIX[name], "--is-upgrade") == rendered[name]


@pytest.mark.parametrize("case", REFUSED)
def test_bad_values_are_refused(case: str, tools: None) -> None:
    value, text = REFUSED[case]
    assert text in refusal("--set", value)


def test_old_clusters_are_refused(tools: None) -> None:
    assert "incompatible with Kubernetes v1.26.0" in refusal("--kube-version", "1.26.0")
    assert not refusal("--kube-version", "1.27.0")


def test_notes_say_how_to_use_it_and_what_is_open(tools: None) -> None:
    notes = run_helm("install", "dougdb", str(CHART), "--dry-run=client", "--namespace", "store").stdout
    notes = notes.partition("NOTES:")[2]
    for text in (
        "kubectl -n store port-forward service/dougdb-facade 8080:8080",
        "curl localhost:8080/v1/kv/hello -X PUT -d world",
        "WARNING: tls.mode is disabled and auth.mode is none. WHOEVER REACHES THE SERVICE READS AND WRITES EVERYTHING",
        "delete pvc -l app.kubernetes.io/instance=dougdb",
    ):
        assert text in notes
    secure = run_helm("install", "dougdb", str(CHART), "--dry-run=client", "--set", "tls.mode=selfSigned").stdout
    secure = secure.partition("NOTES:")[2]
    assert "curl --cacert ca.crt https://localhost:8080/v1/kv/hello -X PUT -d world" in secure
    assert """get secret dougdb-tls -o 'go-template={{index .data "ca.crt" | base64decode}}' > ca.crt""" in secure
    assert "WARNING: auth.mode is none. WHOEVER REACHES THE SERVICE" in secure
    guarded = run_helm("install", "dougdb", str(CHART), "--dry-run=client", "--set", TOKENS).stdout
    guarded = guarded.partition("NOTES:")[2]
    assert "WARNING" not in guarded
    for text in (
        """get secret boot -o 'go-template={{index .data "token" | base64decode}}')""",
        'curl -H "Authorization: Bearer $DOUGDB_TOKEN" --cacert ca.crt https://localhost:8080/v1/kv/hello -X PUT',
        "dougctl auth token create my-app --allow read:config/",
        "delete secret boot",
    ):
        assert text in guarded


# -- Who may do what ------------------------------------------------------------------------------------------------

TOKENS = "tls.mode=selfSigned,auth.mode=token,auth.bootstrapSecret=boot"
ALL_MODES = (
    "tls.mode=selfSigned,auth.mode=token\\,mtls\\,oidc,auth.bootstrapSecret=boot,auth.clientCASecret=clients,"
    "auth.oidc.issuer=https://issuer,auth.oidc.audience=dougdb,auth.oidc.jwks=https://issuer:8443/keys,"
    "auth.oidc.caSecret=issuer,auth.metricsTokenSecret=seer"
)


def test_without_access_control_nothing_of_it_is_there(default: list[Object]) -> None:
    assert not [one for one in default if "DOUGDB_AUTH_" in str(one) or "DOUGDB_TOKEN'" in str(one)]


def test_every_mode_reaches_the_facades_and_the_nodes(tools: None) -> None:
    objects = render("--set", f"{ALL_MODES},monitoring.enabled=true,backup.enabled=true", *OPERATOR)
    assert not [message for _, version, message in validate(objects, VERSIONS) if version not in CUSTOM]
    settings = {
        one["metadata"]["name"]: {name: value for name, value in one["data"].items() if name.startswith("DOUGDB_AUTH_")}
        for one in objects
        if one["kind"] == "ConfigMap" and "DOUGDB_LOG_LEVEL" in one["data"]
    }
    assert settings == {
        "dougdb-raft": {"DOUGDB_AUTH_MODE": "token,mtls,oidc", "DOUGDB_AUTH_FACADE_NAMES": "dougdb-facade"},
        "dougdb-facade": {
            "DOUGDB_AUTH_MODE": "token,mtls,oidc",
            "DOUGDB_AUTH_BOOTSTRAP_FILE": "/etc/dougdb/bootstrap/token",
            "DOUGDB_AUTH_SESSION_KEY_FILE": "/etc/dougdb/session/key",
            "DOUGDB_AUTH_CLIENT_CA_FILE": "/etc/dougdb/client-ca/ca.crt",
            "DOUGDB_AUTH_OIDC_ISSUER": "https://issuer",
            "DOUGDB_AUTH_OIDC_AUDIENCE": "dougdb",
            "DOUGDB_AUTH_OIDC_JWKS": "https://issuer:8443/keys",
            "DOUGDB_AUTH_OIDC_JWKS_CA_FILE": "/etc/dougdb/oidc-ca/ca.crt",
            "DOUGDB_AUTH_OIDC_CLAIM": "sub",
            "DOUGDB_AUTH_OIDC_GROUPS_CLAIM": "groups",
        },
    }
    (facade,) = [one for one in objects if one["kind"] == "Deployment"]
    spec = facade["spec"]["template"]["spec"]
    secrets = {one["name"]: one["secret"] for one in spec["volumes"] if "secret" in one and one["name"] != "tls"}
    assert {name: secret["secretName"] for name, secret in secrets.items()} == {
        "bootstrap": "boot",
        "session": "dougdb-session",
        "client-ca": "clients",
        "oidc-ca": "issuer",
    }
    assert secrets["bootstrap"]["optional"] and "optional" not in secrets["client-ca"]
    mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    assert all(mounts[name]["readOnly"] and mounts[name]["mountPath"] == f"/etc/dougdb/{name}" for name in secrets)
    for node in (one for one in objects if one["kind"] == "StatefulSet"):
        assert "boot" not in {
            volume.get("secret", {}).get("secretName") for volume in node["spec"]["template"]["spec"]["volumes"]
        }


def test_nodes_judge_jwts_if_that_is_asked_for(tools: None) -> None:
    """They know the issuer then, its authority, and the way to its keys; clients reach them where that is said, too."""
    peer = "networkPolicy.nodeClientsFrom[0].podSelector.matchLabels.app=cart"
    objects = render("--set", f"{ALL_MODES},auth.oidc.atNodes=true,{peer}")
    assert not [message for _, version, message in validate(objects, VERSIONS) if version not in CUSTOM]
    (data,) = [
        one["data"] for one in objects if one["kind"] == "ConfigMap" and "DOUGDB_DRAIN_TIMEOUT_MS" in one["data"]
    ]
    issuer = {name: value for name, value in data.items() if name.startswith("DOUGDB_AUTH_OIDC_")}
    assert issuer == {
        "DOUGDB_AUTH_OIDC_ISSUER": "https://issuer",
        "DOUGDB_AUTH_OIDC_AUDIENCE": "dougdb",
        "DOUGDB_AUTH_OIDC_JWKS": "https://issuer:8443/keys",
        "DOUGDB_AUTH_OIDC_JWKS_CA_FILE": "/etc/dougdb/oidc-ca/ca.crt",
        "DOUGDB_AUTH_OIDC_CLAIM": "sub",
        "DOUGDB_AUTH_OIDC_GROUPS_CLAIM": "groups",
    }
    for node in (one["spec"]["template"]["spec"] for one in objects if one["kind"] == "StatefulSet"):
        assert {"name": "oidc-ca", "secret": {"secretName": "issuer", "defaultMode": 0o440}} in node["volumes"]
        mount = {"name": "oidc-ca", "mountPath": "/etc/dougdb/oidc-ca", "readOnly": True}
        assert mount in node["containers"][0]["volumeMounts"]
    policies = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NetworkPolicy"}
    assert {"ports": [{"port": 8443, "protocol": "TCP"}]} in policies["dougdb-raft"]["egress"]
    (clients,) = [rule for rule in policies["dougdb-raft"]["ingress"] if rule["ports"][0]["port"] == "client"]
    assert {"podSelector": {"matchLabels": {"app": "cart"}}} in clients["from"] and len(clients["from"]) == 2


def test_rates_of_clients_reach_facades_and_nodes(tools: None) -> None:
    names = ("DOUGDB_CLIENT_REQUESTS_PER_S", "DOUGDB_ADDRESS_REQUESTS_PER_S")
    assert not [one for one in render() if any(name in str(one) for name in names)]
    objects = render("--set", "limits.clientRequestsPerS=1000000,limits.addressRequestsPerS=70")
    found = [
        tuple(one["data"].get(name) for name in names)
        for one in objects
        if one["kind"] == "ConfigMap" and "DOUGDB_LOG_LEVEL" in one["data"]
    ]
    assert found == [("1000000", "70")] * 2


def test_a_prometheus_of_the_console_is_named_to_facades_and_may_be_reached(tools: None) -> None:
    assert not [one for one in render() if "DOUGDB_CONSOLE_PROMETHEUS" in one.get("data", {})]
    for address, port in (("http://prometheus.monitoring:9090", 9090), ("https://prometheus.example/team", 443)):
        objects = render("--set", f"console.prometheus={address}")
        (settings,) = [one["data"] for one in objects if "DOUGDB_CONSOLE_PROMETHEUS" in one.get("data", {})]
        assert settings["DOUGDB_CONSOLE_PROMETHEUS"] == address
        assert settings["DOUGDB_CONSOLE_PROMETHEUS_MATCH"].startswith('namespace="')
        policies = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NetworkPolicy"}
        assert {"ports": [{"port": port, "protocol": "TCP"}]} in policies["dougdb-facade"]["egress"]
    assert refusal("--set", "console.prometheus=prometheus:9090")


def test_all_facades_sign_sessions_of_the_console_with_one_key(tools: None) -> None:
    """A session that one facade gave would count at no other, and a Service takes any of them."""
    (made,) = [one for one in render("--set", TOKENS) if one["metadata"]["name"] == "dougdb-session"]
    assert len(base64.b64decode(made["data"]["key"])) >= 32
    own = render("--set", f"{TOKENS},auth.sessionKeySecret=mine")
    assert "dougdb-session" not in {one["metadata"]["name"] for one in own}
    (facade,) = [one for one in own if one["kind"] == "Deployment"]
    volumes = {one["name"]: one for one in facade["spec"]["template"]["spec"]["volumes"]}
    assert volumes["session"]["secret"]["secretName"] == "mine"


def test_who_uses_the_facade_shows_a_token_of_a_secret(tools: None) -> None:
    objects = render("--set", f"{ALL_MODES},monitoring.enabled=true,backup.enabled=true", *OPERATOR)
    (test,) = [one for one in objects if one["kind"] == "Pod"]
    (backup,) = [one for one in objects if one["kind"] == "CronJob"]
    for spec in (test["spec"], backup["spec"]["jobTemplate"]["spec"]["template"]["spec"]):
        tokens = [one for one in spec["containers"][0]["env"] if one["name"] == "DOUGDB_TOKEN"]
        reference = {"name": "boot", "key": "token", "optional": True}
        assert tokens == [{"name": "DOUGDB_TOKEN", "valueFrom": {"secretKeyRef": reference}}]
    (monitor,) = [one for one in objects if one["kind"] == "ServiceMonitor"]
    assert monitor["spec"]["endpoints"][0]["authorization"] == {"credentials": {"name": "seer", "key": "token"}}
    policies = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NetworkPolicy"}
    assert {"ports": [{"port": 8443, "protocol": "TCP"}]} in policies["dougdb-facade"]["egress"]


# -- TLS and discovery ----------------------------------------------------------------------------------------------

TLS = {
    "existingSecret": "tls.mode=existingSecret,tls.existingSecret=mine",
    "certManager": "tls.mode=certManager,tls.certManager.issuerRef.name=issuer",
    "selfSigned": "tls.mode=selfSigned",
}


@pytest.mark.parametrize("mode", TLS)
def test_tls_reaches_every_pod(mode: str, tools: None) -> None:
    objects = render("--set", f"{TLS[mode]},monitoring.enabled=true", *OPERATOR)
    assert not [message for _, version, message in validate(objects, VERSIONS) if version not in CUSTOM]
    secret = "mine" if mode == "existingSecret" else "dougdb-tls"
    for one in objects:
        if one["kind"] in ("StatefulSet", "Deployment"):
            spec = one["spec"]["template"]["spec"]
            assert {"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}} in spec["volumes"]
            probes = [spec["containers"][0][f"{name}Probe"] for name in ("startup", "liveness", "readiness")]
            assert {probe["httpGet"]["scheme"] for probe in probes} == {"HTTPS"}
            mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
            assert mounts["tls"] == "/etc/dougdb/tls"
    for one in objects:
        if one["kind"] == "ConfigMap" and "DOUGDB_LOG_LEVEL" in one["data"]:
            tls = {name: value for name, value in one["data"].items() if name.startswith("DOUGDB_TLS_")}
            assert tls == {
                "DOUGDB_TLS_MODE": "mutual",
                "DOUGDB_TLS_CERT_FILE": "/etc/dougdb/tls/tls.crt",
                "DOUGDB_TLS_KEY_FILE": "/etc/dougdb/tls/tls.key",
                "DOUGDB_TLS_CA_FILE": "/etc/dougdb/tls/ca.crt",
            }
    for one in objects:
        if one["kind"] in ("PodMonitor", "ServiceMonitor"):
            (endpoint,) = one["spec"].get("endpoints", []) + one["spec"].get("podMetricsEndpoints", [])
            assert endpoint["scheme"] == "https"
            assert endpoint["tlsConfig"]["ca"]["secret"] == {"name": secret, "key": "ca.crt"}
    (test,) = [one for one in objects if one["kind"] == "Pod"]
    assert test["spec"]["containers"][0]["args"][0].startswith("https://")
    made = [one for one in objects if one["kind"] in ("Secret", "Certificate")]
    assert [one["kind"] for one in made] == {"existingSecret": [], "certManager": ["Certificate"]}.get(mode, ["Secret"])
    if mode == "certManager":
        names = made[0]["spec"]["dnsNames"]
        assert {"dougdb-facade", "*.dougdb-s1-peers.dougdb.svc", "*.dougdb-s1-peers.dougdb.svc.cluster.local"} <= set(
            names
        )


DISCOVERY = {
    "mode=auto": (True, True),
    "mode=kubernetes": (True, True),
    "mode=auto,rbac=false": (False, False),
    "mode=kubernetes,rbac=false": (True, False),
    "mode=dns": (False, False),
    "mode=static": (False, False),
}
"""Whether facades get a token, and whether the chart makes the Role."""


@pytest.mark.parametrize("case", DISCOVERY)
def test_only_facades_that_ask_kubernetes_get_rights(case: str, tools: None) -> None:
    token, rights = DISCOVERY[case]
    objects = render("--set", ",".join(f"discovery.{part}" for part in case.split(",")))
    roles = [one["rules"] for one in objects if one["kind"] == "Role"]
    only = [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]}]
    assert roles == ([only] if rights else [])
    assert len([one for one in objects if one["kind"] == "RoleBinding"]) == len(roles)
    tokens = {
        one["metadata"]["name"]: one["spec"]["template"]["spec"]["automountServiceAccountToken"]
        for one in objects
        if one["kind"] in ("StatefulSet", "Deployment")
    }
    assert tokens == {"dougdb-s0": False, "dougdb-s1": False, "dougdb-facade": token}
    (policy,) = [
        one for one in objects if one["kind"] == "NetworkPolicy" and one["metadata"]["name"].endswith("facade")
    ]
    assert (443 in [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]) is token
