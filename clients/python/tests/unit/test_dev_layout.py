"""The data directory and the ports: what is refused, and that nothing is touched then."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path

import pytest

from dougdb.dev import ports
from dougdb.dev.layout import DataDirectory, Layout, RefusedError
from dougdb.dev.ports import IPV4, Listener, PortPlan

LAYOUT = Layout(2, 5)


def listing(root: Path) -> list[tuple[str, bytes]]:
    return sorted((str(path), path.read_bytes() if path.is_file() else b"") for path in root.rglob("*"))


def test_a_first_start_writes_the_layout(tmp_path: Path) -> None:
    root = tmp_path / "a" / "data"
    with DataDirectory(root) as data:
        data.inspect(LAYOUT)
        assert not root.exists()
        data.claim(LAYOUT)
        assert json.loads((root / "LAYOUT.json").read_text()) == {"format": 1, "shards": 2, "nodes": 5}
        assert (root / "run" / "lock").read_text() == f"{os.getpid()}\n"
    with DataDirectory(root) as again:
        again.inspect(LAYOUT)
        again.claim(LAYOUT)


@pytest.mark.parametrize("wanted", [Layout(1, 5), Layout(2, 3)])
def test_another_layout_is_refused_and_nothing_touched(tmp_path: Path, wanted: Layout) -> None:
    with DataDirectory(tmp_path) as data:
        data.claim(LAYOUT)
    before = listing(tmp_path)
    with DataDirectory(tmp_path) as data, pytest.raises(RefusedError, match="2 shards x 5 nodes") as refusal:
        data.inspect(wanted)
    assert str(wanted) in str(refusal.value)
    assert listing(tmp_path) == before


def test_a_foreign_directory_is_refused_and_nothing_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    before = listing(tmp_path)
    with DataDirectory(tmp_path) as data, pytest.raises(RefusedError, match=r"thesis\.txt"):
        data.inspect(LAYOUT)
    assert listing(tmp_path) == before


def test_a_start_that_was_cut_off_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    (tmp_path / "run" / ".LAYOUT.json.tmp").write_text('{"for')
    with DataDirectory(tmp_path) as data:
        data.inspect(LAYOUT)
        data.claim(LAYOUT)


def test_what_a_start_leaves_that_was_cut_off_in_the_layout_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".LAYOUT.json.tmp").write_text('{"for')
    with DataDirectory(tmp_path) as data:
        data.inspect(LAYOUT)
        data.claim(LAYOUT)
    assert not (tmp_path / ".LAYOUT.json.tmp").exists()


def test_run_may_be_on_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.parent != target.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with DataDirectory(tmp_path) as data:
        data.claim(LAYOUT)
    assert json.loads((tmp_path / "LAYOUT.json").read_text())["shards"] == 2


def test_a_link_that_leads_nowhere_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "gone")
    for root in (tmp_path / "data", tmp_path / "data" / "deeper"):
        with DataDirectory(root) as data:
            with pytest.raises(RefusedError, match=r"data is a link to .*gone, which does not exist"):
                data.inspect(LAYOUT)
            with pytest.raises(RefusedError, match="is a link to"):
                data.require_empty()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2, "shards": 2, "nodes": 5}'])
def test_a_layout_that_is_not_understood_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "LAYOUT.json").write_text(text)
    with DataDirectory(tmp_path) as data, pytest.raises(RefusedError):
        data.inspect(LAYOUT)
    assert (tmp_path / "LAYOUT.json").read_text() == text


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    with DataDirectory(tmp_path) as first:
        first.claim(LAYOUT)
        with DataDirectory(tmp_path) as second, pytest.raises(RefusedError, match=f"pid {os.getpid()}"):
            second.inspect(LAYOUT)
    with DataDirectory(tmp_path) as second:
        second.inspect(LAYOUT)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with DataDirectory(tmp_path / "data") as data, pytest.raises(RefusedError, match="not a directory"):
        data.inspect(LAYOUT)


def test_pid_files_of_the_dead_and_the_damaged_do_not_count(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.run.mkdir()
    (data.run / "facade.pid").write_text(f"{os.getpid()}\n")
    (data.run / "shard-0-0.pid").write_text("")
    (data.run / "shard-0-1.pid").write_text("999999999\n")
    assert data.running_pids() == {"facade": os.getpid()}


def test_ports_follow_from_the_layout() -> None:
    plan = PortPlan(LAYOUT, 21000, 8080, 2)
    assert plan.node(0, 0) == ports.NodePorts(21000, 21001, 21002)
    assert plan.node(1, 4) == ports.NodePorts(21027, 21028, 21029)
    assert plan.facade(1) == 8081
    listeners = plan.listeners(["127.0.0.1", "::1"])
    assert len({(listener.host, listener.port) for listener in listeners}) == len(listeners) == 34


@pytest.mark.parametrize(
    ("base_port", "port", "facades"),
    [(32760, 8080, 1), (80, 8080, 1), (21000, 21005, 1), (21000, 20999, 2), (21000, 65535, 2)],
)
def test_ports_that_cannot_work_are_refused(base_port: int, port: int, facades: int) -> None:
    with pytest.raises(RefusedError):
        PortPlan(LAYOUT, base_port, port, facades)


def test_a_shared_port_is_none_of_their_own() -> None:
    plan = PortPlan(LAYOUT, 21000, 8080, 2, shared_port=8082)
    assert [each.purpose for each in plan.listeners(["127.0.0.1"]) if each.port == 8082] == ["shared HTTP"]
    for port in (8080, 8081, 21000, 21029):
        with pytest.raises(RefusedError, match=f"port {port} .--shared-port."):
            PortPlan(LAYOUT, 21000, 8080, 2, shared_port=port)


def test_a_host_may_have_either_family_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = {ports.IPV6}
    monkeypatch.setattr(ports, "_is_usable", lambda host: host in usable)
    assert ports.loopback_hosts() == [ports.IPV6]
    plan = PortPlan(LAYOUT, 21000, 8080, 1, ports.IPV6)
    assert {listener.host for listener in plan.listeners([ports.IPV6])} == {ports.IPV6}
    usable.clear()
    with pytest.raises(RefusedError, match="neither 127"):
        ports.loopback_hosts()


def test_a_taken_port_is_found() -> None:
    with socket.create_server((IPV4, 0)) as server:
        port = server.getsockname()[1]
        listener = Listener(IPV4, port, "shard-0-0", "client")
        assert ports.taken([listener]) == [(listener, "taken")]
    assert ports.taken([listener]) == []
