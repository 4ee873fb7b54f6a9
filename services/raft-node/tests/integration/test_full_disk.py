"""Nodes whose disk gets full: a tmpfs of fixed size in a mount namespace of each process. Root on Linux only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc

pytestmark = [pytest.mark.integration, pytest.mark.safety]

MIB = 1 << 20
WAIT_S = 60.0
PORTS = range(26_910, 26_990, 9)
MOUNT = 'mount -t tmpfs -o size="$1" doug "$2" && mkdir "$2/wal" "$2/data" && shift 2 && exec "$@"'


def can_mount() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    probe = "mount -t tmpfs -o size=1m doug /mnt"
    return subprocess.run(["unshare", "-m", "sh", "-c", probe], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def _mounts() -> None:
    if not can_mount():
        pytest.skip("needs root on Linux, and leave to mount a tmpfs in a namespace of its own")


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
    """One node, alone with its disk."""

    def __init__(self, folder: Path, number: int, count: int, base: int, size: int, **settings: object) -> None:
        self.name = f"n{number}"
        self.ballast: list[Path] = []
        self.folder = folder / self.name
        self.folder.mkdir()
        self.admin = base + number * 3 + 2
        self.log_path = folder / f"{self.name}.log"
        peers = ",".join(f"n{other}=127.0.0.1:{base + other * 3 + 1}" for other in range(count))
        environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "DOUGDB_NODE_ID": self.name,
            "DOUGDB_SHARD_ID": "0",
            "DOUGDB_PEERS": peers,
            "DOUGDB_WAL_DIR": str(self.folder / "wal"),
            "DOUGDB_DATA_DIR": str(self.folder / "data"),
            "DOUGDB_CLIENT_LISTEN": f"127.0.0.1:{base + number * 3}",
            "DOUGDB_PEER_LISTEN": f"127.0.0.1:{base + number * 3 + 1}",
            "DOUGDB_ADMIN_LISTEN": f"127.0.0.1:{self.admin}",
            "DOUGDB_WAL_SEGMENT_BYTES": str(256 << 10),
            "DOUGDB_MEMTABLE_BYTES": str(256 << 10),
            **{f"DOUGDB_{name.upper()}": str(value) for name, value in settings.items()},
        }
        command = ["unshare", "-m", "sh", "-c", MOUNT, "sh", str(size), str(self.folder)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, sys.executable, "-P", "-m", "raft_node"], env=environment, stdout=log, stderr=log
            )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{base + number * 3}")
        self.doug = doug_pb2_grpc.DougStub(self.channel)

    @property
    def disk(self) -> Path:
        """Its disk, seen from outside its namespace."""
        return Path(f"/proc/{self.process.pid}/root{self.folder}")

    @property
    def role(self) -> str:
        try:
            status = admin_pb2_grpc.AdminStub(self.channel).Status(admin_pb2.StatusRequest(), timeout=2)
        except grpc.RpcError:
            return ""
        return str(status.role)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=WAIT_S) as answer:
            return str(answer.read().decode())

    def fill(self, leave: int) -> None:
        """Takes all of the room but so much; what was taken before stays taken."""
        status = os.statvfs(self.disk)
        size = status.f_bavail * status.f_frsize - leave
        self.ballast.append(self.disk / f"ballast-{len(self.ballast)}")
        with self.ballast[-1].open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)

    def empty(self) -> None:
        while self.ballast:
            self.ballast.pop().unlink()

    def put(self, key: str, value: bytes) -> str:
        """Writes; gives the code of the refusal, empty when it was acknowledged."""
        try:
            self.doug.Put(doug_pb2.PutRequest(key=key.encode(), value=value), timeout=5)
        except grpc.RpcError as error:
            codes = [datum.value for datum in error.trailing_metadata() or () if datum.key == "doug-code"]
            return str(codes[0] if codes else error.code().name)
        return ""

    def get(self, key: str) -> bytes:
        return bytes(self.doug.Get(doug_pb2.GetRequest(key=key.encode()), timeout=WAIT_S).value)

    def leads_and_has(self, key: str, value: bytes) -> bool:
        """Whether it answers a read that a leader alone answers, and with this."""
        try:
            return self.get(key) == value
        except grpc.RpcError:
            return False

    def moves(self) -> int:
        """How often it handed its leadership over, by its log."""
        return self.log_path.read_text().count('"lead.moved"')

    def end(self) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., list[Node]]]:
    nodes: list[Node] = []

    def begin(count: int, size: int, **settings: object) -> list[Node]:
        base = free_base()
        nodes.extend(Node(tmp_path, number, count, base, size, **settings) for number in range(count))
        until(lambda: any(node.role == "leader" for node in nodes), nodes)
        return nodes

    yield begin
    for node in nodes:
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
        time.sleep(0.1)


@pytest.mark.slow
def test_writes_are_refused_while_the_disk_is_nearly_full_and_reads_go_on(start: Callable[..., list[Node]]) -> None:
    (node,) = nodes = start(1, 24 * MIB, reserve_bytes=4 * MIB)
    until(lambda: node.put("before", b"1") == "", nodes)
    until((node.disk / "data" / "RESERVE").exists, nodes)
    node.fill(3 * MIB)
    until(lambda: node.put("k", b"2") == "DISK_FULL", nodes)
    assert node.get("before") == b"1" and node.get("k") in (b"", b"2")
    assert 'dougdb_disk_low{shard="0"} 1.0' in node.metrics()
    assert (node.disk / "data" / "RESERVE").exists()
    node.fill(MIB)
    until(lambda: not (node.disk / "data" / "RESERVE").exists(), nodes)
    until(lambda: node.put("k", b"3") == "DISK_FULL", nodes)
    # A user can delete a way out: what frees space is taken from the reserve.
    node.doug.Delete(doug_pb2.DeleteRequest(key=b"before"), timeout=WAIT_S)
    assert node.get("before") == b""
    node.empty()
    until(lambda: node.put("k", b"4") == "", nodes)
    assert (node.disk / "data" / "RESERVE").exists()
    assert node.get("k") == b"4"
    assert 'dougdb_disk_low{shard="0"} 0.0' in node.metrics()
    events = admin_pb2_grpc.AdminStub(node.channel).Events(admin_pb2.EventsRequest(), timeout=WAIT_S).events
    names = [event.name for event in events]
    assert [name for name in names if name.startswith("disk_")] == ["disk_low", "disk_recovered"]


def test_a_disk_that_is_full_to_the_last_byte_stops_no_node_and_loses_nothing(start: Callable[..., list[Node]]) -> None:
    (node,) = nodes = start(1, 16 * MIB, reserve_bytes=0)
    until(lambda: node.put("before", b"1") == "", nodes)
    node.fill(MIB)
    acknowledged, refusals = {}, []
    for number in range(80):
        key, value = f"k{number}", bytes([number]) * (64 << 10)
        code = node.put(key, value)
        if code:
            refusals.append(code)
            if len(refusals) > 5:
                break
        else:
            acknowledged[key] = value
    assert refusals, "the disk was to get full"
    assert node.process.poll() is None, node.log_path.read_text()
    for key, value in acknowledged.items():
        # By any replica's own state: a leader whose log waits for room steps down.
        found = node.doug.Get(
            doug_pb2.GetRequest(key=key.encode(), consistency=doug_pb2.CONSISTENCY_EVENTUAL), timeout=WAIT_S
        )
        assert found.value == value
    node.empty()
    until(lambda: node.put("after", b"2") == "", nodes)
    assert all(node.get(key) == value for key, value in acknowledged.items())
    assert "node.fatal" not in node.log_path.read_text()


@pytest.mark.slow
def test_leadership_moves_to_a_node_with_room(start: Callable[..., list[Node]]) -> None:
    nodes = start(3, 24 * MIB, reserve_bytes=4 * MIB, election_timeout_ms=1000, election_timeout_max_ms=2000)
    until(lambda: any(node.put("k", b"1") == "" for node in nodes), nodes)
    leader = leader_of(nodes)
    leader.fill(3 * MIB)
    others = [node for node in nodes if node is not leader]
    until(lambda: any(node.put("k", b"2") == "" for node in others), nodes)
    until(lambda: leader.role == "follower", nodes)
    leader.empty()
    # All of them full: nobody is better, so leadership stays where it is, and reads go on.
    for node in nodes:
        node.fill(3 * MIB)
    until(lambda: all('dougdb_disk_low{shard="0"} 1.0' in node.metrics() for node in nodes), nodes)
    until(lambda: any(node.put("k", b"3") == "DISK_FULL" for node in nodes), nodes)
    # What was begun before the last of them was full may still end.
    for _ in range(5):
        before = sum(node.moves() for node in nodes)
        time.sleep(3)
        if sum(node.moves() for node in nodes) == before:
            break
    else:
        raise AssertionError("leadership is handed round")
    until(lambda: any(node.leads_and_has("k", b"2") for node in nodes), nodes)
    for node in nodes:
        node.process.send_signal(signal.SIGTERM)
    assert [node.process.wait(WAIT_S) for node in nodes] == [0, 0, 0]
