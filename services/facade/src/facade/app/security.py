"""TLS by the settings: the facade's certificates, and the addresses at which it may speak plaintext.

Must not know routes or shards. Invariant: a facade that listens or dials beyond its machine does so with TLS, or
because DOUGDB_TLS_MODE is ``disabled``.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import structlog

from doug_wire import tls
from doug_wire.tls import Certificates
from facade.discovery.choice import mode_of
from facade.errors import SettingsError
from facade.settings import PREFIX, Settings, parse_address

log = structlog.get_logger()

ELSEWHERE = "the nodes that discovery finds"


def load(settings: Settings) -> Certificates | None:
    """Loads the facade's certificates; None for plaintext.

    Raises:
        SettingsError: The certificates cannot be used, or plaintext would leave this machine without having been asked
            for.
    """
    hosts = [address.host for address in settings.addresses]
    hosts += [parse_address(address).host for nodes in settings.nodes.values() for address in nodes.values()]
    if mode_of(settings) != "static":
        hosts.append(ELSEWHERE)
    try:
        beyond = tls.check_plaintext(settings.tls_mode, hosts)
    except tls.PlaintextError as error:
        raise SettingsError(f"{PREFIX}TLS_MODE", str(error)) from error
    _check_guarded(settings)
    if beyond:
        log.warning("tls.disabled", reason=f"{PREFIX}TLS_MODE=disabled: anybody on the network can read and write")
    if settings.tls_mode != "mutual":
        return None
    files = tls.Files(
        Path(settings.tls_cert_file),
        Path(settings.tls_key_file),
        Path(settings.tls_ca_file),
        Path(settings.auth_client_ca_file) if "mtls" in settings.auth_mode else None,
    )
    try:
        return Certificates(files)
    except tls.TlsError as error:
        raise SettingsError(f"{PREFIX}TLS_CERT_FILE", str(error)) from error


def _check_guarded(settings: Settings) -> None:
    """Checks the settings of a facade whose clients have to say who they are; warns loudly of one whose need not.

    Raises:
        SettingsError: A setting contradicts ``DOUGDB_AUTH_MODE``.
    """
    beyond = [str(address) for address in settings.addresses if not tls.is_loopback(address.host)]
    if not settings.guarded:
        if beyond:
            listen = ", ".join(beyond)
            log.warning(
                "auth.none", listen=listen, reason=f"{PREFIX}AUTH_MODE=none: whoever gets here may do everything"
            )
        return
    if settings.tls_mode != "mutual":
        raise SettingsError(
            f"{PREFIX}AUTH_MODE",
            "where clients have to say who they are, facades and nodes do too: DOUGDB_TLS_MODE=mutual is needed",
        )
    if "mtls" in settings.auth_mode and settings.http_tls == "off":
        raise SettingsError(f"{PREFIX}HTTP_TLS", "certificates of clients need HTTPS")
    if "mtls" in settings.auth_mode and not settings.auth_client_ca_file:
        reason = "it is needed for mtls: whoever has a certificate of DOUGDB_TLS_CA_FILE may speak to nodes as a node"
        raise SettingsError(f"{PREFIX}AUTH_CLIENT_CA_FILE", reason)
    if settings.http_tls == "off" and beyond:
        listen = ", ".join(beyond)
        log.warning("tls.off", listen=listen, reason="tokens travel in plaintext up to here: a proxy has to end TLS")


def https(settings: Settings, certificates: Certificates | None) -> Callable[..., ssl.SSLContext] | None:
    """The function that makes the TLS context of the HTTPS port, as uvicorn wants it; None for HTTP."""
    if certificates is None or settings.http_tls == "off":
        return None
    found = certificates
    if "mtls" in settings.auth_mode:
        return lambda config, default: found.client_context()
    return lambda config, default: found.https_context()
