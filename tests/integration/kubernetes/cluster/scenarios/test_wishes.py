"""A release with everything that a user may ask for at once: further containers, ways in from outside, other pods.

One small release, used in the order of these tests, on a real cluster. There is no controller of ingresses or gateways:
the API server takes both objects, and requests that come under their names are answered. Skipped with podman; without
the definitions of the Gateway API (`python -m tools.kubernetes extras`) the route is left out.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from integration.kubernetes.cluster.driver import call_program, wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release, namespace
from integration.kubernetes.cluster.kubectl import POD_NETWORK, find_kubectl
from integration.kubernetes.cluster.scenarios.judged import judge
from tools.kubernetes.layout import NODE_ADDRESS, ZONE, Layout
from tools.version import one_version

Figure = Callable[[str], None]
PUBLIC, ROUTED = "kv.example.org", "kv.example.net"
CPU = "60m"
PYTHON = "/opt/dougdb/bin/python"
LIVES = "import signal as s; s.pthread_sigmask(s.SIG_BLOCK, {s.SIGTERM}); s.sigwait({s.SIGTERM})"
SIDECAR = {
    "name": "beside",
    "image": f"docker.io/dougdb/facade:{one_version()}",
    "command": [PYTHON, "-c", LIVES],
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}
PODS: dict[str, Any] = {
    # Not false: that asks for a runtime which gives pods user ids of their own.
    "hostUsers": True,
    "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]},
    "resizePolicy": [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ],
    "sidecars": [SIDECAR],
    "extraEnv": [{"name": "DOUGDB_LOG_LEVEL", "value": "warning"}, {"name": "WISH", "value": "1"}],
    "nodeSelector": {"topology.kubernetes.io/zone": ZONE},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}
                ]
            }
        }
    },
    "podLabels": {"wish": "label"},
    "podAnnotations": {"example.org/wish": "annotation"},
}
FACADE = {
    **PODS,
    "service": {
        "type": "NodePort",
        "annotations": {"example.org/wish": "annotation"},
        "trafficDistribution": "PreferClose",
    },
    "ingress": {"enabled": True, "hosts": [PUBLIC], "className": "nobody", "annotations": {"example.org/wish": "a"}},
}
ROUTE = {"enabled": True, "hostnames": [ROUTED], "parentRefs": [{"name": "edge", "namespace": "gateways"}]}
OTHERS = {
    "commonLabels": {"example.org/team": "data"},
    "serviceAccount": {"annotations": {"example.org/wish": "annotation"}},
    "networkPolicy": {"clientsFrom": [{"namespaceSelector": {}}, {"ipBlock": {"cidr": f"{NODE_ADDRESS}/32"}}]},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-wish"}, "data": {"a": "b"}}
    ],
}


@pytest.fixture(scope="module")
def gateways() -> Iterator[bool]:
    """Whether the API server knows the kinds of the Gateway API, which it is told for these tests."""
    folder = str(Layout.of().definitions)
    there = os.path.isdir(folder) and bool(os.environ.get(POD_NETWORK))
    if there:
        call_program([find_kubectl(), "apply", "--server-side", "--filename", folder])
        call_program([find_kubectl(), "wait", "--for=condition=Established", "--timeout=60s", "--filename", folder])
    yield there
    if there:
        call_program([find_kubectl(), "delete", "--filename", folder], timeout_s=HELM_S)


@pytest.fixture(scope="module")
def wishes(gateways: bool, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """All of it, as options of helm."""
    facade = {**FACADE, "httpRoute": ROUTE} if gateways else FACADE
    # In a file: as an option, each part would take the place of what values-kind.yaml says of it.
    values = tmp_path_factory.mktemp("wishes") / "values.json"
    values.write_text(json.dumps({"raft": PODS, "facade": facade, **OTHERS}))
    return ["--values", str(values)]


@pytest.fixture(scope="module")
def release(kind: str, tools: None, wishes: list[str]) -> Iterator[Release]:
    if kind != "kubectl" or not os.environ.get(POD_NETWORK):
        pytest.skip("needs a real cluster whose pods are in reach, as make test-kube has it")
    with namespace("wishes") as one:
        one.deploy(*wishes)
        wait_for(lambda: one.put("first", "x") == 200, HELM_S, "a put")
        try:
            yield one
        finally:
            print(one.shown())


def asked(address: str, port: int, host: str) -> int:
    """The status of a read under a name."""
    connection = http.client.HTTPConnection(address, port, timeout=15)
    try:
        connection.request("GET", "/v1/kv/first", headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


def test_pods_are_as_they_were_asked_for(release: Release) -> None:
    found = {"raft-node": release.pods("raft-node"), "facade": release.pods("facade")}
    assert {name: len(pods) for name, pods in found.items()} == {"raft-node": 3, "facade": 2}
    for component, pods in found.items():
        for name, pod in pods.items():
            spec = pod["spec"]
            assert [one["name"] for one in spec["containers"]] == [component, "beside"]
            assert all(one["ready"] and not one["restartCount"] for one in pod["status"]["containerStatuses"]), name
            assert (spec["hostUsers"], spec["nodeSelector"]) == (True, PODS["nodeSelector"])
            assert spec["containers"][0]["resizePolicy"] == PODS["resizePolicy"]
            assert (pod["metadata"]["labels"]["wish"], pod["metadata"]["annotations"]["example.org/wish"]) == (
                "label", "annotation",
            )  # fmt: skip
            code = (
                "import os; print(open('/etc/resolv.conf').read(), os.environ['DOUGDB_LOG_LEVEL'], os.environ['WISH'])"
            )
            told = release.kubectl("exec", name, "--container", component, "--", PYTHON, "-c", code)
            assert "options ndots:1" in told and told.endswith("warning 1")


def test_whoever_comes_from_outside_is_answered(release: Release, gateways: bool) -> None:
    service = release.json("get", "service", "dougdb-facade")
    assert service["spec"]["trafficDistribution"] == "PreferClose"
    (port,) = [one["nodePort"] for one in service["spec"]["ports"]]
    (ingress,) = release.json("get", "ingress")["items"]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == [PUBLIC]
    names = [PUBLIC]
    if gateways:
        (route,) = release.json("get", "httproute")["items"]
        assert route["spec"]["hostnames"] == [ROUTED]
        assert [rule["timeouts"]["request"] for rule in route["spec"]["rules"]] == ["0s", "30s"]
        names.append(ROUTED)
    for name in names:
        assert asked(release.address, 8080, name) == asked(NODE_ADDRESS, port, name) == 200
    assert asked(release.address, 8080, "kv.example.com") == 421


def test_requests_are_led_to_facades_of_the_zone(release: Release) -> None:
    slices = release.json("get", "endpointslices", "--selector", "kubernetes.io/service-name=dougdb-facade")["items"]
    hints = [one.get("hints", {}).get("forZones") for each in slices for one in each["endpoints"]]
    assert hints == [[{"name": ZONE}], [{"name": ZONE}]]


def test_every_object_has_the_common_label_and_nothing_is_left_to_change(release: Release, wishes: list[str]) -> None:
    manifest = release.helm("get", "manifest", "dougdb").stdout
    found = json.loads(release.kubectl("get", "--filename", "-", "--output", "json", text=manifest))["items"]
    without = [one["metadata"]["name"] for one in found if "example.org/team" not in one["metadata"].get("labels", {})]
    assert (len(found) > 10, without) == (True, ["dougdb-wish"])
    release.deploy(*wishes)
    assert release.kubectl("diff", "--filename", "-", text=manifest) == ""


def test_the_charts_own_test_passes(release: Release) -> None:
    run = release.helm("test", "dougdb", "--logs")
    assert run.returncode == 0, run.stderr


def test_a_node_gets_more_cpu_without_a_restart(release: Release, figure: Figure) -> None:
    before = release.runs()

    def given(pod: str) -> str:
        statuses = release.pods("raft-node")[pod]["status"]["containerStatuses"]
        (found,) = [one for one in statuses if one["name"] == "raft-node"]
        assert not found["restartCount"]
        told: str = found.get("resources", {}).get("requests", {}).get("cpu", "")
        return told

    def resized(pod: str) -> bool:
        return given(pod) == CPU

    patch = {"spec": {"containers": [{"name": "raft-node", "resources": {"requests": {"cpu": CPU}}}]}}
    with release.loaded() as report:
        for pod in release.pods("raft-node"):
            assert given(pod) != CPU
            release.kubectl("patch", "pod", pod, "--subresource", "resize", "--patch", json.dumps(patch))
            wait_for(partial(resized, pod), HELM_S, f"{pod} to have its CPU")
    judge(report, figure, "every node resized in place")
    assert release.runs() == before


def test_all_of_it_is_taken_back_under_load(release: Release, figure: Figure) -> None:
    before = release.runs()
    with release.loaded() as report:
        release.deploy()
        release.settled()
    judge(report, figure, "an upgrade that takes all wishes back")
    assert not set(before.values()) & set(release.runs().values())
    assert release.kubectl("get", "ingress", "--output", "name") == ""
    assert release.get("first") == "x"
