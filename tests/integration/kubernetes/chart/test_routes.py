"""The ways in from outside, and what is added to pods and objects on request."""

from __future__ import annotations

import pytest
from tools.rendering import Object, environment_of, named, of_kind, pod_templates, render, validate

PUBLIC = "kv.example.org"
INGRESS = ("--set", f"facade.ingress.enabled=true,facade.ingress.hosts[0]={PUBLIC},facade.ingress.tlsSecret=kv")
ROUTE = (
    "--set",
    f"facade.httpRoute.enabled=true,facade.httpRoute.hostnames[0]={PUBLIC},facade.httpRoute.parentRefs[0].name=edge",
)
WORKLOADS = [("raft", "StatefulSet", "dougdb-s0"), ("facade", "Deployment", "dougdb-facade")]


def allowed(objects: list[Object]) -> list[str]:
    facade = named(objects, "Deployment", "dougdb-facade")["spec"]["template"]
    return environment_of(objects, facade, "dougdb-facade-0")["DOUGDB_ALLOWED_HOSTS"].split(",")


def test_there_is_no_way_in_by_default(default: list[Object]) -> None:
    assert not of_kind(default, "Ingress") and not of_kind(default, "HTTPRoute")
    assert "trafficDistribution" not in named(default, "Service", "dougdb-facade")["spec"]


@pytest.mark.parametrize("options", [INGRESS, ROUTE])
def test_facades_take_the_names_under_which_clients_come(options: tuple[str, ...], tools: None) -> None:
    assert PUBLIC in allowed(render(*options))
    both = allowed(render(*options, "--set", f"facade.allowedHosts[0]={PUBLIC}"))
    assert both.count(PUBLIC) == 1


def test_names_of_a_way_that_is_off_do_not_count(tools: None) -> None:
    assert PUBLIC not in allowed(render(*INGRESS, "--set", "facade.ingress.enabled=false"))


def test_facades_close_by_are_asked_first_where_kubernetes_can(tools: None) -> None:
    objects = of_kind(render("--set", "facade.service.trafficDistribution=PreferClose"), "Service")
    assert not validate(objects, ["1.31", "1.35"])
    assert named(objects, "Service", "dougdb-facade")["spec"]["trafficDistribution"] == "PreferClose"


def test_an_ingress_leads_to_the_service(tools: None) -> None:
    objects = render(*INGRESS)
    (ingress,) = of_kind(objects, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = named(objects, "Service", path["backend"]["service"]["name"])
    assert path["backend"]["service"]["port"]["name"] == service["spec"]["ports"][0]["name"]
    assert ingress["spec"]["tls"] == [{"secretName": "kv", "hosts": [PUBLIC]}]


def test_a_route_bounds_requests_and_lets_watches_go_on(tools: None) -> None:
    objects = render(*ROUTE, "--set", "facade.service.port=80")
    (route,) = of_kind(objects, "HTTPRoute")
    timeouts = {rule["matches"][0]["path"]["value"]: rule["timeouts"]["request"] for rule in route["spec"]["rules"]}
    assert timeouts == {"/v1/watch": "0s", "/": "30s"}
    for rule in route["spec"]["rules"]:
        assert rule["backendRefs"] == [{"name": "dougdb-facade", "port": 80}]


def test_common_labels_are_on_every_object_and_on_no_pod(default: list[Object], tools: None) -> None:
    """A pod that got one would restart; a claim's template cannot change."""
    objects = render("--set", "commonLabels.team=data")
    assert all(one["metadata"]["labels"]["team"] == "data" for one in objects)
    pods = dict(pod_templates([one for one in objects if one["kind"] != "Pod"]))
    assert pods == dict(pod_templates([one for one in default if one["kind"] != "Pod"]))
    for one in of_kind(objects, "StatefulSet"):
        assert all("team" not in claim["metadata"]["labels"] for claim in one["spec"]["volumeClaimTemplates"])


@pytest.mark.parametrize(
    ("part", "kind", "name"), [("raft", "StatefulSet", "dougdb-s0"), ("facade", "Deployment", "dougdb-facade")]
)
def test_a_variable_is_there_once_and_the_users_counts(part: str, kind: str, name: str, tools: None) -> None:
    own = {"raft": "DOUGDB_SHARD_ID", "facade": "DOUGDB_FACADE_ID"}[part]
    value = f'{part}.extraEnv=[{{"name":"A","value":"1"}},{{"name":"{own}","value":"mine"}},{{"name":"A","value":"2"}}]'
    (container,) = named(render("--set-json", value), kind, name)["spec"]["template"]["spec"]["containers"]
    names = [one["name"] for one in container["env"]]
    assert len(names) == len(set(names))
    values = {one["name"]: one.get("value") for one in container["env"]}
    assert (values["A"], values[own]) == ("2", "mine")


@pytest.mark.parametrize(
    ("part", "kind", "name"), [("raft", "StatefulSet", "dougdb-s1"), ("facade", "Deployment", "dougdb-facade")]
)
def test_pods_get_what_is_asked_for_and_nothing_else(
    part: str, kind: str, name: str, default: list[Object], tools: None
) -> None:
    sidecar = {"name": "log", "image": "example/log:1"}
    value = f'{part}={{"hostUsers":false,"dnsConfig":{{"options":[{{"name":"ndots","value":"1"}}]}}'
    value += ',"sidecars":[{"name":"log","image":"example/log:1"}]'
    value += ',"resizePolicy":[{"resourceName":"cpu","restartPolicy":"NotRequired"}]}'
    changed = named(render("--set-json", value), kind, name)["spec"]["template"]["spec"]
    assert changed.pop("hostUsers") is False
    assert changed.pop("dnsConfig")["options"] == [{"name": "ndots", "value": "1"}]
    assert changed["containers"].pop() == sidecar
    assert changed["containers"][0].pop("resizePolicy") == [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]
    assert changed == named(default, kind, name)["spec"]["template"]["spec"]
