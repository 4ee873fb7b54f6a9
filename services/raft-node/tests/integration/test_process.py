"""One node as a process: what its ports say, how it ends, and what it finds again. A shard of one voter is enough."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import raft_node
from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc, raft_pb2
from raft_node.entry import EntryKind
from raft_node.kv.state_hash import Mark
from raft_node.storage.files import OsFileSystem
from raft_node.storage.wal.log import Wal

pytestmark = pytest.mark.integration

START_S = 60.0
PORTS = range(26_700, 26_900, 3)
EXIT_SETTINGS, EXIT_REFUSED = 2, 3
COMMAND = [sys.executable, "-P", "-m", "raft_node"]


def free_ports() -> tuple[int, int, int]:
    """Three ports in a row that nobody listens on."""
    for first in PORTS:
        probes = [socket.socket() for _ in range(3)]
        try:
            for number, probe in enumerate(probes):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", first + number))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        return first, first + 1, first + 2
    raise AssertionError("no free ports")


class Node:
    """A node, its volumes and its ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client, self.peer, self.admin = free_ports()
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: grpc.Channel | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "DOUGDB_NODE_ID": "shard-0-0",
            "DOUGDB_SHARD_ID": "0",
            "DOUGDB_PEERS": f"shard-0-0=127.0.0.1:{self.peer}",
            "DOUGDB_WAL_DIR": str(folder / "wal"),
            "DOUGDB_DATA_DIR": str(folder / "data"),
            "DOUGDB_CLIENT_LISTEN": f"127.0.0.1:{self.client}",
            "DOUGDB_PEER_LISTEN": f"127.0.0.1:{self.peer}",
            "DOUGDB_ADMIN_LISTEN": f"127.0.0.1:{self.admin}",
        }

    def launch(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(COMMAND, env=self.environment, stdout=log, stderr=log)

    def start(self) -> None:
        """Starts it and waits until it serves."""
        self.process = self.launch()
        ends = time.monotonic() + START_S
        while self.http("/readyz")[0] != 200:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < ends, self.log()
            time.sleep(0.05)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.client}")

    def end(self, number: signal.Signals) -> int:
        """Sends it a signal, and returns its exit code."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(START_S)

    def http(self, path: str) -> tuple[int, str]:
        """What the admin port answers; status 0 while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=START_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def doug(self) -> doug_pb2_grpc.DougStub:
        assert self.channel is not None
        return doug_pb2_grpc.DougStub(self.channel)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    if made.channel is not None:
        made.channel.close()
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_its_ports_say_who_and_how_it_is(node: Node) -> None:
    node.start()
    assert node.channel is not None
    health = health_pb2_grpc.HealthStub(node.channel)
    for service in ("", "liveness", "readiness", "startup"):
        # Readiness follows the leader within half a second; the stream of changes ends the wait.
        for answer in health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=START_S):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
    names = set(ProtoReflectionDescriptorDatabase(node.channel).get_services())
    assert {"doug.v1.Doug", "doug.v1.Admin", "grpc.health.v1.Health"} <= names
    status = admin_pb2_grpc.AdminStub(node.channel).Status(admin_pb2.StatusRequest(), timeout=START_S)
    assert (status.node_id, status.role, status.version) == ("shard-0-0", "leader", raft_node.__version__)
    assert (status.client_address, status.admin_address) == (f"127.0.0.1:{node.client}", f"127.0.0.1:{node.admin}")
    for path in ("/livez", "/readyz", "/startupz"):
        assert node.http(path)[0] == 200
    assert node.http("/nothing")[0] == 404
    code, metrics = node.http("/metrics")
    assert code == 200
    for name in ("dougdb_raft_term", "dougdb_raft_commit_index", "dougdb_grpc_messages_received_total"):
        assert f"\n{name}{{" in metrics
    assert node.end(signal.SIGTERM) == 0


