"""The cluster of the tests and the meters, against a stand-in for ``dougctl dev``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import psutil
import pytest
from bench.cluster import TOKEN_VARIABLE, Cluster, ClusterError, carries_token, paused, wait_for
from bench.meter import MemorySampler, cpu_s, family, family_pss_bytes, parse_metrics, rss_bytes, total

pytestmark = [pytest.mark.integration, pytest.mark.light, pytest.mark.seconds]

FAKE = (sys.executable, str(Path(__file__).with_name("fake_dev.py")))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, shards=2, nodes=3, command=FAKE)
    try:
        yield cluster
    finally:
        cluster.close()


def test_a_started_cluster_is_found_and_stopped(cluster: Cluster) -> None:
    cluster.start()
    assert cluster.shard_ids() == ["0", "1"]
    assert [view.id for view in cluster.views()] == cluster.node_ids
    leader = cluster.leader("1")
    assert leader is not None
    assert leader.id == "shard-1-0"
    assert leader.admin_port == cluster.base_port + 1
    assert cluster.terms() == {"0": 3, "1": 4}
    assert cluster.slot_owners()(511) == "0"
    assert cluster.slot_owners()(512) == "1"
    assert len(cluster.processes()) == 7
    assert "shard-0-1 sleeps" in cluster.tail()
    assert cluster.stop() == 0
    assert cluster.processes() == []
    cluster.start()
    assert cluster.interrupt() == 0


def test_a_killed_cluster_leaves_nothing_behind(cluster: Cluster) -> None:
    cluster.start()
    everything = cluster.processes()
    cluster.kill_all()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in everything)


def test_orphans_of_a_killed_supervisor_are_ended(cluster: Cluster) -> None:
    cluster.start()
    assert cluster.process is not None
    cluster.process.kill()
    cluster.process.wait()
    assert len(cluster.processes()) == 6
    cluster.close()
    assert cluster.processes() == []


def test_a_command_that_ends_is_reported_with_what_it_printed(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, command=FAKE, options=["--broken"])
    with pytest.raises(ClusterError, match=r"(?s)exit code 3.*a port is taken"):
        cluster.start()


def test_a_cluster_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, shards=1, nodes=1, command=FAKE, options=["--mute"])
    try:
        with pytest.raises(ClusterError, match="not ready within 1"):
            cluster.start(timeout_s=1)
    finally:
        cluster.close()
    assert cluster.processes() == []


def test_a_killed_node_is_gone_and_can_be_started_as_it_was(cluster: Cluster) -> None:
    cluster.start()
    launch = cluster.launch_of("shard-0-1")
    assert launch.argv[-1].startswith("import time")
    killed = cluster.kill("shard-0-1")
    assert cluster.find("shard-0-1") is None
    with pytest.raises(ClusterError, match="shard-0-1 is not running"):
        cluster.member("shard-0-1")
    cluster.start_again("shard-0-1", launch)
    assert cluster.member("shard-0-1").pid != killed.pid


class Starting:
    """A process in the middle of its exec: it has a program, and an environment only at a later look."""

    def __init__(self, looks: int, program: str = "/bin/python") -> None:
        self.looks = looks
        self.program = program

    def environ(self) -> dict[str, str]:
        self.looks -= 1
        return {TOKEN_VARIABLE: "token"} if self.looks < 0 else {}

    def exe(self) -> str:
        return self.program


@pytest.mark.parametrize(
    ("looks", "program", "found"), [(0, "x", True), (3, "x", True), (3, "", False), (999, "x", False)]
)
def test_a_process_that_is_just_being_started_is_looked_at_again(looks: int, program: str, found: bool) -> None:
    """One without a program is a thread of the kernel."""
    assert carries_token(cast("psutil.Process", Starting(looks, program)), "token") is found


def test_a_pid_file_that_names_a_strange_process_is_not_believed(cluster: Cluster) -> None:
    cluster.start()
    cluster.pid_file("shard-0-1").write_text(f"{os.getpid()}\n")
    assert cluster.find("shard-0-1") is None


def test_paths_in_a_launch_can_be_replaced(cluster: Cluster) -> None:
    cluster.start()
    launch = cluster.launch_of("shard-0-1").replaced("import time", "import sys")
    assert launch.argv[-1].startswith("import sys")


def test_paused_processes_go_on_afterwards(cluster: Cluster) -> None:
    cluster.start()
    process = cluster.member("shard-0-0")
    with paused([process]):
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED, 60, "the process to stop")
    wait_for(lambda: process.status() != psutil.STATUS_STOPPED, 60, "the process to go on")


def test_meters_see_the_family_of_a_process() -> None:
    child = psutil.Popen([sys.executable, "-S", "-c", "x = bytearray(50_000_000); [0 for _ in iter(int, 1)]"])
    try:
        me = psutil.Process()
        assert child.pid in {process.pid for process in family(me)}
        wait_for(lambda: family_pss_bytes(child) > 50e6, 60, "the child to take memory")
        assert rss_bytes(child) > 50e6
        with MemorySampler(lambda: {"child": child}, interval_s=0.01) as sampler:
            wait_for(lambda: cpu_s([child]) > 0.2, 60, "the child to take time")
            wait_for(lambda: sampler.samples > 1, 60, "two samples")
        assert sampler.peak_bytes["child"] > 50e6
    finally:
        child.kill()
        child.wait()
    assert family(child) in ([], [child])
    assert family_pss_bytes(child) == 0


def test_metrics_are_read_with_and_without_labels() -> None:
    text = """# HELP dougdb_raft_term The term.
# TYPE dougdb_raft_term gauge
dougdb_raft_term 4.0
dougdb_grpc_messages_received_total{service="Raft",method="Replicate"} 7.0
dougdb_grpc_messages_received_total{service="Doug",method="Pipe"} 1.5e+03
"""
    metrics = parse_metrics(text)
    assert total(metrics, "dougdb_raft_term") == 4
    assert total(metrics, "dougdb_grpc_messages_received_total") == 1507
    with pytest.raises(KeyError, match="no metric"):
        total(metrics, "dougdb_raft")


def test_waiting_in_vain_says_for_what() -> None:
    with pytest.raises(ClusterError, match="a miracle"):
        wait_for(lambda: None, 0.1, "a miracle")
