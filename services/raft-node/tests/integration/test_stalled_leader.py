"""A leader whose storage stands still: its helper process is stopped, so nothing is flushed and nothing applied."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the helper process in /proc"),
]

WAIT_S = 30.0
PORTS = range(26_400, 26_490, 9)
MOVED_S = 2.0
"""The goal. What the machine needs to answer a question is not part of it: see ``SLOW_MACHINE_S``."""
SLOW_MACHINE_S = 10.0


def free_base() -> int:
    for first in PORTS:
        probes = [socket.socket() for _ in range(9)]
        try:
            for number, probe in enumerate(probes):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", first + number))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        return first
    raise AssertionError("no free ports")


class Node:
    def __init__(self, folder: Path, number: int, base: int) -> None:
        self.name = f"n{number}"
        environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "DOUGDB_NODE_ID": self.name,
            "DOUGDB_SHARD_ID": "0",
            "DOUGDB_PEERS": ",".join(f"n{other}=127.0.0.1:{base + other * 3 + 1}" for other in range(3)),
            "DOUGDB_WAL_DIR": str(folder / self.name / "wal"),
            "DOUGDB_DATA_DIR": str(folder / self.name / "data"),
            "DOUGDB_CLIENT_LISTEN": f"127.0.0.1:{base + number * 3}",
            "DOUGDB_PEER_LISTEN": f"127.0.0.1:{base + number * 3 + 1}",
            "DOUGDB_ADMIN_LISTEN": f"127.0.0.1:{base + number * 3 + 2}",
            "DOUGDB_MEMTABLE_BYTES": str(64 << 10),
            "DOUGDB_ELECTION_TIMEOUT_MS": "1000",
            "DOUGDB_ELECTION_TIMEOUT_MAX_MS": "2000",
            "DOUGDB_RESERVE_BYTES": "0",
        }
        self.log_path = folder / f"{self.name}.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "raft_node"], env=environment, stdout=log, stderr=log
            )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{base + number * 3}")
        self.doug = doug_pb2_grpc.DougStub(self.channel)

    @property
    def helper(self) -> int:
        """The helper process: the only child."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) == 1
        return int(children[0])

    @property
    def role(self) -> str:
        try:
            return str(admin_pb2_grpc.AdminStub(self.channel).Status(admin_pb2.StatusRequest(), timeout=2).role)
        except grpc.RpcError:
            return ""

    def put(self, key: str, value: bytes) -> bool:
        try:
            self.doug.Put(doug_pb2.PutRequest(key=key.encode(), value=value), timeout=1)
        except grpc.RpcError:
            return False
        return True

    def end(self) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    base = free_base()
    started = [Node(tmp_path, number, base) for number in range(3)]
    yield started
    for node in started:
        node.end()


def until(condition: Callable[[], bool], nodes: list[Node]) -> None:
    ends = time.monotonic() + WAIT_S
    while not condition():
        for node in nodes:
            assert node.process.poll() is None, node.log_path.read_text()
        assert time.monotonic() < ends, "".join(node.log_path.read_text()[-3000:] for node in nodes)
        time.sleep(0.05)


def test_it_hands_over_to_a_node_that_goes_on(nodes: list[Node]) -> None:
    until(lambda: any(node.put("first", b"1") for node in nodes), nodes)
    leader = next(node for node in nodes if node.role == "leader")
    helper = leader.helper
    os.kill(helper, signal.SIGSTOP)
    try:
        acknowledged, number = {}, 0
        while leader.put(f"k{number}", bytes([number % 256]) * (16 << 10)):
            acknowledged[f"k{number}"] = bytes([number % 256]) * (16 << 10)
            number += 1
            assert number < 1000, "the leader was to stand still"
        stood_still_s = time.monotonic()
        others = [node for node in nodes if node is not leader]
        until(lambda: any(node.put("after", b"2") for node in others), nodes)
        # The put that failed had waited up to its own second before.
        assert time.monotonic() - stood_still_s < MOVED_S + SLOW_MACHINE_S
        assert leader.role == "follower"
    finally:
        os.kill(helper, signal.SIGCONT)
    new = next(node for node in others if node.role == "leader")
    for key, value in acknowledged.items():
        assert new.doug.Get(doug_pb2.GetRequest(key=key.encode()), timeout=5).value == value
