"""What the chart gives: whom it lets do what, what it asks for, and that its parts fit each other and the services."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.helm_chart import CHART, ROOT
from tools.rendering import Object, environment_of, named, of_kind, pod_templates, render
from tools.version import one_version

from facade.settings import Settings
from raft_node.app.parts import raft_config
from raft_node.settings import NodeSettings

OPERATOR = ("--api-versions", "monitoring.coreos.com/v1")
UNITS = {"": 1, "m": 0.001, "Mi": 1 << 20, "Gi": 1 << 30}


def quantity(text: str) -> float:
    match = re.fullmatch(r"(\d+)(\D*)", str(text))
    assert match, text
    return int(match[1]) * UNITS[match[2]]


def container(template: Object) -> Object:
    (only,) = template["spec"]["containers"]
    found: Object = only
    return found


def workload(objects: list[Object], kind: str, name: str) -> Object:
    template: Object = named(objects, kind, name)["spec"]["template"]
    return template


# -- the settings of the services -----------------------------------------------------------------------------------


def settings_of(model: Any, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The services' own settings, from an environment and nothing else."""
    for name in [name for name in __import__("os").environ if name.startswith("DOUGDB_")]:
        monkeypatch.delenv(name)
    own = {name: value for name, value in environment.items() if name.startswith("DOUGDB_")}
    unknown = {name for name in own if name.removeprefix("DOUGDB_").lower() not in model.model_fields}
    assert not unknown, "the chart sets what the service does not read"
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    return model()


