"""The two kinds of clusters without any: what containers are made from the chart, and what kubectl is asked to do.

kubectl is played: it records its calls and answers from a small table. Where the real one is installed, every recorded
call is also read by it, since a flag that does not exist would be found in a real cluster only.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset
import pytest
from bench.cluster import FACADE_PORTS, FACADE_PORTS_STRIDE, free_ports, is_free
from bench.cluster import wait_for as wait_until
from bench.http11 import Response
from integration.kubernetes.cluster import conftest as containers
from integration.kubernetes.cluster import driver, kubectl, load, srv
from integration.kubernetes.cluster.driver import Probe, Unable, probe_of
from integration.kubernetes.cluster.kubectl import POD_NETWORK, Kubectl
from integration.kubernetes.cluster.mounted import mount
from integration.kubernetes.cluster.podman import container_words, srv_records
from integration.kubernetes.cluster.scenarios.judged import failed, lines_about_the_slowest, operations_of, slow_lines
from integration.observed import vectors
from tools.helm_chart import CHART
from tools.helm_tools import TOOLS
from tools.rendering import Object, named, render
from tools.version import one_version

from raft_testing.linearizability import check_history

LAPTOP = ("--values", str(CHART / "values-kind.yaml"))
SECURED = (*LAPTOP, "--set", "tls.mode=selfSigned")
SECRETS = Path("/secrets")


@pytest.fixture(scope="module")
def objects(tools: None) -> list[Object]:
    return render(*LAPTOP)


# -- podman ---------------------------------------------------------------------------------------------------------


def options(words: list[str], name: str) -> list[str]:
    return [value for option, value in pairwise(words) if option == name]


def test_a_container_is_what_the_chart_says(objects: list[Object]) -> None:
    words = container_words(objects, named(objects, "StatefulSet", "dougdb-s1"), "dougdb-s1-3", "x", SECRETS)
    assert words[-1] == f"docker.io/dougdb/raft-node:{one_version()}"
    environment = dict(pair.split("=", 1) for pair in options(words, "--env"))
    assert environment["DOUGDB_NODE_ID"] == "dougdb-s1-3"
    assert environment["DOUGDB_ELECTION_TIMEOUT_MS"] == "1000"
    assert environment["DOUGDB_CLIENT_ADVERTISE"] == "dougdb-s1-3.dougdb-s1-peers.dougdb.svc.cluster.local:21000"
    assert options(words, "-v") == ["x-wal-dougdb-s1-3:/var/lib/dougdb/wal", "x-data-dougdb-s1-3:/var/lib/dougdb/data"]
    assert options(words, "--tmpfs") == ["/tmp:rw,mode=1777,size=64m"]
    assert options(words, "--user") == ["10001:10001"]
    assert options(words, "--cap-drop") == ["ALL"]
    assert options(words, "--memory") == ["512m"]
    assert {"--read-only", "no-new-privileges"} <= set(words)
    facade = container_words(objects, named(objects, "Deployment", "dougdb-facade"), "dougdb-facade-0", "x", SECRETS)
    assert options(facade, "-v") == []
    (nodes,) = [pair for pair in options(facade, "--env") if pair.startswith("DOUGDB_NODES=")]
    assert len(json.loads(nodes.partition("=")[2])["1"]) == 5


def test_a_secret_is_a_folder_of_each_pod_and_probes_are_https(tools: None) -> None:
    objects = render(*SECURED)
    node, facade = named(objects, "StatefulSet", "dougdb-s0"), named(objects, "Deployment", "dougdb-facade")
    for owner, pod in ((node, "dougdb-s0-1"), (facade, "dougdb-facade-0")):
        words = container_words(objects, owner, pod, "x", SECRETS)
        assert f"/secrets/{pod}/tls:/etc/dougdb/tls:ro" in options(words, "-v")
        assert {probe_of(owner["spec"]["template"], which).scheme for which in ("startup", "readiness")} == {"HTTPS"}


def test_files_of_a_secret_are_replaced_all_at_once(tmp_path: Path) -> None:
    """Whoever has opened ``..data`` sees one content to its end; the mode is that of the volume."""
    folder = tmp_path / "pod" / "tls"
    mount(folder, {"tls.crt": b"1", "tls.key": b"one"}, 0o440, os.getgid())
    assert (folder / "tls.key").readlink() == Path("..data/tls.key")
    assert stat.S_IMODE((folder / "tls.key").stat().st_mode) == 0o440
    first = os.readlink(folder / "..data")
    inode = folder.stat().st_ino
    mount(folder, {"tls.crt": b"2", "tls.key": b"two"}, 0o440, os.getgid())
    assert ((folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes()) == (b"2", b"two")
    assert folder.stat().st_ino == inode, "it is mounted, so it stays the same folder"
    assert os.readlink(folder / "..data") != first
    assert {path.name for path in folder.iterdir()} == {"..data", os.readlink(folder / "..data"), "tls.crt", "tls.key"}


def test_every_headless_service_has_srv_records_of_its_pods(objects: list[Object]) -> None:
    records = srv_records(objects, "dougdb.svc.cluster.local")
    domain = "dougdb-s1-peers.dougdb.svc.cluster.local"
    assert records[f"_client._tcp.{domain}"] == [["21000", f"dougdb-s1-{number}.{domain}"] for number in range(5)]


class Upstream(srv.Server):
    """Knows one pod."""

    def ask(self, question: dns.message.Message) -> dns.message.Message:
        found = dns.message.make_response(question)
        if question.question[0].name.to_text() == "s0-1.peers.":
            found.answer.append(dns.rrset.from_text("s0-1.peers.", 5, "IN", "A", "10.0.0.1"))
        return found


def test_srv_records_name_the_pods_that_exist() -> None:
    server = Upstream(
        {"_client._tcp.peers": [["21000", "s0-0.peers"], ["21000", "s0-1.peers"]], "_none._tcp.peers": []}
    )
    found = server.answer(dns.message.make_query("_client._tcp.peers.", "SRV"))
    assert [one.to_text() for one in found.answer] == ["_client._tcp.peers. 5 IN SRV 0 100 21000 s0-1.peers."]
    assert server.answer(dns.message.make_query("_none._tcp.peers.", "SRV")).rcode() == dns.rcode.NXDOMAIN
    (passed_on,) = server.answer(dns.message.make_query("s0-1.peers.", "A")).answer
    assert passed_on.to_text() == "s0-1.peers. 5 IN A 10.0.0.1"


def change(container: Object, pod: Object, what: str) -> None:
    """Something that containers here do not know."""
    if what == "a capability that is added":
        container["securityContext"]["capabilities"]["add"] = ["NET_ADMIN"]
    elif what == "a sysctl":
        pod["securityContext"]["sysctls"] = []
    elif what == "a volume from the host":
        pod["volumes"] = [{"name": "tmp", "hostPath": {"path": "/"}}]
    elif what == "a Secret's items":
        secret = {"secretName": "tls", "defaultMode": 0o440, "items": []}
        pod["volumes"] = [*pod["volumes"], {"name": "tls", "secret": secret}]
        container["volumeMounts"].append({"name": "tls", "mountPath": "/tls", "readOnly": True})
    elif what == "a limit of CPU":
        container["resources"]["limits"]["cpu"] = "1"
    elif what == "an init container":
        pod["initContainers"] = [{}]
    elif what == "a sidecar":
        pod["containers"].append({})


@pytest.mark.parametrize(
    "what",
    [
        "a capability that is added",
        "a sysctl",
        "a volume from the host",
        "a Secret's items",
        "a limit of CPU",
        "an init container",
        "a sidecar",
    ],
)
def test_what_is_not_understood_is_no_container(what: str, objects: list[Object]) -> None:
    owner = json.loads(json.dumps(named(objects, "StatefulSet", "dougdb-s0")))
    pod = owner["spec"]["template"]["spec"]
    change(pod["containers"][0], pod, what)
    with pytest.raises((AssertionError, ValueError)):
        container_words(objects, owner, "dougdb-s0-0", "x", SECRETS)


def test_probes_are_those_of_the_chart(objects: list[Object]) -> None:
    node = named(objects, "StatefulSet", "dougdb-s0")["spec"]["template"]
    assert probe_of(node, "liveness") == Probe("HTTP", 21002, "/livez")
    facade = named(objects, "Deployment", "dougdb-facade")["spec"]["template"]
    assert probe_of(facade, "readiness") == Probe("HTTP", 8080, "/readyz")


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_what_is_missing_skips_or_fails_where_it_must_be_there(
    required: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUIRE_CONTAINERS", required)
    with pytest.raises(outcome, match="helm is gone"):
        containers.lacking("helm is gone")


# -- kubectl --------------------------------------------------------------------------------------------------------

PLAYED = r"""#!{python}
import hashlib, json, os, sys
words = sys.argv[1:]
text = sys.stdin.read() if "-" in words else ""
calls = os.environ["CALLS"]
made = sum(1 for _ in open(calls)) if os.path.exists(calls) else 0
with open(calls, "a") as file:
    file.write(json.dumps([words, text]) + "\n")
