"""What the children are started with, and what the console shows of their logs."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from cryptography import x509

from dougdb.dev import certificates, logs
from dougdb.dev.layout import DataDirectory, Layout
from dougdb.dev.logs import Console, LogFile
from dougdb.dev.ports import PortPlan
from dougdb.dev.specs import Options, facade_specs, node_specs

PLAN = PortPlan(Layout(2, 3), 26100, 26080, 2)
INHERITED = {"PATH": "/bin", "http_proxy": "http://p", "HTTPS_PROXY": "http://p", "DOUGDB_MEMTABLE_BYTES": "7"}
TRACING = {"DOUGDB_TRACING_ENABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def test_a_node_gets_its_place_and_its_peers(tmp_path: Path) -> None:
    options = Options("debug", {"DOUGDB_MEMTABLE_BYTES": "8"})
    specs = node_specs(PLAN, DataDirectory(tmp_path), INHERITED, options)
    assert [spec.id for spec in specs] == [f"shard-{shard}-{index}" for shard in range(2) for index in range(3)]
    environment = specs[4].environment
    expected = {
        "DOUGDB_NODE_ID": "shard-1-1",
        "DOUGDB_SHARD_ID": "1",
        "DOUGDB_INITIAL_SHARDS": "2",
        "DOUGDB_PEERS": "shard-1-0=127.0.0.1:26110,shard-1-1=127.0.0.1:26113,shard-1-2=127.0.0.1:26116",
        "DOUGDB_SEEDS": "127.0.0.1:26101,127.0.0.1:26104,127.0.0.1:26107",
        "DOUGDB_WAL_DIR": str(tmp_path / "shard-1-1" / "wal"),
        "DOUGDB_DATA_DIR": str(tmp_path / "shard-1-1" / "data"),
        "DOUGDB_CLIENT_LISTEN": "127.0.0.1:26112",
        "DOUGDB_PEER_LISTEN": "127.0.0.1:26113",
        "DOUGDB_ADMIN_LISTEN": "127.0.0.1:26114",
        "DOUGDB_LOG_FORMAT": "json",
        "DOUGDB_LOG_LEVEL": "debug",
        "DOUGDB_STOP_ON_STDIN_EOF": "true",
        "DOUGDB_MEMTABLE_BYTES": "8",
        "PATH": "/bin",
    }
    assert expected.items() <= environment.items()
    assert not {name for name in environment if name.lower().endswith("_proxy")}
    assert specs[4].argv[1:] == ("-P", "-m", "raft_node")


def test_a_host_of_ipv6_alone_gets_addresses_of_its_own(tmp_path: Path) -> None:
    plan = PortPlan(Layout(1, 2), 26100, 26080, 1, "::1")
    specs = node_specs(plan, DataDirectory(tmp_path), INHERITED, Options("info", {}))
    environment = specs[1].environment
    assert environment["DOUGDB_PEERS"] == "shard-0-0=[::1]:26101,shard-0-1=[::1]:26104"
    assert environment["DOUGDB_CLIENT_LISTEN"] == "[::1]:26103"
    (facade,) = facade_specs(plan, DataDirectory(tmp_path), ["::1"], INHERITED, Options("info", {}))
    assert json.loads(facade.environment["DOUGDB_NODES"])["0"]["shard-0-1"] == "[::1]:26103"
    assert facade.environment["DOUGDB_LISTEN"] == "[::1]:26080"


def test_facades_may_serve_a_port_together(tmp_path: Path) -> None:
    plan = PortPlan(Layout(1, 1), 26100, 26080, 2, shared_port=26082)
    specs = facade_specs(plan, DataDirectory(tmp_path), ["127.0.0.1", "::1"], INHERITED, Options("info", {}))
    assert [spec.environment["DOUGDB_LISTEN"].split(",")[0] for spec in specs] == ["127.0.0.1:26080", "127.0.0.1:26081"]
    assert {spec.environment["DOUGDB_SHARED_LISTEN"] for spec in specs} == {"127.0.0.1:26082,[::1]:26082"}


def test_whoever_turns_tracing_on_does_so_for_every_process(tmp_path: Path) -> None:
    inherited, options = {**INHERITED, **TRACING}, Options("info", {})
    specs = node_specs(PLAN, DataDirectory(tmp_path), inherited, options)
    specs += facade_specs(PLAN, DataDirectory(tmp_path), ["127.0.0.1"], inherited, options)
    assert all(TRACING.items() <= spec.environment.items() for spec in specs)


def test_a_facade_knows_every_node(tmp_path: Path) -> None:
    specs = facade_specs(
        PLAN, DataDirectory(tmp_path), ["127.0.0.1", "::1"], INHERITED, Options("info", {"DOUGDB_MEMTABLE_BYTES": "8"})
    )
    assert [spec.id for spec in specs] == ["facade", "facade-1"]
    environment = specs[1].environment
    assert environment["DOUGDB_LISTEN"] == "127.0.0.1:26081,[::1]:26081"
    assert environment["DOUGDB_FACADE_ID"] == "facade-1"
    assert environment["DOUGDB_MEMTABLE_BYTES"] == "7"
    assert json.loads(environment["DOUGDB_NODES"])["1"] == {
        "shard-1-0": "127.0.0.1:26109",
        "shard-1-1": "127.0.0.1:26112",
        "shard-1-2": "127.0.0.1:26115",
    }


class Watch:
    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.console = Console(self.lines.append, lambda: self.now)

    def show(self, **event: object) -> None:
        self.console.show("shard-0-1", json.dumps(event))


def test_the_console_shows_leader_changes_and_warnings_only() -> None:
    watch = Watch()
    watch.show(event="raft.became_leader", level="info", term=4)
    watch.show(event="flush.done", level="info")
    watch.show(event="disk.slow", level="warning", fsync_ms=900, timestamp="x", node="shard-0-1")
    watch.show(event="node.refused", level="error", reason="said by the supervisor")
    watch.show(event="operator.acted", level="warning", method="SetAuth")
    watch.console.show("shard-0-1", "Traceback (most recent call last):")
    watch.console.show("shard-0-1", "{not json")
    watch.console.show("shard-0-1", "")
    assert watch.lines == [
        "shard-0-1: leader of its shard since term 4",
        "shard-0-1: warning: disk.slow fsync_ms=900",
    ]


def test_a_repeated_warning_is_said_once_in_a_while_and_leader_changes_always() -> None:
    watch = Watch()
    for _ in range(5):
        watch.show(event="peer.unreachable", level="warning", peer="a")
        watch.show(event="raft.became_leader", level="info", term=4)
    assert len(watch.lines) == 6
    watch.now += logs.QUIET_S
    watch.show(event="peer.unreachable", level="warning", peer="b")
    assert watch.lines[-1] == "shard-0-1: warning: peer.unreachable peer=b (4 more like it before)"


def test_a_log_is_read_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    log = LogFile(path)
    assert log.read_lines() == []
    path.write_bytes(b"one\ntwo")
    assert log.read_lines() == ["one"]
    with path.open("ab") as stream:
        stream.write(b" and more\n\nlast words without an end")
    assert log.read_lines() == ["two and more", ""]
    assert log.last_words() == "last words without an end"


def test_the_last_words_are_the_error_of_an_event(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text('{"event": "node.refused", "level": "error", "reason": "wal/1.wal: damaged at offset 7"}\n')
    assert LogFile(path).last_words() == "wal/1.wal: damaged at offset 7"


def test_a_log_is_put_aside_at_the_start_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOG_BYTES_MAX", 100)
    path = tmp_path / "x.log"
    path.write_text("of an earlier start\n")
    log = LogFile(path)
    log.rotate()
    assert (tmp_path / "x.log.1").read_text() == "of an earlier start\n"
    with path.open("ab", buffering=0) as child:
        seen = []
        for number in range(100):
            child.write(b"line %d\n" % number)
            seen += log.read_lines()
    assert seen == [f"line {number}" for number in range(100)]
    assert path.stat().st_size <= 110
    assert (tmp_path / "x.log.1").stat().st_size <= 110


def test_a_log_is_cut_even_when_there_is_no_room_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogFile(tmp_path / "n.log")
    monkeypatch.setattr(logs, "LOG_BYTES_MAX", 10)
    log.path.write_text("x" * 20 + "\n")

    def full(source: Path, target: Path) -> None:
        target.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert log.read_lines() == ["x" * 20]
    assert [path.name for path in tmp_path.iterdir()] == ["n.log"] and log.path.stat().st_size == 0


def test_with_access_every_process_has_a_certificate_of_its_own_and_no_token_of_a_user(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.run.mkdir()
    access = certificates.prepare(data.run, ["shard-0-0"], ["facade"])
    options = Options("info", {}, auth=True, access=access)
    inherited = {**INHERITED, "DOUGDB_TOKEN": "secret"}
    plan = PortPlan(Layout(1, 1), 26100, 26080, 1)
    (node,) = node_specs(plan, data, inherited, options)
    (facade,) = facade_specs(plan, data, ["127.0.0.1"], inherited, options)
    for spec in (node, facade):
        environment = spec.environment
        assert "secret" not in environment.values()
        assert (environment["DOUGDB_AUTH_MODE"], environment["DOUGDB_TLS_MODE"]) == ("token", "mutual")
        folder = tmp_path / "run" / "tls" / spec.id
        assert environment["DOUGDB_TLS_KEY_FILE"] == str(folder / "tls.key")
        found = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert spec.id in names.get_values_for_type(x509.DNSName)
        assert (certificates.FACADE_NAME in names.get_values_for_type(x509.DNSName)) == (spec is facade)
    guest = x509.load_pem_x509_certificate((tmp_path / "run" / "tls" / "client" / "tls.crt").read_bytes())
    names = guest.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(certificates.CLIENT_NAME)], "it must speak for nobody, not even for loopback"
    assert facade.environment["DOUGDB_HTTP_TLS"] == "off"
    assert "DOUGDB_AUTH_BOOTSTRAP_FILE" not in node.environment
    assert access.token.stat().st_mode & 0o777 == 0o600
    assert facade.environment["DOUGDB_AUTH_SESSION_KEY_FILE"] == str(access.session_key)
    assert len(access.session_key.read_text().strip()) >= 32 and access.session_key.stat().st_mode & 0o777 == 0o600
    first = access.token.read_text(), access.session_key.read_text()
    certificates.prepare(data.run, ["shard-0-0"], ["facade"])
    assert (access.token.read_text(), access.session_key.read_text()) == first, "a new start keeps the secrets"


def test_only_a_supervisor_that_takes_wishes_lets_nodes_take_faults(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    asked = node_specs(PLAN, data, INHERITED, Options("info", {}, controls=tmp_path / "s"))
    assert {spec.environment["DOUGDB_DEV_FAULTS"] for spec in asked} == {"true"}
    others = node_specs(PLAN, data, INHERITED, Options("info", {}))
    assert all("DOUGDB_DEV_FAULTS" not in spec.environment for spec in others)