@pytest.mark.parametrize("options", [(), ("--values", str(CHART / "values-kind.yaml")), ("--set", "shards=3")])
def test_every_node_takes_its_environment(
    options: tuple[str, ...], tools: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render(*options)
    sets = of_kind(objects, "StatefulSet")
    for shard, one in enumerate(sets):
        names = [f"dougdb-s{shard}-{ordinal}" for ordinal in range(one["spec"]["replicas"])]
        domain = f"dougdb-s{shard}-peers.dougdb.svc.cluster.local"
        for name in names:
            settings = settings_of(NodeSettings, environment_of(objects, one["spec"]["template"], name), monkeypatch)
            assert (settings.node_id, settings.shard_id, settings.initial_shards) == (name, shard, len(sets))
            assert settings.peer_addresses == {name: f"{name}.{domain}:21001" for name in names}
            assert settings.client_address == f"{name}.{domain}:21000"
            assert settings.seed_addresses == [
                f"dougdb-s0-{i}.dougdb-s0-peers.dougdb.svc.cluster.local:21001" for i in range(5)
            ]
            assert raft_config(settings).election_timeout_ticks == (100 if "--values" in options else 15)


def test_the_facade_takes_its_environment(default: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    template = workload(default, "Deployment", "dougdb-facade")
    settings = settings_of(Settings, environment_of(default, template, "dougdb-facade-x"), monkeypatch)
    assert settings.facade_id == "dougdb-facade-x"
    assert {address.port for address in settings.listen} == {8080}
    assert {shard: len(nodes) for shard, nodes in settings.nodes.items()} == {0: 5, 1: 5}
    for shard, nodes in settings.nodes.items():
        one = workload(default, "StatefulSet", f"dougdb-s{shard}")
        for name, address in nodes.items():
            # The address under which the facade calls a node is the one that the node tells others.
            assert environment_of(default, one, name)["DOUGDB_CLIENT_ADVERTISE"] == address


@pytest.mark.parametrize("mode", ["static", "dns", "kubernetes", "auto"])
def test_the_services_take_tls_and_every_discovery(mode: str, tools: None, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render("--set", f"tls.mode=selfSigned,discovery.mode={mode}")
    node = environment_of(objects, workload(objects, "StatefulSet", "dougdb-s1"), "dougdb-s1-0")
    facade = environment_of(objects, workload(objects, "Deployment", "dougdb-facade"), "x")
    for settings in (settings_of(NodeSettings, node, monkeypatch), settings_of(Settings, facade, monkeypatch)):
        assert settings.tls_mode == "mutual"
        assert settings.tls_ca_file == "/etc/dougdb/tls/ca.crt"
    settings = settings_of(Settings, facade, monkeypatch)
    assert settings.discovery == mode
    # The names of nodes are there in every mode, for as long as the API server does not answer.
    assert {len(nodes) for nodes in settings.nodes.values()} == {5}
    if mode == "static":
        return
    assert settings.dns_names == {n: f"dougdb-s{n}-peers.dougdb.svc.cluster.local" for n in (0, 1)}
    assert settings.kubernetes_namespace == "dougdb"
    selected = dict(part.split("=") for part in settings.kubernetes_selector.split(","))
    found = [one["metadata"] for one in of_kind(objects, "Service") if matches(selected, one["metadata"]["labels"])]
    # EndpointSlices take over the labels of their Service: each pod is found once, and its shard is told.
    assert {one["name"]: one["labels"]["dougdb.io/shard"] for one in found} == {"dougdb-s0": "0", "dougdb-s1": "1"}
    assert settings.discovery_port_name in {port["name"] for port in of_kind(objects, "Service")[0]["spec"]["ports"]}


def test_the_zone_of_a_pod_is_told_to_its_service(tools: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the label that Kubernetes copies from the machine, or another; a pod without it has no zone."""
    default = r"facade.podLabels.topology\.kubernetes\.io/zone=a,raft.podLabels.topology\.kubernetes\.io/zone=b"
    own = r"zoneLabel=where,facade.podLabels.where=a,raft.podLabels.where=b"
    for values, zones in ((default, ("a", "b")), (own, ("a", "b")), ("shards=2", ("", "")), ("zoneLabel=", ("", ""))):
        objects = render("--set", values)
        facade = environment_of(objects, workload(objects, "Deployment", "dougdb-facade"), "x")
        node = environment_of(objects, workload(objects, "StatefulSet", "dougdb-s1"), "dougdb-s1-0")
        assert settings_of(Settings, facade, monkeypatch).zone == zones[0]
        assert settings_of(NodeSettings, node, monkeypatch).zone == zones[1]
        assert ("DOUGDB_ZONE" in node) is (values != "zoneLabel=")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_nodes_listen_where_their_pods_have_addresses(host: str, tools: None, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render("--set", f"raft.listen={host}")
    node = environment_of(objects, workload(objects, "StatefulSet", "dougdb-s0"), "dougdb-s0-0")
    settings = settings_of(NodeSettings, node, monkeypatch)
    assert {address.rpartition(":")[0] for address in (settings.client_listen, settings.peer_listen)} == {host}
    assert settings.admin_listen == f"{host}:21002"


def test_plaintext_is_chosen_and_not_left_open(default: list[Object]) -> None:
    """Without the choice a node that listens beyond loopback does not start."""
    for one in of_kind(default, "ConfigMap"):
        if "DOUGDB_LOG_LEVEL" in one["data"]:
            assert one["data"]["DOUGDB_TLS_MODE"] == "disabled"


def test_large_numbers_stay_whole(tools: None, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = render("--set", "raft.settings.DOUGDB_MEMTABLE_BYTES=33554432")
    environment = environment_of(objects, workload(objects, "StatefulSet", "dougdb-s0"), "dougdb-s0-0")
    assert settings_of(NodeSettings, environment, monkeypatch).memtable_bytes == 32 << 20


def test_log_and_data_lie_on_their_claims(default: list[Object]) -> None:
    for objects, claims in ((default, {"wal", "data"}), (render("--set", "persistence.wal.enabled=false"), {"data"})):
        one = named(objects, "StatefulSet", "dougdb-s1")
        found = {claim["metadata"]["name"]: claim["spec"] for claim in one["spec"]["volumeClaimTemplates"]}
        assert set(found) == claims
        mounts = {mount["mountPath"]: mount["name"] for mount in container(one["spec"]["template"])["volumeMounts"]}
        environment = environment_of(objects, one["spec"]["template"], "dougdb-s1-0")
        for variable, claim in (
            ("DOUGDB_WAL_DIR", min(claims, key=lambda name: name != "wal")),
            ("DOUGDB_DATA_DIR", "data"),
        ):
            directory = Path(environment[variable])
            # A folder below the mount: a volume's own lost+found is none of the node's.
            assert mounts[str(directory.parent)] == claim
            assert found[claim]["accessModes"] == ["ReadWriteOnce"]
        assert environment["DOUGDB_WAL_DIR"] != environment["DOUGDB_DATA_DIR"]


def test_claims_have_their_sizes_and_stay(tools: None) -> None:
    for options, sizes in (
        ((), {"wal": "2Gi", "data": "10Gi"}),
        (("--values", str(CHART / "values-kind.yaml")), {"wal": "1Gi", "data": "1Gi"}),
    ):
        spec = named(render(*options), "StatefulSet", "dougdb-s0")["spec"]
        found = {
            claim["metadata"]["name"]: claim["spec"]["resources"]["requests"]["storage"]
            for claim in spec["volumeClaimTemplates"]
        }
        assert found == sizes
        assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


# -- security -------------------------------------------------------------------------------------------------------


def test_every_pod_passes_pod_security_restricted(default: list[Object]) -> None:
    """The rules of the Pod Security Standard, and a read-only root besides."""
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret", "ephemeral", "downwardAPI"}
    count = 0
    for _, template in pod_templates(default):
        spec = template["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= allowed
        for one in spec["containers"] + spec.get("initContainers", []):
            context = one["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert not {"privileged", "procMount", "runAsUser"} & set(context)
            assert not [port for port in one.get("ports", []) if "hostPort" in port]
            count += 1
    assert count == 4


def test_only_facades_hold_a_token(default: list[Object]) -> None:
    for name, template in pod_templates(default):
        assert template["spec"]["automountServiceAccountToken"] is (name == "dougdb-facade"), name
    for account in of_kind(default, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_nodes_are_reached_by_facades_and_nodes_alone(default: list[Object]) -> None:
    policy = named(default, "NetworkPolicy", "dougdb-raft")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    who = {
        rule["ports"][0]["port"]: [peer.get("podSelector", {}).get("matchLabels", peer) for peer in rule["from"]]
        for rule in policy["ingress"]
    }
    assert [labels["app.kubernetes.io/component"] for labels in who["peer"]] == ["raft-node"]
    assert [labels["app.kubernetes.io/component"] for labels in who["client"]] == ["facade"]
    assert who["admin"] == [{"namespaceSelector": {}}]
    facade = named(default, "NetworkPolicy", "dougdb-facade")["spec"]
    assert [rule["ports"][0]["port"] for rule in facade["egress"]] == [21000, 8080, 53, 443]


@pytest.mark.parametrize("backups", [False, True])
def test_the_charts_own_clients_reach_the_facades_where_only_some_may(backups: bool, tools: None) -> None:
    """Its test, its backups, and dougctl in a facade's pod, which the Service may lead to another facade."""
    clients = 'networkPolicy.clientsFrom=[{"namespaceSelector":{}}]'
    objects = render("--set", f"backup.enabled={str(backups).lower()}", "--set-json", clients)
    (test,) = of_kind(objects, "Pod")
    own = [test["metadata"]["labels"], workload(objects, "Deployment", "dougdb-facade")["metadata"]["labels"]]
    own += [one["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"] for one in of_kind(objects, "CronJob")]
    assert len(own) == 2 + backups
    policy = named(objects, "NetworkPolicy", "dougdb-facade")["spec"]
    let_in = policy["ingress"][0]["from"]
    selected = [one["podSelector"]["matchLabels"] for one in let_in if "podSelector" in one]
    for labels in own:
        assert [one for one in selected if one.items() <= labels.items()], labels
    assert len(let_in) == 1 + len(own)
    facades = {"podSelector": {"matchLabels": policy["podSelector"]["matchLabels"]}}
    assert {"to": [facades], "ports": [{"port": 8080, "protocol": "TCP"}]} in policy["egress"]


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("http://otel.observability:4318/v1/traces", 4318), ("https://otel.example/v1/traces", 443), ("http://otel", 80)],
)
def test_traces_are_set_at_both_services_and_reach_their_collector(
    endpoint: str, port: int, tools: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = render("--set", f"tracing.enabled=true,tracing.endpoint={endpoint},tracing.sampleRatio=0.5")
    node = environment_of(objects, workload(objects, "StatefulSet", "dougdb-s1"), "dougdb-s1-0")
    facade = environment_of(objects, workload(objects, "Deployment", "dougdb-facade"), "x")
    for settings in (settings_of(NodeSettings, node, monkeypatch), settings_of(Settings, facade, monkeypatch)):
        assert (settings.tracing_enabled, settings.tracing_endpoint) == (True, endpoint)
    assert settings_of(Settings, facade, monkeypatch).tracing_sample_ratio == 0.5
    for name in ("dougdb-raft", "dougdb-facade"):
        egress = named(objects, "NetworkPolicy", name)["spec"]["egress"]
        assert {"ports": [{"port": port, "protocol": "TCP"}]} in egress


def test_without_traces_nothing_of_them_is_there(default: list[Object]) -> None:
    assert "TRACING" not in json.dumps(default)


# -- resources and life ---------------------------------------------------------------------------------------------


def test_the_default_fits_a_laptop(default: list[Object]) -> None:
    cpu, memory = 0.0, 0.0
    for one in of_kind(default, "StatefulSet") + of_kind(default, "Deployment"):
        resources = container(one["spec"]["template"])["resources"]
        cpu += one["spec"]["replicas"] * quantity(resources["requests"]["cpu"])
        memory += one["spec"]["replicas"] * quantity(resources["requests"]["memory"])
        if one["kind"] == "StatefulSet":
            assert resources == {"requests": {"cpu": "50m", "memory": "192Mi"}, "limits": {"memory": "512Mi"}}
    assert cpu <= 1
    assert memory <= 2.5 * (1 << 30)


def test_probes_ask_what_they_should(default: list[Object]) -> None:
    for name, template in pod_templates(default):
        if template.get("kind") == "Pod":
            continue
        one = container(template)
        paths = {probe: one[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
        node = "-s" in name
        assert paths == {"startup": "/startupz" if node else "/livez", "liveness": "/livez", "readiness": "/readyz"}
        ports = {port["name"] for port in one["ports"]}
        assert {one[f"{probe}Probe"]["httpGet"]["port"] for probe in paths} == {"admin" if node else "http"} <= ports
        startup, liveness = one["startupProbe"], one["livenessProbe"]
        if node:
            assert startup["periodSeconds"] * startup["failureThreshold"] == 30 * 60
        else:
            assert startup["periodSeconds"] * startup["failureThreshold"] == 10 * 60
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60


def test_the_end_has_time_for_the_hand_over(default: list[Object]) -> None:
    node = workload(default, "StatefulSet", "dougdb-s0")
    environment = environment_of(default, node, "dougdb-s0-0")
    grace_ms = node["spec"]["terminationGracePeriodSeconds"] * 1000
    assert grace_ms >= int(environment["DOUGDB_DRAIN_TIMEOUT_MS"]) + 10_000
    facade = workload(default, "Deployment", "dougdb-facade")
    (program, *_, script) = container(facade)["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "/opt/dougdb/bin/python", "there may be no shell"
    assert script == "import time; time.sleep(5)"


def test_shards_start_at_once_and_lose_one_node_at_a_time(default: list[Object]) -> None:
    for shard in ("0", "1"):
        one = named(default, "StatefulSet", f"dougdb-s{shard}")
        assert one["spec"]["podManagementPolicy"] == "Parallel"
        budget = named(default, "PodDisruptionBudget", f"dougdb-s{shard}")["spec"]
        assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
        assert budget["selector"] == one["spec"]["selector"]
        spread = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {rule["topologyKey"]: rule["whenUnsatisfiable"] for rule in spread} == {
            "kubernetes.io/hostname": "ScheduleAnyway",
            "topology.kubernetes.io/zone": "ScheduleAnyway",
        }
        for rule in spread:
            assert rule["labelSelector"] == one["spec"]["selector"]
    alone = render("--set", "shards=1,raft.replicas=1,facade.replicas=1")
    assert not of_kind(alone, "PodDisruptionBudget")
    hard = workload(render("--set", "spread.hard=true"), "StatefulSet", "dougdb-s0")
    assert {rule["whenUnsatisfiable"] for rule in hard["spec"]["topologySpreadConstraints"]} == {"DoNotSchedule"}


def test_an_autoscaler_owns_the_number_of_facades(tools: None) -> None:
    objects = render("--set", "facade.autoscaling.enabled=true,facade.replicas=7")
    assert "replicas" not in named(objects, "Deployment", "dougdb-facade")["spec"]
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler")
    assert scaler["spec"]["scaleTargetRef"]["name"] == "dougdb-facade"
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (2, 8)


# -- parts that fit -------------------------------------------------------------------------------------------------


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_what_is_named_is_there(default: list[Object]) -> None:
    for name, template in pod_templates(default):
        spec = template["spec"]
        if "serviceAccountName" in spec:
            named(default, "ServiceAccount", spec["serviceAccountName"])
        for source in container(template).get("envFrom", []):
            named(default, "ConfigMap", source["configMapRef"]["name"])
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        if "-s" in name:
            one = named(default, "StatefulSet", name)["spec"]
            volumes |= {claim["metadata"]["name"] for claim in one["volumeClaimTemplates"]}
            assert named(default, "Service", one["serviceName"])["spec"]["publishNotReadyAddresses"] is True
        assert {mount["name"] for mount in container(template).get("volumeMounts", [])} <= volumes


def test_services_find_their_pods_and_no_others(default: list[Object]) -> None:
    templates = {name: one for name, one in pod_templates(default) if one.get("kind") != "Pod"}
    expected = {
        "dougdb-facade": "dougdb-facade",
        "dougdb-s0": "dougdb-s0",
        "dougdb-s0-peers": "dougdb-s0",
        "dougdb-s1": "dougdb-s1",
        "dougdb-s1-peers": "dougdb-s1",
    }
    for service in of_kind(default, "Service"):
        name, spec = service["metadata"]["name"], service["spec"]
        (found,) = [owner for owner, one in templates.items() if matches(spec["selector"], one["metadata"]["labels"])]
        assert found == expected.pop(name)
        ports = {port["name"] for port in container(templates[found])["ports"]}
        assert {port["targetPort"] for port in spec["ports"]} <= ports
        if found != "dougdb-facade":
            assert spec["clusterIP"] == "None"
            assert spec["publishNotReadyAddresses"] is name.endswith("-peers")
    assert not expected


def test_images_are_those_of_this_version(default: list[Object]) -> None:
    version = re.search(r'^appVersion: "(.*)"$', (CHART / "Chart.yaml").read_text(), re.MULTILINE)
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert project
    assert version[1] == project[1]
    images = {container(one)["image"] for _, one in pod_templates(default)}
    assert images == {f"docker.io/dougdb/{name}:{version[1]}" for name in ("raft-node", "facade")}
    assert {container(one)["imagePullPolicy"] for _, one in pod_templates(default)} == {"IfNotPresent"}


def test_a_new_version_of_the_chart_alone_restarts_nothing(
    default: list[Object], changed_chart: Callable[[dict[str, str]], Path]
) -> None:
    text = (CHART / "Chart.yaml").read_text().replace(f"\nversion: {one_version()}", "\nversion: 99.0.0")
    objects = render(chart=changed_chart({"Chart.yaml": text}))
    assert objects != default
    for kind in ("StatefulSet", "Deployment"):
        for one in of_kind(default, kind):
            assert named(objects, kind, one["metadata"]["name"])["spec"] == one["spec"]


def test_a_changed_setting_restarts_the_nodes(default: list[Object]) -> None:
    for options, restarted in (("raft.heartbeatMs=40", "dougdb-s0"), ("facade.requestTimeoutMs=6000", "dougdb-facade")):
        objects = dict(pod_templates(render("--set", options)))
        before = dict(pod_templates(default))
        assert {name for name in before if objects[name] != before[name]} >= {restarted}
        assert ("dougdb-facade" in restarted) == (objects["dougdb-facade"] != before["dougdb-facade"])


# -- monitoring -----------------------------------------------------------------------------------------------------


def test_monitoring_carries_dashboards_and_rules(changed_chart: Callable[[dict[str, str]], Path]) -> None:
    dashboard = {"title": "Raft", "panels": [{"legendFormat": "{{ shard }}"}]}
    rule = (
        'groups:\n- name: g\n  rules:\n  - alert: A\n    expr: up == 0\n    annotations: {text: "{{ $labels.pod }}"}\n'
    )
    chart = changed_chart({"dashboards/raft.json": json.dumps(dashboard), "rules/alerts.yaml": rule})
    objects = render("--set", "monitoring.enabled=true,monitoring.labels.release=p", *OPERATOR, chart=chart)
    shipped = named(objects, "ConfigMap", "dougdb-dashboard-raft")
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(shipped["data"]["raft.json"]) == dashboard
    alerts = named(objects, "PrometheusRule", "dougdb-alerts")
    assert alerts["spec"]["groups"][0]["rules"][0]["annotations"] == {"text": "{{ $labels.pod }}"}
    for kind, name, port in (
        ("PodMonitor", "dougdb-raft", "admin"),
        ("ServiceMonitor", "dougdb-facade", "http"),
    ):
        monitor = named(objects, kind, name)
        assert monitor["metadata"]["labels"]["release"] == "p"
        (endpoint,) = monitor["spec"].get("podMetricsEndpoints", []) + monitor["spec"].get("endpoints", [])
        assert (endpoint["port"], endpoint["path"]) == (port, "/metrics")
    service = named(objects, "Service", "dougdb-facade")
    assert matches(
        named(objects, "ServiceMonitor", "dougdb-facade")["spec"]["selector"]["matchLabels"],
        service["metadata"]["labels"],
    )


def test_scrape_annotations_name_the_port(default: list[Object]) -> None:
    for name, template in pod_templates(default):
        if template.get("kind") != "Pod":
            annotations = template["metadata"]["annotations"]
            assert annotations["prometheus.io/port"] == ("21002" if "-s" in name else "8080")
            assert int(annotations["prometheus.io/port"]) in {
                port["containerPort"] for port in container(template)["ports"]
            }
