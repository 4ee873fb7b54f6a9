"""Values as users have them: of an earlier chart, from files, at the edges of what is allowed, over the chart's own."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tools.helm_chart import CHART, run_helm
from tools.helm_tools import TOOLS
from tools.rendering import NAMESPACE, Object, named, of_kind, pod_templates, read, refusal, render

OPERATOR = ("--api-versions", "monitoring.coreos.com/v1")
LONGEST = "a" * 44
EVERYTHING = (
    "shards=64,raft.replicas=9,backup.enabled=true,monitoring.enabled=true,facade.autoscaling.enabled=true,"
    "facade.ingress.enabled=true,facade.ingress.hosts[0]=a.example,facade.ingress.annotations.a=b,tls.mode=selfSigned,"
    "auth.mode=token"
)


def values_file(folder: Path, values: dict[str, Any]) -> tuple[str, str]:
    """The options that take values from a file, where Helm reads every number as a float."""
    path = folder / "values.json"
    path.write_text(json.dumps(values))
    return "--values", str(path)


# -- values of an earlier chart -------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["helm", "helm3"])
def test_values_that_an_earlier_chart_did_not_have_are_the_defaults(
    program: str, default: list[Object], changed_chart: Callable[[dict[str, str]], Path]
) -> None:
    """`helm upgrade --reuse-values` takes the values of the earlier chart in the place of this one's defaults."""
    helm = TOOLS / "bin" / program
    if not helm.exists():
        pytest.skip(f"{program} is not installed")
    resources = "{requests: {cpu: 100m, memory: 128Mi}, limits: {memory: 384Mi}}"
    for values in (
        "{}",
        f"facade: {{replicas: 2, image: {{tag: ''}}, resources: {resources}}}\ntls: {{mode: disabled}}\n",
    ):
        chart = changed_chart({"values.yaml": values})
        run = run_helm("template", "dougdb", str(chart), "--namespace", NAMESPACE, program=str(helm))
        assert run.returncode == 0, run.stderr
        assert read(run.stdout) == default


def test_resources_that_were_taken_away_stay_away(tools: None) -> None:
    objects = render("--set", "raft.resources.limits.memory=null,facade.resources.requests=null")
    (node, *_), (facade,) = of_kind(objects, "StatefulSet"), of_kind(objects, "Deployment")
    given = [one["spec"]["template"]["spec"]["containers"][0]["resources"] for one in (node, facade)]
    assert "memory" not in (given[0].get("limits") or {}) and not given[1].get("requests")


# -- numbers --------------------------------------------------------------------------------------------------------


