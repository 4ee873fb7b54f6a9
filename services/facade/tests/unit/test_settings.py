"""Settings: facade.settings and facade.app.environment."""

from __future__ import annotations

import pytest

from facade.app import environment
from facade.errors import SettingsError
from facade.settings import Address, parse_address

NODES = '{"0": {"shard-0-0": "127.0.0.1:21001", "shard-0-1": "[::1]:21002"}, "1": {"shard-1-0": "db.local:1"}}'


def test_defaults_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGDB_NODES", NODES)
    monkeypatch.setenv("DOUGDB_LISTEN", "0.0.0.0:80, [::]:81")
    monkeypatch.setenv("DOUGDB_STOP_ON_STDIN_EOF", "true")
    settings = environment.load()
    assert settings.listen == (Address("0.0.0.0", 80), Address("::", 81))
    assert settings.nodes[1] == {"shard-1-0": "db.local:1"}
    assert (settings.request_timeout_ms, settings.pipe_window_batches, settings.stop_on_stdin_eof) == (5000, 1, True)
    assert [str(address) for address in settings.listen] == ["0.0.0.0:80", "[::]:81"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DOUGDB_NODES", ""),
        ("DOUGDB_NODES", "{"),
        ("DOUGDB_NODES", "{}"),
        ("DOUGDB_NODES", '{"1": {"a": "h:1"}}'),
        ("DOUGDB_NODES", '{"0": {}}'),
        ("DOUGDB_NODES", '{"0": {"a": "h"}}'),
        ("DOUGDB_NODES", '{"0": {"a": "h:1"}, "1": {"a": "h:2"}}'),
        ("DOUGDB_NODES", '{"zero": {"a": "h:1"}}'),
        ("DOUGDB_DISCOVERY", "guess"),
        ("DOUGDB_DISCOVERY", "dns"),
        ("DOUGDB_DNS_NAMES", "{"),
        ("DOUGDB_DNS_NAMES", '{"1": "s1.ns.svc"}'),
        ("DOUGDB_DNS_NAMES", '{"0": "not a name"}'),
        ("DOUGDB_DNS_NAMES", '{"0": ""}'),
        ("DOUGDB_DNS_REFRESH_MS", "1"),
        ("DOUGDB_DISCOVERY_PORT_NAME", "Client"),
        ("DOUGDB_KUBERNETES_SELECTOR", ""),
        ("DOUGDB_LISTEN", "8080"),
        ("DOUGDB_LISTEN", "::1:8080"),
        ("DOUGDB_LISTEN", "localhost:99999"),
        ("DOUGDB_LISTEN", ","),
        ("DOUGDB_REQUEST_TIMEOUT_MS", "soon"),
        ("DOUGDB_REQUEST_TIMEOUT_MS", "0"),
        ("DOUGDB_LOG_FORMAT", "xml"),
        ("DOUGDB_LOG_LEVEL", "loud"),
    ],
)
def test_what_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("DOUGDB_NODES", NODES)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        environment.load()
    wrong = "DOUGDB_DNS_NAMES" if value == "dns" else name
    assert caught.value.setting == wrong
    assert str(caught.value).startswith(f"{wrong}: ")


def test_nodes_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOUGDB_NODES", raising=False)
    with pytest.raises(SettingsError, match="DOUGDB_NODES"):
        environment.load()


def test_addresses() -> None:
    assert parse_address("[::1]:80") == ("::1", 80)
    assert parse_address(" host:0 ") == ("host", 0)
    for bad in ("host", ":80", "host:", "host:x", "host:-1", "host:٣", "::1:80"):
        with pytest.raises(ValueError, match=r"host:port|brackets"):
            parse_address(bad)


def test_nodes_are_not_required_where_they_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOUGDB_NODES", raising=False)
    monkeypatch.setenv("DOUGDB_DISCOVERY", "dns")
    monkeypatch.setenv("DOUGDB_DNS_NAMES", '{"0": "dougdb-s0-peers.ns.svc", "1": "dougdb-s1-peers.ns.svc."}')
    settings = environment.load()
    assert (settings.nodes, settings.dns_names[0]) == ({}, "dougdb-s0-peers.ns.svc")
    monkeypatch.setenv("DOUGDB_NODES", '{"1": {"a": "h:1"}}')
    with pytest.raises(SettingsError, match="shard 0"):
        environment.load()


def test_faults_by_button_are_for_a_facade_on_loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUGDB_NODES", NODES)
    monkeypatch.setenv("DOUGDB_DEV_SOCKET", "/run/dev.sock")
    environment.load()
    monkeypatch.setenv("DOUGDB_SHARED_LISTEN", "0.0.0.0:8080")
    with pytest.raises(SettingsError, match="loopback alone"):
        environment.load()