def test_a_client_that_has_only_reflection_can_do_everything(node: Node) -> None:
    """No stub of ours: the messages are made of what the server tells of itself, as grpcurl and Postman do it."""
    node.start()
    assert node.channel is not None
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(node.channel))
    service = pool.FindServiceByName("doug.v1.Doug")

    def call(name: str, request: dict[str, object]) -> dict[str, Any]:
        assert node.channel is not None
        method = service.methods_by_name[name]
        answer_class = GetMessageClass(method.output_type)
        message = ParseDict(request, GetMessageClass(method.input_type)())
        path = f"/{service.full_name}/{name}"
        if method.server_streaming:
            pages = node.channel.unary_stream(path, type(message).SerializeToString, answer_class.FromString)(message)
            return MessageToDict(list(pages)[-1])
        unary = node.channel.unary_unary(path, type(message).SerializeToString, answer_class.FromString)
        return MessageToDict(unary(message, timeout=START_S))

    def text(value: str) -> str:
        return base64.b64encode(value.encode()).decode()

    created = call("Put", {"key": text("a"), "value": text("1"), "options": {"condition": {"exists": False}}})
    with pytest.raises(grpc.RpcError) as refused:
        call("Put", {"key": text("a"), "options": {"condition": {"exists": False}}})
    trailers: dict[str, str] = dict(refused.value.trailing_metadata())  # type: ignore[arg-type]
    assert (trailers["doug-code"], trailers["doug-revision"]) == ("PRECONDITION_FAILED", created["revision"])
    once = {"idempotencyKey": "7"}
    for replayed in (False, True):
        counted = call("Increment", {"key": text("a"), "options": once})
        assert (counted["value"], counted.get("replayed", False)) == ("2", replayed)
    assert call("FindOutcome", {"key": text("a"), **once})["result"]["value"] == text("2")
    assert "expiresAtMs" in call("Touch", {"key": text("a"), "ttlMs": 60_000})
    operations = [{"put": {"key": text("b")}}, {"get": {"key": text("a")}}]
    done = call("Txn", {"compare": [{"key": text("a"), "value": text("2")}], "success": operations})
    assert done["succeeded"] and done["results"][1]["value"] == text("2")
    many = call("ExecuteBatch", {"operations": [*operations, {"delete": {"key": text("c")}}]})
    assert len(many["results"]) == 3
    assert [entry["key"] for entry in call("Scan", {"messages": True})["entries"]] == [text("a"), text("b")]
    assert call("Get", {"key": text("a")})["value"] == text("2")
    assert call("DeleteRange", {"start": text("a")})["deleted"] == "2"
    assert call("Partitions", {})["slots"]


def call_raw(channel: grpc.Channel, path: str, timeout_s: float) -> grpc.StatusCode:
    """What a method answers to an empty message, whatever its kind: on the wire they are all streams."""
    call = channel.stream_stream(path, lambda message: message, lambda message: message)(iter([b""]), timeout=timeout_s)
    try:
        for _ in call:
            continue
    except grpc.RpcError:
        pass
    code = call.code()
    assert isinstance(code, grpc.StatusCode)
    return code


def test_each_port_serves_its_own_methods_and_no_others(node: Node) -> None:
    """Each method is called on its own port first: what one server has learned is nothing to the other."""
    node.start()
    assert node.channel is not None
    ports = {
        "client": (node.channel, (doug_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR)),
        "peer": (grpc.insecure_channel(f"127.0.0.1:{node.peer}"), (raft_pb2.DESCRIPTOR,)),
    }
    methods = {
        f"/{service.full_name}/{method.name}": port
        for port, (_, files) in ports.items()
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert len(methods) >= 15
    for own, other in (("client", "peer"), ("peer", "client")):
        for path in (path for path, port in methods.items() if port == own):
            # Some go on until their time is over; what is not there is said at once.
            assert call_raw(ports[own][0], path, 2.0) is not grpc.StatusCode.UNIMPLEMENTED, path
            assert call_raw(ports[other][0], path, START_S) is grpc.StatusCode.UNIMPLEMENTED, path
    ports["peer"][0].close()
    assert node.http("/readyz")[0] == 200


@pytest.mark.safety
def test_what_was_acknowledged_is_found_again(node: Node) -> None:
    """A stop in order writes nothing that a kill would not have written: both are started from log and tables alone."""
    node.start()
    node.doug.Put(doug_pb2.PutRequest(key=b"kept", value=b"1", content_type="text/plain"), timeout=START_S)
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 0), (signal.SIGTERM, 0)):
        node.doug.Put(doug_pb2.PutRequest(key=str(number).encode(), value=b"2"), timeout=START_S)
        assert node.end(number) == code
        node.start()
        found = node.doug.Get(doug_pb2.GetRequest(key=str(number).encode()), timeout=START_S)
        assert (found.found, found.value) == (True, b"2")
    node.doug.Delete(doug_pb2.DeleteRequest(key=b"kept"), timeout=START_S)
    assert node.end(signal.SIGKILL) == -9
    node.start()
    assert not node.doug.Get(doug_pb2.GetRequest(key=b"kept"), timeout=START_S).found


