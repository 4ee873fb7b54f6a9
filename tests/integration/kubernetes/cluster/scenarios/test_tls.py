"""A release with the chart's own certificates (`tls.mode=selfSigned`), and with facades that find the nodes by DNS.

Everything is asked for over HTTPS with the Secret's authority and a check of names. The authority is replaced as
docs/operations.md says, while a load runs that must not lose a request, nor a connection.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from integration.kubernetes.cluster import load
from integration.kubernetes.cluster.driver import Cluster, wait_for
from integration.kubernetes.cluster.podman import Podman, podman
from integration.kubernetes.cluster.scenarios.conftest import LAPTOP, NewCluster
from integration.kubernetes.cluster.scenarios.judged import failed, operations_of
from integration.kubernetes.cluster.scenarios.scraped import FACADES, NODES, scrape
from integration.kubernetes.cluster.scenarios.test_prometheus import ELSEWHERE
from integration.kubernetes.cluster.scenarios.test_restarts import finish
from integration.observed import alerts, vectors
from tools.certs import Authority
from tools.observe import Secured
from tools.rendering import Object, of_kind, render

from raft_testing.linearizability import check_history

# Policies let only facades reach the nodes' ports; the client's pod shall be refused by the nodes themselves.
SMALL = (
    "--set",
    "shards=1,raft.replicas=3,facade.replicas=1,tls.mode=selfSigned,discovery.mode=dns,backup.enabled=true,"
    "networkPolicy.enabled=false",
)
RATE, CLIENTS, SEED = 50, 4, 90_200
RELOAD_S = 5.0
"""DOUGDB_TLS_RELOAD_MS, whose default the chart leaves."""
SLACK_S = 3.0
CLIENT_PORT, PEER_PORT, ADMIN_PORT = 21_000, 21_001, 21_002
FACADE_PORT = 8080

WHO_IS_SERVED = """
import grpc, json, sys
asked = json.loads(sys.stdin.readline())
encoded = lambda files: {name: text.encode() for name, text in files.items()}
found = {}
for who, files in asked["clients"].items():
    for address in asked["addresses"]:
        options = [("grpc.enable_http_proxy", 0)]
        if files is None:
            channel = grpc.insecure_channel(address, options)
        else:
            channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(**encoded(files)), options)
        try:
            channel.unary_unary("/nobody/Serves")(b"", timeout=10)
        except grpc.RpcError as error:
            found.setdefault(who, []).append(error.code().name)
        channel.close()
