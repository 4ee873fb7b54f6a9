"""Which source of targets a facade uses, by its settings and by where it runs.

``auto`` takes Kubernetes in a pod that has a service account, else DNS when there are names, else the list of nodes.
The sources that are left stand in for Kubernetes as long as the API server has not answered: DNS, or the list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from facade.discovery.dns import DnsDiscovery
from facade.discovery.metrics import DiscoveryMetrics
from facade.discovery.static import StaticDiscovery, targets_of
from facade.discovery.targets import Discovery
from facade.errors import SettingsError
from facade.settings import Settings

TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def mode_of(settings: Settings, environment: Mapping[str, str] = os.environ, token_file: Path = TOKEN_FILE) -> str:
    """The name of the source that is used: ``static``, ``dns`` or ``kubernetes``.

    Raises:
        SettingsError: There is no source.
    """
    if settings.discovery != "auto":
        return settings.discovery
    if token_file.exists() and environment.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if settings.dns_names:
        return "dns"
    if not settings.nodes:
        raise SettingsError(
            "DOUGDB_DISCOVERY", "auto finds no service account here, and neither DOUGDB_DNS_NAMES nor DOUGDB_NODES"
        )
    return "static"


def choose(settings: Settings, registry: CollectorRegistry) -> Discovery:
    """Builds the source. Requires: a running event loop.

    Raises:
        SettingsError: There is no source, or it cannot be used here.
    """
    mode = mode_of(settings)
    static = StaticDiscovery(targets_of(settings.nodes)) if settings.nodes else None
    if mode == "static":
        assert static is not None
        return static
    metrics = DiscoveryMetrics(registry)
    dns = None
    if settings.dns_names:
        refresh_s = settings.dns_refresh_ms / 1000
        dns = DnsDiscovery(settings.dns_names, settings.discovery_port_name, metrics, refresh_s=refresh_s)
    if mode == "dns":
        assert dns is not None
        return dns
    from facade.discovery import kubernetes  # noqa: PLC0415  # It costs 40 MB, which the others need not pay.

    return kubernetes.KubernetesDiscovery(
        kubernetes.in_cluster(),
        settings.kubernetes_namespace or kubernetes.own_namespace(),
        settings.kubernetes_selector,
        settings.discovery_port_name,
        metrics,
        domains=settings.dns_names,
        instead=dns or static,
    )