rest = words[2:] if words[0] == "--namespace" else words
if rest[:2] == ["get", "service"]:
    print("10.96.0.7")
elif rest[:2] == ["get", "pod"]:
    address = "10.0.0.7" if os.environ.get("SAME") else f"10.0.0.{{made}}"
    status = {{"podIP": address, "containerStatuses": [{{"restartCount": 0}}]}}
    print(json.dumps({{"metadata": {{"uid": f"u{{made}}"}}, "status": status}}))
elif rest[:2] == ["get", "pods"] and "json" in rest:
    names = ["dougdb-facade-6b7-abc", "dougdb-facade-6b7-def", "dougdb-facade-old-xyz"]
    items = [{{"metadata": {{"name": name}}}} for name in names]
    items[2]["metadata"]["deletionTimestamp"] = "now"
    print(json.dumps({{"items": items}}))
elif rest[0] == "exec" and "hashlib" in rest[5]:
    print(hashlib.sha256(b"".join(os.path.basename(path).encode() for path in rest[6:])).hexdigest())
elif rest[0] == "exec":
    print(json.dumps([0, "refused"] if os.environ.get("SILENT") else [200, "aGVsbG8="]))
"""


class Played:
    """The calls of a kubectl that is played."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[tuple[list[str], str]]:
        return [(words, text) for words, text in map(json.loads, self.path.read_text().splitlines())]

    def since(self, number: int) -> list[str]:
        """The calls after the first ``number``, without the namespace."""
        return [" ".join(words).removeprefix("--namespace dougdbtest-t ") for words, _ in self.all()[number:]]

    def during(self, act: Callable[[], object]) -> list[str]:
        """The calls that this makes."""
        number = len(self.all())
        act()
        return self.since(number)