def test_large_numbers_from_files_stay_whole(tools: None, tmp_path: Path) -> None:
    """A service does not take 1e+06 for a whole number, nor does Kubernetes."""
    million = 1_000_000
    values = {
        "limits": {"clientRequestsPerS": million, "addressRequestsPerS": 2 * million},
        "backup": {"enabled": True, "activeDeadlineSeconds": million, "keep": million},
        "raft": {
            "terminationGracePeriodSeconds": million,
            "settings": {"DOUGDB_MEMTABLE_BYTES": 33554432},
            "sidecars": [{"name": "s", "image": "i:1", "securityContext": {"runAsUser": 2 * million}}],
        },
        "tracing": {"enabled": True, "endpoint": "http://otel:4318", "sampleRatio": 0.5},
    }
    objects = render(*values_file(tmp_path, values))
    assert not re.findall(r"\d+(?:\.\d+)?e\+\d+", json.dumps(objects))
    node, facade = (named(objects, "ConfigMap", name)["data"] for name in ("dougdb-raft", "dougdb-facade"))
    for settings in (node, facade):
        assert settings["DOUGDB_CLIENT_REQUESTS_PER_S"] == "1000000"
        assert settings["DOUGDB_ADDRESS_REQUESTS_PER_S"] == "2000000"
    assert node["DOUGDB_MEMTABLE_BYTES"] == "33554432"
    assert facade["DOUGDB_TRACING_SAMPLE_RATIO"] == "0.5"
    pod = named(objects, "StatefulSet", "dougdb-s0")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == million
    assert pod["containers"][1]["securityContext"] == {"runAsUser": 2 * million}
    (cron,) = of_kind(objects, "CronJob")
    assert cron["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] == million


# -- names ----------------------------------------------------------------------------------------------------------


def test_the_longest_name_makes_no_name_too_long(tools: None) -> None:
    """Kubernetes puts names of Jobs and StatefulSets into labels, with what it appends."""
    objects = render("--set", f"fullnameOverride={LONGEST},{EVERYTHING}".replace("monitoring.enabled=true,", ""))
    room = {"CronJob": 52, "StatefulSet": 63 - len("-1234567890")}
    for one in objects:
        name, kind = one["metadata"]["name"], one["kind"]
        assert len(name) <= room.get(kind, 63), (kind, name)
    assert {one["kind"] for one in objects} >= {"CronJob", "Job", "StatefulSet", "Deployment", "Ingress", "Secret"}


@pytest.mark.parametrize("release", ["1db", "a.b"])
def test_a_release_whose_name_is_none_of_a_service_is_refused_at_once(release: str, tools: None) -> None:
    """Helm takes it, and the API server takes a part of the objects."""
    run = run_helm("template", release, str(CHART))
    assert run.returncode and "is none of a Service" in run.stderr
    assert not run_helm("template", release, str(CHART), "--set", "fullnameOverride=db").returncode


# -- over the chart's own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raft", "facade"])
def test_annotations_and_labels_are_there_once(kind: str, tools: None) -> None:
    """A user's takes the place of the chart's; twice in a map, some tools refuse it and others take either."""
    words = (
        ("--set-string", rf"{kind}.podAnnotations.prometheus\.io/scrape=false,commonLabels.team=a"),
        ("--set-string", f"monitoring.labels.team=b,{kind}.podLabels.tier=x"),
        ("--set", "monitoring.enabled=true"),
        OPERATOR,
    )
    options = [word for pair in words for word in pair]
    text = run_helm("template", "dougdb", str(CHART), "--namespace", NAMESPACE, *options).stdout
    assert not twice(text)
    templates = dict(pod_templates(read(text)))
    changed = templates["dougdb-s0" if kind == "raft" else "dougdb-facade"]["metadata"]
    assert changed["annotations"]["prometheus.io/scrape"] == "false" and changed["labels"]["tier"] == "x"
    monitors = [one for one in read(text) if one["kind"] in ("PodMonitor", "ServiceMonitor", "PrometheusRule")]
    assert {one["metadata"]["labels"]["team"] for one in monitors} == {"b"}


def twice(text: str) -> list[str]:
    """The keys that a map has twice, as Python's own reader of YAML finds them."""
    program = (
        "import sys, yaml\n"
        "class Strict(yaml.SafeLoader): pass\n"
        "def build(loader, node):\n"
        "    keys = [key.value for key, _ in node.value]\n"
        "    print(*{key for key in keys if keys.count(key) > 1}, end=' ')\n"
        "    return dict(loader.construct_pairs(node, deep=True))\n"
        "Strict.add_constructor('tag:yaml.org,2002:map', build)\n"
        "list(yaml.load_all(sys.stdin, Strict))\n"
    )
    python = TOOLS / "bin" / "python"
    run = subprocess.run([str(python), "-c", program], input=text, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_keys_that_are_there_twice_would_be_found(tools: None) -> None:
    assert twice("a: {b: 1, b: 2}\nc: 3\n") == ["b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (r"raft.podLabels.app\.kubernetes\.io/name=x", "the chart selects pods by it"),
        (r"raft.podLabels.dougdb\.io/shard=x", "the chart selects pods by it"),
        (r"facade.podLabels.app\.kubernetes\.io/instance=x", "the chart selects pods by it"),
        ("raft.extraEnv[0].name=A,raft.extraEnv[0].value=1", "at '/raft/extraEnv/0/value': got number, want string"),
        ("tls.extraNames[0]=https://kv", "at '/tls/extraNames/0'"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_at_once(value: str, text: str, tools: None) -> None:
    assert text in refusal("--set", value)


@pytest.mark.parametrize(
    "value", ["image.pullPolicy=Always", "nameOverride=kv,fullnameOverride=dougdb", "facade.hostUsers=false"]
)
def test_a_job_with_another_pod_has_another_name(value: str, tools: None) -> None:
    """The API server refuses an upgrade that changes a Job, and helm keeps one that is done."""
    jobs = [of_kind(render("--set", f"backup.enabled=true,{one}"), "Job")[0] for one in ("shards=2", value)]
    assert jobs[0]["spec"] != jobs[1]["spec"]
    assert jobs[0]["metadata"]["name"] != jobs[1]["metadata"]["name"]


# -- where pods run, and under which names they are asked -----------------------------------------------------------


def test_a_hard_spread_gives_each_node_of_a_shard_a_machine(tools: None) -> None:
    """Skew alone lets two of five nodes onto one of three machines, as long as all have their share."""
    objects = render("--set", "spread.hard=true,raft.replicas=3")
    for one in of_kind(objects, "StatefulSet"):
        machine, zone = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert (machine["topologyKey"], machine["maxSkew"], machine["minDomains"]) == ("kubernetes.io/hostname", 1, 3)
        assert "minDomains" not in zone
    (facades,) = of_kind(objects, "Deployment")
    assert not [one for one in facades["spec"]["template"]["spec"]["topologySpreadConstraints"] if "minDomains" in one]
    soft = of_kind(render(), "StatefulSet")[0]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert not [one for one in soft if "minDomains" in one], "Kubernetes takes it with DoNotSchedule only"


def test_certificates_and_facades_know_the_names_outside(tools: None) -> None:
    names = "tls.extraNames[0]=kv.example.org,tls.extraNames[1]=*.kv.example.org"
    objects = render("--set", f"tls.mode=certManager,tls.certManager.issuerRef.name=x,{names}")
    (certificate,) = of_kind(objects, "Certificate")
    assert {"kv.example.org", "*.kv.example.org"} < set(certificate["spec"]["dnsNames"])
    hosts = named(objects, "ConfigMap", "dougdb-facade")["data"]["DOUGDB_ALLOWED_HOSTS"].split(",")
    assert {"kv.example.org", "*.kv.example.org"} < set(hosts)


@pytest.mark.parametrize(("mode", "protocols"), [("disabled", {"kubernetes.io/h2c"}), ("selfSigned", {None})])
def test_no_mesh_takes_tls_for_plaintext(mode: str, protocols: set[str | None], tools: None) -> None:
    objects = render("--set", f"tls.mode={mode}")
    ports = [port for one in of_kind(objects, "Service") for port in one["spec"]["ports"]]
    assert {port.get("appProtocol") for port in ports if port["name"] in ("client", "peer")} == protocols
