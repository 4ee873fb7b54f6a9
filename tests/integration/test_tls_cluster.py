"""A whole cluster with TLS everywhere, as a user starts it: ``make certs``, ``dougctl dev --tls``, a renewal, another
authority."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from bench.cluster import dougctl
from bench.http11 import HttpError, Secure, fetch
from integration.uncaught import uncaught_in
from tools import certs

from doug.v1 import admin_pb2, admin_pb2_grpc
from dougdb import CertificateError, DougClient, DougdbError, UnavailableError

pytestmark = [pytest.mark.integration, pytest.mark.seconds]

PORT, BASE_PORT, NODES = 25_100, 25_000, 3
URL = f"https://127.0.0.1:{PORT}"


class Running:
    """``dougctl dev`` with one shard of three nodes."""

    def __init__(self, folder: Path) -> None:
        self.certs = folder / "certs"
        self.data = folder / "data"
        self.output = folder / "output"
        assert certs.main(["--out", str(self.certs)]) == 0
        command = [
            dougctl(), "dev", "--shards", "1", "--nodes", str(NODES), "--port", str(PORT), "--base-port",
            str(BASE_PORT), "--data", str(self.data), "--tls", str(self.certs),
        ]  # fmt: skip
        environment = {
            **os.environ, "DOUGDB_TLS_RELOAD_MS": "200", "DOUGDB_ELECTION_TIMEOUT_MS": "1000",
            "DOUGDB_ELECTION_TIMEOUT_MAX_MS": "2000", "DOUGDB_REQUEST_TIMEOUT_MS": "30000",
        }  # fmt: skip
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    @property
    def ca(self) -> str:
        return str(self.certs / "ca.crt")

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
        ends_s = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < ends_s, f"{what}\n{self.output.read_text()}"
            time.sleep(0.1)

    def reloads(self) -> list[int]:
        """How often each process has taken new files over, by its log."""
        return [path.read_text().count('"tls.reloaded"') for path in sorted(self.data.rglob("*.log"))]

    def reload(self, change: Callable[[], object]) -> None:
        """Changes files, and waits until every process has taken them over."""
        before = self.reloads()
        change()
        self.until(lambda: all(map(int.__gt__, self.reloads(), before)), "every process has the new files")

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(60) == 0, self.output.read_text()
        finally:
            self.process.kill()

    def presented(self, port: int) -> bytes | None:
        """The certificate that a port shows."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.certs / "tls.crt", self.certs / "tls.key")
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return secured.getpeercert(binary_form=True)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    cluster = Running(tmp_path_factory.mktemp("tls"))
    try:
        cluster.until(lambda: "ready: https://" in cluster.output.read_text(), "it becomes ready")
        yield cluster
    finally:
        cluster.close()


def roles(client: DougClient) -> list[str]:
    return sorted(node.role for node in client.cluster().shards[0].nodes)


def leader_of(running: Running, client: DougClient) -> str:
    """Who leads, once somebody does."""
    found: list[str] = []

    def look() -> bool:
        leader = client.cluster().shards[0].leader
        found.extend([] if leader is None else [leader.id])
        return bool(found)

    running.until(look, "somebody leads")
    return found[0]


def test_it_serves_https_and_only_that(running: Running) -> None:
    with DougClient(URL, ca_file=running.ca) as client:
        client.put("key", b"value")
        assert client.get("key").data == b"value"
        assert client.get("key", consistency="eventual").data == b"value"
        running.until(lambda: roles(client) == ["follower", "follower", "leader"], "one leads and two follow")
    with DougClient(URL) as stranger, pytest.raises(UnavailableError, match="certificate verify failed"):
        stranger.get("key")
    with DougClient(URL.replace("https", "http"), deadline_s=0.0) as plain, pytest.raises(UnavailableError):
        plain.get("key")
    with pytest.raises(CertificateError, match="absent"):
        DougClient(URL, ca_file="absent.crt")
    trusting = ssl.create_default_context(cafile=running.ca)
    assert fetch(PORT, "GET", "/livez", secure=Secure(trusting, "localhost")).status == 200
    for secure in (Secure(trusting, "elsewhere.local"), Secure(ssl.create_default_context(), "localhost")):
        with pytest.raises(HttpError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(PORT, "GET", "/livez", secure=secure)
    command = [dougctl(), "--url", URL, "--ca-file", running.ca, "get", "key"]
    assert subprocess.run(command, capture_output=True, check=True, timeout=60).stdout == b"value"


def test_no_port_of_a_node_takes_plaintext(running: Running) -> None:
    for port in range(BASE_PORT, BASE_PORT + 3 * NODES, 3):
        for which in (port, port + 1):
            with grpc.insecure_channel(f"127.0.0.1:{which}", options=[("grpc.enable_http_proxy", 0)]) as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    admin_pb2_grpc.AdminStub(channel).Status(admin_pb2.StatusRequest(), timeout=30)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port + 2, timeout=10, context=ssl.create_default_context(cafile=running.ca)
        )
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        figures = answer.read().decode().splitlines()
        assert answer.status == 200, figures
        expiry = [line for line in figures if line.startswith("dougdb_tls_certificate_expiry_timestamp_seconds ")]
        assert 0 < float(expiry[0].split()[1]) - time.time() < 91 * 86_400
        connection.close()