def test_a_stop_flushes_what_is_in_memory(node: Node) -> None:
    node.start()
    node.doug.Put(doug_pb2.PutRequest(key=b"k", value=b"v"), timeout=START_S)
    assert not list((node.folder / "data").glob("*.sst"))
    assert node.end(signal.SIGTERM) == 0
    assert list((node.folder / "data").glob("*.sst"))
    node.start()
    assert node.channel is not None
    admin = admin_pb2_grpc.AdminStub(node.channel)
    events = admin.Events(admin_pb2.EventsRequest(), timeout=START_S).events
    (started,) = [json.loads(event.details) for event in events if event.name == "node_started"]
    assert started["last_index"] - started["applied"] <= 1, "little is left to replay"
    assert node.doug.Get(doug_pb2.GetRequest(key=b"k"), timeout=START_S).value == b"v"


def test_the_leader_marks_the_log_and_a_replay_agrees(node: Node) -> None:
    node.environment["DOUGDB_STATE_HASH_EVERY"] = "5"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 0), (signal.SIGKILL, -9)):
        node.start()
        for key in range(30):
            node.doug.Put(doug_pb2.PutRequest(key=b"%d" % key, value=b"v"), timeout=START_S)
        assert 'dougdb_state_divergence_total{shard="0"} 0.0' in node.http("/metrics")[1]
        assert node.end(number) == code
    wal = Wal.open_for_read(OsFileSystem(), str(node.folder / "wal"))
    marks = [entry for entry in wal.entries(1, wal.last_index + 1, 1 << 30) if entry.kind == EntryKind.STATE_HASH]
    assert len(marks) >= 12
    carried = [Mark.decode(entry.command).at for entry in marks]
    assert carried[0] == 0 and set(carried[1:]) <= {entry.index for entry in marks}
    wal.close()


def test_volumes_in_use_and_wiped_ones_are_refused(node: Node) -> None:
    node.start()
    second = node.launch()
    assert second.wait(START_S) == EXIT_REFUSED
    assert "in use" in node.log()
    assert node.end(signal.SIGTERM) == 0
    shutil.rmtree(node.folder / "wal")
    assert node.launch().wait(START_S) == EXIT_REFUSED
    assert "node.refused" in node.log()


@pytest.mark.parametrize("which", ["client", "peer", "admin"])
def test_a_taken_port_is_named(node: Node, which: str) -> None:
    port = {"client": node.client, "peer": node.peer, "admin": node.admin}[which]
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()
        assert node.launch().wait(START_S) == EXIT_SETTINGS
    assert f"cannot listen on 127.0.0.1:{port} ({which})" in node.log()


def test_the_command_line() -> None:
    shown = run("--version")
    assert shown.returncode == 0
    assert re.fullmatch(rf"raft-node {raft_node.__version__}( \(\d+ native modules\))?\n", shown.stdout)
    assert "DOUGDB_" in run("--help").stdout
    assert run("--unknown").returncode == EXIT_SETTINGS
    missing = run(DOUGDB_NODE_ID="shard-0-0")
    assert missing.returncode == EXIT_SETTINGS
    assert missing.stderr.startswith("raft-node: ")
    assert "Traceback" not in missing.stderr
