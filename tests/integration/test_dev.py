"""``dougctl dev``: what it starts, what it restarts, what it refuses, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from bench.cluster import Cluster, is_alive, wait_for
from bench.http11 import HttpError, fetch

pytestmark = pytest.mark.integration

RESTART_S = 60.0
END_S = 60.0


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """One shard and two facades, started where proxies are set that lead nowhere."""
    nowhere = dict.fromkeys(("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy"), "http://127.0.0.1:9")
    return new_cluster(shards=1, nodes=3, options=["--facades", "2"], environment=nowhere).start()


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and the time of its last change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.stat()
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found


def refused(cluster: Cluster) -> str:
    """Starts what has to be refused, and returns what it printed."""
    printed_before = len(cluster.output.read_text()) if cluster.output.exists() else 0
    assert cluster.launch().wait(END_S) != 0
    assert cluster.processes() == []
    return cluster.output.read_text()[printed_before:]


# -- what it starts -------------------------------------------------------------------------------------------------


def test_every_process_has_a_pid_file_and_a_log(cluster: Cluster) -> None:
    names = [*cluster.node_ids, "facade", "facade-1"]
    assert sorted(path.stem for path in (cluster.data / "run").glob("*.pid")) == sorted(names)
    for name in names:
        assert is_alive(cluster.member(name))
    logs = {path.stem for path in (cluster.data / "run").glob("*.log")}
    assert logs >= set(names)


def test_the_data_lies_where_users_look_for_it(cluster: Cluster) -> None:
    for node_id in cluster.node_ids:
        assert cluster.files(node_id, "wal/*.wal")
        assert cluster.files(node_id, "data/MANIFEST-*")


def test_it_prints_the_address_and_three_examples(cluster: Cluster) -> None:
    printed = cluster.output.read_text()
    assert cluster.url in printed
    examples = [line.strip() for line in printed.splitlines() if line.strip().startswith("curl")]
    assert len(examples) == 3
    for example in examples:
        answer = subprocess.run([*example.split(), "-sS", "--fail"], capture_output=True, timeout=60, check=False)
        assert answer.returncode == 0, (example, answer.stderr)


def test_no_port_that_others_know_is_where_the_system_hands_out_ports(cluster: Cluster) -> None:
    for node_id in cluster.node_ids:
        listening = [c.laddr for c in cluster.member(node_id).net_connections() if c.status == psutil.CONN_LISTEN]
        assert len([place for place in listening if place.port < 32_768]) == 3
        # Of the others nobody is told, and each start takes new ones: grpcio's, behind the two gRPC ports.
        inner = [place for place in listening if place.port >= 32_768]
        assert [place.ip.removeprefix("::ffff:") for place in inner] == ["127.0.0.1"] * 2


def test_the_facade_listens_on_ipv6_loopback_too(cluster: Cluster) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    assert fetch(cluster.port, "PUT", "/v1/kv/six", b"6", host="::1").status == 200
    assert fetch(cluster.port, "GET", "/v1/kv/six", host="::1").body == b"6"


def test_the_command_line_client_ignores_proxies_on_loopback(cluster: Cluster) -> None:
    def dougctl(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [cluster.command[0], *words, "--url", cluster.url]
        return subprocess.run(command, env=cluster.environment, capture_output=True, timeout=60, check=False)

    assert dougctl("put", "by-command", "value").returncode == 0
    assert dougctl("get", "by-command").stdout.rstrip(b"\n") == b"value"
    status = dougctl("status", "--json")
    assert status.returncode == 0
    assert b"shard-0-0" in status.stdout
    assert dougctl("delete", "by-command").returncode == 0
    assert dougctl("get", "by-command").returncode == 3


# -- what it restarts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shard-0-1", "facade", "facade-1"])
def test_a_killed_process_is_started_again(cluster: Cluster, name: str) -> None:
    printed_before = len(cluster.output.read_text())
    killed = cluster.kill(name)
    restarted = wait_for(lambda: cluster.find(name), RESTART_S, f"{name} to be started again")
    assert restarted.pid != killed.pid
    lines = cluster.output.read_text()[printed_before:].splitlines()
    assert len([line for line in lines if line.startswith(f"{name} died ")]) == 1, "it is said in one line"
    cluster_port = cluster.port + (1 if name == "facade-1" else 0)

    def serves() -> bool:
        try:
            return fetch(cluster_port, "GET", "/readyz", timeout_s=2).status == 200
        except HttpError:
            return False

    wait_for(serves, RESTART_S, "the facade to answer")
    cluster.await_equal("0")


def test_a_helper_process_dies_with_its_node(cluster: Cluster) -> None:
    helpers = cluster.member("shard-0-2").children(recursive=True)
    assert helpers, "every node has its helper process from the start"
    cluster.kill("shard-0-2")
    wait_for(lambda: not any(is_alive(helper) for helper in helpers), 30, "the helper to end")
    cluster.await_equal("0")


# -- what it refuses ------------------------------------------------------------------------------------------------


def test_data_in_use_is_refused(cluster: Cluster, new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    second = new_cluster(folder=tmp_path, shards=1, nodes=3)
    second.data = cluster.data
    printed = refused(second)
    assert str(cluster.data) in printed
    assert cluster.request("GET", "/readyz").status == 200
    assert len(cluster.processes()) >= 5


@pytest.mark.parametrize("which", ["facade", "node"])
def test_a_taken_port_is_named_and_nothing_is_touched(
    new_cluster: Callable[..., Cluster], tmp_path: Path, which: str
) -> None:
    blocked = new_cluster(folder=tmp_path, shards=1, nodes=3)
    port = blocked.port if which == "facade" else blocked.base_port + 1
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        printed = refused(blocked)
    assert str(port) in printed
    assert not blocked.data.exists()


def test_ctrl_c_ends_everything_and_the_data_is_found_again(
    cluster: Cluster, new_cluster: Callable[..., Cluster]
) -> None:
    """Ctrl-C, which a terminal sends to the whole group, then a start with another layout, then with the right one."""
    assert cluster.request("PUT", "/v1/kv/kept", b"as it was").status == 200
    assert cluster.interrupt(END_S) == 0
    assert cluster.processes() == [], "nothing outlives it"
    before = snapshot(cluster.data)
    other = new_cluster(folder=cluster.folder, shards=1, nodes=5)
    printed = refused(other)
    assert "1 shard" in printed
    assert snapshot(cluster.data) == before, "a refused start touches nothing"
    cluster.start()
    assert cluster.request("GET", "/v1/kv/kept").body == b"as it was"
    assert cluster.stop(signal.SIGTERM, END_S) == 0
    assert cluster.processes() == []


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nothing_that_blocks_the_next_start(cluster: Cluster) -> None:
    if cluster.process is None or cluster.process.poll() is not None:
        cluster.start()
    assert cluster.process is not None
    os.kill(cluster.process.pid, signal.SIGKILL)
    cluster.process.wait()
    cluster.start()
    assert cluster.request("PUT", "/v1/kv/after", b"x").status == 200


@pytest.mark.slow
def test_left_down_with_no_restart(new_cluster: Callable[..., Cluster]) -> None:
    lonely = new_cluster(shards=1, nodes=3, options=["--no-restart"]).start()
    lonely.kill("shard-0-1")
    with pytest.raises(Exception, match="waited"):
        wait_for(lambda: lonely.find("shard-0-1"), 3, "a restart that must not come")
    assert lonely.request("PUT", "/v1/kv/two-of-three", b"x").status == 200
    assert lonely.stop() == 0
