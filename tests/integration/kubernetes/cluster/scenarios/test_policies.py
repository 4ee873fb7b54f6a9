"""Network policies as kube-network-policies enforces them: who reaches whom, and that a release lives with them.

Skipped with podman, and where kube-network-policies is not built. The client of the load is the node, which may reach
every pod.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from integration.kubernetes.cluster.driver import call_program, wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release, namespace, program
from integration.kubernetes.cluster.kubectl import POD_NETWORK, PYTHON, find_kubectl
from integration.kubernetes.cluster.scenarios.judged import judge

Figure = Callable[[str], None]
ENFORCER = "kube-network-policies"
PROMETHEUS = [{"podSelector": {"matchLabels": {"role": "prometheus"}}}]
CLIENTS = [{"podSelector": {"matchLabels": {"role": "client"}}}]
BACKED_UP = ("--set", "backup.enabled=true", "--set-json", f"networkPolicy.metricsFrom={json.dumps(PROMETHEUS)}")
PORTS = {"http": 8080, "client": 21000, "peer": 21001, "admin": 21002}
API = ("10.96.0.1", 443)
REACH = """
import json, socket, sys
reached = []
for name, host, port in json.loads(sys.argv[1]):
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        continue
    reached.append(name)
print(json.dumps(reached))
"""
"""Connects to each place; prints the names of those that answer. A packet that is dropped is sent again after 1 s."""


@pytest.fixture(scope="module")
def release(kind: str, tools: None) -> Iterator[Release]:
    if kind != "kubectl" or not os.environ.get(POD_NETWORK):
        pytest.skip("needs a real cluster whose pods are in reach, as make test-kube has it")
    if not shutil.which(ENFORCER):
        pytest.skip(f"{ENFORCER} is not built: nobody enforces policies")
    program("start", ENFORCER)
    try:
        with namespace("policies") as one:
            one.deploy(*BACKED_UP)
            wait_for(lambda: one.put("first", "x") == 200, HELM_S, "a put")
            for role in ("stranger", "prometheus", "client"):
                add_pod(one, role)
            try:
                yield one
            finally:
                print(one.shown())
    finally:
        program("stop", ENFORCER)


def add_pod(release: Release, role: str, into: str = "") -> None:
    """Starts a pod with a label that sleeps, in the release's namespace or in another one."""
    (facade, *_) = release.pods("facade").values()
    container = facade["spec"]["containers"][0]
    kept = {name: container[name] for name in ("image", "imagePullPolicy", "securityContext")}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": role, "labels": {"role": role}},
        "spec": {
            "containers": [{"name": "one", "command": [PYTHON, "-c", "import time; time.sleep(86400)"], **kept}],
            "securityContext": facade["spec"]["securityContext"],
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
        },
    }
    there = [find_kubectl(), "--namespace", into or release.namespace]
    call_program([*there, "apply", "--filename", "-"], json.dumps(pod))
    call_program([*there, "wait", "--for=condition=Ready", f"pod/{role}", f"--timeout={HELM_S}s"], None, HELM_S + 30)


def reached(release: Release, pod: str, into: str = "") -> set[str]:
    """What a pod can connect to: ports of a node and of a facade that it is not itself, and the API server."""
    nodes, facades = release.pods("raft-node"), release.pods("facade")
    node = next(one for name, one in nodes.items() if name != pod)["status"]["podIP"]
    facade = next(one for name, one in facades.items() if name != pod)["status"]["podIP"]
    places = [(f"node {name}", node, port) for name, port in PORTS.items() if name != "http"]
    places += [("facade http", facade, PORTS["http"]), ("API server", *API)]
    there = [find_kubectl(), "--namespace", into or release.namespace]
    told = call_program([*there, "exec", pod, "--", PYTHON, "-c", REACH, json.dumps(places)], None, HELM_S)
    return set(json.loads(told))


def test_everybody_reaches_what_the_policies_say_and_nothing_else(release: Release) -> None:
    """Nobody but facades and nodes reaches data or votes; a stranger has the facades alone."""
    own = {"API server"}
    node, facade = next(iter(release.pods("raft-node"))), next(iter(release.pods("facade")))
    expected = {
        "stranger": {"facade http", *own},
        "prometheus": {"facade http", "node admin", *own},
        # It asks the API server where the nodes are, and dougctl in it may be led to another facade by the Service.
        facade: {"node client", "facade http", *own},
        node: {"node peer"},
    }
    seen = {pod: reached(release, pod) for pod in expected}
    assert seen == expected


def test_a_label_counts_in_the_releases_namespace_alone(release: Release) -> None:
    with namespace("strangers") as other:
        add_pod(release, "prometheus", other.namespace)
        assert reached(release, "prometheus", other.namespace) == {"facade http", "API server"}


def test_pods_that_come_back_under_policies_fail_no_request(release: Release, figure: Figure) -> None:
    leader = wait_for(release.leader, HELM_S, "a leader")
    with release.loaded() as report:
        release.kubectl("delete", "pod", leader)
        wait_for(lambda: release.leader() not in ("", leader), HELM_S, f"another leader than {leader}")
        release.settled()
        release.kubectl("rollout", "restart", "deployment/dougdb-facade")
        release.settled()
    judge(report, figure, "the leader's pod deleted and facades restarted under enforced policies")


def test_with_named_clients_the_chart_s_own_ways_stay_open(release: Release) -> None:
    """Its test, its backups and dougctl in a facade's pod are clients, too."""
    release.deploy(*BACKED_UP, "--set-json", f"networkPolicy.clientsFrom={json.dumps(CLIENTS)}")
    release.settled()
    wait_for(lambda: "facade http" not in reached(release, "stranger"), HELM_S, "strangers to be kept out")
    assert "facade http" in reached(release, "client")
    run = release.helm("test", "dougdb", "--logs")
    assert run.returncode == 0, f"{run.stderr}\n{run.stdout}"
    release.kubectl("create", "job", "--from=cronjob/dougdb-backup", "now")
    release.kubectl("wait", "--for=condition=Complete", "job/now", "--timeout=120s")
    service = f"http://dougdb-facade.{release.namespace}.svc.cluster.local:8080"
    for _ in range(4):
        # The Service picks one of the facades, often another one.
        assert "dougdb-s0-0" in release.ctl("--url", service, "status")
