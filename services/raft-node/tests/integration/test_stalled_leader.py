"""A leader whose storage stands still: its helper process is stopped, so nothing is flushed and nothing applied."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import grpc
import pytest

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the helper process in /proc"),
]

WAIT_S = 60.0
PORTS = range(26_400, 26_490, 9)


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

    def has(self, key: str, value: bytes) -> bool:
        """Whether it leads, and has this value."""
        try:
            return bool(self.doug.Get(doug_pb2.GetRequest(key=key.encode()), timeout=WAIT_S).value == value)
        except grpc.RpcError:
            return False

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


def leader_of(nodes: list[Node]) -> Node:
    """Who leads; waited for, as somebody may just have been elected."""
    found: list[Node] = []

    def look() -> bool:
        found[:] = [node for node in nodes if node.role == "leader"]
        return bool(found)

    until(look, nodes)
    return found[0]


def until(condition: Callable[[], bool], nodes: list[Node]) -> None:
    ends = time.monotonic() + WAIT_S
    while not condition():
        for node in nodes:
            assert node.process.poll() is None, node.log_path.read_text()
        assert time.monotonic() < ends, "".join(node.log_path.read_text()[-3000:] for node in nodes)
        time.sleep(0.05)


def test_it_hands_over_to_a_node_that_goes_on(nodes: list[Node]) -> None:
    until(lambda: any(node.put("first", b"1") for node in nodes), nodes)
    leader = leader_of(nodes)
    helper = leader.helper
    os.kill(helper, signal.SIGSTOP)
    try:
        acknowledged, numbers = {}, count()
        others = [node for node in nodes if node is not leader]

        def another_takes_over() -> bool:
            # It is written to until then: one put that waits long may be the machine's fault.
            number = next(numbers)
            value = bytes([number % 256]) * (16 << 10)
            if leader.put(f"k{number}", value):
                acknowledged[f"k{number}"] = value
            return any(node.put("after", b"2") for node in others)

        # A leader that stood still for ever would hold all of this up for ever.
        until(another_takes_over, nodes)
        until(lambda: leader.role == "follower", nodes)
    finally:
        os.kill(helper, signal.SIGCONT)
    assert acknowledged
    for key, value in acknowledged.items():
        until(lambda key=key, value=value: any(node.has(key, value) for node in nodes), nodes)  # type: ignore[misc]