print(json.dumps(found), flush=True)
"""
"""What gRPC clients get to a call that nobody serves."""
UNSERVED, REFUSED = "UNIMPLEMENTED", "UNAVAILABLE"
"""The first comes from who took the connection."""

PRESENTED = """
import json, ssl, sys
asked = json.loads(sys.stdin.readline())
shown = [ssl.get_server_certificate((host, port), timeout=10) for host, port in asked]
print(json.dumps(shown), flush=True)
"""
"""The certificates that ports show, by PEM."""

ASK = """
import http.client, json, ssl, sys
host, port, authority = json.loads(sys.stdin.readline())
try:
    if authority:
        context = ssl.create_default_context(cadata=authority)
        connection = http.client.HTTPSConnection(host, port, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.request("GET", "/livez")
    said = connection.getresponse().status
except (OSError, http.client.HTTPException) as error:
    said = f"{type(error).__name__}: {error}"
print(json.dumps(said), flush=True)
"""
"""The status of an answer, or why there is none; over HTTPS with an authority, else in plaintext."""


def told(release: Cluster, script: str, document: object) -> Any:
    """What a script in the client's pod, which reads a document from stdin, prints; both as a line of JSON.

    The script stays until it was heard: what a process of `podman exec` prints just before its end may get lost.
    """
    process = release.run(f"{script}\nsys.stdin.read()\n")
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{json.dumps(document)}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, line
    return json.loads(line)


def ports(release: Cluster) -> list[tuple[str, int]]:
    """Every port that speaks TLS, by address: a client without SNI must be shown the certificate too."""
    nodes = [(release.address(pod), port) for pod in release.nodes() for port in (CLIENT_PORT, PEER_PORT, ADMIN_PORT)]
    return [*nodes, *((release.address(pod), FACADE_PORT) for pod in release.facades())]


def all_present(release: Cluster, certificate: bytes) -> bool:
    """Whether every port shows this certificate and no other."""
    shown = told(release, PRESENTED, ports(release))
    return {ssl.PEM_cert_to_DER_cert(one) for one in shown} == {ssl.PEM_cert_to_DER_cert(certificate.decode())}


@pytest.fixture(scope="module")
def release(new_release: NewCluster, figure: Callable[[str], None]) -> Iterator[Cluster]:
    with new_release(*SMALL) as cluster:
        began_s = time.monotonic()
        cluster.install()
        figure(f"installation of 4 pods with TLS, until all are ready: {time.monotonic() - began_s:.1f} s")
        yield cluster
    if isinstance(cluster, Podman):
        assert not cluster.secrets.exists(), "keys were left behind"


def test_keys_are_put_and_got_over_https_and_probes_have_the_charts_scheme(release: Cluster) -> None:
    assert release.put("tls", "x") == 200
    assert release.get("tls") == "x"
    pods = [*release.nodes(), *release.facades()]
    which = ("startup", "liveness", "readiness")
    assert {release.probe_for(pod, one).scheme for pod in pods for one in which} == {"HTTPS"}
    assert {release.probe(pod, one) for pod in pods for one in which} == {200}


def test_the_files_of_the_secret_are_for_the_pods_group_alone(release: Cluster) -> None:
    if not isinstance(release, Podman):
        pytest.skip("a real kubelet mounts Secrets by itself; only podman's driver has to be shown to do it so")
    look = (
        "import os; s = os.stat('/etc/dougdb/tls/tls.key'); print(oct(s.st_mode)[-3:], s.st_uid, s.st_gid, os.getuid())"
    )
    for pod in (release.nodes()[0], release.facades()[0]):
        seen = podman("exec", f"{release.prefix}-{pod}", "/opt/dougdb/bin/python", "-c", look)
        assert seen == "440 0 10001 10001"


def test_the_facade_refuses_plaintext_and_is_refused_by_who_trusts_another_authority(release: Cluster) -> None:
    def asked(host: str, authority: str) -> Any:
        return told(release, ASK, [host, FACADE_PORT, authority])

    assert asked(release.service, release.authority) == 200
    assert "CERTIFICATE_VERIFY_FAILED" in asked(release.service, Authority.make().pem.decode())
    assert "mismatch" in asked(release.address(release.facades()[0]), release.authority)
    refused = asked(release.service, "")
    assert isinstance(refused, str), refused
    assert any(word in refused for word in ("RemoteDisconnected", "ConnectionReset", "BadStatusLine")), refused


def member(files: Mapping[str, bytes], authority: bytes = b"") -> dict[str, str]:
    """The credentials of a gRPC client with the certificate of these files."""
    return {
        "root_certificates": (authority or files["ca.crt"]).decode(),
        "private_key": files["tls.key"].decode(),
        "certificate_chain": files["tls.crt"].decode(),
    }


def taken(release: Cluster, clients: Mapping[str, dict[str, str] | None]) -> dict[str, set[str]]:
    """What each of these gRPC clients gets at the client and Raft ports of the nodes."""
    addresses = [f"{release.host(pod)}:{port}" for pod in release.nodes() for port in (CLIENT_PORT, PEER_PORT)]
    found = told(release, WHO_IS_SERVED, {"clients": clients, "addresses": addresses})
    assert {who: len(seen) for who, seen in found.items()} == dict.fromkeys(clients, len(addresses))
    return {who: set(seen) for who, seen in found.items()}


def test_nodes_take_no_grpc_client_without_a_certificate_of_the_authority(release: Cluster) -> None:
    """Nor do the refused leave a trace in the log that is no JSON."""
    certificate, key = Authority.make().issue(["localhost"])
    clients = {
        "member": member(release.files),
        "without": {"root_certificates": release.authority},
        "foreign": member({**release.files, "tls.crt": certificate, "tls.key": key}),
        "plain": None,
    }
    expected = {who: {UNSERVED if who == "member" else REFUSED} for who in clients}
    assert taken(release, clients) == expected
    for pod in release.nodes():
        lines = [line for line in release.log(pod).splitlines() if line]
        assert lines and all(line.startswith("{") for line in lines), [line for line in lines if line[0] != "{"]


def test_the_job_that_backs_up_speaks_tls(release: Cluster) -> None:
    if not isinstance(release, Podman):
        pytest.skip("a real cluster runs its CronJobs by itself")
    assert "1 shards" in release.run_job("dougdb-backup")


def monitors(release: Cluster, folder: Path) -> dict[str, Secured]:
    """How the chart has the operator's Prometheus scrape both kinds of pods."""
    file = folder / "ca.crt"
    file.write_text(release.authority)
    operator = ("--set", "monitoring.enabled=true", "--api-versions", "monitoring.coreos.com/v1")
    objects = render(*LAPTOP, *SMALL, *operator, "--namespace", release.namespace)
    (pods,), (service,) = of_kind(objects, "PodMonitor"), of_kind(objects, "ServiceMonitor")
    found: dict[str, Object] = {
        NODES: pods["spec"]["podMetricsEndpoints"][0],
        FACADES: service["spec"]["endpoints"][0],
    }
    assert {endpoint["scheme"] for endpoint in found.values()} == {"https"}
    return {job: Secured(str(file), endpoint["tlsConfig"]["serverName"]) for job, endpoint in found.items()}


def test_alerts_about_certificates_and_discovery_have_data(release: Cluster, tmp_path: Path) -> None:
    """What a plaintext cluster has not; every pod is scraped by HTTPS, with a check of names."""
    with scrape(release, tmp_path, monitors(release, tmp_path)) as prometheus:
        names = (*ELSEWHERE, "DougDBDiscoveryStale")
        compared = {name: vectors(alerts()[name].expr) for name in names}
        assert compared and all(compared.values())
        seen = {
            name: [{one["metric"]["pod"] for one in prometheus.query(part)} for part in parts]
            for name, parts in compared.items()
        }
        assert seen == {
            "DougDBCertificateExpiry": [{*release.nodes(), *release.facades()}],
            "DougDBDiscoveryStale": [set(release.facades())],
        }
        assert not [name for name in names if prometheus.query(alerts()[name].expr)], "an alert fires"
        found = prometheus.query('dougdb_discovery_events_total{source="dns",type="added"}')
        assert [one["value"][1] for one in found] == [str(len(release.nodes()))], (
            "the facade has learned of them by DNS"
        )
        wait_for(prometheus.rules, 30, "every rule was evaluated without an error")


def anew(namespace: str) -> dict[str, bytes]:
    """The Secret's content as the chart makes it at another first installation: another authority, another key."""
    (secret,) = of_kind(render(*LAPTOP, *SMALL, "--namespace", namespace), "Secret")
    return {name: base64.b64decode(text) for name, text in secret["data"].items()}


def replace_authority(release: Cluster, new: Mapping[str, bytes]) -> float:
    """As docs/operations.md says: both authorities, the new certificate, the new authority alone.

    Whoever connects meanwhile is taken, with the old certificate and with the new one, until the old authority is gone.
    Gives the seconds from the new certificate's files to every port's showing it.
    """
    old = dict(release.files)
    both = old["ca.crt"] + new["ca.crt"]
    clients = {"old": member(old, both), "new": member(new, both)}
    assert taken(release, clients) == {"old": {UNSERVED}, "new": {REFUSED}}
    release.replace_files({**old, "ca.crt": both})
    time.sleep(RELOAD_S + SLACK_S)
    assert taken(release, clients) == {"old": {UNSERVED}, "new": {UNSERVED}}
    release.replace_files({**new, "ca.crt": both})
    began_s = time.monotonic()
    wait_for(lambda: all_present(release, new["tls.crt"]), RELOAD_S + SLACK_S, "every port to show the new certificate")
    took_s = time.monotonic() - began_s
    assert taken(release, clients) == {"old": {UNSERVED}, "new": {UNSERVED}}
    release.replace_files(new)
    time.sleep(RELOAD_S + SLACK_S)
    assert taken(release, clients) == {"old": {REFUSED}, "new": {UNSERVED}}
    return took_s


def test_another_authority_is_brought_in_while_it_serves(release: Cluster, figure: Callable[[str], None]) -> None:
    """No request fails, no connection is opened again, nobody is elected; afterwards the old authority is no good."""
    old, new = dict(release.files), anew(release.namespace)
    assert all_present(release, old["tls.crt"])
    terms = {name: node["term"] for name, node in release.members(0).items()}
    both = (old["ca.crt"] + new["ca.crt"]).decode()
    words = (release.service, str(FACADE_PORT), str(RATE), str(CLIENTS), str(SEED), both)
    client = release.run(Path(load.__file__).read_text(), *words)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "started\n"
        took_s = replace_authority(release, new)
        report = finish(client)
    finally:
        client.kill()
        client.wait()
    bad = failed(report)
    slowest_ms = max(one[5] - one[4] for one in report["operations"] if one[5]) * 1000
    figure(
        f"another authority: {report['requests']} requests in {report['seconds']:.0f} s over {report['connections']} "
        f"connections, {bad.total()} failed, slowest {slowest_ms:.0f} ms; new certificate shown by all ports after "
        f"{took_s:.1f} s (seed {SEED})"
    )
    assert not bad, bad
    assert report["requests"] > 0.5 * RATE * report["seconds"], "the load was not kept up"
    assert report["connections"] == CLIENTS, "a connection was broken"
    assert not check_history(operations_of(report))
    assert {name: node["term"] for name, node in release.members(0).items()} == terms
    assert told(release, ASK, [release.service, FACADE_PORT, old["ca.crt"].decode()]).startswith("SSLCertVerification")
    assert told(release, ASK, [release.service, FACADE_PORT, release.authority]) == 200
    # A node that starts now has never known the old authority: it and the others need only the new one.
    release.kill(release.nodes()[-1])
    release.heal()
    release.await_ready()
    release.await_equal(0)
    assert release.put("tls", "y") == 200
    assert release.get("tls") == "y"
