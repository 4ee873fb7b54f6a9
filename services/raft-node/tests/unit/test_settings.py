"""Settings: defaults as documented, and every wrong one named."""

from __future__ import annotations

import pytest

from raft_node.app.parts import raft_config
from raft_node.errors import SettingsError
from raft_node.settings import load, parse_address

GOOD = {
    "DOUGDB_NODE_ID": "shard-0-0",
    "DOUGDB_SHARD_ID": "0",
    "DOUGDB_PEERS": "shard-0-0=127.0.0.1:1,shard-0-1=127.0.0.1:2",
    "DOUGDB_WAL_DIR": "w",
    "DOUGDB_DATA_DIR": "d",
}


GUARDED = {
    "DOUGDB_AUTH_MODE": "token,oidc",
    "DOUGDB_TLS_MODE": "mutual",
    "DOUGDB_TLS_CERT_FILE": "c",
    "DOUGDB_TLS_KEY_FILE": "k",
    "DOUGDB_TLS_CA_FILE": "a",
}
ISSUER = {
    "DOUGDB_AUTH_OIDC_ISSUER": "https://issuer",
    "DOUGDB_AUTH_OIDC_AUDIENCE": "dougdb",
    "DOUGDB_AUTH_OIDC_JWKS": "/keys",
}


ON_LOOPBACK = {
    "DOUGDB_DEV_FAULTS": "1",
    "DOUGDB_STOP_ON_STDIN_EOF": "1",
    "DOUGDB_CLIENT_LISTEN": "127.0.0.1:1",
    "DOUGDB_PEER_LISTEN": "localhost:2",
    "DOUGDB_ADMIN_LISTEN": "[::1]:3",
}


def set_environment(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    for name, value in {**GOOD, **changes}.items():
        monkeypatch.setenv(name, value)


def test_the_defaults_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch)
    settings = load()
    assert (settings.election_timeout_ms, settings.election_timeout_max_ms, settings.heartbeat_ms) == (150, 300, 50)
    assert settings.memtable_bytes == 16 << 20
    assert settings.peer_addresses == {"shard-0-0": "127.0.0.1:1", "shard-0-1": "127.0.0.1:2"}
    assert settings.client_address == settings.client_listen


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"DOUGDB_NODE_ID": "Not A Name"}, "DOUGDB_NODE_ID"),
        ({"DOUGDB_SHARD_ID": "x"}, "DOUGDB_SHARD_ID"),
        ({"DOUGDB_CLIENT_LISTEN": "nowhere"}, "DOUGDB_CLIENT_LISTEN"),
        ({"DOUGDB_CLIENT_LISTEN": "host:99999"}, "DOUGDB_CLIENT_LISTEN"),
        ({"DOUGDB_HEARTBEAT_MS": "100"}, "election_timeout_ms"),
        ({"DOUGDB_ELECTION_TIMEOUT_MAX_MS": "150"}, "election_timeout_max_ms"),
        ({"DOUGDB_PEERS": "shard-0-1=127.0.0.1:2"}, "shard-0-0"),
        ({"DOUGDB_PEERS": "shard-0-0=127.0.0.1:1,shard-0-0=127.0.0.1:2"}, "twice"),
        ({"DOUGDB_SHARD_ID": "1", "DOUGDB_INITIAL_SHARDS": "2"}, "seeds"),
        ({"DOUGDB_SHARD_ID": "1"}, "initial_shards"),
        ({"DOUGDB_MEMTABLE_BYTES": "1"}, "DOUGDB_MEMTABLE_BYTES"),
        ({"DOUGDB_LEADER_LEASE_ENABLED": "perhaps"}, "DOUGDB_LEADER_LEASE_ENABLED"),
        ({"DOUGDB_LEADER_LEASE_MARGIN_MS": "0"}, "DOUGDB_LEADER_LEASE_MARGIN_MS"),
        ({"DOUGDB_LEADER_LEASE_ENABLED": "1", "DOUGDB_LEADER_LEASE_MARGIN_MS": "140"}, "leader_lease_margin_ms"),
        ({"DOUGDB_DEV_FAULTS": "1"}, "dev_faults"),
        ({"DOUGDB_AUTH_MODE": "token"}, "tls_mode mutual"),
        (GUARDED | {"DOUGDB_AUTH_OIDC_ISSUER": "https://issuer"}, "DOUGDB_AUTH_OIDC_AUDIENCE"),
        (GUARDED | ISSUER | {"DOUGDB_AUTH_OIDC_JWKS": ""}, "DOUGDB_AUTH_OIDC_JWKS"),
        (GUARDED | ISSUER | {"DOUGDB_AUTH_OIDC_JWKS": "http://issuer/keys"}, "over https"),
        (ON_LOOPBACK | {"DOUGDB_STOP_ON_STDIN_EOF": "0"}, "dev_faults"),
        *((ON_LOOPBACK | {f"DOUGDB_{port}_LISTEN": "0.0.0.0:1"}, "dev_faults") for port in ("CLIENT", "PEER", "ADMIN")),
        (ON_LOOPBACK | {"DOUGDB_PEER_LISTEN": "db.example:1"}, "dev_faults"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], named: str) -> None:
    set_environment(monkeypatch, **changes)
    with pytest.raises(SettingsError, match=named):
        load()