def test_refused_strangers_leave_no_lines_of_grpc_in_the_logs(running: Running) -> None:
    """gRPC writes notes of its own to stderr, unless it is told not to before it is imported."""
    credentials = grpc.ssl_channel_credentials(Path(running.ca).read_bytes())
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"localhost:{BASE_PORT}", credentials, options) as channel, pytest.raises(grpc.RpcError):
        admin_pb2_grpc.AdminStub(channel).Status(admin_pb2.StatusRequest(), timeout=30)
    logs = {path.name: path.read_text() for path in running.data.rglob("*.log")}
    assert any("raft.became_leader" in text for text in logs.values()), sorted(logs)
    assert not [name for name, text in logs.items() if "ssl_transport_security" in text]


WHEN_IMPORTED = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_VERBOSITY"))
sys.meta_path.insert(0, Finder())
import {module}.__main__
"""


@pytest.mark.parametrize("module", ["raft_node", "facade"])
def test_grpc_is_told_to_be_silent_before_it_is_imported(module: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    command = [sys.executable, "-c", WHEN_IMPORTED.format(module=module)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "ERROR\n"


@pytest.mark.slow
def test_a_renewal_fails_no_request_and_nodes_find_each_other_with_new_certificates(running: Running) -> None:
    ports = [PORT, *range(BASE_PORT, BASE_PORT + 3 * NODES)]
    with DougClient(URL, ca_file=running.ca) as client:
        client.put("before", b"1")
        assert certs.main(["--out", str(running.certs)]) == 0
        new = ssl.PEM_cert_to_DER_cert((running.certs / "tls.crt").read_text())

        def renewed() -> bool:
            client.put("meanwhile", b"2")
            return all(running.presented(port) == new for port in ports)

        running.until(renewed, "every port shows the new certificate")
        leader = leader_of(running, client)
        pid = int((running.data / "run" / f"{leader}.pid").read_text())
        os.kill(pid, signal.SIGKILL)

        def whole() -> bool:
            nodes = client.cluster().shards[0].nodes
            return len({node.commit_index for node in nodes}) == 1 and all(node.commit_index for node in nodes)

        def another_leads() -> bool:
            # What the facade tells of the cluster may be half a second old.
            found = client.cluster().shards[0].leader
            return found is not None and found.id != leader

        running.until(another_leads, "another one leads")
        client.put("after", b"3")
        running.until(whole, "the killed node is back and has caught up")
        assert [client.get(key).data for key in ("before", "meanwhile", "after")] == [b"1", b"2", b"3"]


class Load:
    """Clients that trust both authorities: one that keeps its connection, one that makes another for each request.

    Attributes:
        done: How many requests were answered.
        failures: What became of those that failed.
    """

    def __init__(self, trusted: Path) -> None:
        self.done = 0
        self.failures: list[str] = []
        self._trusted = trusted
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def _run(self) -> None:
        fresh = Secure(ssl.create_default_context(cafile=str(self._trusted)), "localhost")
        with DougClient(URL, ca_file=str(self._trusted), deadline_s=60) as kept:
            while not self._over.is_set():
                value, name = b"%d" % self.done, f"load-{self.done}"
                try:
                    headers = {"Idempotency-Key": name}
                    answer = fetch(PORT, "PUT", "/v1/kv/fresh", value, headers, timeout_s=60, secure=fresh)
                    assert answer.status == 200, answer.body
                    kept.put("kept", value)
                    assert kept.get("fresh").data == value
                except (HttpError, DougdbError, AssertionError) as error:
                    self.failures.append(f"{name}: {error!r}")
                self.done += 3

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._over.set()
        self._thread.join(120)


def served_by_nodes(authority: Path, folder: Path) -> list[bool]:
    """Whether each node answers whoever shows the certificate in a folder."""
    credentials = grpc.ssl_channel_credentials(
        authority.read_bytes(), (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
    )
    served = []
    for port in range(BASE_PORT, BASE_PORT + 3 * NODES, 3):
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
            try:
                admin_pb2_grpc.AdminStub(channel).Status(admin_pb2.StatusRequest(), timeout=60)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error
                served.append(False)
            else:
                served.append(True)
    return served


def test_another_authority_takes_over_under_load_and_no_request_fails(running: Running, tmp_path: Path) -> None:
    """As docs/operations.md has it: both authorities everywhere, then new certificates, then the old one goes."""
    old, new, both = Path(running.ca).read_bytes(), certs.Authority.make("Another authority"), tmp_path / "both.crt"
    both.write_bytes(old + new.pem)
    before, ca = tmp_path / "before", Path(running.ca)
    before.mkdir()
    for name in ("tls.crt", "tls.key"):
        (before / name).write_bytes((running.certs / name).read_bytes())
    with Load(both) as load:
        running.until(lambda: load.done > 9, "clients are served")
        for step in (
            lambda: certs.write(ca, old + new.pem),
            lambda: new.write_certificate(running.certs, certs.LOCAL),
            lambda: certs.write(ca, new.pem),
        ):
            running.reload(step)
            reached = load.done
            running.until(lambda reached=reached: load.done > reached + 9, "clients are served")  # type: ignore[misc]
    assert not load.failures and load.done > 36
    assert served_by_nodes(both, running.certs) == [True] * NODES
    assert served_by_nodes(both, before) == [False] * NODES, "the old authority counts no more"
    # Who connects anew has nothing left of the old one.
    with DougClient(URL, ca_file=running.ca, deadline_s=60) as client:
        leader = leader_of(running, client)
        os.kill(int((running.data / "run" / f"{leader}.pid").read_text()), signal.SIGKILL)
        client.put("after", b"4")
        assert client.get("after").data == b"4"
    running.until(lambda: served_by_nodes(both, running.certs) == [True] * NODES, "the killed node is back")


def refused(module: str, **variables: str) -> str:
    """Starts a program that must refuse to; what it says."""
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, "-m", module], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2, done
    return done.stderr.decode()


@pytest.mark.slow
def test_no_process_has_left_an_error_uncaught(running: Running) -> None:
    """What the tests before it had the processes do."""
    assert uncaught_in(running.data.rglob("*.log")) == []


def test_plaintext_beyond_the_machine_is_refused_without_a_choice(tmp_path: Path) -> None:
    node = {
        "DOUGDB_NODE_ID": "n", "DOUGDB_SHARD_ID": "0", "DOUGDB_WAL_DIR": str(tmp_path / "wal"),
        "DOUGDB_DATA_DIR": str(tmp_path / "data"), "DOUGDB_CLIENT_LISTEN": "127.0.0.1:25200",
        "DOUGDB_PEER_LISTEN": "127.0.0.1:25201", "DOUGDB_ADMIN_LISTEN": "127.0.0.1:25202",
        "DOUGDB_PEERS": "n=127.0.0.1:25201",
    }  # fmt: skip
    nodes = (
        {"DOUGDB_CLIENT_LISTEN": "0.0.0.0:25200"},
        {"DOUGDB_PEER_LISTEN": "[::]:25201"},
        {"DOUGDB_ADMIN_LISTEN": "0.0.0.0:25202"},
        {"DOUGDB_PEERS": "n=127.0.0.1:25201,m=10.0.0.1:25201"},
    )
    facade = {"DOUGDB_LISTEN": "127.0.0.1:25203", "DOUGDB_NODES": '{"0": {"n": "127.0.0.1:25200"}}'}
    facades = (
        {"DOUGDB_LISTEN": "0.0.0.0:25203"},
        {"DOUGDB_NODES": '{"0": {"n": "n.example:25200"}}'},
        {"DOUGDB_DISCOVERY": "dns", "DOUGDB_DNS_NAMES": '{"0": "s0.ns.svc"}'},
    )
    # Two at a time: most of it is the start of an interpreter.
    with ThreadPoolExecutor(2) as pool:
        folders = [{"DOUGDB_WAL_DIR": f"{tmp_path}/wal-{n}", "DOUGDB_DATA_DIR": f"{tmp_path}/{n}"} for n in range(4)]
        for said in pool.map(lambda one, own: refused("raft_node", **{**node, **one, **own}), nodes, folders):
            assert "plaintext would leave this machine" in said
        for said in pool.map(lambda one: refused("facade", **{**facade, **one}), facades):
            assert said.startswith("facade: DOUGDB_TLS_MODE: ")
            assert "plaintext would leave this machine" in said
    absent = {"DOUGDB_TLS_MODE": "mutual", "DOUGDB_TLS_KEY_FILE": "k", "DOUGDB_TLS_CA_FILE": "a"}
    assert "DOUGDB_TLS_CERT_FILE is needed" in refused("raft_node", **node, **absent)
    assert "DOUGDB_TLS_CERT_FILE: it is needed" in refused("facade", **facade, **absent)
    absent["DOUGDB_TLS_CERT_FILE"] = str(tmp_path / "absent.crt")
    assert "absent.crt: No such file" in refused("raft_node", **node, **absent)
    assert "absent.crt: No such file" in refused("facade", **facade, **absent)
