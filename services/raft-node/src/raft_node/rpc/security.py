"""TLS by the settings: ports that are secured or deliberately not, and certificates.

Between the nodes of a shard, and between facades and nodes, both ends show a certificate of the same authority, and the
one that dials checks that the other's is made out to the name it dialled. The HTTP port for probes and Prometheus is
HTTPS then, and asks nobody for a certificate. Must not know Raft or messages.

Invariant: a node that listens or dials beyond its machine does so with TLS, or because DOUGDB_TLS_MODE is ``disabled``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from doug_wire import tls
from raft_node.errors import ConfigurationRefusedError, SettingsError
from raft_node.observability.logs import get_logger
from raft_node.settings import NodeSettings, parse_address

_log = get_logger()


class Security:
    """Opens ports as the settings want them.

    Attributes:
        certificates: The certificates for ports and channels; None for plaintext.
    """

    def __init__(self, settings: NodeSettings, registry: CollectorRegistry) -> None:
        """Reads the certificates.

        Raises:
            SettingsError: The certificates cannot be used, or plaintext would leave this machine without having been
                asked for.
        """
        self._mode = settings.tls_mode
        self._reload_s = settings.tls_reload_ms / 1000
        self.certificates: tls.Certificates | None = None
        try:
            beyond = tls.check_plaintext(settings.tls_mode, _hosts(settings))
            if settings.tls_mode == "mutual":
                paths = (settings.tls_cert_file, settings.tls_key_file, settings.tls_ca_file)
                self.certificates = tls.Certificates(tls.Files(*map(Path, paths)))
        except (tls.PlaintextError, tls.TlsError) as error:
            raise SettingsError(f"TLS: {error}") from error
        if beyond:
            _log.warning("tls.disabled", reason="DOUGDB_TLS_MODE=disabled: anybody on the network can read and write")
        if self.certificates is not None:
            expiry = Gauge(
                "dougdb_tls_certificate_expiry_timestamp_seconds",
                "When the certificate in use ends",
                registry=registry,
            )
            expiry.set_function(self.certificates.expires_s)

    @property
    def https(self) -> ssl.SSLContext | None:
        """The TLS context of an HTTPS port; None for HTTP."""
        return None if self.certificates is None else self.certificates.https_context()

    def check_address(self, address: str) -> None:
        """Makes sure that, by the settings, this node may speak to a node at an address that an operator names.

        Raises:
            ConfigurationRefusedError: It is no address, or plaintext to it would leave this machine unasked for.
        """
        try:
            tls.check_plaintext(self._mode, [parse_address(address)[0]])
        except (ValueError, tls.PlaintextError) as error:
            raise ConfigurationRefusedError(str(error)) from error

    @contextlib.asynccontextmanager
    async def reloading(self) -> AsyncIterator[None]:
        """Reloads certificates that have been replaced, for as long as the block lasts."""
        if self.certificates is None:
            yield
            return
        task = asyncio.create_task(self.certificates.watch(self._reload_s, _log.info, _log.error))
        try:
            yield
        finally:
            task.cancel()


def _hosts(settings: NodeSettings) -> list[str]:
    listened = (settings.client_listen, settings.peer_listen, settings.admin_listen)
    dialled = (*settings.peer_addresses.values(), *settings.seed_addresses)
    return [parse_address(address)[0] for address in (*listened, *dialled)]
