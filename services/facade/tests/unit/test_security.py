"""What a facade's settings must be for it to start, and what it warns of: facade.app.security."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs
from tools.certs import LOCAL, Authority, write

from facade.app import security
from facade.errors import SettingsError
from facade.settings import Address, Settings

NEAR = (Address("127.0.0.1", 80), Address("::1", 80))
FAR = (*NEAR, Address("10.0.0.7", 80))
MODES = ("token", "mtls", "oidc")


@pytest.fixture
def mutual(tmp_path: Path) -> dict[str, Any]:
    """Settings with certificates between facades and nodes, and another authority for clients."""
    authority = Authority.make()
    authority.write_certificate(tmp_path, LOCAL)
    write(tmp_path / "ca.crt", authority.pem)
    write(tmp_path / "people.crt", Authority.make("people").pem)
    named = {"tls_cert_file": "tls.crt", "tls_key_file": "tls.key", "tls_ca_file": "ca.crt"}
    found = {name: str(tmp_path / file) for name, file in named.items()}
    return {"tls_mode": "mutual", "auth_client_ca_file": str(tmp_path / "people.crt"), **found}


def settings_of(**settings: Any) -> Settings:
    """Settings of a facade with one node on loopback."""
    return Settings(nodes={0: {"n": "127.0.0.1:1"}}, **settings)


def warnings_of(**settings: Any) -> dict[str, Any]:
    """The warnings at the start of a facade, by name."""
    with capture_logs() as lines:
        security.load(settings_of(**settings))
    assert {line["log_level"] for line in lines} <= {"warning"}
    return {line["event"]: line for line in lines}


@pytest.mark.parametrize("listen", [{"listen": FAR}, {"listen": NEAR, "shared_listen": FAR}])
def test_a_facade_that_everybody_reaches_and_that_asks_nobody_says_so(
    listen: dict[str, Any], mutual: dict[str, Any]
) -> None:
    """With TLS, too: a certificate of the server says nothing about clients."""
    for more in ({"tls_mode": "disabled"}, mutual):
        told = warnings_of(**listen, **more)["auth.none"]
        assert told["listen"] == "10.0.0.7:80"
        assert "DOUGDB_AUTH_MODE=none" in told["reason"] and "everything" in told["reason"]
    assert "auth.none" not in warnings_of(**listen, **mutual, auth_mode="token")


def test_on_loopback_no_choice_is_needed_and_nothing_is_warned_of(mutual: dict[str, Any]) -> None:
    assert warnings_of(listen=NEAR) == {}
    assert warnings_of(listen=NEAR, **mutual, auth_mode="token", http_tls="off") == {}


@pytest.mark.parametrize("mode", [*MODES, "token,mtls,oidc"])
@pytest.mark.parametrize("tls_mode", ["", "disabled"])
def test_where_clients_say_who_they_are_facades_and_nodes_do_too(
    mode: str, tls_mode: str, mutual: dict[str, Any]
) -> None:
    """On loopback as anywhere else: without certificates any process could say that it is a facade or a node."""
    plain = {**mutual, "tls_mode": tls_mode}
    with pytest.raises(SettingsError, match="DOUGDB_TLS_MODE=mutual") as caught:
        warnings_of(listen=NEAR, **plain, auth_mode=mode)
    assert caught.value.setting == "DOUGDB_AUTH_MODE"
    assert warnings_of(listen=NEAR, **mutual, auth_mode=mode) == {}


def test_certificates_of_clients_need_https_and_an_authority_of_their_own(mutual: dict[str, Any]) -> None:
    for change, setting in (
        ({"http_tls": "off"}, "DOUGDB_HTTP_TLS"),
        ({"auth_client_ca_file": ""}, "DOUGDB_AUTH_CLIENT_CA_FILE"),
        ({"auth_client_ca_file": mutual["tls_ca_file"]}, "DOUGDB_TLS_CERT_FILE"),
    ):
        with pytest.raises(SettingsError) as caught:
            warnings_of(listen=NEAR, **mutual | change, auth_mode="token,mtls")
        assert caught.value.setting == setting
        assert warnings_of(listen=NEAR, **mutual | change, auth_mode="token") == {}, "nobody else needs them"


def test_tokens_that_would_travel_in_plaintext_are_warned_of(mutual: dict[str, Any]) -> None:
    """A proxy may end TLS, which a facade cannot see."""
    assert warnings_of(listen=FAR, **mutual, auth_mode="token", http_tls="off")["tls.off"]["listen"] == "10.0.0.7:80"
    assert warnings_of(listen=FAR, **mutual, auth_mode="token") == {}


@pytest.mark.parametrize("modes", ["", ",", "none,token", "mtls, none", "none,none", "password", "token,password"])
def test_none_is_no_mode_beside_others(modes: str) -> None:
    with pytest.raises(ValidationError, match="auth_mode"):
        settings_of(auth_mode=modes)


def test_modes_combine() -> None:
    for modes in ("token", "token,mtls", " oidc , token ", "token,mtls,oidc"):
        settings = settings_of(auth_mode=modes)
        assert settings.auth_mode == tuple(part.strip() for part in modes.split(","))
        assert settings.guarded
    assert not settings_of().guarded