def test_faults_are_for_nodes_of_dougctl_dev(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **ON_LOOPBACK)
    assert load().dev_faults
    set_environment(monkeypatch, DOUGDB_DEV_FAULTS="0", DOUGDB_CLIENT_LISTEN="0.0.0.0:1")
    assert not load().dev_faults


@pytest.mark.parametrize(
    ("address", "parsed"), [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:80", ("::1", 80)), ("pod.ns:1", ("pod.ns", 1))]
)
def test_addresses(address: str, parsed: tuple[str, int]) -> None:
    assert parse_address(address) == parsed


@pytest.mark.parametrize(("margin_ms", "ticks"), [("50", 9), ("1", 13), ("55", 8), ("130", 1)])
def test_a_lease_is_shorter_than_what_voters_promise_by_a_tick_and_the_margin(
    monkeypatch: pytest.MonkeyPatch, margin_ms: str, ticks: int
) -> None:
    set_environment(monkeypatch, DOUGDB_LEADER_LEASE_MARGIN_MS=margin_ms)
    assert not load().leader_lease_enabled and raft_config(load()).lease_ticks == 0
    monkeypatch.setenv("DOUGDB_LEADER_LEASE_ENABLED", "true")
    assert raft_config(load()).lease_ticks == ticks


@pytest.mark.parametrize(
    ("listen", "advertised", "told"),
    [
        ("127.0.0.1:7", "", "127.0.0.1:7"),
        ("node-a:7", "elsewhere:21000", "node-a:7"),
        ("0.0.0.0:7", "node-a.svc:21000", "node-a.svc:7"),
        ("[::]:7", "[fd00::1]:21000", "[fd00::1]:7"),
    ],
)
def test_others_are_told_an_admin_address_that_can_be_reached(
    monkeypatch: pytest.MonkeyPatch, listen: str, advertised: str, told: str
) -> None:
    set_environment(monkeypatch, DOUGDB_ADMIN_LISTEN=listen, DOUGDB_CLIENT_ADVERTISE=advertised)
    assert load().admin_address == told


@pytest.mark.parametrize("name", ["DOUGDB_DATA_DIR", "DOUGDB_WAL_DIR"])
def test_a_volume_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """An empty path would be the folder that the node happens to be started in."""
    set_environment(monkeypatch, **{name: ""})
    with pytest.raises(SettingsError, match=name):
        load()


def test_jwts_count_at_a_node_only_where_its_settings_name_the_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, **GUARDED)
    assert not load().issuer.is_named
    set_environment(monkeypatch, **ISSUER)
    assert load().issuer[:3] == ("https://issuer", "dougdb", "/keys")
    monkeypatch.setenv("DOUGDB_AUTH_MODE", "token")
    assert not load().issuer.is_named, "and the mode is there"