@pytest.fixture
def played(tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(PLAYED.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv(POD_NETWORK, raising=False)
    return Played(tmp_path / "calls")


def kinds_of(text: str) -> set[str]:
    return {one["kind"] for one in json.loads(text)["items"]} if text else set()


def test_an_installation_is_the_charts_objects_in_the_order_that_is_asked_for(played: Played) -> None:
    cluster = Kubectl(*LAPTOP, tag="t")
    cluster.install("nodes", "names", "facades")
    applied = [kinds_of(text) for words, text in played.all() if "apply" in words]
    assert applied[1:] == [{"Pod"}, {"StatefulSet"}, {"Service"}, {"Deployment"}]
    rights = {"ServiceAccount", "Role", "RoleBinding"}
    assert {"ConfigMap", "NetworkPolicy", "PodDisruptionBudget"} | rights == applied[0]
    for words, text in played.all():
        outside = " ".join(words).startswith(("delete namespace dougdbtest-t", "create namespace dougdbtest-t"))
        assert outside or words[:2] == ["--namespace", "dougdbtest-t"], words
        for one in json.loads(text)["items"] if text else []:
            assert one["metadata"]["namespace"] == "dougdbtest-t"
    assert cluster.facades() == ["dougdb-facade-6b7-abc", "dougdb-facade-6b7-def"]
    assert cluster.owner("dougdb-facade-6b7-abc")["kind"] == "Deployment"
    assert cluster.call("GET", "/x").body == b"hello"


def test_faults_are_what_a_cluster_allows(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Kubectl(*LAPTOP, tag="t")
    assert played.during(lambda: cluster.kill("dougdb-s0-1")) == [
        "delete pod dougdb-s0-1 --grace-period=0 --force --wait=false"
    ]
    monkeypatch.setenv("SILENT", "1")
    calls = played.during(lambda: cluster.take_down(1, 3))
    monkeypatch.delenv("SILENT")
    assert calls[3] == "scale statefulset dougdb-s1 --replicas=2"
    assert [call.split()[2] for call in calls[4:7]] == ["dougdb-s1-2", "dougdb-s1-3", "dougdb-s1-4"]
    assert len([call for call in calls[7:] if call.startswith("exec")]) == 3, "it waits until none of them answers"
    assert played.during(cluster.heal) == ["scale statefulset dougdb-s1 --replicas=5"]
    assert played.during(cluster.heal) == []
    before, after = cluster.replace("dougdb-s0-0")
    assert before != after
    calls = played.during(cluster.restart_every_pod)
    assert calls[0] == "rollout restart statefulset/dougdb-s0 statefulset/dougdb-s1 deployment/dougdb-facade"
    assert len(calls) == 4
    assert cluster.probe("dougdb-s0-0", "liveness") == 200
    with pytest.raises(Unable, match="NET_ADMIN"):
        cluster.cut_off("dougdb-s0-0", [])
    monkeypatch.setenv("SAME", "1")
    with pytest.raises(Unable, match="old address"):
        cluster.replace("dougdb-s0-0")
    monkeypatch.setenv("SILENT", "1")
    assert cluster.probe("dougdb-s0-0", "liveness") == 0


def test_within_the_pods_network_nothing_goes_through_a_pod(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are this process's own, and packets are dropped on the node; all rules are taken away again."""
    monkeypatch.setenv(POD_NETWORK, "1")
    asked, rules = [], []

    def ask(port: int, method: str, path: str, body: bytes, *, host: str, **_: object) -> Response:
        asked.append((host, port, method, path))
        return Response(200, {}, b"hello")

    monkeypatch.setattr(kubectl, "fetch", ask)
    cluster = Kubectl(*LAPTOP, tag="t")
    assert cluster.reachable
    calls = played.during(lambda: cluster.call("GET", "/x"))
    assert [call.split()[:2] for call in calls] == [["get", "service"]]
    assert played.during(lambda: cluster.call("GET", "/y")) == []
    cluster.probe("dougdb-s0-0", "liveness")
    assert asked[:2] == [("10.96.0.7", 8080, "GET", "/x"), ("10.96.0.7", 8080, "GET", "/y")]
    assert asked[2][1:] == (21002, "GET", "/livez")
    real = driver.call_program

    def call(words: Sequence[str], *others: object) -> str:
        if words[0] != "iptables":
            return real(words)
        rules.append(" ".join(words[2:]))
        return ""

    monkeypatch.setattr(kubectl, "call_program", call)
    cluster.cut_off("dougdb-s0-0", ["dougdb-s0-1", "dougdb-s0-2"])
    added = list(rules)
    assert len({rule for rule in added if rule.startswith("--insert FORWARD")}) == 4
    cluster.join("dougdb-s0-0")
    assert [rule.replace("--delete", "--insert") for rule in rules[4:]] == added


@pytest.mark.slow
def test_who_is_not_there_yet_is_not_waited_for(played: Played) -> None:
    """`rollout status` of a Deployment that nobody made fails at once."""
    cluster = Kubectl(*LAPTOP, tag="t")
    cluster.apply("nodes")
    calls = played.during(cluster.await_ready)
    assert [call.split()[2] for call in calls if call.startswith("rollout")] == [
        "statefulset/dougdb-s0",
        "statefulset/dougdb-s1",
    ]
    cluster.apply("facades")
    calls = played.during(cluster.await_ready)
    assert [call.split()[2] for call in calls if call.startswith("rollout")][-1] == "deployment/dougdb-facade"


def test_with_tls_requests_are_https_and_the_secret_is_applied_anew(played: Played) -> None:
    cluster = Kubectl(*SECURED, tag="t")
    assert "Secret" in kinds_of(next(text for words, text in played.all() if "apply" in words))
    cluster.call("GET", "/x")
    cluster.probe("dougdb-s0-0", "liveness")
    asked, _, probed = [words for words, _ in played.all()][-3:]
    request = asked[asked.index("HTTPS") :]
    assert request[1:4] == ["dougdb-facade.dougdbtest-t.svc.cluster.local", "8080", "GET"]
    assert request[-1] == cluster.authority != ""
    assert probed[probed.index("HTTPS") :][-1] == "", "a kubelet believes any certificate"
    files = {name: name.encode() for name in cluster.files}
    number = len(played.all())
    cluster.replace_files(files)
    ((_, applied), *looks) = played.all()[number:]
    (secret,) = json.loads(applied)["items"]
    assert {name: base64.b64decode(text) for name, text in secret["data"].items()} == files
    assert len([words for words, _ in looks if "exec" in words]) == len(cluster.nodes()) + len(cluster.facades())


@pytest.mark.slow
@pytest.mark.skipif(not (TOOLS / "bin" / "kubectl").exists(), reason="kubectl is not installed (make chart-tools)")
def test_the_real_kubectl_understands_every_call(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Kubectl(*LAPTOP, tag="t")
    cluster.install()
    cluster.kill("dougdb-s0-1")
    monkeypatch.setenv("SILENT", "1")
    cluster.take_down(1, 3)
    monkeypatch.delenv("SILENT")
    cluster.heal()
    cluster.replace("dougdb-s0-0")
    cluster.restart_every_pod()
    cluster.logs()
    cluster.log("dougdb-s0-0")
    cluster.run("pass").communicate("")
    cluster.uninstall()
    cluster.destroy()
    config = tmp_path / "config"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
                "users": [{"name": "c", "user": {}}],
            }
        )
    )
    calls = {tuple(words): text for words, text in played.all()}
    for shape in {(*(word for word in words if word.startswith("-")), words[2]): words for words in calls}.values():
        run = subprocess.run(
            [TOOLS / "bin" / "kubectl", f"--kubeconfig={config}", *shape],
            input=calls[shape],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert run.returncode == 1, shape
        assert "127.0.0.1:9" in run.stderr, f"{shape}: {run.stderr}"


# -- the load -------------------------------------------------------------------------------------------------------


@pytest.mark.seconds
def test_the_load_keeps_its_rate_and_records_what_it_saw() -> None:
    port = free_ports(*FACADE_PORTS, FACADE_PORTS_STRIDE)
    stub = Path(__file__).resolve().parents[2] / "stub_facade.py"
    server = subprocess.Popen([sys.executable, str(stub), str(port)])
    try:
        wait_until(lambda: not is_free(port), 10, "the stand-in to listen")
        client = subprocess.Popen(
            [sys.executable, "-c", Path(load.__file__).read_text(), "127.0.0.1", str(port), "100", "4", "7"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdout is not None
        assert client.stdout.readline() == "started\n"
        told, _ = communicate_after(client, 1.0)
    finally:
        server.kill()
        server.wait()
    report = json.loads(told)
    assert not failed(report)
    assert report["connections"] == 4
    assert 60 <= report["requests"] <= 140, report["requests"]
    history = operations_of(report)
    assert {operation.kind for operation in history} == {"put", "get"}
    assert not check_history(history)
    report["operations"][-1][3] = "never written"
    assert check_history(operations_of(report)), "a value that nobody wrote is found"
    report["operations"][0][6] = 503
    assert failed(report).total() == 1


def test_the_slowest_answer_is_told_with_what_nodes_did_meanwhile() -> None:
    report = {
        "operations": [[0, "put", "k", "1", 100.0, 100.4, 200]],
        "slow": [[101.5, 400.0, 3.0, "facade;dur=398", "s0-1"], [104.0, 120.0, 0.0, "facade;dur=99", "s0-0"]],
    }
    assert slow_lines(report)[0] == "  400 ms at 1.5 s, 3 of them for a connection; s0-1: facade;dur=398"
    events = [
        {"node": node, "name": name, "time_us": round((1000 + at_s) * 1e6), "details": {}}
        for at_s, node, name in (
            (101.6, "s0-1", "became_leader"), (101.4, "s0-0", "node_stopping"), (100.4, "s0-2", "too early"),
            (102.1, "s0-2", "too late"),
        )
    ]  # fmt: skip
    told = lines_about_the_slowest(report, events, ahead_s=1000.0)
    assert told[0].startswith("  the slowest was asked for at 1970-01-01T00:18:21.500")
    assert [line.split() for line in told[1:]] == [
        ["-100", "ms", "s0-0", "node_stopping"],
        ["+100", "ms", "s0-1", "became_leader"],
    ]
    assert lines_about_the_slowest({"operations": [], "slow": []}, events, 0.0) == []


def communicate_after(client: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Lets it run for a while, then tells it to stop."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(seconds)
    return client.communicate("stop\n", timeout=30)


# -- alerts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "parts"),
    [
        ("dougdb_a > 1", ["dougdb_a"]),
        ("time() - dougdb_a > 600", ["time() - dougdb_a"]),
        (
            'dougdb_a{x="a > b"} <= floor(dougdb_b / 2) + 1\nand dougdb_c >= 3',
            ['dougdb_a{x="a > b"}', "floor(dougdb_b / 2) + 1", "dougdb_c"],
        ),
        ("(dougdb_a / dougdb_b) > 0.1 and on (pod) dougdb_c", ["dougdb_a / dougdb_b", "dougdb_c"]),
        ("(dougdb_a) / (dougdb_b) > 1", ["(dougdb_a) / (dougdb_b)"]),
        ('count_values("t", dougdb_a and (dougdb_b == 1)) > 1', ['count_values("t", dougdb_a and (dougdb_b == 1))']),
    ],
)
def test_what_an_alert_compares_is_found(expr: str, parts: list[str]) -> None:
    assert vectors(expr) == parts
